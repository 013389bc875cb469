"""The deadline of a block of a flow (`Flow.timeout`): it bounds what the block awaits, and is not awaited itself."""

from __future__ import annotations

from dataclasses import dataclass
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
from orchestrator.errors import BlockTimedOut


@dataclass(frozen=True, slots=True)
class BlockDeadline(Ask):
    """`delay_seconds` from the moment it is recorded."""

    delay_seconds: float

    kind: ClassVar = ActivityKind("timeout")
    opened_event: ClassVar = "block entered"
    cancelled_event: ClassVar = "block left"
    bounds_others: ClassVar = True
    timers: ClassVar = (
        TimerRule("block-timeout", "block timed out", leads_to=ActivityState.TIMED_OUT),
    )
    timed_by: ClassVar = frozenset({"duration"})
    timed_out: ClassVar = BlockTimedOut

    def compared(self) -> dict[str, Any]:
        """Its length."""
        return {"duration": self.delay_seconds}

    def open(self, request: Request) -> NewActivity:
        """With its one timer."""
        timer = NewTimer("block-timeout", self.delay_seconds)
        return NewActivity(request, ActivityState.PENDING, timers=(timer,))

    @classmethod
    def in_words(cls, name: str) -> str:
        """Its name is what it is."""
        return name

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Time."""
        return ("nobody: it bounds what else is awaited",)

    @classmethod
    def what_happens(cls, _row: AwaitedRow, _deadline: DeadlineRow) -> str:
        """At its end."""
        return "what its block awaits is cancelled"
