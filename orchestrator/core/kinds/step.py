"""An inline step: a short call in the turn itself, recorded before the flow goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.core.annotations import result_type_of
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds.base import Ask, NewActivity, Request, TimerRule
from orchestrator.core.retries import Retry


@dataclass(slots=True)
class StepCall(Ask):
    """A call made inline. Whoever performs it records it, so it is never opened."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retry: Retry
    compensation: Any = None
    """What undoes it (`core.undoing.Compensation`), if anything does."""

    kind: ClassVar = ActivityKind.STEP
    is_work: ClassVar = True
    is_inline: ClassVar = True
    timers: ClassVar = (TimerRule("retry", leads_to=ActivityState.PENDING),)

    def compared(self) -> dict[str, Any]:
        """Its arguments, those without a name by their place."""
        by_place = {str(place): each for place, each in enumerate(self.args, 1)}
        return {**by_place, **self.kwargs} if self.kwargs else by_place

    def open(self, request: Request) -> NewActivity:
        """Never: whoever performs it records it."""
        raise AssertionError(f"step {request.key} is recorded by whoever performs it")

    @property
    def result_type(self) -> Any:
        """As the function declares it."""
        return result_type_of(self.function)
