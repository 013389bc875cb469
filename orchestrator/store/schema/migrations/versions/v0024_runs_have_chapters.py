"""A flow may continue as new: its run has chapters, and the journal of each begins empty.

Expand only: a worker of the release before can't begin a chapter. It would ask for the keys of the first one in a later
one, and park the run: deploy flows that continue as new when the whole fleet has this release.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

CHAPTERS = """
ALTER TABLE perennial.run ADD COLUMN chapter INTEGER DEFAULT 1 NOT NULL,
    ADD COLUMN chapter_at TIMESTAMP WITH TIME ZONE;
"""

END_CHAPTER = """
CREATE FUNCTION perennial.end_chapter(of_run uuid, began timestamptz, taken uuid[]) RETURNS SETOF perennial.timer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM perennial.activity t WHERE t.run_id = of_run
        AND EXISTS (SELECT FROM perennial.run r WHERE r.id = of_run AND r.closed_at IS NULL);
    DELETE FROM perennial.approval t WHERE t.run_id = of_run
        AND EXISTS (SELECT FROM perennial.run r WHERE r.id = of_run AND r.closed_at IS NULL);
    DELETE FROM perennial.approval_vote t WHERE t.run_id = of_run
        AND EXISTS (SELECT FROM perennial.run r WHERE r.id = of_run AND r.closed_at IS NULL);
    DELETE FROM perennial.callback t WHERE t.run_id = of_run
        AND EXISTS (SELECT FROM perennial.run r WHERE r.id = of_run AND r.closed_at IS NULL);
    UPDATE perennial.signal t SET consumed_key = '' WHERE t.run_id = of_run AND t.id = ANY(taken)
        AND t.consumed_key IS NULL;
    DELETE FROM perennial.signal t WHERE t.run_id = of_run AND t.consumed_key IS NOT NULL
        AND (t.signal_id IS NULL OR t.received_at < began)
        AND EXISTS (SELECT FROM perennial.run r WHERE r.id = of_run AND r.closed_at IS NULL);
    DELETE FROM perennial.timer t WHERE t.run_id = of_run
        AND EXISTS (SELECT FROM perennial.run r WHERE r.id = of_run AND r.closed_at IS NULL)
    RETURNING t.*
$$;
REVOKE EXECUTE ON FUNCTION perennial.end_chapter(uuid, timestamptz, uuid[]) FROM PUBLIC; /* guard: rights on chapters */
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
        EXECUTE format('GRANT EXECUTE ON FUNCTION perennial.end_chapter(uuid, timestamptz, uuid[]) TO %s',
            granted.role);
    END LOOP;
END $$
"""


def upgrade() -> None:
    """Two columns and a function."""
    for script in (LOCK, CHAPTERS, END_CHAPTER, RIGHTS):
        op.execute(script)


def downgrade() -> None:
    """As it was: runs in a later chapter could not go on."""
    op.execute(LOCK)
    op.execute("DROP FUNCTION perennial.end_chapter(uuid, timestamptz, uuid[]);")
    op.execute("ALTER TABLE perennial.run DROP COLUMN chapter, DROP COLUMN chapter_at;")
