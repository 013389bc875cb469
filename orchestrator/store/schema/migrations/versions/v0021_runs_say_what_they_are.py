"""Runs are found by their attributes, and their flows say how they are.

Expand only: a worker of the release before sets neither.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

SAID = """
ALTER TABLE perennial.run ADD COLUMN status_text TEXT;
CREATE INDEX run_attributes ON perennial.run USING gin (attributes jsonb_path_ops)
    WHERE attributes <> '{}'::jsonb;
"""


def upgrade() -> None:
    """A column and an index."""
    for script in (LOCK, SAID):
        op.execute(script)


def downgrade() -> None:
    """As it was: what flows have said to people is forgotten."""
    op.execute(LOCK)
    op.execute(
        "DROP INDEX perennial.run_attributes; ALTER TABLE perennial.run DROP COLUMN status_text;"
    )
