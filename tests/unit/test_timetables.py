"""Timetables: each moment is counted from the first, by elapsed time or by a calendar; none drifts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import days, hours, months
from orchestrator.core.timetables import Months, Timetable, timetable_of
from orchestrator.errors import DefinitionError

AMSTERDAM, LORD_HOWE = ZoneInfo("Europe/Amsterdam"), ZoneInfo("Australia/Lord_Howe")
MONDAY = datetime(2031, 1, 6, 9, tzinfo=UTC)


def first(table: Timetable, count: int) -> list[str]:
    found = [table.at(place) for place in range(count)]
    return [f"{table.shown(each):%Y-%m-%d %H:%M %z}" for each in found if each is not None]


def test_the_last_day_of_a_month_comes_back_after_a_short_one() -> None:
    table = Timetable(datetime(2027, 10, 31, 9, tzinfo=AMSTERDAM), months(1))
    assert first(table, 6) == [
        "2027-10-31 09:00 +0100",
        "2027-11-30 09:00 +0100",
        "2027-12-31 09:00 +0100",
        "2028-01-31 09:00 +0100",
        "2028-02-29 09:00 +0100",
        "2028-03-31 09:00 +0200",
    ]


def test_a_year_of_the_29th_of_february() -> None:
    table = Timetable(datetime(2028, 2, 29, tzinfo=UTC), months(12))
    assert [each[:10] for each in first(table, 5)] == [
        "2028-02-29",
        "2029-02-28",
        "2030-02-28",
        "2031-02-28",
        "2032-02-29",
    ]


def test_months_go_by_the_clock_of_their_zone_and_hours_by_elapsed_time() -> None:
    """The clocks leave out 02:30 on 28 March 2027, and show it twice on 31 October."""
    skipped = Timetable(datetime(2027, 2, 28, 2, 30, tzinfo=AMSTERDAM), months(1))
    assert first(skipped, 3) == [
        "2027-02-28 02:30 +0100",
        "2027-03-28 03:30 +0200",
        "2027-04-28 02:30 +0200",
    ]
    twice = Timetable(datetime(2027, 9, 30, 2, 30, tzinfo=AMSTERDAM), months(1))
    later = Timetable(datetime(2027, 10, 31, 2, 30, fold=1, tzinfo=AMSTERDAM), months(1))
    assert first(twice, 1) + first(later, 2) == [
        "2027-09-30 02:30 +0200",
        "2027-10-31 02:30 +0100",
        "2027-11-30 02:30 +0100",
    ]
    again = Timetable(datetime(2027, 8, 31, 2, 30, tzinfo=AMSTERDAM), months(2))
    assert first(again, 2)[1] == "2027-10-31 02:30 +0200"
    daily = Timetable(datetime(2027, 3, 27, 12, tzinfo=AMSTERDAM), days(1))
    assert first(daily, 3) == [
        "2027-03-27 12:00 +0100",
        "2027-03-28 13:00 +0200",
        "2027-03-29 13:00 +0200",
    ]


moments = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(  # noqa: DTZ001 - given a zone below
    lambda at: at.replace(microsecond=0)
)
periods = st.one_of(
    st.integers(1, 40).map(months), st.integers(1, 10**7).map(lambda each: timedelta(seconds=each))
)


@given(moments, st.sampled_from([UTC, AMSTERDAM, LORD_HOWE]), periods, st.integers(0, 500))
def test_the_last_one_by_a_moment_is_the_one_of_that_moment(
    at: datetime, zone: ZoneInfo, every: timedelta | Months, place: int
) -> None:
    table = Timetable(at.replace(tzinfo=zone), every)
    moment = table.at(place)
    assert moment is not None
    assert table.last_by(moment) == place
    assert table.last_by(moment - timedelta(microseconds=1)) == place - 1
    following = table.at(place + 1)
    assert following is not None
    assert following > moment
    ended = Timetable(table.start, every, until=moment)
    assert ended.last_by(following) == place
    assert ended.at(place + 1) is None


def test_it_ends_where_time_does() -> None:
    table = Timetable(datetime(9999, 11, 30, tzinfo=UTC), months(1))
    assert (len(first(table, 9)), table.last_by(datetime(9999, 12, 31, tzinfo=UTC))) == (1, 0)
    assert Timetable(MONDAY, timedelta(days=36_500)).at(10_000) is None


@pytest.mark.parametrize(
    ("every", "given", "says"),
    [
        (0.5, {}, "0.5 seconds. Give a second or more"),
        (days(-1), {}, "Use a delay from 0"),
        (days(1), {"start": datetime(2031, 1, 6)}, "has no time zone"),  # noqa: DTZ001 - that is it
        (days(1), {"until": "2031-01-06"}, "a str. Give a datetime with a time zone"),
        ("daily", {}, "Give a timedelta, such as hours"),
    ],
)
def test_what_is_no_timetable_is_refused_in_a_sentence(every, given, says) -> None:
    with pytest.raises(DefinitionError, match=says):
        timetable_of(every, given.get("start"), given.get("until"), MONDAY)


def test_without_a_start_the_first_is_one_period_from_now() -> None:
    assert timetable_of(hours(1), None, None, MONDAY).at(0) == MONDAY + hours(1)
    assert timetable_of(months(1), None, None, MONDAY).at(0) == datetime(2031, 2, 6, 9, tzinfo=UTC)
    for wrong in (0, 1.5, True, 1201):
        with pytest.raises(DefinitionError, match="Give a whole number from 1 to 1200"):
            months(wrong)
