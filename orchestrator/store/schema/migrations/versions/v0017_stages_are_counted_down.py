"""A run that waits for several stages says for how many: the end of one of them asks for no turn.

Expand only: a worker of the release before asks for a turn at each end, and its turns have another revision than the
outstanding that may stand there.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the two columns."""
    op.execute(LOCK)
    op.execute(
        "ALTER TABLE perennial.run ADD COLUMN outstanding INTEGER, ADD COLUMN outstanding_revision BIGINT"
    )


def downgrade() -> None:
    """Take them away."""
    op.execute(LOCK)
    op.execute(
        "ALTER TABLE perennial.run DROP COLUMN outstanding, DROP COLUMN outstanding_revision"
    )
