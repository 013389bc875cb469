"""When something is due that is asked at a moment: after elapsed time, or after working time of a calendar."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from orchestrator.core.calendars.business_time import BusinessTime
from orchestrator.core.calendars.calendar import Calendar
from orchestrator.core.checks import due_in
from orchestrator.core.durations import seconds_of
from orchestrator.errors import DefinitionError


class Clock(NamedTuple):
    """By what deadlines are counted: when it is asked, and whose working time counts, if anybody's."""

    asked_at: datetime
    calendar: Calendar | None = None


class Due(NamedTuple):
    """`seconds` after it is asked. Of working time it is a moment, and `said` is what it was asked as."""

    seconds: float
    at: datetime | None = None
    said: str = ""


def due_after(after: Any, clock: Clock | None, *, what: str, where: str) -> Due:
    """When it is due. `what` names the duration and `where` the wait. Raises DefinitionError."""
    if not isinstance(after, BusinessTime):
        return Due(due_in(seconds_of(after, what=what), what=where))
    if clock is None or clock.calendar is None:
        raise DefinitionError(
            f"{what} is {after}, and no calendar says when that is",
            remedy="Give calendar=Calendar(...), whose working time counts; or a timedelta, such as hours(24).",
        )
    at = clock.calendar.due(clock.asked_at, after)
    return Due((at - clock.asked_at).total_seconds(), at, f"{after} of {clock.calendar.name}")
