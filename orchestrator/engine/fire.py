"""Timers come due: what each does is its kind's (`core.kinds`), and one statement of the store does it.

    fire       one timer, whose run's lock is waited for
    fire_all   as many as have come due: in one statement, and one by one those that it leaves

A run's expiry is of no kind: it closes the run, which is a transition of its own (`store.transitions.close`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from orchestrator.core.ending_early import EarlyEnd
from orchestrator.core.run import RunStatus
from orchestrator.engine.context import EngineContext
from orchestrator.engine.database_errors import is_a_servers_trouble
from orchestrator.engine.reports import read_report
from orchestrator.errors import PerennialError
from orchestrator.store.transitions.close import close_run_if_open
from orchestrator.store.transitions.end_early import begin_early_end_if_open, read_early_end
from orchestrator.store.transitions.fire import EXPIRY, TIMER, UnfiredTimer, fire_timers_if_due
from orchestrator.store.transitions.outbox import Handoff

log = logging.getLogger(__name__)

FIRE_TRIES_MAX = 20
"""How often a run may change while its timer is to be fired. Each time another transition went through."""


def fire_all(context: EngineContext, timer_ids: Sequence[UUID]) -> tuple[Sequence[Handoff], int]:
    """Fire those that are armed and due, each once. Answers the handoffs they left, and how many failed.

    A timer that fails is logged, and keeps no other back: it is set aside, and a sweep fires it later. Only where
    Postgres is away nothing more is tried, and its error is raised; so is that of a timer which is alone.
    """
    if len(timer_ids) == 1:
        return fire(context, timer_ids[0]), 0
    handoffs, left = _fire_many(context, timer_ids)
    failed = 0
    for timer_id in left:
        try:
            handoffs += fire(context, timer_id)
        except Exception as error:
            if is_a_servers_trouble(error):
                raise
            failed += 1
            log.exception("timer %s could not be fired", timer_id)
    return handoffs, failed


def fire(context: EngineContext, timer_id: UUID) -> list[Handoff]:
    """Fire the timer if it is armed and due, once. The handoffs it left are in the outbox; send them.

    Raises PerennialError: its run changed under every try, or no kind of this worker's says what it does.
    """
    try:
        handoffs = _fire(context, timer_id)
    except Exception as error:
        if not is_a_servers_trouble(error):
            context.set_aside.failed(timer_id)
        raise
    context.set_aside.over(timer_id)
    return handoffs


def _fire(context: EngineContext, timer_id: UUID) -> list[Handoff]:
    for _ in range(FIRE_TRIES_MAX):
        with context.connection() as connection:
            fired = fire_timers_if_due(
                connection, [timer_id], relay_after=context.settings.relay_after_seconds
            )
        if not fired.left:
            return list(fired.handoffs)
        (unfired,) = fired.left
        if unfired.kind == EXPIRY:
            _expire(context, unfired)
            return []
        if not unfired.is_known:
            raise PerennialError(
                f"timer {timer_id} of run {unfired.run_id} is of the kind {unfired.kind}, of which this worker knows"
                " nothing: it waits for a worker that has its kind registered"
            )
    raise PerennialError(
        f"the run of timer {timer_id} changed {FIRE_TRIES_MAX} times while it was to be fired; a sweep tries again"
    )


def _fire_many(
    context: EngineContext, timer_ids: Sequence[UUID]
) -> tuple[list[Handoff], Sequence[UUID]]:
    """The handoffs of those that were fired in one statement, and the timers that are to be fired one by one."""
    if not timer_ids:
        return [], ()
    try:
        with context.connection() as connection:
            fired = fire_timers_if_due(
                connection, timer_ids, relay_after=context.settings.relay_after_seconds
            )
    except DBAPIError as error:
        if is_a_servers_trouble(error):
            raise
        log.warning("%s timers could not be fired at once: %s", len(timer_ids), error.orig)
        return [], timer_ids
    return list(fired.handoffs), [unfired.id for unfired in fired.left]


_EXPIRED = {"type": "Expired", "message": "the run did not end in the time it was given"}


def _expire(context: EngineContext, expiry: UnfiredTimer) -> None:
    """Close the run, and report it; or let it clean up first, where its process says so.

    What fails in the report must not look as if the timer had not fired.
    """
    with context.connection() as connection:
        found = read_early_end(connection, expiry.run_id)
        if found is not None and found.early_end is None and found.clean_up is not None:
            begin_early_end_if_open(
                connection,
                expiry.run_id,
                EarlyEnd(RunStatus.EXPIRED, _EXPIRED, undoes=found.clean_up.undoes_when_expired),
                within_seconds=found.clean_up.within_seconds,
                actor=TIMER,
                event="expiring",
                timer_id=expiry.id,
            )
            return
        status, error = RunStatus.EXPIRED, _EXPIRED
        if found is not None and found.early_end is not None:
            status, error = found.early_end.status, dict(found.early_end.error)
        is_closed = close_run_if_open(
            connection,
            expiry.run_id,
            status=status,
            actor=TIMER,
            error=error,
            timer_id=expiry.id,
        )
    hooks = context.reports.hooks
    if not is_closed or (status is not RunStatus.EXPIRED and hooks is None):
        return
    try:
        with context.connection() as connection:
            report = read_report(connection, expiry.run_id, status, error)
    except DBAPIError as trouble:
        log.error("run %s %s; more could not be read: %s", expiry.run_id, status, trouble.orig)  # noqa: TRY400 - one line
        return
    if report is None:
        return
    if status is RunStatus.EXPIRED:
        context.reports.run_ended(report)
    elif hooks is not None:
        hooks.run_ended(report)
