"""Claims and attempts: who works on an activity, and what becomes of a failed try.

claim_activity_if_pending   one statement: fence, and load run and journal for the turn that follows
remember_step_if_claimed    a step's result, fenced by its stage's attempt
remember_flow_step_if_held  an inline step's end, fenced by its turn's holder
retry_attempt_if_claimed    a failed attempt is made again later, by a timer
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.core.journal import ActivityState
from orchestrator.core.kept_flow import Known
from orchestrator.store.batched import BatchVerb, if_many
from orchestrator.store.parts import (
    APPEND_HISTORY,
    BUFFERED_SIGNALS,
    COUNTED,
    IS_KNOWN,
    JOURNAL_LINE,
    KNOWN_LINES,
    NO_TURN,
    RAISED,
    RUN_COLUMNS,
)
from orchestrator.store.reads.loading import LoadedRun, known_as_parameters, loaded_from
from orchestrator.store.rowset import RowSet
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.timers import ArmedTimer


# Lock order: the activity, then its outbox row (which waits for `claimed`). The run isn't locked: a
# turn that closes it afterwards cancels the claim, and the attempt fence tells the worker.
def _claim(knows: str = "false", known_lines: str = "NULL") -> str:
    return f"""
WITH claimed AS (
    UPDATE perennial.activity a SET state = 'claimed', worker_id = %(worker_id)s, claimed_at = perennial.now()
    WHERE a.run_id = %(run_id)s AND a.key = %(key)s
        AND a.attempt = %(attempt)s  /* guard: claim of the attempt that is due */
        AND a.state = 'pending'  /* guard: claim of a pending attempt */
        AND EXISTS (SELECT FROM perennial.run m WHERE m.id = a.run_id
            AND m.status IN ('running', 'waiting'))  /* guard: claim fence on the run's status */
    RETURNING a.run_id, a.key, a.attempt, a.name, a.input, a.claimed_at, a.policy
), taken AS (
    DELETE FROM perennial.outbox o USING claimed WHERE o.run_id = claimed.run_id
        AND o.key = claimed.key  /* guard: a claim takes its own handoff */
)
SELECT {RUN_COLUMNS}, claimed.name AS claimed_name, claimed.input AS claimed_input, claimed.claimed_at,
    (claimed.policy ->> 'attempts_before')::int AS claimed_before,
    coalesce(claimed.policy ? '{COUNTED}', false) AS claimed_counted,
    claimed.policy #> '{{heartbeat,details}}' AS claimed_heartbeat,
    {knows} AS is_known,
    CASE WHEN claimed.policy ? '{COUNTED}' AND claimed.attempt = 1 THEN '[]' WHEN {knows} THEN {known_lines} ELSE (
        SELECT coalesce(jsonb_agg({JOURNAL_LINE}), '[]') FROM perennial.activity a
        WHERE a.run_id = r.id AND (a.parent_key IS NULL
            OR a.parent_key = claimed.key  /* guard: memory of a stage's steps */
        )) END AS journal,
    {BUFFERED_SIGNALS} AS signals
FROM claimed JOIN perennial.run r ON r.id = claimed.run_id
"""


_CLAIM = Statement("claim_activity", _claim())
_CLAIM_KNOWN = Statement(
    "claim_activity", _claim(f"({IS_KNOWN} AND claimed.attempt = 1)", KNOWN_LINES)
)
"""A first attempt has no steps to be remembered."""


# The stage's row is locked, so that an attempt that was handed out again is seen, and this one writes
# nothing.
_REMEMBER_STEP = Statement(
    "remember_step",
    """
WITH holder AS (
    SELECT a.run_id FROM perennial.activity a WHERE a.run_id = %(run_id)s AND a.key = %(parent_key)s
        AND a.attempt = %(parent_attempt)s AND a.state = 'claimed'  /* guard: step memory fence */
    FOR NO KEY UPDATE  /* guard: step memory lock */
)
INSERT INTO perennial.activity (run_id, key, scope, ordinal, parent_key, kind, name, state, result, settled_at)
SELECT holder.run_id, %(key)s, %(parent_key)s, %(ordinal)s, %(parent_key)s, 'step', %(name)s, 'done',
    %(result)s::jsonb, perennial.now()
FROM holder
ON CONFLICT DO NOTHING
RETURNING key
""",
)


_ENDS = RowSet(
    "ends",
    """run_id uuid, turn_token uuid, key text, scope text, ordinal int, name text, asked text,
    state text, attempt int, result text, error jsonb, timer_id uuid, delay_seconds float8""",
)


# A step of the flow itself: its turn's holder stands in the stage's place. It raises the revision like
# any fact, so that a turn which read before it decides again, and sees it.
@cache
def _remember_flow_step(whose_run_is_free: str) -> Statement:
    return Statement(
        "remember_flow_step",
        f"""
WITH ends AS MATERIALIZED (
    SELECT t.* FROM {_ENDS.called("t")}{whose_run_is_free}
), holder AS (
    UPDATE perennial.run r SET turn_losses = 0,
        turn_revision = {NO_TURN},  /* guard: a step of a turn that was lost is known */
        revision = {RAISED}  /* guard: revision of an inline step */
    FROM ends WHERE r.id = ends.run_id AND r.id = ANY(ARRAY(SELECT run_id FROM ends))
        AND r.turn_token = ends.turn_token  /* guard: inline step's turn token */
    RETURNING ends.*, r.status, r.revision AS recorded_revision
), written AS (
    INSERT INTO perennial.activity AS a (run_id, key, scope, ordinal, kind, name, state, attempt, result, error,
        asked, settled_at, settled_revision)
    SELECT run_id, key, scope, ordinal, 'step', name, state, attempt, result::jsonb, error, asked,
        CASE WHEN state NOT IN ('retrying', 'pending') THEN perennial.now() END,
        CASE WHEN state NOT IN ('retrying', 'pending') THEN recorded_revision END
    FROM holder
    ON CONFLICT (run_id, key) DO UPDATE SET state = excluded.state, attempt = excluded.attempt,
        result = excluded.result, error = excluded.error, settled_at = excluded.settled_at,
        settled_revision = excluded.settled_revision
    WHERE a.state = 'pending'
    RETURNING a.run_id, a.settled_at
), armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, attempt, due_at, indexed)
    SELECT h.timer_id, h.run_id, h.key, 'retry', h.attempt,
        perennial.now() + h.delay_seconds * interval '1 second', h.delay_seconds <= %(horizon_seconds)s
    FROM holder h JOIN written ON written.run_id = h.run_id WHERE h.state = 'retrying'
    RETURNING run_id, indexed
), told AS (
    {APPEND_HISTORY}
    SELECT h.run_id, 'flow', CASE h.state WHEN 'retrying' THEN 'attempt failed' WHEN 'pending' THEN 'step begun'
            ELSE 'step ' || h.state END,
        h.key, CASE WHEN h.state = 'retrying' THEN h.attempt - 1 ELSE h.attempt END, h.status, h.status,
        h.error - 'traceback'
    FROM holder h JOIN written ON written.run_id = h.run_id
)
SELECT written.run_id, written.settled_at, holder.recorded_revision, armed.indexed
FROM written JOIN holder ON holder.run_id = written.run_id LEFT JOIN armed ON armed.run_id = written.run_id
""",
    )


_RETRY = Statement(
    "retry_attempt",
    f"""
WITH fence AS (
    UPDATE perennial.run r SET revision = {RAISED},
        active_milliseconds = r.active_milliseconds + %(active_milliseconds)s
    WHERE r.id = %(run_id)s AND r.closed_at IS NULL AND EXISTS (SELECT FROM perennial.activity a
        WHERE a.run_id = r.id AND a.key = %(key)s AND a.attempt = %(attempt)s AND a.state = 'claimed')
    RETURNING r.id, r.status
), released AS (
    UPDATE perennial.activity a SET state = 'retrying', attempt = a.attempt + 1, error = %(error)s::jsonb
    FROM fence WHERE a.run_id = fence.id AND a.key = %(key)s
        AND a.attempt = %(attempt)s AND a.state = 'claimed'  /* guard: attempt fence of a failure */
    RETURNING a.run_id, a.key, a.attempt
), armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, attempt, due_at, indexed)
    SELECT %(timer_id)s, released.run_id, released.key, 'retry', released.attempt,
        perennial.now() + %(delay_seconds)s * interval '1 second', %(delay_seconds)s <= %(horizon_seconds)s
    FROM released
    RETURNING id, indexed
), told AS (
    {APPEND_HISTORY}
    SELECT fence.id, %(actor)s, %(event)s, %(key)s, %(attempt)s, fence.status, fence.status,
        %(error)s::jsonb - 'traceback'
    FROM fence, released
)
SELECT armed.id, armed.indexed FROM armed
""",
)


@dataclass(frozen=True, slots=True)
class Claim:
    """An activity that is ours to do, and its run as the claim saw it. `input` is JSON by parameter."""

    run: LoadedRun
    key: str
    attempt: int
    name: str
    input: dict[str, Any]
    claimed_at: datetime
    steps: dict[str, Any]
    attempts_before: int = 0
    """Attempts that its retries don't count: they were made before an operator asked for it anew."""
    is_counted: bool = False
    """It is one of several that the flow waits for: its end counts down, and its run's journal may be left out."""
    heartbeat: Any = None
    """The details of the last heartbeat of an attempt before, as plain JSON."""


def claim_activity_if_pending(
    connection: AnyConnection,
    run_id: UUID,
    key: str,
    attempt: int,
    *,
    worker_id: UUID,
    known: Known | None = None,
) -> Claim | None:
    """Claim this attempt. None: it is claimed, done, handed out again, or its run doesn't move. `known`: of its run."""
    claimed = {"run_id": run_id, "key": key, "attempt": attempt, "worker_id": worker_id}
    if known is None:
        row = _CLAIM.row(connection, **claimed)
    else:
        row = _CLAIM_KNOWN.row(connection, **claimed, **known_as_parameters(known))
    if row is None:
        return None
    steps = {line["key"]: line["result"] for line in row.journal if line["parent_key"] is not None}
    run = loaded_from(row, known)
    return Claim(
        run,
        key,
        attempt,
        row.claimed_name,
        row.claimed_input or {},
        row.claimed_at,
        steps,
        row.claimed_before or 0,
        row.claimed_counted,
        row.claimed_heartbeat,
    )


def remember_step_if_claimed(
    connection: AnyConnection,
    run_id: UUID,
    *,
    parent_key: str,
    parent_attempt: int,
    key: str,
    ordinal: int,
    name: str,
    result: str,
) -> bool:
    """Record a step's result (JSON text). False: the stage's attempt isn't ours any more."""
    row = _REMEMBER_STEP.row(
        connection,
        run_id=run_id,
        parent_key=parent_key,
        parent_attempt=parent_attempt,
        key=key,
        ordinal=ordinal,
        name=name,
        result=result,
    )
    return row is not None


@dataclass(frozen=True, slots=True)
class FlowStep:
    """An inline step's end: done, failed for good, or `retrying` after `delay_seconds`. `pending`: its beginning."""

    key: str
    scope: str
    ordinal: int
    name: str
    state: ActivityState
    attempt: int
    asked: str = ""
    result: str | None = None
    error: dict[str, Any] | None = None
    delay_seconds: float = 0.0


def remember_flow_step_if_held(
    connection: AnyConnection,
    run_id: UUID,
    step: FlowStep,
    *,
    turn_token: UUID,
    queue: str | None,
    horizon_seconds: float,
) -> Remembered | None:
    """Record an inline step's end. None: the turn was lost."""
    return _REMEMBER(connection, _StepEnd(run_id, step, turn_token, queue, horizon_seconds))


@dataclass(frozen=True, slots=True)
class Remembered:
    """The run's revision that recorded a step, when it settled, and its retry's timer."""

    revision: int
    settled_at: datetime | None
    armed: ArmedTimer | None = None


@dataclass(frozen=True, slots=True)
class _StepEnd:
    run_id: UUID
    step: FlowStep
    turn_token: UUID
    queue: str | None
    horizon_seconds: float

    def as_row(self, timer_id: UUID | None) -> dict[str, Any]:
        step = self.step
        return {
            "run_id": self.run_id,
            "turn_token": self.turn_token,
            "key": step.key,
            "scope": step.scope,
            "ordinal": step.ordinal,
            "name": step.name,
            "asked": step.asked,
            "state": step.state,
            "attempt": step.attempt,
            "result": step.result,
            "error": step.error,
            "timer_id": timer_id,
            "delay_seconds": step.delay_seconds,
        }


def _remember_all(
    connection: AnyConnection, ends: Sequence[_StepEnd]
) -> Sequence[Remembered | None]:
    timer_ids = [uuid7() if end.step.state is ActivityState.RETRYING else None for end in ends]
    rows = _remember_flow_step(if_many(ends)).rows(
        connection,
        **_ENDS.of(end.as_row(timer_id) for end, timer_id in zip(ends, timer_ids, strict=True)),
        horizon_seconds=ends[0].horizon_seconds,
    )
    found = {row.run_id: row for row in rows}
    return [
        _remembered(end, timer_id, found.get(end.run_id))
        for end, timer_id in zip(ends, timer_ids, strict=True)
    ]


def _remembered(end: _StepEnd, timer_id: UUID | None, row: Any | None) -> Remembered | None:
    if row is None:
        return None
    armed = (
        ArmedTimer(timer_id, end.step.delay_seconds, end.queue)
        if timer_id is not None and row.indexed
        else None
    )
    return Remembered(row.recorded_revision, row.settled_at, armed)


_REMEMBER: BatchVerb[_StepEnd, Remembered | None] = BatchVerb(
    "remember_flow_step", _remember_all, is_left_out=lambda remembered: remembered is None
)


def retry_attempt_if_claimed(
    connection: AnyConnection,
    run_id: UUID,
    key: str,
    attempt: int,
    *,
    error: dict[str, Any],
    delay_seconds: float,
    actor: str,
    active_milliseconds: int,
    queue: str | None,
    horizon_seconds: float,
    event: str = "attempt failed",
) -> tuple[bool, ArmedTimer | None]:
    """Let a failed attempt rest until its retry timer. (False, None): the attempt isn't ours any more."""
    row = _RETRY.row(
        connection,
        run_id=run_id,
        key=key,
        attempt=attempt,
        error=json.dumps(error),
        delay_seconds=delay_seconds,
        actor=actor,
        event=event,
        active_milliseconds=active_milliseconds,
        timer_id=uuid7(),
        horizon_seconds=horizon_seconds,
    )
    if row is None:
        return False, None
    return True, ArmedTimer(row.id, delay_seconds, queue) if row.indexed else None
