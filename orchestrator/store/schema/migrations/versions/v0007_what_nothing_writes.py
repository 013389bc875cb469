"""The table of schedules goes: no statement of any release has named it.

Of the columns that nothing writes, `run.parent_id` and `approval.quorum`, a client of the release before still reads
all: they go in the next release (`store.schema.tables.LEAVING`).
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take it away; nothing could be in it."""
    op.execute("DROP TABLE perennial.schedule")


def downgrade() -> None:
    """Make it anew, empty."""
    op.execute(
        """
CREATE TABLE perennial.schedule (
    name TEXT NOT NULL,
    process TEXT NOT NULL,
    cron TEXT NOT NULL,
    timezone TEXT DEFAULT 'UTC' NOT NULL,
    input JSONB,
    enabled BOOLEAN DEFAULT true NOT NULL,
    next_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT schedule_pkey PRIMARY KEY (name)
);
"""
    )
