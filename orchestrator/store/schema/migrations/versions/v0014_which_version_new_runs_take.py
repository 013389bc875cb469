"""A version may be set as the one that new runs take, or retired; and it is known which versions are served.

Expand only: clients of the release before start runs of the newest version, as they did.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE perennial.process
    ADD COLUMN served boolean NOT NULL DEFAULT false, ADD COLUMN unserved_since timestamptz,
    ADD COLUMN current_since timestamptz, ADD COLUMN current_by text NOT NULL DEFAULT '',
    ADD COLUMN retired_at timestamptz, ADD COLUMN retired_by text NOT NULL DEFAULT '';
"""


def upgrade() -> None:
    """Make room for what a team and its workers say of a version."""
    op.execute(LOCK)
    op.execute(COLUMNS)


def downgrade() -> None:
    """New runs take the newest version again."""
    op.execute(LOCK)
    for column in (
        "served",
        "unserved_since",
        "current_since",
        "current_by",
        "retired_at",
        "retired_by",
    ):
        op.execute(f"ALTER TABLE perennial.process DROP COLUMN {column}")
