"""What was left undone: found by one look, done by the same verbs as ever.

    sweep: one statement asks whether anything needs care; each kind then has its own short step.
    relay: a share of the handoffs that are due, and the turns among them whose holder has died.

Waiting runs are never scanned: the look reads partial indexes that hold only what is due or claimed.
Every step does a share, of `batch_size` at most, and answers how much that was: whoever called it looks
up in between, however much there is to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from orchestrator.core.notice import RunNotice
from orchestrator.core.retries import Retry
from orchestrator.core.run import RunStatus
from orchestrator.engine.context import EngineContext, is_a_servers_trouble
from orchestrator.engine.fire import fire_all
from orchestrator.engine.park import park_attempt
from orchestrator.engine.reports import read_report
from orchestrator.errors import DefinitionError
from orchestrator.store import activities, exits, firing, outbox, timers, turns, workers
from orchestrator.store.outbox import Handoff
from orchestrator.store.timers import ArmedTimer

log = logging.getLogger(__name__)

BACKLOG_MAX = 50
"""A queue with more messages than this is busy."""

RESENDS_ON_A_BUSY_QUEUE = 6  # guard: end of patience with a long queue
"""5 + 10 + 20 + 40 + 80 + 160 s: after about five minutes a handoff is sent again regardless; then after
twice as many intervals, and so on. A queue that nobody serves must not grow by every look at it."""

RECOVERY = "recovery"
"""Who acts in history when a lost attempt is handed out again."""


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


def relay(context: EngineContext, *, may_judge: bool = True) -> int:
    """Publish a share of the handoffs that are due: left by producers, by dead processes, by lost messages.

    Answers how many it took and is done with. Those it could not send, and those that ask for a turn whose
    holder looks dead but may not be judged yet, are put back, and don't count as sent.
    """
    settings = context.settings
    with context.connection() as connection:
        due = outbox.take_due_handoffs(
            connection,
            relay_after=settings.relay_after_seconds,
            dead_after=settings.dead_after_seconds,
            limit=settings.batch_size,
            # guard: each kind of another app's is met once
            theirs=context.foreign.kinds if context.foreign else (),
        )
        # guard: another app's is left to it
        theirs = context.foreign.among(connection, due) if context.foreign else []
        if theirs:
            outbox.leave_handoffs(connection, theirs)
    ours = [handoff for handoff in due if handoff not in theirs] if theirs else due
    moving = [handoff for handoff in ours if not handoff.is_at_rest]
    lost = [handoff for handoff in moving if handoff.turn_is_lost]
    if may_judge:
        free_turns(context, lost)
        lost = []
    worth = _worth_sending(context, [handoff for handoff in moving if handoff not in lost])
    unsent = [*lost, *context.messenger.hand_off(worth)]
    if unsent:
        with context.connection() as connection:
            outbox.put_back_handoffs(connection, unsent, relay_after=settings.relay_after_seconds)
    return len(ours) - len(unsent)


def free_turns(context: EngineContext, lost: Sequence[Handoff]) -> None:
    """Take the turns of dead holders from them: whoever gets the handoff may hold the turn."""
    for handoff in lost:
        with (
            _one_by_one("the turn of run %s could not be freed", handoff.run_id),
            context.transaction() as connection,
        ):
            _free_turn(context, connection, handoff.run_id)


def _free_turn(context: EngineContext, connection: Connection, run_id: UUID) -> None:
    freed = turns.free_turn_if_lost(
        connection, run_id, dead_after=context.settings.dead_after_seconds
    )
    if freed is None:
        return
    reason = exits.exit_reason(connection, run_id, since=freed.held_since)
    error = _worker_lost("the worker that held the turn", reason)
    firing.tell(
        connection,
        run_id,
        actor=RECOVERY,
        event="turn freed",
        from_status=freed.status,
        detail=error,
    )
    log.warning("turn freed: run %s: %s", run_id, error["message"])


def _worth_sending(context: EngineContext, due: Sequence[Handoff]) -> list[Handoff]:
    """Not those of runs at rest, nor those that most likely still stand in a long queue: sending them again
    would lengthen it.

    A lost message on a busy queue is sent again when the queue is short, or at the latest after
    `RESENDS_ON_A_BUSY_QUEUE` intervals, whatever its length. Doubled from then on, so that the messages
    on a queue that nobody serves grow with the logarithm of the time.
    """
    may_wait = {handoff.queue for handoff in due if not _is_sent_regardless(handoff.publishes)}
    busy = {queue for queue in may_wait if context.messenger.backlog_of(queue) > BACKLOG_MAX}
    return [
        handoff
        for handoff in due
        if handoff.queue not in busy or _is_sent_regardless(handoff.publishes)
    ]


def _is_sent_regardless(publishes: int) -> bool:
    """Never sent before, or after 6, 12, 24, 48, ... intervals."""
    times, rest = divmod(publishes, RESENDS_ON_A_BUSY_QUEUE)
    return publishes == 0 or (rest == 0 and times.bit_count() == 1)


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
    with _one_by_one("%s timer(s) could not be fired", len(overdue)):
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
    with context.connection() as connection:
        outbox.make_all_handoffs_due(connection)
    return total


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
        with _one_by_one("%s of run %s could not be recovered", attempt.key, attempt.run_id):
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


@contextmanager
def _one_by_one(message: str, *arguments: object) -> Iterator[None]:
    """What fails is told, and does not keep the rest of its batch waiting: unless the rest would fail alike."""
    try:
        yield
    except Exception as error:
        if is_a_servers_trouble(error):
            raise
        log.exception(message, *arguments)


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
    error = _loss(locked, attempt, reason)
    failed = None
    log.warning("lost: %s of run %s, attempt %s: %s", key, run_id, attempt, error["message"])
    handoffs: list[Handoff] = []
    retry = _policy_of(locked)
    if retry.allows_another(attempt):
        rest = _rest_seconds(context, locked, retry, attempt)
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
        row = firing.hand_out_again_if_claimed(connection, run_id, key, attempt, error=error)
        handoffs = (
            [Handoff(run_id, key, row.attempt, row.name, row.queue)] if row is not None else []
        )
        for handoff in handoffs:
            # guard: handoff of a recovered attempt
            outbox.hand_off(connection, handoff, relay_after=context.settings.relay_after_seconds)
        event = "attempt handed out again"
    elif locked.timed_out or retry.on_lost == "raise":
        firing.fail_attempt_if_claimed(connection, run_id, key, attempt, error=error)
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
            from_status=locked.status,
            error=error,
            actor=RECOVERY,
        )
        return _Recovered(parked=error)
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
    return _Recovered(handoffs, failed=failed)


def _rest_seconds(context: EngineContext, locked: Any, retry: Retry, attempt: int) -> float:
    """What is left of the delay, which began when the attempt ended: at its timeout, or its worker's last sign."""
    delay = retry.delay_before_next(attempt, chance=context.chance())
    since: float = (
        locked.claimed_seconds - locked.timeout_seconds
        if locked.timed_out
        else locked.silent_seconds
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
    _, armed = activities.retry_attempt_if_claimed(
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


def _loss(locked: Any, attempt: int, reason: str | None) -> dict[str, Any]:
    if locked.timed_out:
        return {
            "type": "StageTimedOut",
            "message": f"attempt {attempt} of {locked.name} overran its timeout of {locked.timeout_seconds:g} s",
        }
    return _worker_lost(f"the worker of attempt {attempt} of {locked.name}", reason)


def _worker_lost(who: str, reason: str | None) -> dict[str, Any]:
    how = f"died ({reason})" if reason else "died or fell silent"
    return {"type": "WorkerLost", "message": f"{who} {how}"}
