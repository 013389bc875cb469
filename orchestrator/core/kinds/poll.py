"""A poll: the pause before its next check (`Flow.poll`). A check is a stage or a step; between two there is a timer."""

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
class PollPause(Ask):
    """For `delay_seconds`, and not beyond `until`, after that many checks."""

    delay_seconds: float
    until: datetime | None
    checks: int

    kind: ClassVar = ActivityKind("poll")
    opened_event: ClassVar = "polls again later"
    timers: ClassVar = (TimerRule("poll", "poll is due"),)
    timed_by: ClassVar = frozenset({"delay", "until"})

    def compared(self) -> dict[str, Any]:
        """Its end."""
        return {"until": self.until} if self.until is not None else {"delay": self.delay_seconds}

    def key_of(self, name: str) -> str:
        """Not the one of a check."""
        return f"{name}-pause"

    def open(self, request: Request) -> NewActivity:
        """With its one timer."""
        at = self.until
        timer = NewTimer("poll", None if at is not None else self.delay_seconds, at)
        policy = {"checks": self.checks}
        return NewActivity(request, ActivityState.PENDING, policy=policy, timers=(timer,))

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Time."""
        return ("nobody: its next check comes by itself",)

    @classmethod
    def what_happens(cls, row: AwaitedRow, _deadline: DeadlineRow) -> str:
        """At its end."""
        checks = (row.policy or {}).get("checks")
        return "is checked again" if checks is None else f"is checked again, after {checks} so far"
