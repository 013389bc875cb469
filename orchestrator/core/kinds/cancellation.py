"""The end of a run from outside that lets its clean-up run: that it was asked for, and how long the clean-up may take.

Both are made by whoever cancels the run, or by its expiry, and no flow asks for them. The first is a fact as any other:
the flow comes to it in its place. The second stands beside it where what was done is to be undone; when its time is
over, the flow's own code is let go. (docs/adr/0057)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds.base import (
    Ask,
    AwaitedRow,
    DeadlineRow,
    NewActivity,
    Request,
    TimerRule,
)

CANCELLATION = ActivityKind("cancellation")
CLEAN_UP = ActivityKind("clean-up")

CANCELLATION_KEY = "cancel#"
CLEAN_UP_KEY = "cancel#clean-up"
"""Ones that nothing else can have."""


@dataclass(frozen=True, slots=True)
class Cancellation(Ask):
    """The mark. Nothing makes one here: it is in the statement that asks for it."""

    kind: ClassVar = CANCELLATION

    def compared(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def open(self, request: Request) -> NewActivity:
        """Done already."""
        return NewActivity(request, ActivityState.DONE)

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Nobody: it waits for nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class CleanUpTime(Ask):
    """How long the flow's own clean-up may take, before what was done is undone."""

    kind: ClassVar = CLEAN_UP
    bounds_others: ClassVar = True
    timers: ClassVar = (
        TimerRule("clean-up", "clean-up timed out", leads_to=ActivityState.TIMED_OUT),
    )

    def compared(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def open(self, request: Request) -> NewActivity:
        """As it stands in the record."""
        return NewActivity(request, ActivityState.PENDING)

    @classmethod
    def in_words(cls, _name: str) -> str:
        """What it bounds."""
        return "the flow's clean-up"

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Time."""
        return ("nobody: it bounds what the flow still does",)

    @classmethod
    def what_happens(cls, _row: AwaitedRow, _deadline: DeadlineRow) -> str:
        """At its end."""
        return "the flow's own code is let go, and what was done is undone"
