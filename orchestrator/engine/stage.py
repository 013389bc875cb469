"""A stage on a worker: claim the attempt, do the work, settle it, take the turn that follows.

run_stage: claim → work → settle and advance, or rest until the retry timer
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core import codec
from orchestrator.core.definition import Stage, name_of, result_type_of
from orchestrator.core.journal import ActivityState
from orchestrator.core.steps import StageContext, working_on, working_on_step
from orchestrator.engine.context import EngineContext, once_more_if_cut
from orchestrator.engine.turn import error_of, settle_and_advance
from orchestrator.store import activities, outbox
from orchestrator.store.activities import Claim
from orchestrator.store.turns import Settlement

log = logging.getLogger(__name__)


class AttemptLost(BaseException):
    """This attempt was handed out again while it ran: stop, write nothing. Not for stages to catch."""


def run_stage(context: EngineContext, run_id: UUID, key: str, attempt: int) -> None:
    """Do one attempt of a stage. A message that comes twice, late or for nothing does no harm."""
    with context.identity.holding() as worker_id:
        with context.connection() as connection:
            claim = activities.claim_activity_if_pending(
                connection, run_id, key, attempt, worker_id=worker_id
            )
            if claim is None:
                outbox.forget_handoff_if_stale(connection, run_id, key, attempt)
                log.debug("%s of run %s, attempt %s, is not to be done now", key, run_id, attempt)
                return
        _work_and_settle(context, claim)


def _work_and_settle(context: EngineContext, claim: Claim) -> None:
    """The claim's connection went back to the pool: a stage may take an hour."""
    run_id = claim.run.context.id
    stage = context.registry.stage(claim.name)
    started = context.stopwatch()
    try:
        result = _work(context, stage, claim)
        error = None
    except AttemptLost:
        log.warning(
            "%s of run %s was taken from this worker",
            claim.key,
            run_id,
            extra=_extra("fenced", run_id, claim.key),
        )
        return
    except Exception as raised:  # noqa: BLE001 - whatever a stage raises is its outcome
        result, error = None, raised
    elapsed = context.stopwatch() - started
    once_more_if_cut(lambda: _settle(context, claim, stage, result, error, elapsed=elapsed))


def _settle(
    context: EngineContext,
    claim: Claim,
    stage: Stage[..., Any],
    result: str | None,
    error: Exception | None,
    *,
    elapsed: float,
) -> None:
    """Twice does no harm: the attempt's fence sees to it. An hour's work isn't lost by a dead connection."""
    with context.connection() as connection:
        if error is not None and stage.retry.allows_another(claim.attempt, error):
            _rest_until_retry(context, connection, claim, stage, error=error, elapsed=elapsed)
            return
        settlement = Settlement(
            key=claim.key,
            attempt=claim.attempt,
            name=claim.name,
            state=ActivityState.DONE if error is None else ActivityState.FAILED,
            settled_at=claim.claimed_at + timedelta(seconds=elapsed),
            result=result,
            error=None if error is None else error_of(error),
            active_milliseconds=round(elapsed * 1000),
        )
        settle_and_advance(context, connection, claim.run, settlement)


def _work(context: EngineContext, stage: Stage[..., Any], claim: Claim) -> str:
    """The stage's result as JSON text; raises what the stage raises."""
    what = f"argument of stage {stage.name}"
    arguments = {
        name: codec.decode(value, stage.parameters.get(name, Any), what=f"{what}: {name}")
        for name, value in claim.input.items()
    }
    steps = _Steps(context, claim)
    with working_on(StageContext(claim.run.context.id, claim.key, claim.attempt, steps)):
        value = stage(**arguments)
    return codec.encode(value, stage.result_type, what=f"result of stage {stage.name}")


@dataclass
class _Steps:
    """`step` inside a stage: the result from the journal, or a call that is recorded before it returns."""

    context: EngineContext
    claim: Claim
    names: Counter[str] = field(default_factory=Counter)
    ordinal: int = 0

    def __call__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The step's result, done once in the life of the activity."""
        name = name_of(function)
        self.names[name] += 1
        self.ordinal += 1
        count = self.names[name]
        key = f"{self.claim.key}/{name}" + (f"#{count}" if count > 1 else "")
        declared, what = result_type_of(function), f"result of step {key}"
        if key in self.claim.steps:
            return codec.decode(self.claim.steps[key], declared, what=what)
        run_id = self.claim.run.context.id
        with working_on_step(f"{run_id}/{key}"):
            value = function(*args, **kwargs)
        with self.context.connection() as connection:
            is_ours = activities.remember_step_if_claimed(
                connection,
                run_id,
                parent_key=self.claim.key,
                parent_attempt=self.claim.attempt,
                key=key,
                ordinal=self.ordinal,
                name=name,
                result=codec.encode(value, declared, what=what),
            )
        if not is_ours:
            raise AttemptLost(key)
        return value


def _rest_until_retry(
    context: EngineContext,
    connection: Connection,
    claim: Claim,
    stage: Stage[..., Any],
    *,
    error: Exception,
    elapsed: float,
) -> None:
    delay = stage.retry.delay_before_next(claim.attempt, chance=context.chance())
    is_ours, armed = activities.retry_attempt_if_claimed(
        connection,
        claim.run.context.id,
        claim.key,
        claim.attempt,
        error=error_of(error),
        delay_seconds=delay,
        actor=context.identity.name,
        active_milliseconds=round(elapsed * 1000),
        queue=claim.run.queue,
        horizon_seconds=context.settings.horizon_seconds,
    )
    if is_ours and armed is not None:
        context.messenger.arm([armed])
    log.info(
        "%s of run %s failed at attempt %s (%s); the next in %.1f s",
        claim.key,
        claim.run.context.id,
        claim.attempt,
        type(error).__name__,
        delay,
        extra=_extra("retry", claim.run.context.id, claim.key, claim.attempt),
    )


def _extra(action: str, run_id: UUID, stage: str, attempt: int | None = None) -> dict[str, object]:
    return {"action": action, "run_id": str(run_id), "stage": stage, "attempt": attempt}
