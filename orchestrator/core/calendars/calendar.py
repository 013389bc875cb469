"""`Calendar`: when a place works, and where deadlines fall that are counted in its working time.

A span of working time is contiguous: from the first moment at which the wall clock shows its start to the last at
which it has not shown its end. So a night shift over the end of daylight saving lasts an hour longer, and over its
beginning an hour less, as it does for those who work it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from orchestrator.core.calendars.business_time import BusinessTime
from orchestrator.core.calendars.opening_hours import Week, read_hours
from orchestrator.core.calendars.public_holidays import PublicHolidays, check_place
from orchestrator.core.checks import check_moment, check_words
from orchestrator.errors import DefinitionError

CLOSED_DAYS_MAX = 400
"""So many days on end without working time are a slip of whoever wrote the calendar."""


class Working(NamedTuple):
    """A span of working time: `day` is the date that it belongs to, its moments are in UTC."""

    day: date
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Calendar:
    """A place's working time: `Calendar("nl-office", zone="Europe/Amsterdam", holidays="NL")`.

    `hours` as in `opening_hours`; `holidays`: a country, or with its part (`DE-BY`); `closed`: further days on which
    nobody works, with what is kept on them; `open_on`: days that are worked although they are holidays. Raises
    DefinitionError.
    """

    name: str
    zone: str = "UTC"
    hours: str = "Mo-Fr 09:00-17:00"
    holidays: str | None = None
    closed: Mapping[date, str] = field(default_factory=dict, hash=False)
    open_on: frozenset[date] = frozenset()

    def __post_init__(self) -> None:
        check_words(self.name, what="a calendar's name", where="Calendar")
        self._zone_and_week  # noqa: B018 - it is read, and refused, where it is written
        if self.holidays is not None:
            check_place(self.holidays)

    # -- deadlines -------------------------------------------------------------------------------

    def due(self, start: datetime, after: BusinessTime | timedelta) -> datetime:
        """The moment, in UTC, that lies so much after `start`. Raises DefinitionError: nobody works for a year."""
        check_moment(start, what="a deadline's start")
        if isinstance(after, timedelta):
            return start.astimezone(UTC) + after
        if after.days:
            return self._days_later(start, after.days)
        return self._seconds_later(start, after.hours * 3_600)

    def worked(self, start: datetime, end: datetime) -> timedelta:
        """How much working time there is from `start` to `end`; none where the end comes first."""
        total = timedelta()
        if end <= start:
            return total
        for span in self._spans_from(start):
            if span.start >= end:
                break
            total += min(span.end, end) - max(span.start, start)
        return total

    def is_worked(self, at: datetime) -> bool:
        """Whether it is working time then."""
        return next(self._spans_from(at)).start <= at

    def holidays_between(self, start: datetime, end: datetime) -> list[tuple[date, str]]:
        """The days with their names that would be worked, were they no holidays."""
        zone, week = self._zone_and_week
        first, last = start.astimezone(zone).date(), end.astimezone(zone).date()
        days = (first + timedelta(days=number) for number in range((last - first).days + 1))
        return [
            (day, name)
            for day in days
            if week[day.weekday()] and (name := self.holiday_on(day)) is not None
        ]

    def holiday_on(self, day: date) -> str | None:
        """What is kept on that day. None: it is a day as others."""
        if day in self.open_on:
            return None
        own = self.closed.get(day)
        if own is not None or self._holidays is None:
            return own
        return self._holidays.name_of(day)

    def in_zone(self, zone: str) -> Calendar:
        """The same hours and holidays by the clocks of another zone: a person's."""
        return Calendar(self.name, zone, self.hours, self.holidays, self.closed, self.open_on)

    # -- spans -----------------------------------------------------------------------------------

    def _seconds_later(self, start: datetime, seconds: float) -> datetime:
        left = timedelta(seconds=seconds)
        for span in self._spans_from(start):
            begins = max(span.start, start)
            if begins + left <= span.end:
                return (begins + left).astimezone(UTC)
            left -= span.end - begins
        raise AssertionError("spans never end")

    def _days_later(self, start: datetime, days: int) -> datetime:
        """At the same time of the day; at the day's end, where that comes before.

        What is asked outside of working time is asked when it next begins.
        """
        zone, _ = self._zone_and_week
        spans = self._spans_from(start)
        first = next(spans)
        local = shown(max(first.start, start), zone)
        day, on_it = first.day, [first]
        for span in spans:
            if span.day == day:
                on_it.append(span)
                continue
            if days == 0:
                break
            days, day, on_it = days - 1, span.day, [span]
        wanted = first_shown(local + (day - first.day), zone)
        return min(max(wanted, on_it[0].start), on_it[-1].end)

    def _spans_from(self, start: datetime) -> Iterator[Working]:
        """The spans that end after that moment, without an end. Raises DefinitionError: none comes for a year."""
        zone, _ = self._zone_and_week
        day = start.astimezone(zone).date() - timedelta(days=1)  # its night may reach into this one
        empty = 0
        while True:
            empty += 1
            for span in self._spans_on(day):
                if span.end > start:
                    empty = 0
                    yield span
            if empty > CLOSED_DAYS_MAX:
                raise DefinitionError(
                    f"calendar {self.name!r} has no working time in the {CLOSED_DAYS_MAX} days before {day}",
                    remedy="Look at its `closed` days.",
                )
            day += timedelta(days=1)

    def _spans_on(self, day: date) -> tuple[Working, ...]:
        zone, week = self._zone_and_week
        minutes = week[day.weekday()]
        if not minutes or self.holiday_on(day) is not None:
            return ()
        midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - of the wall clock
        spans = (
            Working(
                day,
                first_shown(midnight + timedelta(minutes=span.start), zone),
                last_before(midnight + timedelta(minutes=span.end), zone),
            )
            for span in minutes
        )
        return tuple(span for span in spans if span.start < span.end)

    @cached_property
    def _holidays(self) -> PublicHolidays | None:
        return None if self.holidays is None else PublicHolidays(self.holidays)

    @cached_property
    def _zone_and_week(self) -> tuple[ZoneInfo, Week]:
        try:
            zone = ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
            raise DefinitionError(
                f"there is no time zone {self.zone!r}",
                where=f"calendar {self.name!r}",
                remedy="Write a name of the IANA database, such as 'Europe/Amsterdam'.",
            ) from None
        return zone, read_hours(self.hours)


def first_shown(wall: datetime, zone: ZoneInfo) -> datetime:
    """When the wall clock of that zone first shows it, in UTC; where it skips it, the moment of the skip."""
    earlier, later = _both(wall, zone)
    return _change_between(later, earlier, zone) if earlier > later else earlier


def last_before(wall: datetime, zone: ZoneInfo) -> datetime:
    """The end of the last moment at which the wall clock shows less, in UTC."""
    earlier, later = _both(wall - TICK, zone)
    return _change_between(later, earlier, zone) if earlier > later else later + TICK


def shown(at: datetime, zone: ZoneInfo) -> datetime:
    """What the wall clock shows: as late as it has been, while it shows an hour for the second time."""
    local = at.astimezone(zone)
    if local.fold:  # or a deadline of the second time would come before that of the first
        earlier, later = _both(local.replace(tzinfo=None, fold=0), zone)
        change = _change_between(earlier, later, zone)
        return (change - TICK).astimezone(zone).replace(tzinfo=None, fold=0) + TICK
    return local.replace(tzinfo=None)


TICK = timedelta.resolution


def _both(wall: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """By the offset before a change of the clock, and by that after it. A time that is skipped has them swapped."""
    earlier, later = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return earlier, later


@lru_cache(maxsize=1024)
def _change_between(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The second at which the zone's offset changes, by halves."""
    offset = before.astimezone(zone).utcoffset()
    first = before.replace(microsecond=0)
    count = int((after - first).total_seconds()) + 1
    while count > 1:
        half = count // 2
        middle = first + timedelta(seconds=half)
        if middle.astimezone(zone).utcoffset() == offset:
            first, count = middle, count - half
        else:
            count = half
    return first + timedelta(seconds=count)
