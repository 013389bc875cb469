"""Approvals as pure policy: who is asked, who may decide, and when it is too late.

The store's row says what is; the functions here say what a decision on it means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from orchestrator.core.checks import check_words, composed, due_in
from orchestrator.errors import (
    AlreadyDecided,
    DecisionTooEarly,
    DecisionTooLate,
    DefinitionError,
    NotAssigned,
)


class Outcome(StrEnum):
    """How an approval ended."""

    APPROVED = "approved"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True)
class Decision:
    """What came of an approval; the answer to `await flow.approval(...)`.

    `by` and `at` are None when nobody decided in time; `reason` is the decider's comment. `at` is in UTC.
    """

    approval: str
    outcome: Outcome
    by: str | None = None
    reason: str = ""
    at: datetime | None = None
    escalated: bool = False

    def __post_init__(self) -> None:
        # The record has it in the time zone of whoever decided.
        if self.at is not None and self.at.utcoffset():
            object.__setattr__(self, "at", self.at.astimezone(UTC))

    @property
    def approved(self) -> bool:
        """True only when people said yes."""
        return self.outcome is Outcome.APPROVED

    @property
    def timed_out(self) -> bool:
        """True when nobody decided in time."""
        return self.outcome is Outcome.TIMED_OUT


@dataclass(frozen=True, slots=True)
class Escalation:
    """After `after_seconds` without a decision, these people may decide too."""

    after_seconds: float
    assignees: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """An approval as a flow asks for it. Built by `request_approval`, which checks it."""

    name: str
    assignees: tuple[str, ...]
    escalations: tuple[Escalation, ...] = ()
    timeout_seconds: float | None = None


def request_approval(
    name: str,
    *,
    assign: Sequence[str],
    escalate: Mapping[timedelta, Sequence[str]] | None = None,
    timeout: timedelta | None = None,
) -> ApprovalRequest:
    """Check and normalise what a flow asks. Raises DefinitionError."""
    where = f"approval {name!r}"
    if isinstance(assign, str):
        raise DefinitionError("assign is a list of people or groups, not one string", where=where)
    assignees = tuple(dict.fromkeys(composed(person) for person in assign))
    if not assignees:
        raise DefinitionError("needs at least one assignee", where=where)
    escalations = tuple(
        Escalation(
            due_in(after.total_seconds(), what=where), tuple(composed(person) for person in people)
        )
        for after, people in sorted((escalate or {}).items())
    )
    for person in (
        *assignees,
        *(one for escalation in escalations for one in escalation.assignees),
    ):
        check_words(person, what="an assignee", where=where)
    timeout_seconds = timeout.total_seconds() if timeout is not None else None
    if timeout_seconds is not None:
        timeout_seconds = due_in(timeout_seconds, what=where)
    if timeout_seconds == 0:
        escalations = ()  # it is over before anybody could be asked
    for escalation in escalations:
        if escalation.after_seconds > 0:  # else they are asked at once
            check_escalation(escalation.after_seconds, timeout_seconds, where=where)
    return ApprovalRequest(name, assignees, escalations, timeout_seconds)


def check_escalation(after_seconds: float, timeout_seconds: float | None, *, where: str) -> None:
    """An escalation must come after the start and before the timeout. Raises DefinitionError."""
    if after_seconds <= 0:
        raise DefinitionError("its escalation must come after a positive time", where=where)
    if timeout_seconds is not None and after_seconds >= timeout_seconds:
        raise DefinitionError(
            f"it escalates after {timedelta(seconds=after_seconds)} but times out after "
            f"{timedelta(seconds=timeout_seconds)}, so nobody would ever be asked",
            where=where,
            remedy="Escalate earlier or time out later.",
        )


@dataclass(frozen=True, slots=True)
class ApprovalState:
    """An approval's row as it was read. `state` is `open`, an Outcome, or `cancelled`."""

    name: str
    state: str
    assignees: tuple[str, ...]
    deadline: datetime | None
    decided_by: str | None
    decided_at: datetime | None


def check_decision(
    approval: ApprovalState | None, *, name: str, by: str, now: datetime, waits_for: str
) -> None:
    """Whether `by` may decide this approval now; returns if so.

    Raises DecisionTooEarly (no such approval is open yet), AlreadyDecided, DecisionTooLate or
    NotAssigned. The deadline is the truth even where its timer hasn't fired yet.
    """
    if approval is None:
        which = f"approval {name!r}" if name else "an approval"
        message = (
            f"{which} has not been asked for yet; the run waits for {waits_for or 'its next stage'}"
        )
        raise DecisionTooEarly(message)
    if approval.state in (Outcome.APPROVED, Outcome.REJECTED):
        message = (
            f"approval {approval.name!r} was {approval.state} by {approval.decided_by} "
            f"at {_stamp(approval.decided_at)}"
        )
        raise AlreadyDecided(
            message, by=approval.decided_by or "", outcome=approval.state, at=approval.decided_at
        )
    if approval.state != "open" or (approval.deadline is not None and now >= approval.deadline):
        ended = (
            "was cancelled"
            if approval.state == "cancelled"
            else f"timed out at {_stamp(approval.deadline)}"
        )
        message = f"approval {approval.name!r} {ended}; nobody had decided"
        raise DecisionTooLate(message, deadline=approval.deadline)
    if by not in approval.assignees:
        message = (
            f"{by} is not asked for approval {approval.name!r}; "
            f"{', '.join(approval.assignees)} can decide, and nobody has yet"
        )
        raise NotAssigned(message, assignees=approval.assignees)


def _stamp(at: datetime | None) -> str:
    return at.isoformat(timespec="seconds") if at else "an unknown time"
