"""A stage on a worker: claim the attempt, do the work, settle it, take the turn that follows.

run_stage: claim → work → settle and advance, or rest until the retry timer; what other code has recorded
and this code can't read parks the run. `work_and_settle` is what follows a claim, however it was made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DataError

from orchestrator.core import codec
from orchestrator.core.callback_token import handing_over
from orchestrator.core.definition import Stage
from orchestrator.core.failures import FAILURES, error_of, presentable
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.retries import Retry, RetryAsked, tried_since, with_verdict
from orchestrator.core.run import RunStatus
from orchestrator.core.run_notice import Resting, RunNotice
from orchestrator.core.run_report import RunReport
from orchestrator.core.steps import StageContext, key_at_first, working_on
from orchestrator.engine.attempt_errors import error_of_attempt
from orchestrator.engine.callbacks import TokensOfStage, forget_tokens
from orchestrator.engine.context import EngineContext
from orchestrator.engine.database_errors import once_more_if_cut
from orchestrator.engine.hooks import info_of
from orchestrator.engine.park import park_attempt
from orchestrator.engine.refusal import in_plain_characters, refused
from orchestrator.engine.reports import FailedAttempt
from orchestrator.engine.stage_heartbeats import BeatsOfStage, flushing
from orchestrator.engine.stage_steps import AttemptLost, RecordUnavailable, StepsOfStage
from orchestrator.engine.turn import settle_and_advance
from orchestrator.errors import PayloadMismatch, PerennialError
from orchestrator.faults import around
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import capabilities, outbox, workers
from orchestrator.store.transitions.claim import (
    Claim,
    claim_activity_if_pending,
    retry_attempt_if_claimed,
)
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.settle import Settlement

log = logging.getLogger(__name__)


def run_stage(context: EngineContext, run_id: UUID, key: str, attempt: int) -> None:
    """Do one attempt of a stage. A message that comes twice, late or for nothing does no harm."""
    with context.identity.lease() as worker_id:
        claim = claim_stage(context, run_id, key, attempt, worker_id=worker_id)
        if claim is not None:
            work_and_settle(context, claim)


def claim_stage(
    context: EngineContext, run_id: UUID, key: str, attempt: int, *, worker_id: UUID
) -> Claim | None:
    """Claim the attempt, if it is to be done now. The caller holds `worker_id`, which it is claimed by."""
    with context.connection() as connection:
        known = context.kept_flows.known(run_id)
        claim = claim_activity_if_pending(
            connection, run_id, key, attempt, worker_id=worker_id, known=known
        )
        if claim is None:
            outbox.forget_handoff_if_stale(connection, run_id, key, attempt)
            log.debug("%s of run %s, attempt %s, is not to be done now", key, run_id, attempt)
        return claim


@dataclass(frozen=True, slots=True)
class Ended:
    """A stage's work that is done already, as its coroutine has ended. `result` answers or raises, once."""

    started: float
    result: Callable[[], str]


def work_and_settle(
    context: EngineContext, claim: Claim, ended: Ended | None = None
) -> Claim | None:
    """Do what is claimed, and record its end. The caller holds the identity it is claimed by.

    The claim's connection went back to the pool: a stage may take an hour. `ended`: the work is done. Returns the
    stage that was taken over with the commit, if one was.
    """
    run_id = claim.run.context.id
    stage = context.registry.stage(claim.name)
    started = context.monotonic() if ended is None else ended.started
    try:
        result = _work(context, stage, claim) if ended is None else ended.result()
        error = None
        forget_tokens(context, claim, stage)
    except AttemptLost:
        log.warning(
            "%s of run %s was taken from this worker",
            claim.key,
            run_id,
            extra=_extra("fenced", run_id, claim.key),
        )
        return None
    except RecordUnavailable as away:
        raise away.cause from None
    except PayloadMismatch as mismatch:
        if not _is_left_to_another(context, claim, mismatch):  # guard: old data goes to old code
            _park(context, claim, mismatch)
        return None
    except FAILURES as raised:  # whatever a stage raises is its outcome
        result, error = None, raised
    elapsed = context.monotonic() - started
    failure = None if error is None else _Failure(context, claim, stage, error, elapsed)
    settle = partial(_settle, context, claim, result=result, failure=failure, elapsed=elapsed)
    try:
        taken = once_more_if_cut(settle)  # guard: a cut connection loses no result
        if failure is not None:
            failure.log_if_dropped()
        return taken
    finally:
        del error, failure, settle  # its traceback leads here


def _settle(
    context: EngineContext,
    claim: Claim,
    *,
    result: str | None,
    failure: _Failure | None,
    elapsed: float,
    is_refused: bool = False,
) -> Claim | None:
    """Record the end, or rest until a retry. Twice does no harm: the attempt's fence sees to it. An hour's work
    isn't lost by a dead connection.

    What Postgres refuses to keep is a failure, recorded at once: the work isn't done again. `is_refused`: it is
    that failure.
    """
    try:
        with context.asking() as connection:
            if failure is not None and failure.delay_seconds is not None:
                _rest_until_retry(context, connection, claim, failure, elapsed=elapsed)
                return None
            settlement = Settlement(
                key=claim.key,
                attempt=claim.attempt,
                name=claim.name,
                state=ActivityState.DONE if failure is None else ActivityState.FAILED,
                settled_at=claim.claimed_at + timedelta(seconds=elapsed),
                result=result,
                error=None if failure is None else failure.error,
                active_milliseconds=round(elapsed * 1000),
            )
            on_settled = _nothing if failure is None else failure.report
            if context.reports.hooks is not None:
                error = None if failure is None else failure.error
                on_settled = context.reports.hooks.settling(claim, error, then=on_settled)
            return settle_and_advance(
                context,
                connection,
                claim.run,
                settlement,
                is_counted=claim.is_counted,
                on_settled=on_settled,
            )
    except DataError as refusal:
        if is_refused:
            raise
        if failure is None:
            why = refused(f"what stage {claim.name} came to", refusal)
            failure = _Failure(context, claim, context.registry.stage(claim.name), why)
        else:
            failure.error = in_plain_characters(failure.error)
    try:
        return _settle(
            context, claim, result=None, failure=failure, elapsed=elapsed, is_refused=True
        )
    finally:
        del failure  # its traceback leads here


def _nothing() -> None:
    """Of an attempt that did not fail there is nothing to say."""


class _Failure:
    """What an attempt has raised: what is recorded of it, whether another follows, and to whom it is said."""

    def __init__(
        self,
        context: EngineContext,
        claim: Claim,
        stage: Stage[..., Any],
        raised: BaseException,
        elapsed: float = 0.0,
    ) -> None:
        self._context, self._claim = context, claim
        asked = (
            raised if type(raised) is RetryAsked else None
        )  # never asked of it: its attributes may raise
        if asked is not None:
            raised = asked.cause
        self._raised: BaseException | None = raised
        """Until it is said. The turn that settles it may live on, and the frames of its traceback with it."""
        now = claim.claimed_at + timedelta(seconds=elapsed)
        since = tried_since(_error_before(claim, stage.retry), claim.claimed_at)
        verdict = stage.retry.judge(
            claim.attempt - claim.attempts_before,
            raised,
            random=context.random(),
            now=now,
            tried_since=since,
            asked=asked,
        )
        self.delay_seconds = verdict.delay_seconds
        self.error = with_verdict(
            error_of_attempt(claim, stage, raised), stage.retry, verdict, since
        )

    def report(self) -> None:
        """Once it is recorded."""
        raised, self._raised = self._raised, None
        if raised is None:
            return
        claim = self._claim
        self._context.reports.attempt_failed(
            FailedAttempt(
                claim.run.context,
                ActivityKind.STAGE,
                claim.key,
                claim.name,
                claim.attempt,
                self.error,
                raised,
                self.delay_seconds,
            )
        )

    def log_if_dropped(self) -> None:
        """Another attempt has taken its place, or the run has ended: it is in no record, so it is in the log."""
        raised, self._raised = self._raised, None
        if raised is not None:
            claim = self._claim
            log.warning(
                "%s of run %s failed at attempt %s, which isn't recorded: it was handed out again, or the run"
                " has ended",
                claim.key,
                claim.run.context.id,
                claim.attempt,
                exc_info=presentable(raised),
                extra=_extra("fenced", claim.run.context.id, claim.key, claim.attempt),
            )


def _error_before(claim: Claim, retry: Retry) -> dict[str, Any] | None:
    """What the attempt before has failed by, where it matters. A claim of a further attempt has read its own line."""
    if claim.attempt == 1 or retry.give_up_after is None:
        return None
    return next((each.error for each in claim.run.journal if each.key == claim.key), None)


def _work(context: EngineContext, stage: Stage[..., Any], claim: Claim) -> str:
    """The stage's result as JSON text; raises what the stage raises."""
    standing, arguments = prepare(context, stage, claim)
    hooks = context.reports.hooks
    with context.calling(stage.name):
        if hooks is None:
            return _call(context, stage, claim, standing, arguments)
        work = partial(_call, context, stage, claim, standing, arguments)
        return hooks.around(info_of(claim), work)


def _call(
    context: EngineContext,
    stage: Stage[..., Any],
    claim: Claim,
    standing: StageContext,
    arguments: dict[str, Any],
) -> str:
    with working_on(standing), around("work"):
        value = flushing(standing.beats, lambda: context.call_stage(stage, claim, arguments))
    return encoded(stage, value)


def prepare(
    context: EngineContext, stage: Stage[..., Any], claim: Claim
) -> tuple[StageContext, dict[str, Any]]:
    """What the stage's code works on, and its arguments. Raises PayloadMismatch where they can't be read."""
    codec.check_declared(stage.result_type, what=f"result of stage {stage.name}")
    what = f"argument of stage {stage.name}"
    tokens = TokensOfStage(context, claim.run.context.id, key_at_first(claim.key), stage)
    with handing_over(tokens):
        arguments = {
            name: codec.decode_recorded(
                value, stage.parameters.get(name, Any), what=f"{what}: {name}"
            )
            for name, value in claim.input.items()
        }
    run, steps = claim.run.context, StepsOfStage(context, claim)
    beats = BeatsOfStage(context, claim, stage)
    standing = StageContext(run.id, claim.key, claim.attempt, steps, stage.is_asynchronous, beats)
    return standing, arguments


def encoded(stage: Stage[..., Any], value: Any) -> str:
    """A stage's result as JSON text. Raises PayloadError."""
    return codec.encode(value, stage.result_type, what=f"result of stage {stage.name}")


def _is_left_to_another(context: EngineContext, claim: Claim, mismatch: PayloadMismatch) -> bool:
    """Whether a living worker has the code that the run stands on, where this one hasn't: then it does the stage.

    Whoever has that code parks what it can't read, so nothing goes round.
    """
    if context.elsewhere is None:
        return False
    run = claim.run.context
    handoff = Handoff(
        run.id, claim.key, claim.attempt, claim.name, context.registry.stage(claim.name).queue
    )
    needs = (
        capabilities.turn_of(run.process, run.version, run.code_revision),
        capabilities.stage_of(claim.name),
    )
    with context.connection() as connection:
        if _has_code_of(context, connection, claim) or not context.elsewhere.has(
            connection, handoff, needs
        ):
            return False
        attempt = capabilities.give_back_attempt_if_claimed(
            connection,
            run.id,
            claim.key,
            claim.attempt,
            why=f"a worker with other code of {run.process} can't read it: {mismatch}",
            actor=context.identity.name,
            relay_after=context.settings.relay_after_seconds,
        )
        if attempt is not None:
            context.elsewhere.send_on(connection, replace(handoff, attempt=attempt), needs)
    log.warning(
        "%s of run %s is left to a worker that has the code of %s version %s: %s",
        claim.key,
        run.id,
        run.process,
        run.version,
        mismatch,
        extra=_extra("leave", run.id, claim.key, claim.attempt),
    )
    return True


def _has_code_of(context: EngineContext, connection: AnyConnection, claim: Claim) -> bool:
    run = claim.run.context
    try:
        context.definitions.find(connection, run.process, run.version, run.code_revision)
    except PerennialError:
        return False
    return True


def _park(context: EngineContext, claim: Claim, mismatch: PayloadMismatch) -> None:
    """The stage's arguments, or a step of an earlier attempt: done work, which another release can read."""
    run_id = claim.run.context.id
    with context.transaction() as connection:
        locked = workers.lock_lost_attempt(connection, run_id, claim.key, claim.attempt)
        if locked is None:
            return  # it was handed out again
        park_attempt(
            connection,
            run_id,
            claim.key,
            claim.attempt,
            name=claim.name,
            from_status=locked.status,
            error=error_of(mismatch),
            actor=context.identity.name,
        )
    run = claim.run.context
    error = error_of(mismatch)
    context.messenger.announce(
        RunNotice(
            run.id, run.process, RunStatus.INCIDENT, run.business_key, run.created_at, error=error
        )
    )
    context.reports.run_ended(
        RunReport(
            run.id,
            run.business_key,
            run.process,
            run.version,
            RunStatus.INCIDENT,
            error,
            mismatch,
        )
    )


def _rest_until_retry(
    context: EngineContext,
    connection: AnyConnection,
    claim: Claim,
    failure: _Failure,
    *,
    elapsed: float,
) -> None:
    assert failure.delay_seconds is not None  # noqa: S101 - another attempt follows
    is_ours, armed = retry_attempt_if_claimed(
        connection,
        claim.run.context.id,
        claim.key,
        claim.attempt,
        error=failure.error,
        delay_seconds=failure.delay_seconds,
        actor=context.identity.name,
        active_milliseconds=round(elapsed * 1000),
        queue=claim.run.queue,
        horizon_seconds=context.settings.horizon_seconds,
    )
    if is_ours and armed is not None:
        context.messenger.arm([armed])
    if is_ours:
        run = claim.run.context
        resting = Resting(claim.key, claim.attempt + 1, failure.delay_seconds, failure.error)
        context.messenger.announce(
            RunNotice(
                run.id,
                run.process,
                RunStatus.RUNNING,
                run.business_key,
                run.created_at,
                resting=resting,
            )
        )
        failure.report()


def _extra(action: str, run_id: UUID, stage: str, attempt: int | None = None) -> dict[str, object]:
    return {"action": action, "run_id": str(run_id), "stage": stage, "attempt": attempt}
