"""A callback: an answer that was promised to a partner, who holds its token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from orchestrator.core.journal import Activity, ActivityKind, ActivityState
from orchestrator.core.kinds.base import (
    Answer,
    Ask,
    AwaitedRow,
    DeadlineRow,
    NewActivity,
    NewTimer,
    Request,
    RunNames,
    TimerRule,
)
from orchestrator.core.kinds.signal import TAKES_BYTES_MAX
from orchestrator.core.schemas import input_schema_of
from orchestrator.errors import CallbackFailed, CallbackTimedOut, HeartbeatTimedOut

CALLBACK = ActivityKind("callback")

HEARTBEAT = "callback-heartbeat"
"""The timer that a heartbeat puts off, by what the activity's policy says under the name `heartbeat_seconds`."""


@dataclass(frozen=True, slots=True)
class CallbackWait(Ask):
    """Until its token comes back with a result or a failure; at most for `timeout_seconds` or `until`, and with no more
    than `heartbeat_seconds` between two heartbeats.
    """

    timeout_seconds: float | None
    until: datetime | None
    heartbeat_seconds: float | None
    type: Any

    kind: ClassVar = CALLBACK
    opened_event: ClassVar = "callback promised"
    timed_out: ClassVar = CallbackTimedOut
    timers: ClassVar = (
        TimerRule("callback-timeout", "callback timed out", leads_to=ActivityState.TIMED_OUT),
        TimerRule(HEARTBEAT, "callback fell silent", leads_to=ActivityState.FAILED),
    )
    timed_by: ClassVar = frozenset({"timeout", "until", "heartbeat"})

    def compared(self) -> dict[str, Any]:
        """Its deadlines. Another type is another reading of the same answer."""
        end = {"timeout": self.timeout_seconds} if self.until is None else {"until": self.until}
        return {**end, "heartbeat": self.heartbeat_seconds}

    @property
    def result_type(self) -> Any:
        """As the wait declares it."""
        return self.type

    def open(self, request: Request) -> NewActivity:
        """With its deadlines, and what it takes."""
        timers = []
        if self.timeout_seconds is not None or self.until is not None:
            timers.append(NewTimer("callback-timeout", self.timeout_seconds, self.until))
        if self.heartbeat_seconds is not None:
            timers.append(NewTimer(HEARTBEAT, self.heartbeat_seconds))
        policy: dict[str, Any] = {"heartbeat_seconds": self.heartbeat_seconds}
        takes = input_schema_of(self.type)
        if takes.schema is not None and takes.size <= TAKES_BYTES_MAX:
            policy["takes"] = takes.schema
        return NewActivity(request, ActivityState.PENDING, policy=policy, timers=tuple(timers))

    def answer(self, request: Request, entry: Activity) -> Answer:
        """A failure that nobody has told is silence."""
        if entry.state is not ActivityState.FAILED:
            return Ask.answer(self, request, entry)
        if entry.error is None:
            return Answer(error=HeartbeatTimedOut(request.key, name=request.name))
        told = entry.error
        return Answer(
            error=CallbackFailed(
                request.key,
                error_type=str(told.get("type")),
                message=str(told.get("message")),
                attempts=1,
            )
        )

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Nobody is asked by name."""
        return ("whoever holds its token",)

    @classmethod
    def what_happens(cls, _row: AwaitedRow, deadline: DeadlineRow) -> str:
        """At a deadline that comes before its answer."""
        return (
            "is given up, unless a heartbeat comes" if deadline.kind == HEARTBEAT else "times out"
        )

    @classmethod
    def typed(cls, _names: RunNames, _key: str, _name: str, _who: tuple[str, ...]) -> str:
        """Complete it."""
        return "perennial complete-callback TOKEN '{...}'"
