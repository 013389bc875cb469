"""Runs that ended with an error, or are parked with one, are found by its cause; operators say what they know of it.

Expand only: a worker of the release before records errors without a cause, which is then found when they are read.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

RUN = """
CREATE INDEX run_error ON perennial.run (process, (error ->> 'cause'), closed_at)
    WHERE error IS NOT NULL AND closed_at IS NOT NULL;
"""

CAUSE = """
CREATE TABLE perennial.cause (
    digest TEXT NOT NULL,
    type TEXT NOT NULL,
    place TEXT NOT NULL,
    text TEXT NOT NULL,
    note TEXT DEFAULT '' NOT NULL,
    noted_by TEXT,
    noted_at TIMESTAMP WITH TIME ZONE,
    muted_by TEXT,
    muted_at TIMESTAMP WITH TIME ZONE,
    mended_by TEXT,
    mended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT cause_pkey PRIMARY KEY (digest),
    CONSTRAINT cause_muted_check CHECK ((muted_by IS NULL) = (muted_at IS NULL)),
    CONSTRAINT cause_mended_check CHECK ((mended_by IS NULL) = (mended_at IS NULL))
);
"""


def upgrade() -> None:
    """Add the index and the table."""
    for script in (LOCK, RUN, CAUSE):
        op.execute(script)


def downgrade() -> None:
    """As it was: what operators have said of causes is forgotten."""
    op.execute(LOCK)
    op.execute("DROP TABLE perennial.cause; DROP INDEX perennial.run_error;")
