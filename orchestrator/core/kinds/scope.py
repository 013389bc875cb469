"""A scope whose result is recorded (`Flow.scope`): its end is a fact, and what stands in it isn't replayed any more.

It is never opened: what it waits for is what stands in it. Recorded when its function has returned; the turn that
follows goes on from there, as after an inline step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from orchestrator.core import codec
from orchestrator.core.annotations import result_type_of
from orchestrator.core.journal import SCOPE, ActivityState
from orchestrator.core.kinds.base import Ask, AwaitedRow, NewActivity, Request


@dataclass(slots=True)
class ScopeCall(Ask):
    """A call of a function of the flow's own, and what it is given."""

    function: Callable[..., Any] = field(compare=False)
    args: tuple[Any, ...] = field(compare=False)
    """The flow itself may be one of them, and is another object at each replay; `Request.asked` is what is compared."""

    kind: ClassVar = SCOPE
    opened_event: ClassVar = "scope completed"
    is_inline: ClassVar = True
    is_performed: ClassVar = False

    def compared(self) -> dict[str, Any]:
        """Its arguments, by their place."""
        return {str(place): each for place, each in enumerate(self.args, 1)}

    @property
    def result_type(self) -> Any:
        """As the function declares it."""
        return result_type_of(self.function)

    def open(self, request: Request) -> NewActivity:
        """Never: it is recorded when it has ended."""
        raise AssertionError(f"scope {request.key} is recorded when it has ended")

    def ended(self, request: Request, value: Any, at: datetime) -> NewActivity:
        """Its end, at a moment that it has seen. Raises PayloadError: the result can't be recorded."""
        result = codec.encode(value, self.result_type, what=f"result of scope {request.name}")
        return NewActivity(request, ActivityState.DONE, result=result, settled_at=at)

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Nobody: it is done as it is recorded."""
        return ()
