"""A timer comes due: one statement fires one, or many, and does to each what its kind says (core.kinds).

What a due timer does is data, and the statement is given it: the rules of all kinds. A part that a rule doesn't
ask for finds no rows. (docs/adr/0040)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from uuid import UUID

from orchestrator.core.kinds import KINDS, Ask
from orchestrator.core.kinds.signal import TAKEN_AT_THE_DEADLINE
from orchestrator.store.parts import (
    APPEND_HISTORY,
    CLOSED_APPROVAL,
    HAND_OFF,
    REPLACES,
    SENT_AT_ONCE,
    SOONEST_WINS,
    hand_off_turn,
)
from orchestrator.store.rowset import RowSet
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.approvals import DECISION
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.votes import VOTES_OF_SEVERAL

EXPIRY = "expiry"
"""The kind of a run's own timer, which closes it: the one that is of no activity."""

TIMER = "timer"
"""Who acts in history when a deadline does."""


_RULES = RowSet(
    "rules",
    """kind text, timer text, event text, leads_to text, "then" text, takes_signals boolean,
    asks_people boolean""",
)


# Runs are locked first, and then their timers. Many are never waited for (SKIP LOCKED): a transaction that waits for
# one run while it holds many makes a circle with another that holds that one. One alone is waited for.
#
# All is decided by what the statement has read as it began. So it is fenced by the revision of then, as a turn is:
# if a fact has come to a run since, its timers are left as they are, to be asked for again. Every fact raises the
# revision, except an escalation, which changes nothing but the approval's row; its timer is seen to be armed still.
# (Not by the name of that state: a plan that was made while no timer was armed would look through all that are. So
# with approvals that are open.)
#
# Two timers of one activity are not fired at once, since the second depends on the first: an approval that escalates
# and times out has escalated. Nor is any that comes after its run's expiry. Timers of several activities of a run
# are, and each has a revision of its own, so that their facts keep the order in which they were due.
#
# What has fired is looked up as a set (`IN`, which Postgres hashes) or by key: a worker joins by loops alone, and with
# fifty timers a join of two lists costs as much as the rest.
def _fire(when_locked: str) -> str:
    """The text; `when_locked`: what becomes of timers whose run somebody else has locked."""
    return f"""
WITH rule AS MATERIALIZED (
    SELECT rule.* FROM {_RULES.called("rule")}
), asked AS MATERIALIZED (
    SELECT t.id, t.run_id, t.key, t.kind, t.state, t.due_at, a.name, a.state AS activity_state,
        (SELECT r.revision FROM perennial.run r WHERE r.id = t.run_id) AS revision,
        rule.kind IS NOT NULL AS is_known, rule.event, rule.leads_to, rule."then", rule.takes_signals, rule.asks_people,
        count(*) FILTER (WHERE t.state = 'armed') OVER activity_so_far
            + count(*) FILTER (WHERE t.state = 'armed' AND t.kind = '{EXPIRY}') OVER run_so_far AS come_before
    FROM perennial.timer t LEFT JOIN perennial.activity a ON a.run_id = t.run_id AND a.key = t.key
        LEFT JOIN rule ON rule.kind = a.kind AND rule.timer = t.kind
    WHERE t.id = ANY(%(timer_ids)s::uuid[])
        AND t.due_at <= perennial.now()  /* guard: a timer is due by the database's clock */
    WINDOW activity_so_far AS (PARTITION BY t.run_id, t.key ORDER BY t.due_at, t.id
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
        run_so_far AS (PARTITION BY t.run_id ORDER BY t.due_at, t.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), locked AS MATERIALIZED (
    SELECT asked.*, t.level, t.attempt, r.status, r.queue, r.closed_at IS NULL AS is_open
    FROM asked JOIN perennial.run r ON r.id = asked.run_id JOIN perennial.timer t ON t.id = asked.id
    WHERE r.id = ANY(ARRAY(SELECT run_id FROM asked)) AND (asked.is_known OR r.closed_at IS NOT NULL)
        AND asked.come_before = 0  /* guard: timers of one activity fire in order */
        AND r.revision = asked.revision  /* guard: a timer fires on the revision it read */
        AND t.state NOT IN ('fired', 'cancelled')  /* guard: a timer fires once */
        AND t.due_at <= perennial.now()  /* guard: a timer that was put off does not fire */
    FOR NO KEY UPDATE OF r, t {when_locked}
), due AS MATERIALIZED (
    SELECT locked.*, row_number() OVER (PARTITION BY run_id ORDER BY due_at, id) AS place
    FROM locked WHERE is_open
), waits AS (
    SELECT due.*, row_number() OVER (PARTITION BY run_id, name ORDER BY due_at, id) AS turn
    FROM due WHERE takes_signals AND activity_state = 'pending'
), heard AS MATERIALIZED (
    SELECT waits.id, waits.key, oldest.id AS signal_id, oldest.payload, oldest.received_at, oldest.received_revision
    FROM waits CROSS JOIN LATERAL (
        SELECT s.* FROM perennial.signal s
        WHERE s.run_id = waits.run_id AND s.name = waits.name AND s.consumed_key IS NULL
        ORDER BY s.received_at, s.id LIMIT 1 OFFSET waits.turn - 1) oldest
), consumed AS (
    UPDATE perennial.signal s SET consumed_key = heard.key FROM heard
    WHERE s.id = heard.signal_id AND s.id = ANY(ARRAY(SELECT signal_id FROM heard))
), decided AS (
    UPDATE perennial.approval p SET state = 'timed_out'
    FROM due WHERE due.asks_people AND due.leads_to IS NOT NULL AND p.run_id = due.run_id AND p.key = due.key
        AND p.run_id = ANY(ARRAY(SELECT run_id FROM due WHERE asks_people))
        AND p.state NOT IN {CLOSED_APPROVAL}  /* guard: a decided approval does not time out */
    RETURNING due.id, {DECISION} || {VOTES_OF_SEVERAL} AS decision
), escalated AS (
    UPDATE perennial.approval p SET escalation_level = due.level, assignees = p.assignees || ARRAY(
        SELECT person FROM jsonb_array_elements_text(p.escalations -> (due.level - 1) -> 'assignees') AS person
        WHERE NOT person = ANY(p.assignees))
    FROM due WHERE due.asks_people AND due.leads_to IS NULL AND p.run_id = due.run_id AND p.key = due.key
        AND p.run_id = ANY(ARRAY(SELECT run_id FROM due WHERE asks_people))
        AND p.state NOT IN {CLOSED_APPROVAL}
    RETURNING due.*, jsonb_build_object('level', due.level, 'assignees', p.assignees) AS detail
), changed AS (
    UPDATE perennial.activity a SET worker_id = NULL, claimed_at = NULL,
        state = CASE WHEN heard.id IS NULL THEN due.leads_to ELSE 'done' END,
        result = coalesce(heard.payload, decided.decision),
        error = CASE WHEN heard.id IS NULL THEN a.error ELSE jsonb_build_object('type', %(mark)s::text) END,
        settled_at = CASE WHEN due.leads_to <> 'pending' THEN coalesce(heard.received_at, perennial.now()) END,
        settled_revision = CASE WHEN due.leads_to <> 'pending' THEN
            coalesce(heard.received_revision, due.revision + due.place) END
    FROM due LEFT JOIN heard ON heard.id = due.id LEFT JOIN decided ON decided.id = due.id
    WHERE a.run_id = due.run_id AND a.key = due.key AND a.attempt = due.attempt
        AND a.state = CASE due.leads_to WHEN 'pending' THEN 'retrying' ELSE 'pending' END
        AND due.leads_to IS NOT NULL AND (decided.id IS NOT NULL OR NOT due.asks_people)
    RETURNING due.*, a.queue AS activity_queue, heard.id IS NOT NULL AS is_heard
), fired AS MATERIALIZED (
    SELECT id, run_id, key, place, status, "then", attempt, name, activity_queue AS queue, queue AS run_queue,
        NULL::jsonb AS detail, CASE WHEN is_heard THEN 'signal consumed' ELSE event END AS event
    FROM changed
    UNION ALL
    SELECT id, run_id, key, place, status, "then", attempt, name, NULL, queue, detail, event FROM escalated
), ended AS (
    UPDATE perennial.timer t SET state = CASE WHEN t.id IN (SELECT id FROM fired) THEN 'fired' ELSE 'cancelled' END,
        fired_at = CASE WHEN t.id IN (SELECT id FROM fired) THEN perennial.now() END
    WHERE t.id = ANY(ARRAY(SELECT id FROM locked))
), raised AS (
    UPDATE perennial.run r SET
        revision = r.revision + (SELECT max(place) FROM fired
            WHERE fired.run_id = r.id AND "then" <> 'nothing')  /* guard: revision of a timer */
    WHERE r.id = ANY(ARRAY(SELECT run_id FROM fired WHERE "then" <> 'nothing'))
), recorded AS (
    {APPEND_HISTORY}
    SELECT run_id, '{TIMER}', event, key, NULL, status, status, detail FROM fired WHERE event <> ''
    ORDER BY run_id, place
), woken AS (
    {hand_off_turn("run_id", "run_queue", SENT_AT_ONCE)}
    FROM (SELECT DISTINCT run_id, run_queue FROM fired
        WHERE "then" = 'turn'  /* guard: handoff of a fired timer */
        ) AS to_turn
    {SOONEST_WINS}
    RETURNING o.run_id, o.key, o.attempt, o.task, o.queue
), handed_off AS (
    {HAND_OFF}
    SELECT run_id, key, attempt, name, queue, {SENT_AT_ONCE} FROM fired
    WHERE "then" = 'handoff'  /* guard: handoff of a retry */
    {REPLACES}
    RETURNING o.run_id, o.key, o.attempt, o.task, o.queue
)
SELECT NULL::uuid AS timer_id, NULL AS kind, run_id, key, attempt, task, queue FROM woken
UNION ALL SELECT NULL, NULL, run_id, key, attempt, task, queue FROM handed_off
UNION ALL
SELECT asked.id, asked.kind, asked.run_id, NULL, NULL, CASE WHEN asked.is_known THEN '' END, NULL FROM asked
WHERE asked.state = 'armed' AND (asked.id IN (SELECT id FROM locked)) IS FALSE
"""


_FIRE_ONE = Statement("fire_timers", _fire(""))
_FIRE_MANY = Statement(
    "fire_timers",
    _fire("""
        SKIP LOCKED  /* guard: timers of locked runs are skipped */
"""),
)


@dataclass(frozen=True, slots=True)
class UnfiredTimer:
    """A timer that is due, and was left as it is. `is_known`: some kind says what it does."""

    id: UUID
    run_id: UUID
    kind: str
    is_known: bool


@dataclass(frozen=True, slots=True)
class Fired:
    """The handoffs that the fired left in the outbox, and the due timers that were left, in the order they came in."""

    handoffs: tuple[Handoff, ...] = ()
    left: tuple[UnfiredTimer, ...] = ()


def fire_timers_if_due(
    connection: AnyConnection, timer_ids: Sequence[UUID], *, relay_after: float
) -> Fired:
    """Fire those that are armed and due, each once, with what each leads to; one that has nothing to do is cancelled.

    One alone waits for its run's lock. Of many, those whose run is locked are left; so are timers that come after
    another of their activity, those whose run has changed in this moment, and a run's expiry.
    """
    rows = (_FIRE_ONE if len(timer_ids) == 1 else _FIRE_MANY).rows(
        connection,
        timer_ids=list(timer_ids),
        **_rules(tuple(KINDS.values())),
        mark=TAKEN_AT_THE_DEADLINE,
        relay_after=relay_after,
    )
    left = {
        row.timer_id: UnfiredTimer(row.timer_id, row.run_id, row.kind, row.task is not None)
        for row in rows
        if row.timer_id is not None
    }
    return Fired(
        handoffs=tuple(
            Handoff(row.run_id, row.key, row.attempt, row.task, row.queue)
            for row in rows
            if row.timer_id is None
        ),
        left=tuple(left[timer_id] for timer_id in dict.fromkeys(timer_ids) if timer_id in left),
    )


@cache
def _rules(kinds: tuple[type[Ask], ...]) -> dict[str, str]:
    """What each kind says of its timers, as rows."""
    return _RULES.of(
        {
            "kind": kind.kind,
            "takes_signals": kind.takes_signals,
            "asks_people": kind.asks_people,
            **asdict(rule),
        }
        for kind in kinds
        for rule in kind.timers
    )
