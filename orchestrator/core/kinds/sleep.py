"""A sleep: until a moment, or for a while."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds.base import (
    Ask,
    AwaitedRow,
    DeadlineRow,
    NewActivity,
    NewTimer,
    Request,
    TimerRule,
)


@dataclass(frozen=True, slots=True)
class Sleep(Ask):
    """Until `at`, or for `delay_seconds` from the moment it is recorded."""

    delay_seconds: float | None = None
    at: datetime | None = None

    kind: ClassVar = ActivityKind.SLEEP
    opened_event: ClassVar = "sleeps"
    timers: ClassVar = (TimerRule("sleep", "sleep ended"),)

    timed_by: ClassVar = frozenset({"until", "duration"})

    def compared(self) -> dict[str, Any]:
        """Its end."""
        return {"until": self.at} if self.at is not None else {"duration": self.delay_seconds}

    def open(self, request: Request) -> NewActivity:
        """With its one timer."""
        timer = NewTimer("sleep", self.delay_seconds, self.at)
        return NewActivity(request, ActivityState.PENDING, timers=(timer,))

    @classmethod
    def in_words(cls, name: str) -> str:
        """Its name is what it is."""
        return name

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Time."""
        return ("nobody: time alone",)

    @classmethod
    def what_happens(cls, _row: AwaitedRow, _deadline: DeadlineRow) -> str:
        """At its end."""
        return "goes on"
