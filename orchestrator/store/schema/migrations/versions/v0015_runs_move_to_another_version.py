"""Runs move to another version: what a migration has changed is kept, and an approval says that it was changed.

Expand only: workers of the release before write approvals without the new columns, as they did. Whoever may
change a run has the like on what is new.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE perennial.approval ADD COLUMN former_keys text[] NOT NULL DEFAULT '{}',
    ADD COLUMN edition integer NOT NULL DEFAULT 0,
    ADD COLUMN changed text NOT NULL DEFAULT '';
CREATE TABLE perennial.migration (
    plan_id text NOT NULL,
    run_id uuid NOT NULL,
    from_version integer NOT NULL,
    to_version integer NOT NULL,
    before jsonb NOT NULL,
    after_revision bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT perennial.now(),
    by text NOT NULL,
    reason text NOT NULL DEFAULT '',
    undone_at timestamptz,
    CONSTRAINT migration_pkey PRIMARY KEY (plan_id, run_id),
    CONSTRAINT migration_run_id_fkey FOREIGN KEY (run_id) REFERENCES perennial.run (id) ON DELETE CASCADE
);
CREATE INDEX migration_of_run ON perennial.migration (run_id);
"""

TAKE_OUT = """
CREATE FUNCTION perennial.take_out_activities(of_run uuid, keys text[]) RETURNS SETOF perennial.activity
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM perennial.activity t WHERE t.run_id = of_run AND (t.key = ANY(keys) OR t.parent_key = ANY(keys))
        AND t.state <> 'claimed'
        AND EXISTS (SELECT FROM perennial.run r WHERE r.id = of_run AND r.closed_at IS NULL)
    RETURNING t.*
$$;
REVOKE EXECUTE ON FUNCTION perennial.take_out_activities(uuid, text[]) FROM PUBLIC;  /* guard: rights on activities */
CREATE FUNCTION perennial.take_out_approvals(of_run uuid, keys text[]) RETURNS SETOF perennial.approval
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM perennial.approval t WHERE t.run_id = of_run AND t.key = ANY(keys)
        AND EXISTS (SELECT FROM perennial.run r WHERE r.id = of_run AND r.closed_at IS NULL)
    RETURNING t.*
$$;
REVOKE EXECUTE ON FUNCTION perennial.take_out_approvals(uuid, text[]) FROM PUBLIC;  /* guard: rights on approvals */
CREATE FUNCTION perennial.take_out_votes(of_run uuid, keys text[]) RETURNS SETOF perennial.approval_vote
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM perennial.approval_vote t WHERE t.run_id = of_run AND t.key = ANY(keys)
        AND EXISTS (SELECT FROM perennial.run r WHERE r.id = of_run AND r.closed_at IS NULL)
    RETURNING t.*
$$;
REVOKE EXECUTE ON FUNCTION perennial.take_out_votes(uuid, text[]) FROM PUBLIC;  /* guard: rights on votes */
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
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON perennial.migration TO %s', granted.role);
        EXECUTE format('GRANT SELECT ON perennial.approval_vote TO %s', granted.role);
        EXECUTE format('GRANT EXECUTE ON FUNCTION perennial.take_out_activities(uuid, text[]),'
            ' perennial.take_out_approvals(uuid, text[]), perennial.take_out_votes(uuid, text[]) TO %s', granted.role);
    END LOOP;
END $$
"""

DOWN = """
DROP FUNCTION perennial.take_out_activities(uuid, text[]), perennial.take_out_approvals(uuid, text[]),
    perennial.take_out_votes(uuid, text[]);
DROP TABLE perennial.migration;
ALTER TABLE perennial.approval DROP COLUMN former_keys, DROP COLUMN edition, DROP COLUMN changed;
"""


def upgrade() -> None:
    """Make room."""
    op.execute(LOCK)
    op.execute(UP)
    op.execute(TAKE_OUT)
    op.execute(RIGHTS)


def downgrade() -> None:
    """As it was; what migrations have kept goes."""
    op.execute(LOCK)
    op.execute(DOWN)
