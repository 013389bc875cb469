"""A peek: whether a signal was there when the flow asked (`Flow.peek`). It is done as it is made.

It is recorded, since the buffer is not what it was then: a wait has taken a signal since, or has set one aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds.base import Ask, AwaitedRow, NewActivity, Request


@dataclass(frozen=True, slots=True)
class Peek(Ask):
    """What was found, at a moment that the flow has seen."""

    found: bool
    at: datetime

    kind: ClassVar = ActivityKind("peek")
    opened_event: ClassVar = "looked for signal"

    def compared(self) -> dict[str, Any]:
        """Nothing but its name: what was found is its result."""
        return {}

    def key_of(self, name: str) -> str:
        """Not the one of a wait for that signal."""
        return f"{name}-peek"

    def open(self, request: Request) -> NewActivity:
        """Done already."""
        result = "true" if self.found else "false"
        return NewActivity(request, ActivityState.DONE, result=result, settled_at=self.at)

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Nobody: it waits for nothing."""
        return ()
