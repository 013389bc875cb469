"""A verb over many runs keeps its exact set, and what became of each run of it.

Expand only: nothing else reads or writes these tables.
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

OPERATIONS = """
CREATE TABLE perennial.operation (
    id UUID NOT NULL,
    verb TEXT NOT NULL,
    arguments JSONB NOT NULL,
    filter JSONB NOT NULL,
    digest TEXT NOT NULL,
    by TEXT NOT NULL,
    reason TEXT NOT NULL,
    state TEXT DEFAULT 'previewed' NOT NULL,
    rate_per_second DOUBLE PRECISION,
    runs INTEGER NOT NULL,
    counts JSONB,
    holder UUID,
    held_by TEXT,
    held_until TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT operation_pkey PRIMARY KEY (id),
    CONSTRAINT operation_state_check
        CHECK (state IN ('previewed', 'running', 'paused', 'stopped', 'finished')),
    CONSTRAINT operation_finished_check CHECK ((finished_at IS NOT NULL) = (state IN ('stopped', 'finished'))),
    CONSTRAINT operation_holder_check CHECK (holder IS NULL OR state = 'running')
);
CREATE INDEX operation_digest ON perennial.operation (digest) WHERE state = 'previewed';
CREATE TABLE perennial.operation_run (
    operation_id UUID NOT NULL,
    ordinal INTEGER NOT NULL,
    run_id UUID NOT NULL,
    revision BIGINT NOT NULL,
    state TEXT DEFAULT 'to do' NOT NULL,
    result TEXT DEFAULT '' NOT NULL,
    at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT operation_run_pkey PRIMARY KEY (operation_id, ordinal),
    CONSTRAINT operation_run_operation_id_fkey FOREIGN KEY (operation_id)
        REFERENCES perennial.operation (id) ON DELETE CASCADE,
    CONSTRAINT operation_run_state_check
        CHECK (state IN ('to do', 'done', 'skipped', 'refused', 'failed')),
    CONSTRAINT operation_run_at_check CHECK ((at IS NULL) = (state = 'to do'))
);
"""


def upgrade() -> None:
    """Add the tables."""
    op.execute(OPERATIONS)


def downgrade() -> None:
    """As it was: operations are forgotten, and what they have done stays."""
    op.execute("DROP TABLE perennial.operation_run; DROP TABLE perennial.operation;")
