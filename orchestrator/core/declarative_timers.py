"""The timers of a declarative process, in elapsed or in working time; and every reason why they can mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from orchestrator.core.approval_requests import check_escalation, refuse_later_than
from orchestrator.core.calendars import BusinessTime, read_duration
from orchestrator.core.declarative_grammar import DeclarativeSpec
from orchestrator.core.declarative_source import YamlPath
from orchestrator.core.definition import Approval
from orchestrator.errors import DefinitionError

WhereOf = Callable[[YamlPath], str]
"""The line of a place in the file."""

_TIMERS: YamlPath = ("process", "timers")
_CALENDAR: YamlPath = ("process", "calendar")


def timer_problems(
    spec: DeclarativeSpec, approvals: Sequence[Approval], where_of: WhereOf
) -> Iterator[DefinitionError]:
    """Everything that keeps its timers from meaning something: what could never do anything is a slip of its author."""
    unreadable = list(_unreadable(spec, where_of))
    if unreadable:
        yield from unreadable
        return
    timeout, escalation = spec.timers.approval_timeout, spec.timers.escalation_after
    if (timeout is not None or escalation is not None) and not approvals:
        yield DefinitionError(
            "`timers` are for approvals, and no entry of `stages` is one",
            where=where_of(_TIMERS),
            remedy="Register what waits for people with @approval, or take `timers` away.",
        )
        return
    yield from _clock_problems(spec, (timeout, escalation), where_of)
    if escalation is None:
        return
    written = "escalation" if spec.timers.escalation is not None else "escalation_after_hours"
    where = where_of((*_TIMERS, written))
    if not any(approval.escalate_to for approval in approvals):
        yield DefinitionError(
            "there is nobody to escalate to",
            where=where,
            remedy="Name them at one of the approvals, @approval(..., escalate_to=['director']), "
            f"or take `{written}` away.",
        )
    try:
        refuse_later_than(escalation, timeout, where=where)
        if isinstance(escalation, timedelta) and not isinstance(timeout, BusinessTime):
            check_escalation(
                escalation.total_seconds(),
                timeout.total_seconds() if timeout else None,
                where=where,
            )
    except DefinitionError as error:
        yield error


def _unreadable(spec: DeclarativeSpec, where_of: WhereOf) -> Iterator[DefinitionError]:
    for written in ("timeout", "escalation"):
        try:
            read_duration(getattr(spec.timers, written) or "1h")
        except DefinitionError as error:
            where = where_of((*_TIMERS, written))
            yield DefinitionError(error.problem, where=where, remedy=error.remedy)


def _clock_problems(
    spec: DeclarativeSpec,
    durations: Sequence[timedelta | BusinessTime | None],
    where_of: WhereOf,
) -> Iterator[DefinitionError]:
    """Of timers that are said twice, and of working time without a calendar, or a calendar without any."""
    timers = spec.timers
    for written, number, names in (
        (timers.timeout, timers.approval_timeout_hours, "timeout` and `approval_timeout_hours"),
        (
            timers.escalation,
            timers.escalation_after_hours,
            "escalation` and `escalation_after_hours",
        ),
    ):
        if written is not None and number is not None:
            yield DefinitionError(
                f"`{names}` say one thing twice", where=where_of(_TIMERS), remedy="Keep one."
            )
    business = [each for each in durations if isinstance(each, BusinessTime)]
    if business and spec.calendar is None:
        yield DefinitionError(
            f"no calendar says when {business[0]} are over",
            where=where_of(
                (*_TIMERS, "timeout" if isinstance(durations[0], BusinessTime) else "escalation")
            ),
            remedy="Write `calendar: {zone: Europe/Amsterdam, holidays: NL}` beside `timers`, with its own zone.",
        )
    if spec.calendar is None:
        return
    where = where_of(_CALENDAR)
    try:
        _ = spec.calendar.calendar
    except DefinitionError as error:
        yield DefinitionError(error.problem, where=where, remedy=error.remedy)
    if not business:
        yield DefinitionError(
            "`calendar` counts for nothing: no timer is in business days or business hours",
            where=where,
            remedy="Write such as `timers: {timeout: 2 business days}`, or take `calendar` away.",
        )
