"""What was left undone: found by one look, done by the same verbs as ever.

    sweep: one statement asks whether anything needs care; each kind then has its own short step.

Waiting runs are never scanned: the look reads partial indexes that hold only what is due or claimed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core.retries import Retry
from orchestrator.core.run import RunStatus
from orchestrator.engine.context import EngineContext
from orchestrator.engine.fire import fire
from orchestrator.store import firing, outbox, timers, workers
from orchestrator.store.outbox import Handoff

log = logging.getLogger(__name__)

BACKLOG_MAX = 50
"""A queue with more messages than this is busy."""

RESENDS_ON_A_BUSY_QUEUE = 6
"""5 + 10 + 20 + 40 + 80 + 160 s: after about five minutes a handoff is sent again regardless."""

RECOVERY = "recovery"
"""Who acts in history when a lost attempt is handed out again."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How much a sweep found to do."""

    handoffs: int = 0
    timers_indexed: int = 0
    timers_fired: int = 0
    attempts_recovered: int = 0


def sweep(context: EngineContext, *, may_judge: bool = True) -> Swept:
    """Look once, and do what is due: one statement when nothing is.

    `may_judge` False: leave workers that look dead; the caller hasn't watched for long enough.
    """
    settings = context.settings
    with context.connection() as connection:
        care = workers.what_needs_care(
            connection,
            horizon_seconds=settings.horizon_seconds,
            grace_seconds=settings.timer_grace_seconds,
            dead_after=settings.dead_after_seconds,
            timeout_grace=settings.timeout_grace_seconds,
        )
    return Swept(
        handoffs=relay(context) if care.handoffs else 0,
        timers_indexed=index_timers(context) if care.timers_to_index else 0,
        timers_fired=fire_overdue(context) if care.timers_overdue else 0,
        attempts_recovered=recover_attempts(context) if care.attempts_lost and may_judge else 0,
    )


def relay(context: EngineContext) -> int:
    """Publish handoffs that are due: left by producers, by dead processes, by lost messages.

    Answers how many it published.
    """
    total = 0
    while True:
        with context.connection() as connection:
            due = outbox.take_due_handoffs(
                connection,
                relay_after=context.settings.relay_after_seconds,
                limit=context.settings.batch_size,
            )
        worth_sending = _worth_sending(context, due)
        context.messenger.hand_off(worth_sending)
        total += len(worth_sending)
        if len(due) < context.settings.batch_size:
            return total


def _worth_sending(context: EngineContext, due: Sequence[Handoff]) -> list[Handoff]:
    """Not those of runs at rest, nor those that most likely still stand in a long queue: sending them again
    would lengthen it.

    A lost message on a busy queue is sent again when the queue is short, or at the latest after
    `RESENDS_ON_A_BUSY_QUEUE` intervals, whatever its length.
    """
    moving = [handoff for handoff in due if handoff.is_moving]
    sent_before = {
        handoff.queue for handoff in moving if 0 < handoff.publishes < RESENDS_ON_A_BUSY_QUEUE
    }
    busy = {queue for queue in sent_before if context.messenger.backlog_of(queue) > BACKLOG_MAX}
    return [
        handoff
        for handoff in moving
        if handoff.queue not in busy or not 0 < handoff.publishes < RESENDS_ON_A_BUSY_QUEUE
    ]


def index_timers(context: EngineContext) -> int:
    """Put timers that came within the horizon into the index."""
    with context.connection() as connection:
        soon = timers.take_timers_to_index(
            connection,
            horizon_seconds=context.settings.horizon_seconds,
            limit=context.settings.batch_size,
        )
    context.messenger.arm(soon)
    return len(soon)


def fire_overdue(context: EngineContext) -> int:
    """Fire timers whose message never came."""
    with context.connection() as connection:
        overdue = timers.overdue_timers(
            connection,
            grace_seconds=context.settings.timer_grace_seconds,
            limit=context.settings.batch_size,
        )
    for timer_id in overdue:
        with _one_by_one("timer %s could not be fired", timer_id):
            context.messenger.hand_off(fire(context, timer_id))
    return len(overdue)


def rebuild_index(context: EngineContext) -> int:
    """Redis was emptied: put every timer within the horizon back, and send every unclaimed handoff again."""
    total, after = 0, (datetime.min.replace(tzinfo=UTC), UUID(int=0))
    while True:
        with context.connection() as connection:
            page, after = timers.indexed_timers(
                connection, after=after, limit=context.settings.batch_size
            )
        context.messenger.arm(page)
        total += len(page)
        if len(page) < context.settings.batch_size:
            break
    with context.connection() as connection:
        outbox.make_all_handoffs_due(connection)
    relay(context)
    return total


def recover_attempts(context: EngineContext) -> int:
    """Hand out again what dead workers had claimed, or what overran its timeout."""
    settings = context.settings
    with context.connection() as connection:
        lost = workers.lost_attempts(
            connection,
            dead_after=settings.dead_after_seconds,
            timeout_grace=settings.timeout_grace_seconds,
            limit=settings.batch_size,
        )
    after_commit: list[list[Handoff]] = []
    for attempt in lost:
        with (
            _one_by_one("%s of run %s could not be recovered", attempt.key, attempt.run_id),
            context.transaction() as connection,
        ):
            handoffs = _recover(context, connection, attempt.run_id, attempt.key, attempt.attempt)
            after_commit.append(handoffs)
    for handoffs in after_commit:
        context.messenger.hand_off(handoffs)
    return len(lost)


@contextmanager
def _one_by_one(message: str, *arguments: object) -> Iterator[None]:
    """What fails is told, and does not keep the rest of its batch waiting."""
    try:
        yield
    except Exception:
        log.exception(message, *arguments)


def _recover(
    context: EngineContext, connection: Connection, run_id: UUID, key: str, attempt: int
) -> list[Handoff]:
    """One lost attempt: the next one, or, with none left, a failure (timeout) or an incident (lost worker)."""
    locked = workers.lock_lost_attempt(connection, run_id, key, attempt)
    if locked is None:
        return []
    error = _loss(locked, attempt)
    handoffs: list[Handoff] = []
    if Retry.from_policy(locked.policy or {}).allows_another(attempt):
        row = firing.hand_out_again_if_claimed(connection, run_id, key, attempt, error=error)
        handoffs = (
            [Handoff(run_id, key, row.attempt, row.name, row.queue)] if row is not None else []
        )
        for handoff in handoffs:
            outbox.hand_off(connection, handoff, relay_after=context.settings.relay_after_seconds)
        event = "attempt handed out again"
    elif locked.timed_out:
        firing.fail_attempt_if_claimed(connection, run_id, key, attempt, error=error)
        advance = outbox.ask_for_turn(
            connection, run_id, relay_after=context.settings.relay_after_seconds
        )
        handoffs = [advance] if advance is not None else []
        event = "stage failed"
    else:
        firing.hand_out_again_if_claimed(connection, run_id, key, attempt, error=error)
        firing.park_run_if_moving(connection, run_id, error={**error, "activity": key})
        event = RunStatus.INCIDENT.value
    firing.bump_revision(connection, run_id)
    firing.tell(
        connection,
        run_id,
        actor=RECOVERY,
        event=event,
        from_status=locked.status,
        key=key,
        attempt=attempt,
        detail=error,
    )
    log.warning("%s: %s of run %s, attempt %s: %s", event, key, run_id, attempt, error["message"])
    return handoffs


def _loss(locked: Any, attempt: int) -> dict[str, Any]:
    if locked.timed_out:
        return {
            "type": "StageTimedOut",
            "message": f"attempt {attempt} of {locked.name} overran its timeout",
        }
    return {
        "type": "WorkerLost",
        "message": f"the worker of attempt {attempt} of {locked.name} died or fell silent",
    }
