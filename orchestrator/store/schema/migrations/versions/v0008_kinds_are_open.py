"""What a flow can await is an open set: the record refuses no kind of activity or of timer that has a name.

A kind is known by the programs that have it registered (core.kinds). Expand only: workers of the release before write
the kinds that they know, as they did.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

KINDS = """
ALTER TABLE perennial.activity DROP CONSTRAINT activity_kind_check,
    ADD CONSTRAINT activity_kind_check CHECK (kind <> '');
ALTER TABLE perennial.timer DROP CONSTRAINT timer_kind_check,
    ADD CONSTRAINT timer_kind_check CHECK (kind <> '');
"""


def upgrade() -> None:
    """Let every kind in."""
    op.execute(LOCK)
    op.execute(KINDS)


def downgrade() -> None:
    """As it was; refused where the record holds a kind of its own."""
    op.execute(LOCK)
    op.execute(
        """
ALTER TABLE perennial.activity DROP CONSTRAINT activity_kind_check,
    ADD CONSTRAINT activity_kind_check CHECK (kind IN ('stage', 'step', 'approval', 'signal', 'sleep'));
ALTER TABLE perennial.timer DROP CONSTRAINT timer_kind_check,
    ADD CONSTRAINT timer_kind_check CHECK (kind IN ('sleep', 'signal-timeout', 'escalation', 'approval-timeout',
        'retry', 'expiry'));
"""
    )
