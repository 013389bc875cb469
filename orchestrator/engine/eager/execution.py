"""Eager execution: a worker that has just committed does the stage that it opened, without a message, for a moment.

    advance_eagerly, run_stage_eagerly   the engine's verbs, and whatever stages follow at once

The commit that opens a stage claims it for this worker, instead of asking for it by a handoff: the record
looks as if a message had come and been claimed, and a worker that dies is found by its silence, as ever. The
message stays the rule; this is for short stages, whose messages would cost more than their work. The
fleet says which stages, for how long, and how each becomes a task of its own. (docs/adr/0012)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from orchestrator.core.kinds.base import NewActivity
from orchestrator.engine.context import EngineContext
from orchestrator.engine.stage import claim_stage, work_and_settle
from orchestrator.engine.turn import advance
from orchestrator.store.transitions.claim import Claim


class EagerExecution(Protocol):
    """How long a worker goes on, and as what."""

    def may_take(self, stage: NewActivity) -> bool:
        """Whether this worker may go on with that stage now."""

    def perform(self, claim: Claim, work: Callable[[], Claim | None]) -> Claim | None:
        """Call `work`, which does the claimed stage, as a task of its own; None if that task failed."""


def advance_eagerly(context: EngineContext, run_id: UUID, execution: EagerExecution) -> None:
    """`advance`, and the stages that follow at once."""
    context = context.going_on(execution.may_take)
    with context.identity.lease():
        _go_on(context, advance(context, run_id), execution)


def run_stage_eagerly(
    context: EngineContext, run_id: UUID, key: str, attempt: int, execution: EagerExecution
) -> None:
    """`run_stage`, and the stages that follow at once."""
    context = context.going_on(execution.may_take)
    with context.identity.lease() as worker_id:
        claim = claim_stage(context, run_id, key, attempt, worker_id=worker_id)
        if claim is not None:
            _go_on(context, work_and_settle(context, claim), execution)


def _go_on(context: EngineContext, taken: Claim | None, execution: EagerExecution) -> None:
    while (claim := taken) is not None:

        def work(claim: Claim = claim) -> Claim | None:
            # Its failure ends in its own task, so it has to fall silent here.
            with context.identity.lease():  # guard: each eager stage is held
                return work_and_settle(context, claim)

        taken = execution.perform(claim, work)
