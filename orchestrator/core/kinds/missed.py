"""Missed moments: the mark that a series has left some out (`Flow.every`). It is done as it is made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from orchestrator.core import codec
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds.base import Ask, AwaitedRow, NewActivity, Request


@dataclass(frozen=True, slots=True)
class MissedMoments(Ask):
    """How many, the first and the last of them; seen at a moment that the flow has seen."""

    count: int
    first: datetime
    last: datetime
    at: datetime

    kind: ClassVar = ActivityKind("missed")
    opened_event: ClassVar = "missed"

    def compared(self) -> dict[str, Any]:
        """Which they are."""
        return {"count": self.count, "first": self.first, "last": self.last}

    def key_of(self, name: str) -> str:
        """Not the one of a moment that is waited for."""
        return f"{name}-missed"

    def open(self, request: Request) -> NewActivity:
        """Done already."""
        result = codec.encode(
            self.opened_detail(), dict[str, Any], what=f"what {request.name} has missed"
        )
        return NewActivity(request, ActivityState.DONE, result=result, settled_at=self.at)

    def opened_detail(self) -> dict[str, Any]:
        """For history."""
        return {
            "moments": self.count,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
        }

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Nobody: it waits for nothing."""
        return ()
