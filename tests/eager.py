"""Workers that go on at once, without Celery: what `fleet.eager` is to a fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from math import inf
from uuid import UUID

from orchestrator.core.kinds.base import NewActivity
from orchestrator.engine.context import EngineContext
from orchestrator.engine.eager.in_place import InPlace, advance_in_place, run_stage_in_place
from orchestrator.engine.eager.together import ASKED_TOGETHER_MAX, Crew, InPlaceTogether
from orchestrator.engine.pace import Pace
from orchestrator.store.activities import Claim
from orchestrator.store.outbox import Handoff
from orchestrator.store.parts import ADVANCE


class GoesOn:
    """A worker that goes on with whatever it has opened."""

    def may_take(self, _stage: NewActivity) -> bool:
        return True

    def perform(self, _claim: Claim, work: Callable[[], Claim | None]) -> Claim | None:
        return work()


class AlwaysShort(Pace):
    """Of calls that others may always wait for."""

    def is_short(self, name: str) -> bool:
        return True


def do(message: Handoff, context: EngineContext) -> None:
    """What a worker does with it that goes on with whatever follows."""
    if message.task == ADVANCE:
        advance_in_place(context, message.run_id, GoesOn())
    else:
        run_stage_in_place(context, message.run_id, message.key, message.attempt, GoesOn())


def go_together(
    context: EngineContext,
    run_ids: Iterable[UUID],
    in_place: Callable[[UUID], InPlace],
    enough: int = ASKED_TOGETHER_MAX,
) -> None:
    """As `advance_together`, of however many: a scenario's only run is in a crew too."""
    context = replace(context, pace=AlwaysShort())
    crew = Crew(context, until=inf, enough=enough)
    among = context.among(crew)
    crew.go(
        [
            partial(advance_in_place, among, run_id, InPlaceTogether(in_place(run_id), crew))
            for run_id in dict.fromkeys(run_ids)
        ]
    )
