"""What was left undone: found by one look, done by the same verbs as ever.

    sweep: one statement asks whether anything needs care; each kind then has its own short step:
           lost attempts (engine.lost_attempts), timers, and handoffs (engine.relay).

Waiting runs are never scanned: the look reads partial indexes that hold only what is due or claimed.
Every step does a share, of `batch_size` at most, and answers how much that was: whoever called it looks
up in between, however much there is to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from orchestrator.engine.context import EngineContext
from orchestrator.engine.database_errors import one_by_one
from orchestrator.engine.fire import fire_all
from orchestrator.engine.lost_attempts import recover_attempts
from orchestrator.engine.relay import relay
from orchestrator.store.transitions import outbox, timers, workers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    """How much a sweep found to do."""

    handoffs: int = 0
    timers_indexed: int = 0
    timers_fired: int = 0
    attempts_recovered: int = 0

    @property
    def largest(self) -> int:
        """Of the kind that had most; a full batch means that there may be more."""
        return max(self.handoffs, self.timers_indexed, self.timers_fired, self.attempts_recovered)


def sweep(context: EngineContext, *, may_judge: bool = True) -> Swept:
    """Look once, and do what is due: one statement when nothing is.

    `may_judge` False: leave workers that look dead; the caller hasn't watched for long enough.
    """
    care = _look(context)
    return Swept(
        attempts_recovered=_share(context, recover_attempts) if care.attempts and may_judge else 0,
        # guard: an overdue timer is fired by a sweep
        timers_fired=_share(context, fire_overdue) if care.overdue else 0,
        timers_indexed=_share(context, index_timers) if care.to_index else 0,
        # The last, so that it keeps no other kind back, and whoever sweeps hears that it fails.
        handoffs=relay(context, may_judge=may_judge) if care.handoffs else 0,
    )


@dataclass(frozen=True, slots=True)
class _Care:
    """Which kinds of work there are."""

    attempts: bool = True
    overdue: bool = True
    to_index: bool = True
    handoffs: bool = True


def _look(context: EngineContext) -> _Care:
    """One statement. If a row of one kind makes it fail, each kind is looked at by itself."""
    settings = context.settings
    try:
        with context.connection() as connection:
            found = workers.what_needs_care(
                connection,
                horizon_seconds=settings.horizon_seconds,
                grace_seconds=settings.timer_grace_seconds,
                dead_after=settings.dead_after_seconds,
                timeout_grace=settings.timeout_grace_seconds,
            )
    except DataError as error:
        log.warning("what needs care can't be read at once: %s", error.orig)
        return _Care()
    return _Care(found.attempts_lost, found.timers_overdue, found.timers_to_index, found.handoffs)


def _share(context: EngineContext, work: Callable[[EngineContext], int]) -> int:
    """A share of one kind of work. What is wrong with its rows is told, and keeps no other kind back."""
    try:
        return work(context)
    except Exception as error:
        if isinstance(error, DBAPIError) and not isinstance(error, DataError | IntegrityError):
            raise  # Postgres itself is in trouble, for all kinds alike
        log.exception("a kind of work could not be done")
        return 0


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
        found = timers.overdue_timers(
            connection,
            grace_seconds=context.settings.timer_grace_seconds,
            limit=context.settings.batch_size + len(context.set_aside),
        )
    overdue = context.set_aside.share(found, of=context.settings.batch_size, mark=_itself)
    fired = 0
    with one_by_one("%s timer(s) could not be fired", len(overdue)):
        handoffs, failed = fire_all(context, overdue)
        context.messenger.hand_off(handoffs)
        fired += len(overdue) - failed
    return fired


def _itself(timer_id: UUID) -> UUID:
    return timer_id


def rebuild_index(context: EngineContext) -> int:
    """Redis was emptied: put every timer within the horizon back, and make every unclaimed handoff due."""
    total, after = 0, ("-infinity", UUID(int=0))
    while True:
        with context.connection() as connection:
            page, after = timers.indexed_timers(
                connection, after=after, limit=context.settings.batch_size
            )
        context.messenger.arm(page)
        total += len(page)
        if len(page) < context.settings.batch_size:
            break
    with context.reading() as connection:
        outbox.make_all_handoffs_due(connection)
    return total
