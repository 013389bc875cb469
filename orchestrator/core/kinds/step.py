"""An inline step: a short call in the turn itself, recorded before the flow goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.core.annotations import result_type_of
from orchestrator.core.error_attributes import check_attributes
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds.base import Ask, NewActivity, Request, TimerRule
from orchestrator.core.retries import Retry
from orchestrator.errors import DefinitionError


@dataclass(slots=True)
class StepCall(Ask):
    """A call made inline. Whoever performs it records it, so it is never opened."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retry: Retry
    at_most_once: bool = False
    """Its start is recorded before it is called; where that is all there is, it is not called again."""
    error_attributes: tuple[str, ...] = ()
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


def checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """What `flow.step` was given for its StepCall, beside the function and its arguments. Raises DefinitionError."""
    retry = options.get("retry", Retry())
    if not isinstance(retry, Retry):
        raise DefinitionError(
            f"flow.step is given retry={retry!r}", remedy="Give a Retry(max_attempts=…)."
        )
    at_most_once = options.get("at_most_once", False)
    if not isinstance(at_most_once, bool):
        raise DefinitionError(
            f"flow.step is given at_most_once={at_most_once!r}", remedy="Give True or False."
        )
    if at_most_once and "retry" in options:
        raise DefinitionError(
            "flow.step is given at_most_once=True and a retry",
            remedy="Leave out one of the two: what is called at most once is never tried again.",
        )
    attributes = check_attributes(options.get("error_attributes", ()), where="flow.step")
    return {
        "retry": Retry(max_attempts=1) if at_most_once else retry,
        "at_most_once": at_most_once,
        "error_attributes": attributes,
    }
