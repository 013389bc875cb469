"""A signal by a correlation key and the wait for it meet on one row, whichever of the two comes first.

Expand only: nothing else reads or writes the table.
"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

CORRELATION = """
CREATE TABLE perennial.correlation (
    name TEXT NOT NULL,
    run_id UUID,
    claims BIGINT DEFAULT '0' NOT NULL,
    signals JSONB DEFAULT '[]'::jsonb NOT NULL,
    taken INTEGER DEFAULT '0' NOT NULL,
    taken_before INTEGER DEFAULT '0' NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT correlation_pkey PRIMARY KEY (name),
    CONSTRAINT correlation_run_id_fkey FOREIGN KEY (run_id) REFERENCES perennial.run (id) ON DELETE CASCADE
);
CREATE INDEX correlation_of_run ON perennial.correlation (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX correlation_expires ON perennial.correlation (expires_at);
"""


def upgrade() -> None:
    """Add the table."""
    op.execute(CORRELATION)


def downgrade() -> None:
    """As it was: signals that no wait has claimed are forgotten."""
    op.execute("DROP TABLE perennial.correlation;")
