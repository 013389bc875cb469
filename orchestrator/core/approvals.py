"""Approvals as pure policy: who is asked, who may decide, and when it is too late.

The store's row says what is; the functions here say what a decision on it means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from orchestrator.core.calendars import BusinessTime, Clock, due_after
from orchestrator.core.checks import check_words, composed
from orchestrator.core.durations import Duration
from orchestrator.errors import (
    AlreadyDecided,
    ApprovalChanged,
    DecisionRefused,
    DecisionTooEarly,
    DecisionTooLate,
    DefinitionError,
    NotAssigned,
)

Escalate = (
    Mapping[timedelta, Sequence[str]]
    | Mapping[int, Sequence[str]]
    | Mapping[float, Sequence[str]]
    | Mapping[BusinessTime, Sequence[str]]
    | Mapping[timedelta | BusinessTime, Sequence[str]]
)
"""After each duration, who may decide too. Several forms, since the keys of a Mapping are of one type exactly."""


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
    """After `after_seconds` without a decision, these people may decide too.

    Of working time: `at` that moment, and `said` is how it was asked.
    """

    after_seconds: float
    assignees: tuple[str, ...]
    at: datetime | None = None
    said: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """An approval as a flow asks for it. Built by `request_approval`, which checks it."""

    name: str
    assignees: tuple[str, ...]
    escalations: tuple[Escalation, ...] = ()
    timeout_seconds: float | None = None
    times_out_at: datetime | None = None
    """Where its timeout is working time; and `timeout_said` is how it was asked."""
    timeout_said: str = ""


def request_approval(
    name: str,
    *,
    assign: Sequence[str],
    escalate: Escalate | None = None,
    timeout: Duration | BusinessTime | None = None,
    clock: Clock | None = None,
) -> ApprovalRequest:
    """Check and normalise what a flow asks. `clock`: for durations of working time. Raises DefinitionError."""
    where = f"approval {name!r}"
    assignees = _people(assign, where=where)
    if not assignees:
        raise DefinitionError("needs at least one assignee", where=where)
    if escalate is not None and not isinstance(escalate, Mapping):
        raise DefinitionError(
            f"is given escalate={escalate!r}, a {type(escalate).__name__}",
            where=where,
            remedy="Give a mapping of durations to lists of people: {hours(24): ['bob']}.",
        )
    escalations = tuple(
        Escalation(due.seconds, _people(people, where=where), due.at, due.said)
        for due, people in sorted(
            (
                (due_after(after, clock, what=f"an escalation of {where}", where=where), people)
                for after, people in (escalate or {}).items()
            ),
            key=lambda each: each[0].seconds,
        )
    )
    for person in (
        *assignees,
        *(one for escalation in escalations for one in escalation.assignees),
    ):
        check_words(person, what="an assignee", where=where)
    ends = (
        None
        if timeout is None
        else due_after(timeout, clock, what=f"the timeout of {where}", where=where)
    )
    timeout_seconds = None if ends is None else ends.seconds
    if timeout_seconds == 0:
        escalations = ()  # it is over before anybody could be asked
    for after in escalate or {}:
        refuse_later_than(after, timeout, where=where)
    for escalation in escalations:
        # else they are asked at once; and working time is longer or shorter by when it is asked
        if escalation.after_seconds > 0 and not (escalation.said or (ends and ends.said)):
            check_escalation(escalation.after_seconds, timeout_seconds, where=where)
    return ApprovalRequest(
        name,
        assignees,
        escalations,
        timeout_seconds,
        None if ends is None else ends.at,
        "" if ends is None else ends.said,
    )


def _people(people: Sequence[str], *, where: str) -> tuple[str, ...]:
    if isinstance(people, str):
        raise DefinitionError("asks a list of people or groups, not one string", where=where)
    return tuple(dict.fromkeys(composed(person) for person in people))


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


def refuse_later_than(after: object, timeout: object, *, where: str) -> None:
    """An escalation in working days, or hours, comes before a timeout in the same unit. Raises DefinitionError."""
    if not (isinstance(after, BusinessTime) and isinstance(timeout, BusinessTime)):
        return
    for one, other in ((after.days, timeout.days), (after.hours, timeout.hours)):
        if one and other and one >= other:
            raise DefinitionError(
                f"it escalates after {after} but times out after {timeout}, so nobody would ever be asked",
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
    former_keys: tuple[str, ...] = ()
    """Keys that it had before its run was migrated."""
    edition: int = 0
    """How often what people see of it was changed while it was open."""
    changed: str = ""
    """What was changed last."""


def refuse_if_changed(approval: ApprovalState | None, seen: int | None, *, key: str) -> None:
    """Whether it is open as it was seen; returns if so, or if nobody says what was seen. Raises ApprovalChanged."""
    if approval is None or approval.state != "open" or seen in (None, approval.edition):
        return
    said = f" ({approval.changed})" if approval.changed else ""
    raise ApprovalChanged(
        f"approval {key!r} was changed since it was looked at{said}; look at it again, then decide",
        changed=approval.changed,
        edition=approval.edition,
    )


def refuse_if_unseen(approval: ApprovalState | None, seen: int | None, *, key: str) -> None:
    """Whether what was seen is said where that matters; returns if so. Raises ApprovalChanged.

    It matters once an approval has another edition than its first.
    """
    if approval is None or approval.state != "open" or seen is not None or not approval.edition:
        return
    how = f"changed while it was open ({approval.changed})" if approval.changed else "asked anew"
    raise ApprovalChanged(
        f"approval {key!r} was {how}, and its key alone does not say which was seen. Look at it as it is now, then "
        f"decide on its edition {approval.edition}: `perennial approve RUN {key} --edition {approval.edition}`, or in "
        "a program give the view of it, or edition=",
        changed=approval.changed,
        edition=approval.edition,
    )


def check_decision(
    approval: ApprovalState | None,
    *,
    name: str,
    by: str,
    now: datetime,
    waits_for: str,
    since: str = "",
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
    if approval.state != "open" or (approval.deadline is not None and now >= approval.deadline):
        raise closed(approval, since=since)
    if by not in approval.assignees:
        message = (
            f"{by} is not asked for approval {approval.name!r}; "
            f"{', '.join(approval.assignees)} can decide, and nobody has yet"
        )
        raise NotAssigned(message, assignees=approval.assignees)


Asking = tuple[str, ApprovalState]
"""An approval by its key, which is one asking of a run: a flow that asks again asks under another key."""


def only_asking(askings: Sequence[Asking], *, by: str) -> str:
    """The key of the asking that a decision means which names none; "" where nothing was asked.

    `askings`: the open ones first, then the latest. With none open it is the last: its refusal says who
    decided. Raises DecisionRefused where several are open, and what `refuse_later` does.
    """
    open_ones = [asking for asking in askings if asking[1].state == "open"]
    if len(open_ones) > 1:
        keys = ", ".join(key for key, _ in open_ones)
        raise DecisionRefused(f"several approvals are open: say which of {keys}")
    if open_ones:  # guard: a decision that names no asking
        refuse_later(askings, open_ones[0], by=by)
    return askings[0][0] if askings else ""


def refuse_later(askings: Sequence[Asking], later: Asking, *, by: str) -> None:
    """Whether a decision that doesn't say which asking it saw may mean an earlier one; returns if not.

    The second click of a doubled one, and a yes to what was asked anew since, come so. Raises
    AlreadyDecided, or DecisionTooLate, of the earlier asking, and says what is asked since.
    """
    if by not in later[1].assignees:
        return
    for key, earlier in askings:
        if key != later[0] and earlier.state != "open" and by in earlier.assignees:
            raise closed(earlier, since=asked_since(later[0]))


def asked_since(key: str) -> str:
    """What a refusal says of the asking that came after the one that was meant."""
    return f"{key!r} is asked since, and open. Look at it, then decide it by this key"


def closed(approval: ApprovalState, *, since: str = "") -> DecisionRefused:
    """The refusal of a decision on an approval that is closed; `since`: what came after it."""
    after = f"; {since}" if since else ""
    if approval.state in (Outcome.APPROVED, Outcome.REJECTED):
        message = (
            f"approval {approval.name!r} was {approval.state} by {approval.decided_by} "
            f"at {_stamp(approval.decided_at)}{after}"
        )
        return AlreadyDecided(
            message, by=approval.decided_by or "", outcome=approval.state, at=approval.decided_at
        )
    ended = (
        "was cancelled"
        if approval.state == "cancelled"
        else f"timed out at {_stamp(approval.deadline)}"
    )
    message = f"approval {approval.name!r} {ended}; nobody had decided{after}"
    return DecisionTooLate(message, deadline=approval.deadline)


def _stamp(at: datetime | None) -> str:
    return at.isoformat(timespec="seconds") if at else "an unknown time"
