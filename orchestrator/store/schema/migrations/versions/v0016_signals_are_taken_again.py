"""A run that goes back to a point takes its signals again: they are taken out as taken, and put in as not.

Expand only: nobody has called the function before. Whoever may change a run may.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

TAKE_OUT = """
CREATE FUNCTION perennial.take_out_signals(of_run uuid, keys text[]) RETURNS SETOF perennial.signal
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM perennial.signal t WHERE t.run_id = of_run AND t.consumed_key = ANY(keys)
        AND EXISTS (SELECT FROM perennial.run r WHERE r.id = of_run AND r.closed_at IS NULL)
    RETURNING t.*
$$;
REVOKE EXECUTE ON FUNCTION perennial.take_out_signals(uuid, text[]) FROM PUBLIC;  /* guard: rights on signals */
"""

RIGHTS = """
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT quote_ident(pg_get_userbyid(a.grantee)) AS role
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = 'perennial.run'::regclass AND a.grantee NOT IN (0, c.relowner) AND a.privilege_type = 'UPDATE'
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION perennial.take_out_signals(uuid, text[]) TO %s', granted.role);
    END LOOP;
END $$
"""


def upgrade() -> None:
    """Make the function."""
    for script in (LOCK, TAKE_OUT, RIGHTS):
        op.execute(script)


def downgrade() -> None:
    """As it was."""
    op.execute(LOCK)
    op.execute("DROP FUNCTION perennial.take_out_signals(uuid, text[])")
