"""The record refuses what must not be: two open turns, work done twice, history changed, a closed run left open."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Writers wait from here on, and a statement of theirs may hold one table while it wants another. So the
# upgrade never waits long for a lock: it lets go of what it has, lets them through, and tries again. At times
# it waits for longer than `deadlock_timeout`: Postgres then ends an autovacuum that stands in the way.
LOCK = """
DO $$
BEGIN
    FOR tries IN 1..50 LOOP
        BEGIN
            PERFORM set_config('lock_timeout', CASE WHEN tries % 5 = 0 THEN '3s' ELSE '500ms' END, true);
            LOCK TABLE perennial.run IN ACCESS EXCLUSIVE MODE;
            LOCK TABLE perennial.activity, perennial.approval, perennial.approval_vote, perennial.timer,
                perennial.signal, perennial.history IN SHARE ROW EXCLUSIVE MODE;
            SET LOCAL lock_timeout = DEFAULT;
            RETURN;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            PERFORM pg_sleep(0.1);
        END;
    END LOOP;
    RAISE EXCEPTION 'the tables were in use for as long as the upgrade tried to lock them'
        USING ERRCODE = 'lock_not_available',
        HINT = 'Look in pg_stat_activity for a transaction that is open for long, and upgrade again.';
END $$;
"""

# A hold says for how long it is good after its worker's last beat: so the record itself can tell a second
# turn from a lost one.
COLUMNS = """
ALTER TABLE perennial.run
    ADD COLUMN turn_lease_seconds DOUBLE PRECISION,
    ADD CONSTRAINT run_turn_check CHECK ((turn_token IS NULL) = (turn_worker IS NULL)
        AND (turn_token IS NULL) = (turn_claimed_at IS NULL)),
    ADD CONSTRAINT run_closed_turn_check CHECK (closed_at IS NULL OR turn_token IS NULL);
"""

# What cancellations of 0.1 left open in runs that had ended.
HEAL = """
UPDATE perennial.activity a SET state = 'cancelled', settled_at = r.closed_at
    FROM perennial.run r WHERE r.id = a.run_id AND r.closed_at IS NOT NULL AND a.settled_at IS NULL;
UPDATE perennial.approval p SET state = 'cancelled'
    FROM perennial.run r WHERE r.id = p.run_id AND r.closed_at IS NOT NULL AND p.state = 'open';
UPDATE perennial.timer t SET state = 'cancelled'
    FROM perennial.run r WHERE r.id = t.run_id AND r.closed_at IS NOT NULL AND t.state = 'armed';
DELETE FROM perennial.outbox o
    USING perennial.run r WHERE r.id = o.run_id AND r.closed_at IS NOT NULL;
"""

FUNCTIONS = """
CREATE FUNCTION perennial.break_rule(rule text, on_table text, says text, line jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'integrity_constraint_violation',
        SCHEMA = 'perennial', TABLE = on_table, CONSTRAINT = rule,
        MESSAGE = format('%s: %s (rule %s)', says, concat_ws(' of run ', concat_ws(' ', on_table,
            coalesce(line ->> 'key', line ->> 'name', line ->> 'id')), line ->> 'run_id'), rule);
END $$;
CREATE FUNCTION perennial.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM perennial.break_rule(TG_NAME, TG_TABLE_NAME, TG_ARGV[0], to_jsonb(OLD));
    RETURN NULL;
END $$;
CREATE FUNCTION perennial.refuse_if_run_is_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM perennial.run r WHERE r.id = NEW.run_id AND r.closed_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        PERFORM perennial.break_rule(TG_NAME, TG_TABLE_NAME, TG_ARGV[0], to_jsonb(NEW));
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION perennial.refuse_if_run_leaves_open() RETURNS trigger LANGUAGE plpgsql AS $$
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
        FROM perennial.outbox o WHERE o.run_id = NEW.id
    ) AS anything LIMIT 1;
    IF FOUND THEN
        PERFORM perennial.break_rule(TG_NAME, TG_TABLE_NAME, TG_ARGV[0] || ', but ' || left_open, to_jsonb(NEW));
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION perennial.refuse_if_turn_is_held() RETURNS trigger LANGUAGE plpgsql STABLE AS $$
DECLARE
    long_ago timestamptz := perennial.now() - OLD.turn_lease_seconds * interval '1 second';
BEGIN
    IF OLD.turn_claimed_at > long_ago OR EXISTS (
        SELECT FROM perennial.worker w WHERE w.id = OLD.turn_worker AND w.heartbeat_at > long_ago
    ) THEN
        PERFORM perennial.break_rule(TG_NAME, TG_TABLE_NAME, TG_ARGV[0], to_jsonb(OLD));
    END IF;
    RETURN NULL;
END $$;
"""

TRIGGERS = """
CREATE TRIGGER run_closed_stands AFTER UPDATE OF status, closed_at, output, error ON perennial.run FOR EACH ROW
    WHEN (OLD.closed_at IS NOT NULL)
    EXECUTE FUNCTION perennial.refuse('a run that has ended keeps its status and its outcome');
CREATE TRIGGER run_revision_grows AFTER UPDATE OF revision ON perennial.run FOR EACH ROW
    WHEN (NEW.revision < OLD.revision)
    EXECUTE FUNCTION perennial.refuse('a revision never goes back');
CREATE TRIGGER run_turn_is_held AFTER UPDATE OF turn_token ON perennial.run FOR EACH ROW
    WHEN (OLD.turn_token <> NEW.turn_token)
    EXECUTE FUNCTION perennial.refuse_if_turn_is_held('a turn is open already, and its worker lives');
CREATE CONSTRAINT TRIGGER run_leaves_nothing_open AFTER UPDATE OF closed_at ON perennial.run
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.closed_at IS NOT NULL)
    EXECUTE FUNCTION perennial.refuse_if_run_leaves_open('a run that ends leaves nothing open');
CREATE TRIGGER activity_settled_stands AFTER UPDATE ON perennial.activity FOR EACH ROW
    WHEN (OLD.settled_at IS NOT NULL)
    EXECUTE FUNCTION perennial.refuse('an activity that is settled never changes');
CREATE TRIGGER activity_attempts_grow AFTER UPDATE OF attempt ON perennial.activity FOR EACH ROW
    WHEN (NEW.attempt < OLD.attempt)
    EXECUTE FUNCTION perennial.refuse('attempts never go back');
CREATE TRIGGER activity_claim_stands AFTER UPDATE OF worker_id ON perennial.activity FOR EACH ROW
    WHEN (NEW.attempt = OLD.attempt AND (OLD.worker_id <> NEW.worker_id
        OR OLD.state = 'claimed' AND NEW.worker_id IS NULL))
    EXECUTE FUNCTION perennial.refuse('an attempt is claimed by one worker');
CREATE TRIGGER activity_of_open_run AFTER INSERT OR UPDATE OF run_id ON perennial.activity FOR EACH ROW
    WHEN (NEW.settled_at IS NULL)
    EXECUTE FUNCTION perennial.refuse_if_run_is_closed('a run that has ended opens no activity');
CREATE TRIGGER approval_closed_stands AFTER UPDATE ON perennial.approval FOR EACH ROW
    WHEN (OLD.state <> 'open')
    EXECUTE FUNCTION perennial.refuse('an approval that is closed never changes');
CREATE TRIGGER approval_of_open_run AFTER INSERT OR UPDATE OF run_id ON perennial.approval FOR EACH ROW
    WHEN (NEW.state = 'open')
    EXECUTE FUNCTION perennial.refuse_if_run_is_closed('a run that has ended asks nobody');
CREATE TRIGGER approval_vote_stands AFTER UPDATE ON perennial.approval_vote FOR EACH ROW
    EXECUTE FUNCTION perennial.refuse('a vote never changes');
CREATE TRIGGER timer_ended_stands AFTER UPDATE ON perennial.timer FOR EACH ROW
    WHEN (OLD.state = 'fired'
        OR OLD.state = 'cancelled' AND NOT (OLD.kind = 'expiry' AND NEW.state = 'fired'))
    EXECUTE FUNCTION perennial.refuse('a timer that has fired or was cancelled never changes');
CREATE TRIGGER timer_of_open_run AFTER INSERT OR UPDATE OF run_id ON perennial.timer FOR EACH ROW
    WHEN (NEW.state = 'armed')
    EXECUTE FUNCTION perennial.refuse_if_run_is_closed('a run that has ended arms no timer');
CREATE TRIGGER signal_consumed_stands AFTER UPDATE ON perennial.signal FOR EACH ROW
    WHEN (OLD.consumed_key IS NOT NULL)
    EXECUTE FUNCTION perennial.refuse('a signal is consumed once');
CREATE TRIGGER history_stands AFTER UPDATE ON perennial.history FOR EACH ROW
    EXECUTE FUNCTION perennial.refuse('history never changes');
CREATE TRIGGER history_stays AFTER DELETE ON perennial.history FOR EACH ROW
    WHEN (OLD.at >= coalesce(nullif(current_setting('perennial.drop_history_before', true), '')::timestamptz,
        '-infinity'))
    EXECUTE FUNCTION perennial.refuse(
        'history stays, unless the transaction has set perennial.drop_history_before to a later moment');
CREATE TRIGGER history_is_not_emptied BEFORE TRUNCATE ON perennial.history FOR EACH STATEMENT
    EXECUTE FUNCTION perennial.refuse('history stays');
"""


def upgrade() -> None:
    """Lock, mend what is left open, and refuse from then on."""
    for script in (LOCK, HEAL, COLUMNS, FUNCTIONS, TRIGGERS):
        op.execute(script)


def downgrade() -> None:
    """Refuse nothing more; no row changes."""
    op.execute(LOCK)
    for function in (
        "refuse",
        "refuse_if_run_is_closed",
        "refuse_if_run_leaves_open",
        "refuse_if_turn_is_held",
    ):
        op.execute(f"DROP FUNCTION perennial.{function}() CASCADE")  # and the triggers that call it
    op.execute("DROP FUNCTION perennial.break_rule(text, text, text, jsonb)")
    op.execute(
        "ALTER TABLE perennial.run DROP CONSTRAINT run_turn_check, DROP CONSTRAINT run_closed_turn_check,"
        " DROP COLUMN turn_lease_seconds"
    )
