"""Each fact has its place in its run's order, and what was asked for is there to be compared. See ADR 0030.

Expand only: what a worker of the release before settles is given its place by a trigger, and what was settled
before stays without one, and counts as earlier than all that has one. What it asks for has no digest, and isn't
compared.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE perennial.activity ADD COLUMN settled_revision BIGINT, ADD COLUMN asked TEXT;
ALTER TABLE perennial.signal ADD COLUMN received_revision BIGINT;
"""

FUNCTION = """
CREATE FUNCTION perennial.place_fact() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.settled_revision := (SELECT r.revision FROM perennial.run r WHERE r.id = NEW.run_id);
    RETURN NEW;
END $$
"""

TRIGGER = """
CREATE TRIGGER activity_has_its_place BEFORE INSERT OR UPDATE ON perennial.activity FOR EACH ROW
WHEN (NEW.settled_at IS NOT NULL AND NEW.settled_revision IS NULL AND NEW.parent_key IS NULL
    AND NEW.state <> 'cancelled') EXECUTE FUNCTION perennial.place_fact()
"""


def upgrade() -> None:
    """Three columns, and who fills one of them in."""
    for script in (LOCK, COLUMNS, FUNCTION, TRIGGER):
        op.execute(script)


def downgrade() -> None:
    """As it was."""
    op.execute(LOCK)
    op.execute(
        """
DROP TRIGGER activity_has_its_place ON perennial.activity;
DROP FUNCTION perennial.place_fact();
ALTER TABLE perennial.activity DROP COLUMN settled_revision, DROP COLUMN asked;
ALTER TABLE perennial.signal DROP COLUMN received_revision;
"""
    )
