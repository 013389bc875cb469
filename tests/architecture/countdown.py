"""A countdown that people can push back: a kind of awaitable in one module, and one registration.

    remaining = await count_down(flow, "launch", hours(1))

It reaches zero by its timer; a push gives it more time, and is a fact of its own in the journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator import Flow, Registry
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds import Ask, NewActivity, NewTimer, Request, SoFar, TimerRule, register


@dataclass(frozen=True, slots=True)
class Push:
    """What people answer: so much time from now on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Countdown(Ask):
    """To zero, in so many seconds from its recording."""

    seconds: float

    kind: ClassVar = ActivityKind("countdown")
    opened_event: ClassVar = "countdown began"
    answered_event: ClassVar = "countdown pushed back"
    timers: ClassVar = (TimerRule("zero", "countdown reached zero"),)

    def compared(self) -> dict[str, Any]:
        """How long it is."""
        return {"seconds": self.seconds}

    @property
    def result_type(self) -> Any:
        """A push, or none at zero."""
        return Push | None

    def open(self, request: Request) -> NewActivity:
        """With its one timer."""
        timer = NewTimer("zero", self.seconds)
        return NewActivity(request, ActivityState.PENDING, timers=(timer,))

    @classmethod
    def entries_in(cls, _registry: Registry) -> Mapping[str, Any]:
        """Countdowns that YAML may name, by their seconds."""
        return NAMED

    @classmethod
    def of_entry(cls, entry: float, _so_far: SoFar) -> Countdown:
        """Of so many seconds."""
        return cls(entry)

    @classmethod
    def who(cls, _row: Any) -> tuple[str, ...]:
        """Time, and whoever gives it more."""
        return ("time, or whoever pushes it back",)

    @classmethod
    def what_happens(cls, _row: Any, _deadline: Any) -> str:
        """At its timer."""
        return "reaches zero"


NAMED: dict[str, float] = {}
"""Seconds, by the name that YAML may use."""

register(Countdown)


async def count_down(flow: Flow, name: str, seconds: float) -> int:
    """Wait for zero; answers how often it was pushed back."""
    pushes = 0
    while (push := await flow.ask(Countdown(seconds), name)) is not None:
        pushes, seconds = pushes + 1, push.seconds
    return pushes
