"""What a team has said of a process stays: which version new runs take, and which take none any more.

Expand only: a client of the release before says it in the row of `process` alone. Whoever may read and add to `process`
may read and add here.
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE perennial.process_history (
    id BIGINT GENERATED ALWAYS AS IDENTITY NOT NULL,
    process TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    by TEXT NOT NULL,
    event TEXT NOT NULL,
    version INTEGER,
    former_version INTEGER,
    reason TEXT DEFAULT '' NOT NULL,
    CONSTRAINT process_history_pkey PRIMARY KEY (id),
    CONSTRAINT process_history_event_check CHECK (event IN ('current', 'retired', 'unretired'))
);
CREATE INDEX process_history_of_process ON perennial.process_history (process, id);
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
            AND a.privilege_type IN ('SELECT', 'INSERT')
    LOOP
        EXECUTE format('GRANT %s ON perennial.process_history TO %s', granted.may, granted.role);
    END LOOP;
END $$
"""


def upgrade() -> None:
    """Add the table."""
    for script in (TABLE, RIGHTS):
        op.execute(script)


def downgrade() -> None:
    """As it was: what was said stands in the rows of `process` alone."""
    op.execute("DROP TABLE perennial.process_history")
