"""A timer comes due: one transaction under its run's lock.

    fire       one timer: the truth of what firing means
    fire_all   as many as have come due: together what can be, and the rest one by one

What it does by kind: `sleep` and `signal-timeout` settle an activity, `approval-timeout` an approval
too; `escalation` asks more people; `retry` hands off the next attempt; `expiry` closes the run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from orchestrator.core.journal import ActivityKind
from orchestrator.core.run import RunStatus
from orchestrator.engine.context import EngineContext
from orchestrator.engine.database_errors import is_a_servers_trouble
from orchestrator.engine.reports import read_report
from orchestrator.store import approvals, firing
from orchestrator.store.firing_together import FiredTogether, fire_together_if_due
from orchestrator.store.transitions import outbox, timers
from orchestrator.store.transitions.close import close_run_if_open
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.timers import DueTimer

log = logging.getLogger(__name__)

TIMER = "timer"
"""Who acts in history when a deadline does."""

EXPIRY = "expiry"
"""The kind of timer that ends its run."""


def fire(context: EngineContext, timer_id: UUID) -> list[Handoff]:
    """Fire the timer if it is armed and due, once. The handoffs it left are in the outbox; send them."""
    expired: list[UUID] = []
    handoffs = _fire(context, timer_id, expired)
    for run_id in expired:
        _report_expired(context, run_id)
    return handoffs


def _fire(context: EngineContext, timer_id: UUID, expired: list[UUID]) -> list[Handoff]:
    with context.transaction() as connection:
        due = timers.lock_due_timer(connection, timer_id)
        if due is None:
            return []
        if RunStatus(due.run_status).is_closed:
            timers.mark_cancelled(connection, timer_id)
            return []
        if due.kind == EXPIRY:
            if _expire(connection, due):
                expired.append(due.run_id)
            return []
        handoffs = _ACTIONS[due.kind](context, connection, due)
        if handoffs is None:
            timers.mark_cancelled(connection, timer_id)
            return []
        timers.mark_fired(connection, timer_id)
        return handoffs


def fire_all(context: EngineContext, timer_ids: Sequence[UUID]) -> tuple[Sequence[Handoff], int]:
    """Fire those that are armed and due, each once. Answers the handoffs they left, and how many failed.

    What fails is told, and keeps no other back: it is set aside, and a sweep fires it later. Only without
    Postgres nothing is tried any more, and its error is raised.
    """
    if len(timer_ids) <= 1:
        return [handoff for timer_id in timer_ids for handoff in _try(context, timer_id)], 0
    together = _fire_together(context, timer_ids)
    handoffs, failed = list(together.handoffs), 0
    for timer_id in together.left:
        try:
            handoffs += _try(context, timer_id)
        except Exception as error:
            if is_a_servers_trouble(error):
                raise
            failed += 1
            log.exception("timer %s could not be fired", timer_id)
    return handoffs, failed


def _try(context: EngineContext, timer_id: UUID) -> list[Handoff]:
    try:
        handoffs = fire(context, timer_id)
    except Exception as error:
        if not is_a_servers_trouble(error):
            context.set_aside.failed(timer_id)
        raise
    context.set_aside.over(timer_id)
    return handoffs


def _fire_together(context: EngineContext, timer_ids: Sequence[UUID]) -> FiredTogether:
    try:
        with context.connection() as connection:
            return fire_together_if_due(
                connection, timer_ids, relay_after=context.settings.relay_after_seconds
            )
    except DBAPIError as error:
        if is_a_servers_trouble(error):
            raise
        log.warning("%s timers could not be fired together: %s", len(timer_ids), error.orig)
        return FiredTogether(left=tuple(timer_ids))


# Each action returns the handoffs it left, or None when the timer had nothing left to do.


def _end_sleep(
    context: EngineContext, connection: Connection, due: DueTimer
) -> list[Handoff] | None:
    if not firing.end_sleep_if_pending(connection, due.run_id, due.key):
        return None
    _tell(connection, due, "sleep ended")
    return _ask_for_turn(context, connection, due)


def _time_out_signal(
    context: EngineContext, connection: Connection, due: DueTimer
) -> list[Handoff] | None:
    """A signal that came in time, though no turn has given it to anybody, is this wait's."""
    if firing.answer_wait_from_buffer(connection, due.run_id, due.key):
        _tell(connection, due, "signal consumed")
    elif firing.time_out_signal_if_pending(connection, due.run_id, due.key):
        _tell(connection, due, "signal timed out")
    else:
        return None
    return _ask_for_turn(context, connection, due)


def _time_out_approval(
    context: EngineContext, connection: Connection, due: DueTimer
) -> list[Handoff] | None:
    if not approvals.time_out_if_open(connection, due.run_id, due.key):
        return None
    _tell(connection, due, "approval timed out")
    return _ask_for_turn(context, connection, due)


def _escalate(
    _context: EngineContext, connection: Connection, due: DueTimer
) -> list[Handoff] | None:
    assignees = approvals.escalate_if_open(connection, due.run_id, due.key, level=due.level)
    if assignees is None:
        return None
    _tell(connection, due, "approval escalated", {"level": due.level, "assignees": assignees})
    return []


def _retry(context: EngineContext, connection: Connection, due: DueTimer) -> list[Handoff] | None:
    row = firing.make_attempt_due_if_retrying(connection, due.run_id, due.key, due.attempt)
    if row is None:
        return None
    if row.kind == ActivityKind.STEP:
        return _ask_for_turn(context, connection, due)
    handoff = Handoff(due.run_id, due.key, due.attempt, row.name, row.queue)
    firing.bump_revision(connection, due.run_id)
    # guard: handoff of a retry
    outbox.hand_off(connection, handoff, relay_after=context.settings.relay_after_seconds)
    return [handoff]


_ACTIONS = {
    "sleep": _end_sleep,
    "signal-timeout": _time_out_signal,
    "approval-timeout": _time_out_approval,
    "escalation": _escalate,
    "retry": _retry,
}


def _expire(connection: Connection, due: DueTimer) -> bool:
    """Close the run. Its timer has fired by then: a run that closes cancels what is armed."""
    timers.mark_fired(connection, due.id)
    return close_run_if_open(
        connection, due.run_id, status=RunStatus.EXPIRED, actor=TIMER, error=_EXPIRED
    )


_EXPIRED = {"type": "Expired", "message": "the run did not end in the time it was given"}


def _report_expired(context: EngineContext, run_id: UUID) -> None:
    """It is committed: what fails here must not look as if the timer had not fired."""
    try:
        with context.connection() as connection:
            report = read_report(connection, run_id, RunStatus.EXPIRED, _EXPIRED)
    except DBAPIError as error:
        log.error("run %s expired; more could not be read: %s", run_id, error.orig)  # noqa: TRY400 - one line
        return
    if report is not None:
        context.reports.run_ended(report)


def _ask_for_turn(context: EngineContext, connection: Connection, due: DueTimer) -> list[Handoff]:
    """Raise the revision, so that a turn that is deciding sees the fact, and leave an advance."""
    firing.bump_revision(connection, due.run_id)
    # guard: handoff of a fired timer
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
