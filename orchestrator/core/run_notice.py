"""How a run stands, for those who watch the fleet: what it waits for, who can act, until when.

Made at every turn that leaves a run waiting, and put into words only where somebody hears them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from orchestrator.core.kinds.base import NewActivity, NewTimer
from orchestrator.core.outcome import RunContext, TurnOutcome
from orchestrator.core.run import RunStatus

PEOPLE_MAX = 10
"""So many of those who can act are named."""


@dataclass(frozen=True, slots=True)
class Resting:
    """An attempt that failed, and the one that follows: its number and when."""

    key: str
    attempt: int
    delay_seconds: float
    error: dict[str, Any]


@dataclass(frozen=True, slots=True)
class OpenApproval:
    """An open approval: who can act, and its deadline."""

    name: str
    assignees: tuple[str, ...]
    deadline: datetime | None


@dataclass(frozen=True, slots=True)
class RunNotice:
    """A run as a row for people. `opened`: by the turn that tells it; `asked`: as read from the record."""

    run_id: UUID
    process: str
    status: RunStatus
    business_key: str | None = None
    created_at: datetime | None = None
    waiting_for: str | None = None
    error: dict[str, Any] | None = None
    opened: tuple[NewActivity, ...] = ()
    asked: tuple[OpenApproval, ...] = ()
    deadline: datetime | None = None
    resting: Resting | None = None
    status_text: str = ""

    def words(self, now: datetime) -> str:
        """`waits for approval boss: ann, bob can act, until 2026-12-01 12:00 UTC`."""
        if self.resting is not None:
            at = _stamp(now + timedelta(seconds=self.resting.delay_seconds))
            return f"{self.resting.key} rests until attempt {self.resting.attempt}, at {at}"
        if self.status is RunStatus.PAUSED:
            return "paused: an operator resumes it"
        if self.status is RunStatus.INCIDENT:
            return "an operator can act: mend the cause, then resume"
        if self.waiting_for is None or self.status.is_closed:
            return ""
        told = f"waits for {self.waiting_for}"
        people, until = self._who(now)
        if people:
            told += f": {people}"
        if until:
            told += f", {until}"
        return f"{self.status_text}; {told}" if self.status_text else told

    def whose_turn(self, now: datetime) -> str:
        """`ann, bob can act, until 2026-12-01 12:00 UTC`: what is cut off last in a narrow list. Else the words."""
        if self.resting is not None or self.status is not RunStatus.WAITING:
            return self.words(now)
        return ", ".join(each for each in self._who(now) if each) or self.words(now)

    def _who(self, now: datetime) -> tuple[str, str]:
        """Who can act, and until when; either may be empty."""
        asked = self.asked or tuple(_asked_in(self.opened, now))
        people = list(dict.fromkeys(person for each in asked for person in each.assignees))
        more = f" and {len(people) - PEOPLE_MAX} more" if len(people) > PEOPLE_MAX else ""
        deadlines = [each.deadline for each in asked if each.deadline is not None]
        deadline = min(deadlines, default=None) or self.deadline or _first_of(self.opened, now)
        return (
            f"{', '.join(people[:PEOPLE_MAX])}{more} can act" if people else "",
            "" if deadline is None else f"until {_stamp(deadline)}",
        )


def notice_of_turn(run: RunContext, outcome: TurnOutcome) -> RunNotice:
    """As a turn has left it."""
    return RunNotice(
        run.id,
        run.process,
        outcome.status,
        run.business_key,
        run.created_at,
        outcome.waiting_for,
        outcome.error,
        outcome.opened,
        status_text=(outcome.said and outcome.said.status_text) or "",
    )


def _asked_in(opened: tuple[NewActivity, ...], now: datetime) -> list[OpenApproval]:
    return [
        OpenApproval(
            each.request.name,
            each.approval.assignees,
            None
            if each.approval.timeout_seconds is None
            else now + timedelta(seconds=each.approval.timeout_seconds),
        )
        for each in opened
        if each.approval is not None
    ]


def _first_of(opened: tuple[NewActivity, ...], now: datetime) -> datetime | None:
    """Of the waits that this turn has opened, the first that time ends."""
    ends = [
        _end_of(timer, now)
        for each in opened
        if not each.request.ask.is_handed_off
        for timer in each.timers
        if any(rule.timer == timer.kind and rule.ends_wait for rule in each.request.ask.timers)
    ]
    return min((end for end in ends if end is not None), default=None)


def _end_of(timer: NewTimer, now: datetime) -> datetime | None:
    if timer.at is not None:
        return timer.at
    try:
        return now + timedelta(seconds=timer.delay_seconds or 0.0)
    except OverflowError:
        return None


def _stamp(at: datetime) -> str:
    try:
        return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError):
        return str(at)
