"""Old history is dropped by whoever owns the table, and by nobody else who may delete in it.

Expand only: no statement of a worker deletes history.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

OWNS = """
CREATE FUNCTION perennial.owns(on_table regclass) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c WHERE c.oid = on_table
$$;
"""

STAYS = """
CREATE OR REPLACE TRIGGER history_stays AFTER DELETE ON perennial.history FOR EACH ROW
    WHEN (OLD.at >= coalesce(nullif(current_setting('perennial.drop_history_before', true), '')::timestamptz,
        '-infinity')
        OR NOT perennial.owns('perennial.history')  /* guard: history is its owner's to drop */
    )
    EXECUTE FUNCTION perennial.refuse(
        'history stays, unless its owner has set perennial.drop_history_before to a later moment in the transaction');
"""

STAYED = """
CREATE OR REPLACE TRIGGER history_stays AFTER DELETE ON perennial.history FOR EACH ROW
    WHEN (OLD.at >= coalesce(nullif(current_setting('perennial.drop_history_before', true), '')::timestamptz,
        '-infinity'))
    EXECUTE FUNCTION perennial.refuse(
        'history stays, unless the transaction has set perennial.drop_history_before to a later moment');
DROP FUNCTION perennial.owns(regclass);
"""


def upgrade() -> None:
    """Ask who deletes."""
    for script in (LOCK, OWNS, STAYS):
        op.execute(script)


def downgrade() -> None:
    """As it was."""
    op.execute(LOCK)
    op.execute(STAYED)
