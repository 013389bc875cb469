"""The parts that statements are composed of, each once.

A statement's text is made when its module is imported (or once for each form, under `@cache`), never for a call:
psycopg looks plans up by the text. What stands in it looks like what it is:

    {SPLICED}     SQL: a constant, or what a function of this module returns; never a value of a run
    %(bound)s     a value: Postgres gets it beside the text

The parts of the outbox and of history are heads of an INSERT; the SELECT that follows is the statement's own:

    {HAND_OFF}                                    {APPEND_HISTORY}
    SELECT h.run_id, h.key, h.attempt, h.task,    SELECT fence.id, %(actor)s, 'signal received', NULL, NULL,
        h.queue, {SENT_AT_ONCE}                       fence.status, fence.status, NULL
    FROM …                                        FROM fence
    {REPLACES}

    {hand_off_turn("fence.id", "fence.queue", FOR_A_RELAY)}
    FROM fence
    {SOONEST_WINS}
"""

from __future__ import annotations

from uuid import UUID

from orchestrator.store.schema import NOTIFY_CHANNEL

ADVANCE = "perennial.advance"
"""The Celery task that takes a turn. Its outbox key is the empty string: one per run is enough."""

# -- the run -------------------------------------------------------------------------------------------

RAISED = "r.revision + 1"
"""The revision that a fact gives its run: `revision = {RAISED}`. A turn commits only on the one that it read."""

NO_TURN = "least(r.turn_revision, 0)"
"""As `turn_revision`: the journal is not as a turn has left it. Nobody knows it who doesn't read all of it."""

NO_HOLDER = (
    "turn_token = NULL, turn_worker = NULL, turn_claimed_at = NULL, turn_lease_seconds = NULL"
)
"""Nobody holds the run's turn any more."""

RUN_COLUMNS = """r.id, r.process, r.version, r.business_key, r.status, r.stage, r.revision, r.turn_revision, r.queue,
    r.input, r.created_at, r.code_revision, r.attempts_before, r.children, r.chapter,
    r.chapter_at"""

JOURNAL_LINE = """jsonb_build_object(
    'key', a.key, 'scope', a.scope, 'ordinal', a.ordinal, 'kind', a.kind, 'name', a.name, 'state', a.state,
    'attempt', a.attempt, 'parent_key', a.parent_key, 'result', a.result,
    'error', a.error - 'traceback',
    'settled_at', a.settled_at, 'settled_revision', a.settled_revision, 'asked', a.asked)"""
"""The columns of a journal line, as JSON. Times travel as text with their zone."""

IS_KNOWN = "(%(known_revision)s::bigint IN (r.turn_revision, r.revision))"
"""Whether the journal is as that revision's turn has left it, but for the lines that were open then.

It is while no later turn was committed. Whatever else adds to a journal, or rewrites it, sets `NO_TURN`.
"""

KNOWN_LINES = f"""(SELECT coalesce(jsonb_agg({JOURNAL_LINE}), '[]') FROM perennial.activity a
        WHERE a.run_id = r.id AND a.key = ANY(%(known_keys)s))"""
"""Those lines, as they are now."""

BUFFERED_SIGNALS = """(SELECT coalesce(jsonb_agg(jsonb_build_object('id', s.id, 'name', s.name, 'payload', s.payload,
            'received_at', s.received_at, 'received_revision', s.received_revision)
            ORDER BY s.received_at, s.id), '[]')
        FROM perennial.signal s WHERE s.run_id = r.id
            AND s.consumed_key IS NULL  /* guard: a signal answers one wait */
        )"""
"""A run's signals that no wait has consumed, as JSON."""

CLOSED_APPROVAL = "('approved', 'rejected', 'timed_out', 'cancelled')"
"""The states of an approval that is not open. A statement of one run says `NOT IN` these: of `state = 'open'` Postgres
would make a plan over all approvals that are open, if it made one while the table was empty.
"""

COUNTED = "counted"
"""In the policy of a stage: its end is counted down from what is outstanding, and the last one asks for a turn."""

WITHDRAW = "UPDATE perennial.approval p SET state = 'cancelled'"
"""Nobody is asked any more: its WHERE, and which approvals, are the statement's own."""

# -- versions ------------------------------------------------------------------------------------------

MAY_START = "p.retired_at IS NULL"
"""No new run takes a version that was retired."""

THE_CURRENT_FIRST = "p.current_since DESC NULLS LAST, p.served DESC, p.version DESC"
"""Of a process' versions the one that new runs take comes first: the one that a team has set; else the newest that is
served, if any is; else the newest. Whether one is served stands in its row: a start asks for nothing more."""

# -- the outbox ----------------------------------------------------------------------------------------

HAND_OFF = (
    "INSERT INTO perennial.outbox AS o (run_id, key, attempt, task, queue, publishes, publish_at)"
)
"""A handoff, from here on in the record. Its last two columns are one of the two that follow."""

FOR_A_RELAY = "0, perennial.now()"
"""Nobody has sent it, and a relay does so now: whoever commits may be a producer, who can't."""

SENT_AT_ONCE = "1, perennial.now() + %(relay_after)s * interval '1 second'"
"""Whoever commits sends it; a relay does so again where that has led to nothing."""

SOONEST_WINS = (
    "ON CONFLICT (run_id, key) DO UPDATE SET publish_at = least(o.publish_at, excluded.publish_at)"
)
"""Of two that ask for the same turn: one message is enough, and the earlier of its two moments stands."""

REPLACES = """ON CONFLICT (run_id, key) DO UPDATE SET attempt = excluded.attempt, task = excluded.task,
        queue = excluded.queue, publishes = excluded.publishes, publish_at = excluded.publish_at"""
"""The new handoff counts, from the start: the one that is there was an earlier attempt's, or has been answered."""


def an_advance(run_id: str, key: str, attempt: str, queue: str) -> str:
    """The first columns of a handoff that has that run looked at."""
    return f"{run_id}, {key}, {attempt}, '{ADVANCE}', {queue}"


def a_turn_of(run_id: str, queue: str) -> str:
    """The first columns of a handoff that asks for a turn of that run."""
    return an_advance(run_id, "''", "1", queue)


CHILDREN_KEY = "#children"
"""The key of a handoff by which a run's children are seen to. Its attempt is the run's revision that asks for it:
whoever is at one of before doesn't take it for the one that it has seen to.
"""

SEEN_TO_ANEW = """ON CONFLICT (run_id, key) DO UPDATE SET attempt = excluded.attempt, publishes = excluded.publishes,
        publish_at = excluded.publish_at"""
"""Of two that ask for it, the later one's revision counts."""


def look_at_children(run_id: str, revision: str, queue: str) -> str:
    """The first columns of a handoff by which the children of that run are seen to. `SEEN_TO_ANEW` ends it."""
    return an_advance(run_id, f"'{CHILDREN_KEY}'", revision, queue)


def hand_off_turn(run_id: str, queue: str, sending: str) -> str:
    """Hand off an advance for each row of the FROM that follows. `SOONEST_WINS` ends it, but for a new run."""
    return f"{HAND_OFF}\n    SELECT {a_turn_of(run_id, queue)}, {sending}"


WAKE_RELAYS = f"pg_notify('{NOTIFY_CHANNEL}', '')"
"""There is something in the outbox that nobody has sent. Heard when the transaction commits."""


DEPLOYED = UUID(int=0)
"""Notified in the place of a run: something was deployed. Workers of releases before look for a run, and find none."""

SOMETHING_IS_DEPLOYED = f"pg_notify('{NOTIFY_CHANNEL}', '{DEPLOYED}')"
"""Workers compare their code with it, and say what they can run now. Heard when the transaction commits."""


def run_has_changed(run_id: str) -> str:
    """Notify whoever watches the fleet that this run was ended, paused or resumed."""
    return f"pg_notify('{NOTIFY_CHANNEL}', {run_id}::text)"


# -- history -------------------------------------------------------------------------------------------

APPEND_HISTORY = "INSERT INTO perennial.history (run_id, actor, event, key, attempt, from_status, to_status, detail)"

# -- the end of a run ----------------------------------------------------------------------------------


def close_everything(but: str = "", timers: str = "state = 'cancelled'") -> str:
    """The parts that end all that is open of the runs in `fence`. `but`: which activities stay as they are.
    `timers`: how those end that are armed.

    Activities go before their handoffs, as in a claim (lock order), hence the look at `dropped`.
    """
    return f"""
dropped AS (
    UPDATE perennial.activity a SET state = 'cancelled', settled_at = perennial.now()
    FROM fence WHERE a.run_id = fence.run_id AND a.state IN ('pending'
            , 'claimed', 'retrying'  /* guard: end of what is at work */
        ){but}
    RETURNING a.key
), disarmed AS (
    UPDATE perennial.timer t SET {timers}
    WHERE t.run_id = ANY(ARRAY(SELECT run_id FROM fence)) AND t.state = 'armed'
    RETURNING t.run_id, t.id
), withdrawn AS (
    {WITHDRAW}
    WHERE p.run_id = ANY(ARRAY(SELECT run_id FROM fence)) AND p.state NOT IN {CLOSED_APPROVAL}
), emptied AS (
    DELETE FROM perennial.outbox o
    WHERE o.run_id = ANY(ARRAY(SELECT run_id FROM fence))
        AND (SELECT count(*) FROM dropped) >= 0  /* guard: activities go before their handoffs */
)"""
