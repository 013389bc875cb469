"""An approval may need several people: its rule, and that it has been fulfilled.

Expand only: a client of the release before, which knows no rule, is refused by the constraint where it would decide
alone what several have to.
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

RULE = """
ALTER TABLE perennial.approval
    ADD COLUMN rule JSONB,
    ADD COLUMN is_reached BOOLEAN DEFAULT false NOT NULL,
    ADD CONSTRAINT approval_reached_check
        CHECK (rule IS NULL OR is_reached OR state NOT IN ('approved', 'rejected')) NOT VALID;
ALTER TABLE perennial.approval VALIDATE CONSTRAINT approval_reached_check;
"""


def upgrade() -> None:
    """Add them."""
    op.execute(RULE)


def downgrade() -> None:
    """As it was: what several have to decide, the first decides."""
    op.execute(
        "ALTER TABLE perennial.approval DROP CONSTRAINT approval_reached_check, DROP COLUMN rule, "
        "DROP COLUMN is_reached;"
    )
