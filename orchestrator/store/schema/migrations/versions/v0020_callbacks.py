"""A callback's token is known by its hash, and by itself only while the stage that hands it on may be tried again.

Expand only: nothing else reads or writes the table.
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

CALLBACK = """
CREATE TABLE perennial.callback (
    hash TEXT NOT NULL,
    run_id UUID NOT NULL,
    key TEXT NOT NULL,
    stage_key TEXT NOT NULL,
    token TEXT,
    made_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    CONSTRAINT callback_pkey PRIMARY KEY (hash),
    CONSTRAINT callback_run_id_fkey FOREIGN KEY (run_id) REFERENCES perennial.run (id) ON DELETE CASCADE
);
CREATE INDEX callback_of_run ON perennial.callback (run_id);
CREATE UNIQUE INDEX callback_in_clear ON perennial.callback (run_id, key, stage_key) WHERE token IS NOT NULL;
"""


def upgrade() -> None:
    """Add the table."""
    op.execute(CALLBACK)


def downgrade() -> None:
    """As it was: tokens that are out are known to nobody."""
    op.execute("DROP TABLE perennial.callback;")
