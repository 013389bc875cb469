"""How a worker goes on from what a message asks for: the one seam between the main path and speed.

`ByMessage` is the rule, and all that is needed: a message is one turn, or one attempt of a stage, and what follows
is handed off. `fleet.eager` goes on at once where that is allowed; without it, or with
`PERENNIAL_EAGER_SECONDS=0`, nothing else changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from celery import Celery

from orchestrator.engine.async_stages import Settling, one_by_one
from orchestrator.engine.context import EngineContext, NoKeptFlows, UntimedCalls
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.fleet.routes import Routes
from orchestrator.settings import Settings


class Worker(Protocol):
    """What a way needs to know of the process that goes it."""

    app: Celery
    routes: Routes
    pool_keeps_limits: bool

    @property
    def way(self) -> Way:
        """How it goes on."""

    @property
    def settings(self) -> Settings:
        """The settings."""

    @property
    def context(self) -> EngineContext:
        """The engine of this process."""

    def is_heard(self) -> bool:
        """Whether anybody hears events."""

    def send_event(self, event: str, **fields: Any) -> None:
        """Send an event, if anybody hears it."""


class Way(Protocol):
    """What the tasks of `fleet.install` do. `batch_max`: so many turns that are asked for share a message."""

    batch_max: int
    call_durations: UntimedCalls
    kept_flows: NoKeptFlows

    def advance(self, run_ids: Sequence[UUID]) -> None:
        """Take the turns that a message asks for."""

    def run_stage(self, run_id: str, key: str, attempt: int) -> None:
        """Do the attempt that a message asks for."""

    def came_by_message(self) -> bool:
        """Whether a message brought the task at work."""

    def settle_together(self, context: EngineContext, settlings: Sequence[Settling]) -> None:
        """Settle `async def` stages that have ended."""


class ByMessage:
    """Each turn and each attempt is a message's."""

    batch_max = 1

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.call_durations = UntimedCalls()
        self.kept_flows = NoKeptFlows()

    def advance(self, run_ids: Sequence[UUID]) -> None:
        """One after the other."""
        context = self._worker.context
        for run_id in run_ids:
            with context.identity.lease():
                advance(context, run_id)

    def run_stage(self, run_id: str, key: str, attempt: int) -> None:
        """Do it, and take the turn that follows."""
        run_stage(self._worker.context, UUID(run_id), key, attempt)

    def came_by_message(self) -> bool:
        """All tasks do."""
        return True

    def settle_together(self, context: EngineContext, settlings: Sequence[Settling]) -> None:
        """One after the other."""
        one_by_one(context, settlings)
