"""What the record refuses, whoever writes: states that no constraint can see, and moves that must not be.

And what it fills in for those who write less: workers of a release before.

    refuse            the move itself is wrong: the trigger's WHEN has seen it, and this only says so
    refuse_*          WHEN has seen a move that may be wrong, and this looks
    RULES             the triggers, table by table
    FILLS             triggers that fill in what a worker of the release before doesn't know of

A WHEN is compared where the row is written, and costs the main path next to nothing; a function is called
only where it holds. Two of them hold at work that is right: something is opened, a run closes.

Reads in these functions are of rows by their run. `refuse_if_run_is_closed` locks the run: FOR SHARE waits
for whoever closes it, and who closes waits for it, so that one of the two sees the other. Every verb that
opens something has written or locked the run's row before, so it waits for nobody anew.

`migrations/` creates all this; a test holds the two to each other. (docs/adr/0010)
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.store.parts import (
    APPEND_HISTORY,
    CHILDREN_KEY,
    FOR_A_RELAY,
    HAND_OFF,
    RAISED,
    SEEN_TO_ANEW,
    SOONEST_WINS,
    a_turn_of,
    look_at_children,
)
from orchestrator.store.schema import SCHEMA

# Class 23 makes it an IntegrityError, as a constraint's own refusal; the rule's name stands where a
# constraint's would. The line is named by its keys alone: no payload.
BREAK = """
CREATE FUNCTION perennial.break_rule(rule text, on_table text, says text, line jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'integrity_constraint_violation',
        SCHEMA = 'perennial', TABLE = on_table, CONSTRAINT = rule,
        MESSAGE = format('%s: %s (rule %s)', says, concat_ws(' of run ', concat_ws(' ', on_table,
            coalesce(line ->> 'key', line ->> 'name', line ->> 'id')), line ->> 'run_id'), rule);
END $$
"""

REFUSE = """
CREATE FUNCTION perennial.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM perennial.break_rule(TG_NAME, TG_TABLE_NAME, TG_ARGV[0], to_jsonb(OLD));
    RETURN NULL;
END $$
"""

RUN_IS_CLOSED = """
CREATE FUNCTION perennial.refuse_if_run_is_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM perennial.run r WHERE r.id = NEW.run_id AND r.closed_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        PERFORM perennial.break_rule(TG_NAME, TG_TABLE_NAME, TG_ARGV[0], to_jsonb(NEW));
    END IF;
    RETURN NULL;
END $$
"""

# At the end of the transaction, so that a run may be closed by several statements. It looks anew, and sees
# what others have committed since.
LEAVES_OPEN = f"""
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
        FROM perennial.outbox o WHERE o.run_id = NEW.id AND o.key <> '{CHILDREN_KEY}'
    ) AS anything LIMIT 1;
    IF FOUND THEN
        PERFORM perennial.break_rule(TG_NAME, TG_TABLE_NAME, TG_ARGV[0] || ', but ' || left_open, to_jsonb(NEW));
    END IF;
    RETURN NULL;
END $$
"""

# STABLE: it judges the holder by what the statement saw, as the statement's own guard does. A hold without
# a lease is one of a worker that knows of none, and isn't judged.
TURN_IS_HELD = """
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
END $$
"""

OWNS = """
CREATE FUNCTION perennial.owns(on_table regclass) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c WHERE c.oid = on_table
$$
"""

# A worker of the release before keeps no place of a fact: it is that of the run's revision, which its statement has
# raised, or will raise as it ends. Then it shares the place of the fact before it, and stands after it by its time.
PLACE_FACT = """
CREATE FUNCTION perennial.place_fact() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.settled_revision := (SELECT r.revision FROM perennial.run r WHERE r.id = NEW.run_id);
    RETURN NEW;
END $$
"""

# A journal is rewritten by taking rows out and putting others in: none that is settled changes. Those who work on the
# record may not delete; by these they take rows of a run that is open, and get them back. What is at work stays.
TAKE_OUT = tuple(
    f"""
CREATE FUNCTION perennial.take_out_{name}(of_run uuid, keys text[]) RETURNS SETOF perennial.{table}
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM perennial.{table} t WHERE t.run_id = of_run AND {which}
        AND EXISTS (SELECT FROM perennial.run r WHERE r.id = of_run AND r.closed_at IS NULL)
    RETURNING t.*
$$
"""
    for name, table, which in (
        (
            "activities",
            "activity",
            "(t.key = ANY(keys) OR t.parent_key = ANY(keys))\n        AND t.state <> 'claimed'",
        ),
        ("approvals", "approval", "t.key = ANY(keys)"),
        ("votes", "approval_vote", "t.key = ANY(keys)"),
        ("signals", "signal", "t.consumed_key = ANY(keys)"),
    )
)

# Whichever door a child is ended by, a worker of the release before is one of them, its parent's line is settled in the
# same transaction. It is the last that the child's statement does: so whoever has two runs locked has a child and then
# its parent. Each query of the function sees what was committed while the one before it waited. A parent that waits for
# several counts them down, as it does stages (store.transitions.settle). Relays listen on their schema's channel.
# (docs/adr/0055)
TELL_PARENT = f"""
CREATE FUNCTION perennial.tell_parent() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    line text := NEW.parent_key;
    is_counted boolean;
    parent record;
    happened text := CASE NEW.status WHEN 'completed' THEN 'child completed' ELSE 'child ' || NEW.status END;
BEGIN
    SELECT {RAISED} AS revision, r.status, r.queue, r.outstanding,
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
        AND a.policy ->> 'child' = NEW.id::text
        AND a.key = line
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
        {HAND_OFF}
        VALUES ({a_turn_of("NEW.parent_id", "parent.queue")}, {FOR_A_RELAY})
        {SOONEST_WINS};
        PERFORM pg_notify(concat_ws('_', 'perennial', 'outbox', nullif(TG_TABLE_SCHEMA, 'perennial')), '');
    END IF;
    {APPEND_HISTORY}
    VALUES (NEW.parent_id, 'run ' || NEW.id, happened, line, NULL, parent.status, parent.status,
        jsonb_build_object('child', NEW.id, 'process', NEW.process));
    RETURN NULL;
END $$
"""

# A parent that ends locks no child: what becomes of them is a handoff's, however many they are and whichever door the
# parent was ended by.
SEE_TO_CHILDREN = f"""
CREATE FUNCTION perennial.see_to_children() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    {HAND_OFF}
    VALUES ({look_at_children("NEW.id", "NEW.revision", "NEW.queue")}, {FOR_A_RELAY})
    {SEEN_TO_ANEW};
    PERFORM pg_notify(concat_ws('_', 'perennial', 'outbox', nullif(TG_TABLE_SCHEMA, 'perennial')), '');
    RETURN NULL;
END $$
"""

# A flow continues as new: the journal of its run begins empty, and what is open goes with it. Signals that came by an
# id stay known until the end of the chapter after the one they came in, so that one that is sent twice is taken once.
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
$$
"""

FUNCTIONS = (
    BREAK,
    REFUSE,
    RUN_IS_CLOSED,
    LEAVES_OPEN,
    TURN_IS_HELD,
    OWNS,
    PLACE_FACT,
    *TAKE_OUT,
    TELL_PARENT,
    SEE_TO_CHILDREN,
    END_CHAPTER,
)

FILLS = (
    f"""
CREATE TRIGGER activity_has_its_place BEFORE INSERT OR UPDATE ON {SCHEMA}.activity FOR EACH ROW
WHEN (NEW.settled_at IS NOT NULL AND NEW.settled_revision IS NULL AND NEW.parent_key IS NULL
    AND NEW.state <> 'cancelled') EXECUTE FUNCTION {SCHEMA}.place_fact()
""",
    f"""
CREATE TRIGGER run_tells_its_parent AFTER UPDATE OF closed_at ON {SCHEMA}.run FOR EACH ROW
WHEN (OLD.closed_at IS NULL AND NEW.closed_at IS NOT NULL AND NEW.parent_key IS NOT NULL)
EXECUTE FUNCTION {SCHEMA}.tell_parent()
""",
    f"""
CREATE TRIGGER run_sees_to_its_children AFTER UPDATE OF closed_at ON {SCHEMA}.run FOR EACH ROW
WHEN (OLD.closed_at IS NULL AND NEW.closed_at IS NOT NULL AND NEW.children > 0)
EXECUTE FUNCTION {SCHEMA}.see_to_children()
""",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A trigger: at `on`, where `when` holds, `function` refuses with what it `says`."""

    name: str
    table: str
    on: str
    when: str
    says: str
    function: str = "refuse"
    is_deferred: bool = False

    def ddl(self) -> str:
        """What creates it."""
        kind, until = (
            ("CONSTRAINT TRIGGER", " DEFERRABLE INITIALLY DEFERRED")
            if self.is_deferred
            else ("TRIGGER", "")
        )
        each = "STATEMENT" if "TRUNCATE" in self.on else "ROW"
        when = f" WHEN ({self.when})" if self.when else ""
        return (
            f"CREATE {kind} {self.name} {self.on} ON {SCHEMA}.{self.table}{until} FOR EACH {each}{when}"
            f" EXECUTE FUNCTION {SCHEMA}.{self.function}('{self.says}')"
        )


RULES = (
    Rule(
        "run_closed_stands",
        "run",
        "AFTER UPDATE OF status, closed_at, output, error",
        "OLD.closed_at IS NOT NULL AND NOT (OLD.status IN ('failed', 'completed') AND NEW.closed_at IS NULL"
        " AND NEW.reentries = OLD.reentries + 1)",
        "a run that has ended keeps its status and its outcome",
    ),
    Rule(
        "run_revision_grows",
        "run",
        "AFTER UPDATE OF revision",
        "NEW.revision < OLD.revision",
        "a revision never goes back",
    ),
    Rule(
        "run_turn_is_held",
        "run",
        "AFTER UPDATE OF turn_token",
        "OLD.turn_token <> NEW.turn_token",
        "a turn is open already, and its worker lives",
        function="refuse_if_turn_is_held",
    ),
    Rule(
        "run_leaves_nothing_open",
        "run",
        "AFTER UPDATE OF closed_at",
        "NEW.closed_at IS NOT NULL",
        "a run that ends leaves nothing open",
        function="refuse_if_run_leaves_open",
        is_deferred=True,
    ),
    Rule(
        "activity_settled_stands",
        "activity",
        "AFTER UPDATE",
        "OLD.settled_at IS NOT NULL",
        "an activity that is settled never changes",
    ),
    Rule(
        "activity_attempts_grow",
        "activity",
        "AFTER UPDATE OF attempt",
        "NEW.attempt < OLD.attempt",
        "attempts never go back",
    ),
    # The next attempt may be anybody's. `retrying` keeps its last worker until it is due.
    Rule(
        "activity_claim_stands",
        "activity",
        "AFTER UPDATE OF worker_id",
        "NEW.attempt = OLD.attempt AND (OLD.worker_id <> NEW.worker_id"
        " OR OLD.state = 'claimed' AND NEW.worker_id IS NULL)",
        "an attempt is claimed by one worker",
    ),
    Rule(
        "activity_of_open_run",
        "activity",
        "AFTER INSERT OR UPDATE OF run_id",
        "NEW.settled_at IS NULL",
        "a run that has ended opens no activity",
        function="refuse_if_run_is_closed",
    ),
    Rule(
        "approval_closed_stands",
        "approval",
        "AFTER UPDATE",
        "OLD.state <> 'open'",
        "an approval that is closed never changes",
    ),
    Rule(
        "approval_of_open_run",
        "approval",
        "AFTER INSERT OR UPDATE OF run_id",
        "NEW.state = 'open'",
        "a run that has ended asks nobody",
        function="refuse_if_run_is_closed",
    ),
    Rule("approval_vote_stands", "approval_vote", "AFTER UPDATE", "", "a vote never changes"),
    # Workers of 0.1 mark an expiry fired when the run that it closed has cancelled it.
    Rule(
        "timer_ended_stands",
        "timer",
        "AFTER UPDATE",
        "OLD.state = 'fired' OR OLD.state = 'cancelled' AND NOT (OLD.kind = 'expiry' AND NEW.state = 'fired')",
        "a timer that has fired or was cancelled never changes",
    ),
    Rule(
        "timer_of_open_run",
        "timer",
        "AFTER INSERT OR UPDATE OF run_id",
        "NEW.state = 'armed'",
        "a run that has ended arms no timer",
        function="refuse_if_run_is_closed",
    ),
    Rule(
        "signal_consumed_stands",
        "signal",
        "AFTER UPDATE",
        "OLD.consumed_key IS NOT NULL",
        "a signal is consumed once",
    ),
    Rule("history_stands", "history", "AFTER UPDATE", "", "history never changes"),
    # Whoever drops old history owns it, and says so in the transaction that does it (docs/operating.md).
    Rule(
        "history_stays",
        "history",
        "AFTER DELETE",
        "OLD.at >= coalesce(nullif(current_setting('perennial.drop_history_before', true), '')::timestamptz,"
        " '-infinity') OR NOT perennial.owns('perennial.history')",
        "history stays, unless its owner has set perennial.drop_history_before to a later moment in the transaction",
    ),
    Rule("history_is_not_emptied", "history", "BEFORE TRUNCATE", "", "history stays"),
)
