"""What a start asks: which input a process takes, and which run follows one that gave its business key up.

Expand only: every column may be empty, and a client or worker of the release before leaves them so.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# The digest is what a start compares, so that it needn't read the schema.
PROCESS = """
ALTER TABLE perennial.process
    ADD COLUMN input_schema JSONB,
    ADD COLUMN input_schema_digest TEXT;
"""

RUN = """
ALTER TABLE perennial.run
    ADD COLUMN former_key TEXT,
    ADD COLUMN follows UUID,
    ADD COLUMN followed_by UUID;
CREATE INDEX run_former_key ON perennial.run (former_key) WHERE former_key IS NOT NULL;
"""


def upgrade() -> None:
    """Add the columns."""
    for script in (LOCK, PROCESS, RUN):
        op.execute(script)


def downgrade() -> None:
    """As it was: a run that gave its key up has none from here on."""
    op.execute(LOCK)
    op.execute(
        """
ALTER TABLE perennial.process DROP COLUMN input_schema, DROP COLUMN input_schema_digest;
ALTER TABLE perennial.run DROP COLUMN former_key, DROP COLUMN follows, DROP COLUMN followed_by;
"""
    )
