"""Attempts whose worker has died, or which have overrun their timeout: handed out again, failed, or parked.

A stage gets another attempt, at once or when its delay is over. With none left it has failed: at a timeout, or
as `Retry.on_lost` says; or its run is an incident, where a worker was lost.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core.retries import (
    Retry,
    Verdict,
    tried_since,
    uncounted_in,
    with_verdict,
)
from orchestrator.core.run import RunStatus
from orchestrator.core.run_notice import RunNotice
from orchestrator.engine.context import EngineContext
from orchestrator.engine.database_errors import one_by_one
from orchestrator.engine.park import park_attempt
from orchestrator.engine.reports import read_report
from orchestrator.errors import DefinitionError
from orchestrator.store.transitions import exits, lost_attempts, outbox, workers
from orchestrator.store.transitions.claim import retry_attempt_if_claimed
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.timers import ArmedTimer

log = logging.getLogger(__name__)

RECOVERY = "recovery"
"""Who acts in history when a lost attempt is handed out again."""


def recover_attempts(context: EngineContext) -> int:
    """Hand out again what dead workers had claimed, or what overran its timeout."""
    settings = context.settings
    with context.connection() as connection:
        found = workers.lost_attempts(
            connection,
            dead_after=settings.dead_after_seconds,
            timeout_grace=settings.timeout_grace_seconds,
            limit=settings.batch_size + len(context.set_aside),
        )
    lost = context.set_aside.share(found, of=settings.batch_size, mark=_mark_of)
    after_commit: list[_Recovered] = []
    for attempt in lost:
        with one_by_one("%s of run %s could not be recovered", attempt.key, attempt.run_id):
            context.set_aside.failed(_mark_of(attempt))  # until it is done
            with context.transaction() as connection:
                recovered = _recover(
                    context, connection, attempt.run_id, attempt.key, attempt.attempt
                )
            context.set_aside.over(_mark_of(attempt))
            after_commit.append(recovered)
            if recovered.failed is not None:
                _log_failed(attempt, recovered.failed)
            if recovered.parked is not None:
                _report_parked(context, attempt.run_id, recovered.parked)
    for recovered in after_commit:
        context.messenger.hand_off(recovered.handoffs)
        context.messenger.arm(recovered.armed)
    return len(after_commit)


def _log_failed(attempt: Any, error: dict[str, Any]) -> None:
    """As any stage that fails for good (`engine.reports`); it has raised nothing, so there is no traceback."""
    log.error(
        "stage %s of run %s failed at attempt %s, for good: %s: %s",
        attempt.key,
        attempt.run_id,
        attempt.attempt,
        error["type"],
        error["message"],
        extra={
            "action": "fail",
            "run_id": str(attempt.run_id),
            "stage": attempt.key,
            "attempt": attempt.attempt,
        },
    )


def _report_parked(context: EngineContext, run_id: UUID, error: dict[str, Any]) -> None:
    """A lost worker's run, of which this worker knows nothing yet."""
    with context.connection() as connection:
        report = read_report(connection, run_id, RunStatus.INCIDENT, error)
    if report is not None:
        context.messenger.announce(
            RunNotice(
                run_id, report.process, report.status, report.business_key, error=report.error
            )
        )
        context.reports.run_ended(report)


def _mark_of(attempt: Any) -> tuple[UUID, str, int]:
    return attempt.run_id, attempt.key, attempt.attempt


@dataclass(frozen=True, slots=True)
class _Recovered:
    """What the fleet is told once it is committed."""

    handoffs: Sequence[Handoff] = ()
    armed: Sequence[ArmedTimer] = ()
    parked: dict[str, Any] | None = None
    """The error of a run that became an incident."""
    failed: dict[str, Any] | None = None
    """The error of a stage that failed for good."""


def _recover(
    context: EngineContext, connection: Connection, run_id: UUID, key: str, attempt: int
) -> _Recovered:
    """One lost attempt: the next one when its delay is over, or, with none left, a failure (a timeout, or as
    `Retry.on_lost` says) or an incident (a lost worker).
    """
    locked = workers.lock_lost_attempt(connection, run_id, key, attempt)
    if locked is None:
        return _Recovered()
    reason = exits.exit_reason(
        connection, run_id, since=locked.claimed_at, key=key, attempt=attempt
    )
    error = _loss(context, locked, attempt, reason)
    failed = None
    log.warning("lost: %s of run %s, attempt %s: %s", key, run_id, attempt, error["message"])
    handoffs: list[Handoff] = []
    retry = _policy_of(locked)
    since = tried_since(locked.error if isinstance(locked.error, dict) else None, locked.claimed_at)
    rest = _rest_seconds(context, locked, retry, attempt)
    tried = (locked.claimed_at - since).total_seconds() + locked.claimed_seconds + max(rest, 0.0)
    is_in_time = retry.is_in_time(tried)
    if retry.allows_another(attempt - _uncounted(locked)) and is_in_time:
        error = with_verdict(error, retry, Verdict(max(rest, 0.0)), since)
        if rest > 0:
            return _rest_until_retry(
                context,
                connection,
                run_id,
                key=key,
                attempt=attempt,
                queue=locked.run_queue,
                rest_seconds=rest,
                error=error,
            )
        row = lost_attempts.hand_out_again_if_claimed(connection, run_id, key, attempt, error=error)
        handoffs = (
            [Handoff(run_id, key, row.attempt, row.name, row.queue)] if row is not None else []
        )
        for handoff in handoffs:
            # guard: handoff of a recovered attempt
            outbox.hand_off(connection, handoff, relay_after=context.settings.relay_after_seconds)
        event = "attempt handed out again"
    elif locked.timed_out or _fell_silent(context, locked) or retry.on_lost == "raise":
        error = error if is_in_time else {**error, "why": retry.too_late()}
        lost_attempts.fail_attempt_if_claimed(connection, run_id, key, attempt, error=error)
        # guard: handoff of a timed-out stage
        advance = outbox.ask_for_turn(
            connection, run_id, relay_after=context.settings.relay_after_seconds
        )
        handoffs = [advance] if advance is not None else []
        event, failed = "stage failed", error
    else:
        error["message"] += (
            f". Its retries allow no other: mend {locked.name}, then resume, which makes one attempt more"
        )
        park_attempt(
            connection,
            run_id,
            key,
            attempt,
            name=locked.name,
            from_status=locked.status,
            error=error,
            actor=RECOVERY,
        )
        return _Recovered(parked=error)
    lost_attempts.raise_revision(connection, run_id)
    lost_attempts.append_history(
        connection,
        run_id,
        actor=RECOVERY,
        event=event,
        from_status=locked.status,
        key=key,
        attempt=attempt,
        detail=error,
    )
    return _Recovered(handoffs, failed=failed)


def _rest_seconds(context: EngineContext, locked: Any, retry: Retry, attempt: int) -> float:
    """What is left of the delay, which began when the attempt ended: at its timeout, or its worker's last sign."""
    delay = retry.delay_before_next(attempt - _uncounted(locked), random=context.random())
    since: float = (
        locked.claimed_seconds - locked.timeout_seconds
        if locked.timed_out
        else locked.silent_seconds
        if not _fell_silent(context, locked)
        else 0.0
    )
    return delay - since


def _rest_until_retry(
    context: EngineContext,
    connection: Connection,
    run_id: UUID,
    *,
    key: str,
    attempt: int,
    queue: str | None,
    rest_seconds: float,
    error: dict[str, Any],
) -> _Recovered:
    _, armed = retry_attempt_if_claimed(
        connection,
        run_id,
        key,
        attempt,
        error=error,
        delay_seconds=rest_seconds,
        actor=RECOVERY,
        active_milliseconds=0,
        queue=queue,
        horizon_seconds=context.settings.horizon_seconds,
        event="attempt handed out again",
    )
    return _Recovered(armed=() if armed is None else (armed,))


def _policy_of(locked: Any) -> Retry:
    """As its stage said. What can't be read allows no other attempt: an operator decides."""
    try:
        return Retry.from_policy(locked.policy or {})
    except (DefinitionError, TypeError, AttributeError):
        return Retry(max_attempts=1)


def _uncounted(locked: Any) -> int:
    """What an operator has asked for anew counts from there."""
    return uncounted_in(locked.policy) if isinstance(locked.policy, dict) else 0


def _fell_silent(context: EngineContext, locked: Any) -> bool:
    """Its worker lives, and the stage itself says nothing any more."""
    return bool(locked.fell_silent and locked.silent_seconds < context.settings.dead_after_seconds)


def _loss(context: EngineContext, locked: Any, attempt: int, reason: str | None) -> dict[str, Any]:
    if locked.timed_out:
        return {
            "type": "StageTimedOut",
            "message": f"attempt {attempt} of {locked.name} overran its timeout of {locked.timeout_seconds:g} s",
        }
    if _fell_silent(context, locked):
        seconds = locked.policy["heartbeat_seconds"]
        return {
            "type": "HeartbeatTimedOut",
            "message": f"attempt {attempt} of {locked.name} gave no heartbeat for {seconds:g} s",
        }
    return worker_lost(f"the worker of attempt {attempt} of {locked.name}", reason)


def worker_lost(who: str, reason: str | None) -> dict[str, Any]:
    how = f"died ({reason})" if reason else "died or fell silent"
    return {"type": "WorkerLost", "message": f"{who} {how}"}
