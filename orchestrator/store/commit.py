"""The commit of a turn: one statement, one transaction, composed of only the parts that this turn needs.

    fence → settled, opened, consumed, armed, asked, disarmed, handed off, told

Every part hangs on the fence: if a fact has raised the revision since the turn read it, if another
worker holds the turn, or if the attempt was handed out again, nothing at all is written. (docs/adr/0002)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from orchestrator.core.journal import ActivityState
from orchestrator.core.outcome import ConsumedSignal, NewActivity, TurnOutcome
from orchestrator.core.run import RunStatus
from orchestrator.store.outbox import Handoff
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.timers import ArmedTimer, timer_rows
from orchestrator.store.turns import ATTEMPT_HOLDS, SETTLED, TURN_IS_FREE, Settlement

# The fence of every turn: the revision it read, a turn that is free, a run that moves, and, when it
# carries a stage's result, the attempt that earned it.
_FENCE = f"""
fence AS (
    UPDATE perennial.run r SET
        revision = r.revision + 1, status = %(status)s, turn_losses = 0,
        turn_revision = CASE WHEN %(goes_on)s THEN r.turn_revision ELSE r.revision + 1 END,
        previous_stage = CASE WHEN r.stage IS DISTINCT FROM %(stage)s THEN r.stage ELSE r.previous_stage END,
        stage = %(stage)s, waiting_for = %(waiting_for)s, output = %(output)s::jsonb, error = %(error)s::jsonb,
        started_at = coalesce(r.started_at, perennial.now()), last_progress_at = perennial.now(),
        closed_at = CASE WHEN %(closes)s THEN perennial.now() END,
        active_milliseconds = r.active_milliseconds + %(active_milliseconds)s,
        turn_token = NULL, turn_worker = NULL, turn_claimed_at = NULL, turn_lease_seconds = NULL
    WHERE r.id = %(run_id)s AND r.revision = %(revision)s AND r.status IN ('running', 'waiting')
        AND {TURN_IS_FREE} AND %(attempt_fence)s
    RETURNING r.id
)"""

_OPENED = """
opened AS (
    INSERT INTO perennial.activity (run_id, key, scope, ordinal, kind, name, state, queue, policy, timeout_seconds,
        input, result, settled_at, worker_id, claimed_at)
    SELECT fence.id, o.key, o.scope, o.ordinal, o.kind, o.name, o.state, o.queue, o.policy, o.timeout_seconds,
        o.input::jsonb, o.result::jsonb, o.settled_at, o.worker_id,
        CASE WHEN o.state = 'claimed' THEN perennial.now() END
    FROM fence, jsonb_to_recordset(%(opened)s::jsonb) AS o(key text, scope text, ordinal int, kind text, name text,
        state text, queue text, policy jsonb, timeout_seconds float8, input text, result text,
        settled_at timestamptz, worker_id uuid)
    RETURNING key, claimed_at
)"""

_TAKEN_AT = "(SELECT opened.claimed_at FROM opened WHERE opened.claimed_at IS NOT NULL)"

_CONSUMED = """
consumed AS (
    UPDATE perennial.signal s SET consumed_key = c.key
    FROM fence, jsonb_to_recordset(%(consumed)s::jsonb) AS c(key text, signal_id uuid, payload jsonb)
    WHERE s.id = c.signal_id AND s.run_id = fence.id
    RETURNING s.id
), answered AS (
    UPDATE perennial.activity a SET state = 'done', result = s.payload, settled_at = s.received_at
    FROM fence, perennial.signal s, jsonb_to_recordset(%(consumed)s::jsonb) AS c(key text, signal_id uuid)
    WHERE s.id = c.signal_id AND a.run_id = fence.id AND a.key = c.key AND a.state = 'pending'
    RETURNING a.key
)"""

_ARMED = """
armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, level, due_at, indexed)
    SELECT t.id, fence.id, t.key, t.kind, t.level, d.due_at,
        d.due_at <= perennial.now() + %(horizon_seconds)s * interval '1 second'
    FROM fence, jsonb_to_recordset(%(timers)s::jsonb) AS t(id uuid, key text, kind text, level int,
        delay_seconds float8, at timestamptz),
        LATERAL (SELECT coalesce(t.at, perennial.now() + t.delay_seconds * interval '1 second') AS due_at) d
    RETURNING id, extract(epoch FROM due_at - perennial.now())::float8 AS remaining_seconds, indexed
)"""

_ARMED_ROWS = """(
    SELECT jsonb_agg(jsonb_build_object('id', armed.id, 'remaining_seconds', armed.remaining_seconds))
    FROM armed WHERE armed.indexed)"""

_ASKED = """
asked AS (
    INSERT INTO perennial.approval (run_id, key, name, assignees, escalations, deadline)
    SELECT fence.id, p.key, p.name, p.assignees, p.escalations,
        perennial.now() + p.timeout_seconds * interval '1 second'
    FROM fence, jsonb_to_recordset(%(approvals)s::jsonb) AS p(key text, name text, assignees text[],
        escalations jsonb, timeout_seconds float8)
    RETURNING key
)"""

# Deadlines of what is settled are of no use any more; those of a closed run all go.
_DISARMED = """
disarmed AS (
    UPDATE perennial.timer t SET state = 'cancelled'
    FROM fence WHERE t.run_id = fence.id AND t.state = 'armed'
        AND CASE WHEN %(closes)s THEN true
            ELSE t.kind <> 'expiry' AND NOT t.key = ANY(%(unsettled)s::text[]) END
    RETURNING t.id
)"""

_DISARMED_ROWS = "(SELECT jsonb_agg(disarmed.id) FROM disarmed)"

# This turn has seen every fact up to its revision, so every `advance` asked for is answered.
_SEEN = """
seen AS (
    DELETE FROM perennial.outbox o USING fence WHERE o.run_id = fence.id AND o.key = ''
)"""

# The turn stopped before an inline step to record what it stands on; the next one makes the call.
_GOES_ON = """
goes_on AS (
    INSERT INTO perennial.outbox (run_id, key, attempt, task, queue, publishes, publish_at)
    SELECT fence.id, '', 1, 'perennial.advance', %(queue)s, 1,
        perennial.now() + %(relay_after)s * interval '1 second'
    FROM fence
    ON CONFLICT (run_id, key) DO UPDATE SET publish_at = excluded.publish_at, publishes = excluded.publishes
)"""

# A run that ends takes its open activities, approvals and handoffs with it. Activities go before the
# outbox, as in a claim (lock order), hence the look at `dropped`.
_DROPPED = """
dropped AS (
    UPDATE perennial.activity a SET state = 'cancelled', settled_at = perennial.now()
    FROM fence WHERE a.run_id = fence.id AND a.state IN ('pending', 'claimed', 'retrying')
        AND a.key IS DISTINCT FROM %(settled_key)s AND NOT a.key = ANY(%(consumed_keys)s::text[])
    RETURNING a.key
), withdrawn AS (
    UPDATE perennial.approval p SET state = 'cancelled'
    FROM fence WHERE p.run_id = fence.id AND p.state = 'open'
), emptied AS (
    DELETE FROM perennial.outbox o USING fence
    WHERE o.run_id = fence.id AND (SELECT count(*) FROM dropped) >= 0
)"""

_HANDED_OFF = """
handed_off AS (
    INSERT INTO perennial.outbox (run_id, key, attempt, task, queue, publishes, publish_at)
    SELECT fence.id, h.key, h.attempt, h.task, h.queue, 1, perennial.now() + %(relay_after)s * interval '1 second'
    FROM fence, jsonb_to_recordset(%(handoffs)s::jsonb) AS h(key text, attempt int, task text, queue text)
    RETURNING key
)"""

_TOLD = """
told AS (
    INSERT INTO perennial.history (run_id, actor, event, key, attempt, from_status, to_status, detail)
    SELECT fence.id, h.actor, h.event, h.key, h.attempt, h.from_status, h.to_status, h.detail
    FROM fence, jsonb_to_recordset(%(history)s::jsonb) AS h(actor text, event text, key text, attempt int,
        from_status text, to_status text, detail jsonb)
)"""


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of history in the making."""

    event: str
    actor: str
    key: str | None = None
    attempt: int | None = None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Taking:
    """The opened stage that this worker goes on with: the commit claims it, and nobody is told."""

    key: str
    worker_id: UUID


@dataclass(frozen=True, slots=True)
class TurnCommit:
    """All that one transition writes."""

    run_id: UUID
    revision: int
    from_status: RunStatus
    outcome: TurnOutcome
    handoffs: tuple[Handoff, ...] = ()
    facts: tuple[Fact, ...] = ()
    settlement: Settlement | None = None
    turn_token: UUID | None = None
    queue: str | None = None
    taking: Taking | None = None
    is_in_hand: bool = False
    """The run is as our last commit left it: nothing was asked for since, and no deadline is out of date."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What the commit armed and disarmed, for the delayed messages' index; when it claimed what it took."""

    armed: tuple[ArmedTimer, ...] = field(default=())
    disarmed: tuple[UUID, ...] = field(default=())
    taken_at: datetime | None = None


def commit_turn_if_unchanged(
    connection: AnyConnection,
    commit: TurnCommit,
    *,
    relay_after: float,
    horizon_seconds: float,
) -> Committed | None:
    """Write the transition if the fence holds. None: somebody was faster, and nothing was written."""
    outcome, settlement = commit.outcome, commit.settlement
    timers = timer_rows(outcome.opened)
    approvals = [_approval_row(opened) for opened in outcome.opened if opened.approval is not None]
    parts = _parts_of(commit, has_timers=bool(timers), has_approvals=bool(approvals))
    statement = _statement_of(parts, with_attempt=settlement is not None)
    row = statement.row(
        connection,
        run_id=commit.run_id,
        revision=commit.revision,
        turn_token=commit.turn_token,
        status=outcome.status,
        stage=outcome.stage,
        waiting_for=outcome.waiting_for,
        output=outcome.output,
        error=_json(outcome.error),
        closes=outcome.status.is_closed,
        goes_on=outcome.goes_on,
        queue=commit.queue,
        active_milliseconds=settlement.active_milliseconds if settlement else 0,
        settled_key=settlement.key if settlement else None,
        settled_attempt=settlement.attempt if settlement else None,
        settled_state=settlement.state if settlement else None,
        settled_result=settlement.result if settlement else None,
        settled_error=_json(settlement.error) if settlement else None,
        settled_at=settlement.settled_at if settlement else None,
        opened=_rows([_activity_row(opened, commit.taking) for opened in outcome.opened]),
        consumed=_rows([_consumed_row(consumed) for consumed in outcome.consumed]),
        consumed_keys=[consumed.key for consumed in outcome.consumed],
        timers=_rows(timers),
        approvals=_rows(approvals),
        unsettled=list(outcome.unsettled),
        handoffs=_rows([handoff.as_row() for handoff in commit.handoffs]),
        history=_rows(_history_rows(commit)),
        relay_after=relay_after,
        horizon_seconds=horizon_seconds,
    )
    if row is None:
        return None
    armed = tuple(
        ArmedTimer(UUID(timer["id"]), timer["remaining_seconds"], commit.queue)
        for timer in row.armed or ()
    )
    return Committed(armed, tuple(UUID(timer_id) for timer_id in row.disarmed or ()), row.taken_at)


def _parts_of(commit: TurnCommit, *, has_timers: bool, has_approvals: bool) -> tuple[str, ...]:
    """Only what this transition needs: a stage handed on costs six parts, not ten."""
    outcome = commit.outcome
    wanted = (
        (SETTLED, commit.settlement is not None),
        (_OPENED, bool(outcome.opened)),
        (_CONSUMED, bool(outcome.consumed)),
        (_ARMED, has_timers),
        (_ASKED, has_approvals),
        (_DISARMED, outcome.status.is_closed or not commit.is_in_hand),
        (_DROPPED, outcome.status.is_closed),
        (_SEEN, not outcome.status.is_closed and not outcome.goes_on and not commit.is_in_hand),
        (_GOES_ON, outcome.goes_on),
        (_HANDED_OFF, bool(commit.handoffs)),
        (_TOLD, bool(commit.facts)),
    )
    return tuple(part for part, is_wanted in wanted if is_wanted)


@cache
def _statement_of(parts: tuple[str, ...], *, with_attempt: bool) -> Statement:
    fence = _FENCE.replace("%(attempt_fence)s", ATTEMPT_HOLDS if with_attempt else "true")
    armed = _ARMED_ROWS if _ARMED in parts else "NULL::jsonb"
    disarmed = _DISARMED_ROWS if _DISARMED in parts else "NULL::jsonb"
    taken_at = _TAKEN_AT if _OPENED in parts else "NULL::timestamptz"
    body = ",".join((fence, *parts))
    return Statement(
        "commit_turn",
        f"WITH {body} SELECT {armed} AS armed, {disarmed} AS disarmed, {taken_at} AS taken_at FROM fence",
    )


def _activity_row(opened: NewActivity, taking: Taking | None) -> dict[str, Any]:
    request = opened.request
    is_taken = taking is not None and taking.key == request.key
    return {
        "key": request.key,
        "scope": request.scope,
        "ordinal": request.ordinal,
        "kind": request.kind,
        "name": request.name,
        "state": ActivityState.CLAIMED if is_taken else opened.state,
        "worker_id": str(taking.worker_id) if taking is not None and is_taken else None,
        "queue": opened.queue,
        "policy": opened.policy,
        "timeout_seconds": opened.timeout_seconds,
        "input": opened.input,
        "result": opened.result,
        "settled_at": opened.settled_at.isoformat() if opened.settled_at else None,
    }


def _approval_row(opened: NewActivity) -> dict[str, Any]:
    ask = opened.approval
    assert ask is not None  # noqa: S101 - the caller filters
    return {
        "key": opened.request.key,
        "name": ask.name,
        "assignees": ask.assignees,
        "escalations": [
            {"after_seconds": escalation.after_seconds, "assignees": escalation.assignees}
            for escalation in ask.escalations
        ],
        "timeout_seconds": ask.timeout_seconds,
    }


def _consumed_row(consumed: ConsumedSignal) -> dict[str, Any]:
    return {"key": consumed.key, "signal_id": str(consumed.signal_id)}


def _history_rows(commit: TurnCommit) -> Sequence[dict[str, Any]]:
    return [
        {
            "actor": fact.actor,
            "event": fact.event,
            "key": fact.key,
            "attempt": fact.attempt,
            "from_status": commit.from_status,
            "to_status": commit.outcome.status,
            "detail": fact.detail,
        }
        for fact in commit.facts
    ]


def _rows(rows: Sequence[dict[str, Any]]) -> str:
    return json.dumps(rows) if rows else "[]"


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)
