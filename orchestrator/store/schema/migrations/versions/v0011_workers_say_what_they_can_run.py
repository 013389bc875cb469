"""A worker says what it can run, and a handoff that no living worker can do says what it waits for.

Expand only: workers of the release before write and read none of this, and go on.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE perennial.worker ADD COLUMN can text[], ADD COLUMN queues text[], ADD COLUMN queue text,
    ADD COLUMN lock integer;
ALTER TABLE perennial.outbox ADD COLUMN needs text[];
"""

INDEXES = """
CREATE INDEX worker_can ON perennial.worker (id) WHERE can IS NOT NULL;
CREATE INDEX outbox_needs ON perennial.outbox (run_id) WHERE needs IS NOT NULL;
"""


def upgrade() -> None:
    """Make room for what workers say."""
    op.execute(LOCK)
    op.execute(COLUMNS)
    op.execute(INDEXES)


def downgrade() -> None:
    """Forget it: it is said again by whoever starts."""
    op.execute(LOCK)
    op.execute("DROP INDEX perennial.worker_can, perennial.outbox_needs")
    op.execute(
        "ALTER TABLE perennial.worker DROP COLUMN can, DROP COLUMN queues, DROP COLUMN queue, DROP COLUMN lock"
    )
    op.execute("ALTER TABLE perennial.outbox DROP COLUMN needs")
