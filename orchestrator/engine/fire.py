"""A timer comes due: one transaction under its run's lock.

What it does by kind: `sleep` and `signal-timeout` settle an activity, `approval-timeout` an approval
too; `escalation` asks more people; `retry` hands off the next attempt; `expiry` closes the run.
"""

from __future__ import annotations

from enum import Enum, auto
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core.journal import ActivityKind
from orchestrator.core.run import RunStatus
from orchestrator.engine.context import EngineContext
from orchestrator.store import approvals, firing, outbox, runs, timers
from orchestrator.store.outbox import Handoff
from orchestrator.store.timers import DueTimer

TIMER = "timer"
"""Who acts in history when a deadline does."""


class Ending(Enum):
    """What became of a due timer. TOO_SOON_TO_SAY: a turn must look first; the timer comes again."""

    FIRED = auto()
    NEEDLESS = auto()
    TOO_SOON_TO_SAY = auto()


Fired = tuple[Ending, list[Handoff]]
NOTHING_TO_DO: Fired = (Ending.NEEDLESS, [])


def fire(context: EngineContext, timer_id: UUID) -> list[Handoff]:
    """Fire the timer if it is armed and due, once. The handoffs it left are in the outbox; send them."""
    with context.transaction() as connection:
        due = timers.lock_due_timer(connection, timer_id)
        if due is None:
            return []
        if RunStatus(due.run_status).is_closed:
            timers.mark_cancelled(connection, timer_id)
            return []
        ending, handoffs = _ACTIONS[due.kind](context, connection, due)
        match ending:
            case Ending.FIRED:
                timers.mark_fired(connection, timer_id)
            case Ending.NEEDLESS:
                timers.mark_cancelled(connection, timer_id)
            case Ending.TOO_SOON_TO_SAY:
                timers.postpone(
                    connection, timer_id, delay_seconds=context.settings.relay_after_seconds
                )
        return handoffs


def _end_sleep(context: EngineContext, connection: Connection, due: DueTimer) -> Fired:
    if not firing.end_sleep_if_pending(connection, due.run_id, due.key):
        return NOTHING_TO_DO
    _tell(connection, due, "sleep ended")
    return _fired(_ask_for_turn(context, connection, due))


def _time_out_signal(context: EngineContext, connection: Connection, due: DueTimer) -> Fired:
    if not firing.time_out_signal_if_none_came(connection, due.run_id, due.key):
        if not firing.is_pending(connection, due.run_id, due.key):
            return NOTHING_TO_DO
        # A signal of the name is there: for this wait, or for another. The next turn gives it to one.
        return Ending.TOO_SOON_TO_SAY, _ask_for_turn(context, connection, due)
    _tell(connection, due, "signal timed out")
    return _fired(_ask_for_turn(context, connection, due))


def _time_out_approval(context: EngineContext, connection: Connection, due: DueTimer) -> Fired:
    if not approvals.time_out_if_open(connection, due.run_id, due.key):
        return NOTHING_TO_DO
    _tell(connection, due, "approval timed out")
    return _fired(_ask_for_turn(context, connection, due))


def _escalate(_context: EngineContext, connection: Connection, due: DueTimer) -> Fired:
    assignees = approvals.escalate_if_open(connection, due.run_id, due.key, level=due.level)
    if assignees is None:
        return NOTHING_TO_DO
    _tell(connection, due, "approval escalated", {"level": due.level, "assignees": assignees})
    return _fired([])


def _retry(context: EngineContext, connection: Connection, due: DueTimer) -> Fired:
    row = firing.make_attempt_due_if_retrying(connection, due.run_id, due.key, due.attempt)
    if row is None:
        return NOTHING_TO_DO
    if row.kind == ActivityKind.STEP:
        return _fired(_ask_for_turn(context, connection, due))
    handoff = Handoff(due.run_id, due.key, due.attempt, row.name, row.queue)
    firing.bump_revision(connection, due.run_id)
    outbox.hand_off(connection, handoff, relay_after=context.settings.relay_after_seconds)
    return _fired([handoff])


def _expire(_context: EngineContext, connection: Connection, due: DueTimer) -> Fired:
    error = {"type": "Expired", "message": "the run did not end in the time it was given"}
    if not runs.close_run_if_open(
        connection, due.run_id, status=RunStatus.EXPIRED, actor=TIMER, error=error
    ):
        return NOTHING_TO_DO
    return _fired([])


_ACTIONS = {
    "sleep": _end_sleep,
    "signal-timeout": _time_out_signal,
    "approval-timeout": _time_out_approval,
    "escalation": _escalate,
    "retry": _retry,
    "expiry": _expire,
}


def _fired(handoffs: list[Handoff]) -> Fired:
    return Ending.FIRED, handoffs


def _ask_for_turn(context: EngineContext, connection: Connection, due: DueTimer) -> list[Handoff]:
    """Raise the revision, so that a turn that is deciding sees the fact, and leave an advance."""
    firing.bump_revision(connection, due.run_id)
    handoff = outbox.ask_for_turn(
        connection, due.run_id, relay_after=context.settings.relay_after_seconds
    )
    return [] if handoff is None else [handoff]


def _tell(
    connection: Connection, due: DueTimer, event: str, detail: dict[str, object] | None = None
) -> None:
    firing.tell(
        connection,
        due.run_id,
        actor=TIMER,
        event=event,
        from_status=due.run_status,
        key=due.key,
        detail=detail,
    )
