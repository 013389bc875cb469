"""A version has revisions: what was deployed under it, and on which of them each run stands. See ADR 0045.

Expand only: a client of the release before starts runs on revision 1, and what it deploys stands in `process` alone,
which holds the content of the current revision. Whoever had rights on `process` has the like on the new table.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE perennial.run ADD COLUMN code_revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE perennial.process ADD COLUMN code_revision INTEGER NOT NULL DEFAULT 1;
"""

TABLE = """
CREATE TABLE perennial.process_revision (
    process TEXT NOT NULL,
    version INTEGER NOT NULL,
    code_revision INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    fingerprints JSONB NOT NULL DEFAULT '{}'::jsonb,
    kind TEXT NOT NULL,
    spec JSONB NOT NULL,
    source TEXT,
    queue TEXT,
    expires_after_seconds DOUBLE PRECISION,
    input_schema JSONB,
    input_schema_digest TEXT,
    deployed_at TIMESTAMPTZ NOT NULL DEFAULT perennial.now(),
    deployed_by TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    diff JSONB,
    CONSTRAINT process_revision_pkey PRIMARY KEY (process, version, code_revision),
    CONSTRAINT process_revision_process_fkey FOREIGN KEY (process, version)
        REFERENCES perennial.process (name, version) ON DELETE CASCADE,
    CONSTRAINT process_revision_code_revision_check CHECK (code_revision >= 1)
);
INSERT INTO perennial.process_revision (process, version, code_revision, fingerprint, kind, spec, queue,
    expires_after_seconds, input_schema, input_schema_digest, deployed_at, deployed_by)
SELECT name, version, 1, fingerprint, kind, spec, queue, expires_after_seconds, input_schema, input_schema_digest,
    deployed_at, deployed_by
FROM perennial.process;
"""

RIGHTS = """
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS role,
            a.privilege_type AS may
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = 'perennial.process'::regclass AND a.grantee <> c.relowner
            AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE')
    LOOP
        EXECUTE format('GRANT %s ON perennial.process_revision TO %s', granted.may, granted.role);
    END LOOP;
END $$
"""


def upgrade() -> None:
    """Add the columns and the table, filled with what is deployed."""
    for script in (LOCK, COLUMNS, TABLE, RIGHTS):
        op.execute(script)


def downgrade() -> None:
    """As it was: what earlier revisions held is gone."""
    op.execute(LOCK)
    op.execute(
        """
DROP TABLE perennial.process_revision;
ALTER TABLE perennial.run DROP COLUMN code_revision;
ALTER TABLE perennial.process DROP COLUMN code_revision;
"""
    )
