"""Working time, against brute force: an oracle that looks at the wall clock of each minute, and shares no code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from operator import itemgetter
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.core.calendars import (
    BusinessTime,
    Calendar,
    business_days,
    business_hours,
    read_duration,
)
from orchestrator.core.calendars.opening_hours import DAYS, read_hours
from orchestrator.errors import DefinitionError

MINUTE = timedelta(minutes=1)
CHANGES = [
    (zone, datetime.fromisoformat(day))
    for zone, days in {
        "Europe/Amsterdam": ("2026-03-29", "2026-10-25"),
        "America/New_York": ("2026-11-01",),
        "Australia/Lord_Howe": ("2026-04-05", "2026-10-04"),  # by half an hour
        "UTC": ("2026-05-14",),
    }.items()
    for day in days
]
"""Zones, and days on which their clocks change."""

HOURS = (
    "Mo-Fr 09:00-17:00",
    "Mo-Th 08:30-12:00,13:00-17:30; Fr 08:30-14:00",
    "Mo-Su 22:00-06:00",
    "Fr-Su 00:00-24:00",
    "Sa,Su 01:00-03:00,03:00-04:30",
    "Mo-Su 02:15-02:45",
)


# -- the oracle ------------------------------------------------------------------------------------


@cache
def minutes_of(zone_name: str, hours: str, around: datetime) -> list[tuple[date, datetime]]:
    """Each minute of working time from four days before to twelve days after, with the day that it belongs to.

    It is read off the wall clock; and what a span holds between two of its minutes belongs to it.
    """
    zone, spans_of = ZoneInfo(zone_name), spans_by_day(hours)
    found: dict[tuple[date, int], list[datetime]] = {}
    first = around.replace(tzinfo=zone).astimezone(UTC) - timedelta(days=4)
    for number in range(16 * 1440):
        at = first + MINUTE * number
        wall = at.astimezone(zone)
        for back in (0, 1):
            minute = wall.hour * 60 + wall.minute + back * 1440
            for opens, closes in spans_of[(wall.weekday() - back) % 7]:
                if opens <= minute < closes:
                    found.setdefault((wall.date() - timedelta(days=back), opens), []).append(at)
    return sorted(
        (
            (day, held[0] + MINUTE * number)
            for (day, _), held in found.items()
            for number in range((held[-1] - held[0]) // MINUTE + 1)
        ),
        key=itemgetter(1),
    )


@cache
def spans_by_day(hours: str) -> list[list[tuple[int, int]]]:
    """Of each day of the week, in minutes."""
    found: list[list[tuple[int, int]]] = [[] for _ in DAYS]
    for rule in hours.split("; "):
        names, spans = rule.split(" ")
        first, _, last = names.partition("-")
        for number, name in enumerate(DAYS):
            if name in names.split(",") or (
                last and DAYS.index(first) <= number <= DAYS.index(last)
            ):
                for span in spans.split(","):
                    opens, closes = (int(each[:2]) * 60 + int(each[3:]) for each in span.split("-"))
                    found[number].append((opens, closes if closes > opens else closes + 1440))
    return found


@dataclass(frozen=True)
class Drawn:
    """A calendar, and a moment near a change of its clock."""

    calendar: Calendar
    around: datetime
    start: datetime

    @property
    def minutes(self) -> list[datetime]:
        """Of its working time, from then on."""
        return [
            at
            for day, at in minutes_of(self.calendar.zone, self.calendar.hours, self.around)
            if at >= self.start and day not in self.calendar.closed
        ]


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """Near a change of the clock, and over a day on which nobody works."""
    zone, around = draw(st.sampled_from(CHANGES))
    hours = draw(st.sampled_from(HOURS))
    closed = around.date() + timedelta(days=draw(st.integers(-1, 3)))
    calendar = Calendar(
        "any", zone, hours, closed={closed: "closed"} if draw(st.booleans()) else {}
    )
    start = around.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    return Drawn(calendar, around, start + MINUTE * draw(st.integers(-2880, 2880)))


often = settings(deadline=None, max_examples=150)


@often
@given(drawn(), st.integers(0, 8000))
def test_working_time_between_two_moments_is_the_count_of_its_minutes(
    drawn: Drawn, minutes: int
) -> None:
    end = drawn.start + MINUTE * minutes
    counted = sum(1 for at in drawn.minutes if at < end)
    assert drawn.calendar.worked(drawn.start, end) == MINUTE * counted


@often
@given(drawn(), st.integers(1, 1500))
def test_hours_of_working_time_end_with_the_minute_that_completes_them(
    drawn: Drawn, minutes: int
) -> None:
    counted = drawn.minutes[:minutes]
    due = drawn.calendar.due(drawn.start, business_hours(len(counted) / 60))
    assert due == counted[-1] + MINUTE


@often
@given(drawn(), st.integers(1, 900), st.integers(1, 900))
def test_working_hours_add_up(drawn: Drawn, one: int, two: int) -> None:
    calendar, start = drawn.calendar, drawn.start
    first = calendar.due(start, business_hours(one / 60))
    assert calendar.worked(start, first) == MINUTE * one
    assert calendar.due(first, business_hours(two / 60)) == calendar.due(
        start, business_hours((one + two) / 60)
    )


@often
@given(
    drawn(),
    st.integers(0, 3000),
    st.one_of(
        st.integers(1, 6).map(business_days),
        st.integers(1, 900).map(lambda minutes: business_hours(minutes / 60)),
    ),
)
def test_what_is_asked_later_is_never_due_earlier(
    drawn: Drawn, minutes: int, after: BusinessTime
) -> None:
    calendar, start = drawn.calendar, drawn.start
    assert start < calendar.due(start, after)
    assert calendar.due(start, after) <= calendar.due(start + MINUTE * minutes, after)


@often
@given(drawn(), st.integers(1, 5))
def test_a_working_day_more_is_later_and_lies_on_the_next_day_that_is_worked(
    drawn: Drawn, days: int
) -> None:
    calendar, start, minutes = drawn.calendar, drawn.start, drawn.minutes
    due, next_due = (calendar.due(start, business_days(number)) for number in (days, days + 1))
    assert due < next_due
    assume(next_due <= minutes[-1])
    within = [at for at in minutes if due <= at < next_due]
    assert within  # somebody has worked in between


# -- what people would say -------------------------------------------------------------------------


def amsterdam(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Amsterdam"))


OFFICE = Calendar("nl-office", zone="Europe/Amsterdam", holidays="NL")
FRIDAY_SHORT = Calendar("short", zone="Europe/Amsterdam", hours="Mo-Th 09:00-17:00; Fr 09:00-14:00")


@pytest.mark.parametrize(
    ("calendar", "asked", "after", "due"),
    [
        (OFFICE, "2026-05-08T16:00", business_days(1), "2026-05-11T16:00"),
        (OFFICE, "2026-05-08T16:00", business_days(2), "2026-05-12T16:00"),
        # Ascension Day is a Thursday
        (OFFICE, "2026-05-13T16:00", business_days(1), "2026-05-15T16:00"),
        (OFFICE, "2026-05-13T16:00", business_hours(2), "2026-05-15T10:00"),
        # at night and at a weekend it is asked when work begins again
        (OFFICE, "2026-05-09T12:00", business_days(1), "2026-05-12T09:00"),
        (OFFICE, "2026-05-08T17:00", business_days(1), "2026-05-12T09:00"),
        (OFFICE, "2026-05-11T07:00", business_days(1), "2026-05-12T09:00"),
        (OFFICE, "2026-05-11T07:00", business_hours(8), "2026-05-11T17:00"),
        # over both changes of the clock: the office's day is as long as ever
        (OFFICE, "2026-03-27T16:00", business_hours(8), "2026-03-30T16:00"),
        (OFFICE, "2026-10-23T16:00", business_hours(8), "2026-10-26T16:00"),
        # a short day ends before that time: at its end
        (FRIDAY_SHORT, "2026-05-07T16:00", business_days(1), "2026-05-08T14:00"),
        # elapsed time is what it always was
        (OFFICE, "2026-05-08T16:00", timedelta(hours=48), "2026-05-10T16:00"),
    ],
)
def test_deadlines_fall_where_people_expect_them(
    calendar: Calendar, asked: str, after: BusinessTime | timedelta, due: str
) -> None:
    assert calendar.due(amsterdam(asked), after) == amsterdam(due)


def test_a_persons_zone_moves_the_same_hours() -> None:
    asked = datetime(2026, 5, 11, 20, tzinfo=UTC)  # 22:00 in Amsterdam, 16:00 in New York
    assert OFFICE.due(asked, business_hours(1)) == amsterdam("2026-05-12T10:00")
    there = OFFICE.in_zone("America/New_York")
    assert there.due(asked, business_hours(1)) == datetime(2026, 5, 11, 21, tzinfo=UTC)


def test_holidays_that_moved_a_deadline_are_named() -> None:
    start = amsterdam("2026-05-13T16:00")
    assert OFFICE.holidays_between(start, OFFICE.due(start, business_days(2))) == [
        (date(2026, 5, 14), "Ascension Day")
    ]
    bavaria = Calendar("by", zone="Europe/Berlin", holidays="DE-BY")
    assert bavaria.holiday_on(date(2026, 6, 4)) == "Corpus Christi"
    assert Calendar("de", zone="Europe/Berlin", holidays="DE").holiday_on(date(2026, 6, 4)) is None


def test_days_of_ones_own_are_closed_or_open() -> None:
    own = Calendar(
        "own",
        holidays="NL",
        closed={date(2026, 12, 24): "company day"},
        open_on=frozenset({date(2026, 12, 25)}),
    )
    assert own.holiday_on(date(2026, 12, 24)) == "company day"
    assert own.holiday_on(date(2026, 12, 25)) is None
    assert own.holiday_on(date(2026, 12, 26)) == "Second Day of Christmas"
    assert own == Calendar("own", holidays="NL", closed=own.closed, open_on=own.open_on)
    assert hash(own)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("48h", timedelta(hours=48)),
        ("2 business days", BusinessTime(days=2)),
        ("16 business hours", BusinessTime(hours=16)),
        ("2 days", timedelta(days=2)),
        ("0.5 business hours", BusinessTime(hours=0.5)),
        ("30 Minutes", timedelta(minutes=30)),
        (" 1w ", timedelta(weeks=1)),
        ("90s", timedelta(seconds=90)),
    ],
)
def test_three_things_are_written_apart(text: str, meant: object) -> None:
    assert read_duration(text) == meant


def test_a_business_time_is_said_as_it_is_written() -> None:
    for text in ("1 business day", "2 business days", "16 business hours", "0.25 business hours"):
        assert str(read_duration(text)) == text


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (lambda: read_duration("soon"), "'soon' is no duration"),
        (lambda: read_duration("1.5 business days"), "is no duration"),
        (lambda: read_duration("2 business weeks"), "is no duration"),
        (lambda: read_duration("9" * 400 + "d"), "is no duration"),
        (lambda: business_days(0), "whole number from 1"),
        (lambda: business_days(1.5), "for a part of a day, business_hours"),  # type: ignore[arg-type]
        (lambda: business_hours(float("nan")), "is no duration"),
        (lambda: business_hours(-1), "above 0"),
        (lambda: business_hours(True), "is no duration"),
        (lambda: read_hours("Mo-Fr"), "no span of hours"),
        (lambda: read_hours("Mon-Fri 09:00-17:00"), "'Mon-Fri' is no day"),
        (lambda: read_hours("Mo 09:00-25:00"), "no span of hours"),
        (lambda: read_hours("Mo 09:60-17:00"), "no span of hours"),
        (lambda: read_hours("Mo 09:00-17:00; Mo 16:00-18:00"), "two spans meet on Mo"),
        (lambda: read_hours("Su 22:00-06:00; Mo 05:00-09:00"), "two spans meet on Mo"),
        (lambda: read_hours(""), "no time is worked at all"),
        (lambda: Calendar("x", zone="Mars/Olympus"), "no time zone 'Mars/Olympus'"),
        (lambda: Calendar("x", holidays="XX"), "no holidays are known of 'XX'"),
        (lambda: Calendar("x", holidays="DE-XX"), "Parts of DE: BB"),
        (lambda: Calendar("", zone="UTC"), "name"),
        (lambda: OFFICE.due(datetime(2026, 1, 1), business_days(1)), "no time zone"),  # noqa: DTZ001
    ],
)
def test_what_means_nothing_is_refused_in_a_sentence(refused: object, said: str) -> None:
    with pytest.raises(DefinitionError, match=re.escape(said)):
        refused()  # type: ignore[operator]


def test_a_calendar_in_which_nobody_ever_works_again_says_so() -> None:
    closed = {date(2026, 1, 1) + timedelta(days=number): "closed" for number in range(500)}
    gone = Calendar("gone", closed=closed)
    with pytest.raises(DefinitionError, match="no working time in the 400 days before"):
        gone.due(datetime(2026, 1, 1, tzinfo=UTC), business_days(1))


def test_a_day_that_a_zone_has_skipped_is_no_working_day() -> None:
    apia = Calendar("apia", zone="Pacific/Apia")  # it had no 30 December 2011, a Friday
    thursday = datetime(2011, 12, 29, 12, tzinfo=ZoneInfo("Pacific/Apia"))
    assert apia.due(thursday, business_days(1)) == datetime(
        2012, 1, 2, 12, tzinfo=ZoneInfo("Pacific/Apia")
    )
