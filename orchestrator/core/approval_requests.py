"""An approval as a flow asks for it: whom, until when, and how many of them; checked before anybody is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.core.calendars import BusinessTime, Clock, due_after
from orchestrator.core.checks import check_words, composed
from orchestrator.core.durations import Duration
from orchestrator.core.voting import Needs, Rule, rule_of
from orchestrator.errors import DefinitionError

Escalate = (
    Mapping[timedelta, Sequence[str]]
    | Mapping[int, Sequence[str]]
    | Mapping[float, Sequence[str]]
    | Mapping[BusinessTime, Sequence[str]]
    | Mapping[timedelta | BusinessTime, Sequence[str]]
)
"""After each duration, who may decide too. Several forms, since the keys of a Mapping are of one type exactly."""


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
    rule: Rule | None = None
    """Where more than the first of them decides."""
    why: str = ""
    """Why they are asked, in words, where its name doesn't say."""


def request_approval(
    name: str,
    *,
    assign: Sequence[str],
    escalate: Escalate | None = None,
    timeout: Duration | BusinessTime | None = None,
    clock: Clock | None = None,
    needs: Needs = 1,
    rejects: int | None = 1,
    exclude: Sequence[str] = (),
    why: str = "",
) -> ApprovalRequest:
    """Check and normalise what a flow asks. `clock`: for durations of working time. Raises DefinitionError."""
    where = f"approval {name!r}"
    excluded = _people(exclude, where=where)
    asked = _people(assign, where=where)
    assignees = tuple(one for one in asked if one not in excluded)
    if asked and not assignees:
        raise DefinitionError(
            f"asks {', '.join(asked)}, and leaves out all of them",
            where=where,
            remedy="Name somebody else too: the manager of whom it concerns, or a group's lead.",
        )
    if not assignees:
        raise DefinitionError("needs at least one assignee", where=where)
    if escalate is not None and not isinstance(escalate, Mapping):
        raise DefinitionError(
            f"is given escalate={escalate!r}, a {type(escalate).__name__}",
            where=where,
            remedy="Give a mapping of durations to lists of people: {hours(24): ['bob']}.",
        )
    escalations = tuple(
        Escalation(
            due.seconds,
            tuple(one for one in _people(people, where=where) if one not in excluded),
            due.at,
            due.said,
        )
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
    rule = rule_of(
        needs,
        rejects,
        excluded,
        assignees=assignees,
        others=[one for escalation in escalations for one in escalation.assignees],
        where=where,
    )
    return ApprovalRequest(
        name,
        assignees,
        escalations,
        timeout_seconds,
        None if ends is None else ends.at,
        "" if ends is None else ends.said,
        rule,
        why,
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
