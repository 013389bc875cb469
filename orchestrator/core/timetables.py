"""A timetable: moments that follow from the first one, so that none of them drifts. Pure.

timetable = Timetable(start, days(7))          every seven times 24 hours
timetable = Timetable(start, months(1))        by the calendar and the clock of the start's time zone
timetable.at(3)                                its fourth moment
timetable.last_by(now)                         the place of the last one that has come by then
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime, timedelta

from orchestrator.core.checks import LATEST, check_delay, check_moment
from orchestrator.core.durations import Duration, seconds_of
from orchestrator.errors import DefinitionError

MONTHS_MAX = 1_200


@dataclass(frozen=True, slots=True)
class Months:
    """So many months of the calendar: no duration, since months differ. Made by `months`."""

    count: int


def months(number: int) -> Months:
    """`number` months of the calendar, for `Flow.every`. Raises DefinitionError: not a whole number from 1 to 1,200."""
    if type(number) is not int or not 1 <= number <= MONTHS_MAX:
        raise DefinitionError(
            f"months({number!r}) is no number of months",
            remedy=f"Give a whole number from 1 to {MONTHS_MAX}.",
        )
    return Months(number)


@dataclass(frozen=True, slots=True)
class Timetable:
    """The moments from `start` on, `every` so often, and none after `until`; each is counted from `start`.

    Months are counted by the calendar of the start's time zone: the same day and the same time by the clock there; the
    last day of a month that is too short. A time that a change of clocks leaves out is as much later as the clocks are
    put forward, and one that comes twice is the first.
    """

    start: datetime
    every: timedelta | Months
    until: datetime | None = None

    def at(self, place: int) -> datetime | None:
        """The moment at that place, from 0 on, in UTC. None: it is after the end."""
        if isinstance(self.every, Months):
            found = self._month(place * self.every.count)
        else:
            try:
                found = self.start.astimezone(UTC) + place * self.every
            except OverflowError:
                found = None
        if found is None or found > LATEST or (self.until is not None and found > self.until):
            return None
        return found

    def last_by(self, now: datetime) -> int:
        """The place of the last moment that has come by then. -1: none has."""
        now, start = now.astimezone(UTC), self.start.astimezone(UTC)
        if self.until is not None:
            now = min(now, self.until.astimezone(UTC))
        if not isinstance(self.every, Months):
            return max((now - start) // self.every, -1)
        since = (now.year - start.year) * 12 + now.month - start.month
        place = max(since // self.every.count + 1, 0)  # or one or two less: zones and days
        while place >= 0 and ((at := self.at(place)) is None or at > now):
            place -= 1
        return place

    def shown(self, at: datetime) -> datetime:
        """A moment by the clock of the start's time zone."""
        return at.astimezone(self.start.tzinfo)

    def _month(self, later: int) -> datetime | None:
        start = self.start
        years, month = divmod(start.month - 1 + later, 12)
        year = start.year + years
        if year > MAXYEAR:
            return None
        day = min(start.day, monthrange(year, month + 1)[1])
        fold = start.fold if later == 0 else 0
        there = start.replace(year=year, month=month + 1, day=day, fold=fold)
        try:
            return there.astimezone(UTC)
        except OverflowError:
            return None


def timetable_of(
    every: Duration | Months, start: datetime | None, until: datetime | None, now: datetime
) -> Timetable:
    """What `Flow.every` is given; its first moment is `start`, or one `every` from now. Raises DefinitionError."""
    for name, moment in (("start", start), ("until", until)):
        if moment is not None and not isinstance(moment, datetime):
            raise DefinitionError(
                f"flow.every is given {name}={moment!r}, a {type(moment).__name__}",
                remedy="Give a datetime with a time zone.",
            )
        if moment is not None:
            check_moment(moment, what=f"flow.every({name})")
    step: timedelta | Months
    if isinstance(every, Months):
        step = every
    else:
        seconds = seconds_of(every, what="flow.every")
        check_delay(seconds, what="flow.every")
        if seconds < 1:
            raise DefinitionError(
                f"flow.every is given {seconds} seconds", remedy="Give a second or more."
            )
        step = timedelta(seconds=seconds)
    first = start if start is not None else Timetable(now, step).at(1)
    if first is None:
        raise DefinitionError("flow.every has no first moment", remedy="Give an earlier start.")
    return Timetable(first, step, until)
