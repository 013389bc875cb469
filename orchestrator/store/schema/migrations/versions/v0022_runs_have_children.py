"""Runs have children: the end of a child settles its parent's line, and the end of a parent is the end of its children.

By triggers: a worker of the release before ends children and parents too, and knows nothing of either. Expand only: it
writes none of the new columns.
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE perennial.run ADD COLUMN parent_key TEXT, ADD COLUMN on_parent_end TEXT,
    ADD COLUMN depth INTEGER DEFAULT 0 NOT NULL, ADD COLUMN children INTEGER DEFAULT 0 NOT NULL;
CREATE INDEX run_children ON perennial.run (parent_id, id) WHERE parent_id IS NOT NULL;
"""

_TELLS = """
CREATE FUNCTION perennial.tell_parent() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    line text := NEW.parent_key;
    is_counted boolean;
    parent record;
    happened text := CASE NEW.status WHEN 'completed' THEN 'child completed' ELSE 'child ' || NEW.status END;
BEGIN
    SELECT r.revision + 1 AS revision, r.status, r.queue, r.outstanding,
            r.outstanding_revision = r.turn_revision AS counts
        INTO parent FROM perennial.run r WHERE r.id = NEW.parent_id AND r.closed_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM FROM perennial.activity a WHERE a.run_id = NEW.parent_id AND a.key = line
        AND a.policy ->> 'child' = NEW.id::text;
    IF NOT FOUND THEN  -- a migration may have moved it
        SELECT a.key INTO line FROM perennial.activity a WHERE a.run_id = NEW.parent_id AND a.kind = 'child'
            AND a.state = 'pending' AND a.policy ->> 'child' = NEW.id::text;
    END IF;
    UPDATE perennial.activity a SET state = CASE NEW.status WHEN 'completed' THEN 'done' ELSE 'failed' END,
        result = CASE NEW.status WHEN 'completed' THEN NEW.output END,
        error = CASE WHEN NEW.status <> 'completed' THEN jsonb_build_object('type', coalesce(NEW.error ->> 'type', ''),
            'message', coalesce(NEW.error ->> 'message', ''), 'run', NEW.id, 'process', NEW.process,
            'status', NEW.status) END,
        settled_at = perennial.now(), settled_revision = parent.revision
    WHERE a.run_id = NEW.parent_id AND a.kind = 'child' AND a.state = 'pending'
"""

_THAT_ASKED = """        AND a.policy ->> 'child' = NEW.id::text
"""

_AND_GOES_ON = """        AND a.key = line
    RETURNING coalesce((a.policy ->> 'counted')::boolean AND parent.counts, false) INTO is_counted;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE perennial.run r SET revision = parent.revision, last_progress_at = perennial.now(),
        outstanding = r.outstanding - is_counted::int,
        waiting_for = CASE WHEN is_counted THEN regexp_replace(r.waiting_for, ' and [0-9]+ more$',
            CASE WHEN r.outstanding > 2 THEN format(' and %s more', r.outstanding - 2) ELSE '' END)
            ELSE r.waiting_for END
    WHERE r.id = NEW.parent_id;
    IF NOT is_counted OR coalesce(parent.outstanding, 0) <= 1 THEN
        INSERT INTO perennial.outbox AS o (run_id, key, attempt, task, queue, publishes, publish_at)
        VALUES (NEW.parent_id, '', 1, 'perennial.advance', parent.queue, 0, perennial.now())
        ON CONFLICT (run_id, key) DO UPDATE SET publish_at = least(o.publish_at, excluded.publish_at);
        PERFORM pg_notify(concat_ws('_', 'perennial', 'outbox', nullif(TG_TABLE_SCHEMA, 'perennial')), '');
    END IF;
    INSERT INTO perennial.history (run_id, actor, event, key, attempt, from_status, to_status, detail)
    VALUES (NEW.parent_id, 'run ' || NEW.id, happened, line, NULL, parent.status, parent.status,
        jsonb_build_object('child', NEW.id, 'process', NEW.process));
    RETURN NULL;
END $$
"""

TELL_PARENT = "".join(  # noqa: FLY002 - as it is in three parts
    (
        _TELLS,
        _THAT_ASKED,
        _AND_GOES_ON,
    )
)

SEE_TO_CHILDREN = """
CREATE FUNCTION perennial.see_to_children() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO perennial.outbox AS o (run_id, key, attempt, task, queue, publishes, publish_at)
    VALUES (NEW.id, '#children', NEW.revision, 'perennial.advance', NEW.queue, 0, perennial.now())
    ON CONFLICT (run_id, key) DO UPDATE SET attempt = excluded.attempt, publishes = excluded.publishes,
        publish_at = excluded.publish_at;
    PERFORM pg_notify(concat_ws('_', 'perennial', 'outbox', nullif(TG_TABLE_SCHEMA, 'perennial')), '');
    RETURN NULL;
END $$
"""

TRIGGERS = """
CREATE TRIGGER run_tells_its_parent AFTER UPDATE OF closed_at ON perennial.run FOR EACH ROW
WHEN (OLD.closed_at IS NULL AND NEW.closed_at IS NOT NULL AND NEW.parent_key IS NOT NULL)
EXECUTE FUNCTION perennial.tell_parent();
CREATE TRIGGER run_sees_to_its_children AFTER UPDATE OF closed_at ON perennial.run FOR EACH ROW
WHEN (OLD.closed_at IS NULL AND NEW.closed_at IS NOT NULL AND NEW.children > 0)
EXECUTE FUNCTION perennial.see_to_children();
"""

LEAVES_OPEN = """
CREATE OR REPLACE FUNCTION perennial.refuse_if_run_leaves_open() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    left_open text;
BEGIN
    SELECT what INTO left_open FROM (
        SELECT format('activity %s is %s', a.key, a.state) AS what
        FROM perennial.activity a WHERE a.run_id = NEW.id AND a.settled_at IS NULL
        UNION ALL SELECT format('approval %s is open', p.key)
        FROM perennial.approval p WHERE p.run_id = NEW.id AND p.state = 'open'
        UNION ALL SELECT format('timer %s of %s is armed', t.kind, t.key)
        FROM perennial.timer t WHERE t.run_id = NEW.id AND t.state = 'armed'
        UNION ALL SELECT format('handoff %s is in the outbox', coalesce(nullif(o.key, ''), 'advance'))
        FROM perennial.outbox o WHERE o.run_id = NEW.id AND o.key <> '#children'
    ) AS anything LIMIT 1;
    IF FOUND THEN
        PERFORM perennial.break_rule(TG_NAME, TG_TABLE_NAME, TG_ARGV[0] || ', but ' || left_open, to_jsonb(NEW));
    END IF;
    RETURN NULL;
END $$
"""

LEFT_OPEN = LEAVES_OPEN.replace(" AND o.key <> '#children'", "")

DOWN = """
DROP TRIGGER run_tells_its_parent ON perennial.run;
DROP TRIGGER run_sees_to_its_children ON perennial.run;
DROP FUNCTION perennial.tell_parent();
DROP FUNCTION perennial.see_to_children();
DELETE FROM perennial.outbox WHERE key = '#children';
DROP INDEX perennial.run_children;
ALTER TABLE perennial.run DROP COLUMN parent_key, DROP COLUMN on_parent_end, DROP COLUMN depth, DROP COLUMN children;
"""


def upgrade() -> None:
    """Make room, and let the record tell."""
    for script in (LOCK, COLUMNS, TELL_PARENT, SEE_TO_CHILDREN, TRIGGERS, LEAVES_OPEN):
        op.execute(script)


def downgrade() -> None:
    """As it was: a child that is open goes on by itself, and nobody tells its parent."""
    for script in (LOCK, DOWN, LEFT_OPEN):
        op.execute(script)
