"""Workers that go on at once, without Celery: what `fleet.eager` is to a fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from math import inf
from uuid import UUID

from orchestrator.core.kinds.base import NewActivity
from orchestrator.engine.context import EngineContext
from orchestrator.engine.eager.batch import STATEMENT_RUNS_MAX, BatchedExecution, RunBatch
from orchestrator.engine.eager.call_durations import CallDurations
from orchestrator.engine.eager.execution import EagerExecution, advance_eagerly, run_stage_eagerly
from orchestrator.engine.eager.kept_flows import KeptFlows
from orchestrator.store.parts import ADVANCE
from orchestrator.store.transitions.claim import Claim
from orchestrator.store.transitions.outbox import Handoff

__all__ = ["KeptFlows"]


class GoesOn:
    """A worker that goes on with whatever it has opened."""

    def may_take(self, _stage: NewActivity) -> bool:
        return True

    def perform(self, _claim: Claim, work: Callable[[], Claim | None]) -> Claim | None:
        return work()


class AlwaysShort(CallDurations):
    """Of calls that others may always wait for."""

    def is_short(self, name: str) -> bool:
        return True


def do(message: Handoff, context: EngineContext) -> None:
    """What a worker does with it that goes on with whatever follows."""
    if message.task == ADVANCE:
        advance_eagerly(context, message.run_id, GoesOn())
    else:
        run_stage_eagerly(context, message.run_id, message.key, message.attempt, GoesOn())


def go_in_a_batch(
    context: EngineContext,
    run_ids: Iterable[UUID],
    execution: Callable[[UUID], EagerExecution],
    enough: int = STATEMENT_RUNS_MAX,
) -> None:
    """As `advance_batch`, of however many: a scenario's only run is in a batch too."""
    context = replace(context, call_durations=AlwaysShort())
    batch = RunBatch(context, until=inf, enough=enough)
    among = context.in_batch(batch)
    batch.go(
        [
            partial(advance_eagerly, among, run_id, BatchedExecution(execution(run_id), batch))
            for run_id in dict.fromkeys(run_ids)
        ]
    )
