"""A run that has failed or completed may go on, by an operator's word: each such word counts in `reentries`.

`attempts_before` has the attempts that were made of stages which have left the journal, so that theirs go on from
there and the fence of an attempt holds. Expand only: a worker of the release before never reopens a run, and goes on
with one that was; what it opens anew begins with attempt 1.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE perennial.run ADD COLUMN reentries INTEGER DEFAULT 0 NOT NULL, ADD COLUMN attempts_before JSONB;
"""

REENTERED = """
CREATE OR REPLACE TRIGGER run_closed_stands AFTER UPDATE OF status, closed_at, output, error ON perennial.run
    FOR EACH ROW
    WHEN (OLD.closed_at IS NOT NULL
        AND NOT (OLD.status IN ('failed', 'completed') AND NEW.closed_at IS NULL AND NEW.reentries = OLD.reentries + 1)
    )
    EXECUTE FUNCTION perennial.refuse('a run that has ended keeps its status and its outcome');
"""

STOOD = """
CREATE OR REPLACE TRIGGER run_closed_stands AFTER UPDATE OF status, closed_at, output, error ON perennial.run
    FOR EACH ROW WHEN (OLD.closed_at IS NOT NULL)
    EXECUTE FUNCTION perennial.refuse('a run that has ended keeps its status and its outcome');
ALTER TABLE perennial.run DROP COLUMN reentries, DROP COLUMN attempts_before;
"""


def upgrade() -> None:
    """Two columns, and an exception to a rule."""
    for script in (LOCK, COLUMNS, REENTERED):
        op.execute(script)


def downgrade() -> None:
    """As it was."""
    for script in (LOCK, STOOD):
        op.execute(script)
