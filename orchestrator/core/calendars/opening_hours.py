"""Working hours of a week, written as OpenStreetMap writes opening hours: days and spans alone.

Mo-Fr 09:00-17:00
Mo-Th 08:30-12:00,13:00-17:30; Fr 08:30-14:00
Mo,We 22:00-06:00                               over midnight: the span is of the day on which it begins
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from orchestrator.errors import DefinitionError

DAYS = ("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")
DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * DAY_MINUTES

_SPAN = re.compile(r"(\d{1,2}):([0-5]\d)-(\d{1,2}):([0-5]\d)")


class Span(NamedTuple):
    """Minutes of the wall clock after midnight of its day; `end` is past 1,440 where it is over midnight."""

    start: int
    end: int


Week = tuple[tuple[Span, ...], ...]
"""Of Monday to Sunday, each day's spans in order."""


def read_hours(text: str) -> Week:
    """The week that the text says. Raises DefinitionError."""
    week: list[list[Span]] = [[] for _ in DAYS]
    for rule in filter(None, (part.strip() for part in text.split(";"))):
        days, _, spans = rule.partition(" ")
        found = [_span(each.strip(), text) for each in spans.split(",")]
        for day in _days(days, text):
            week[day] += found
    ordered = tuple(tuple(sorted(day)) for day in week)
    _refuse_overlaps(ordered, text)
    return ordered


def _days(written: str, text: str) -> Iterator[int]:
    for part in written.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise _unreadable(text, f"{part!r} is no day")
        at, to = DAYS.index(first), DAYS.index(last or first)
        yield from (day % 7 for day in range(at, to + 1 if to >= at else to + 8))


def _span(written: str, text: str) -> Span:
    found = _SPAN.fullmatch(written)
    if found is None:
        raise _unreadable(text, f"{written!r} is no span of hours")
    from_hour, from_minute, to_hour, to_minute = map(int, found.groups())
    start, end = from_hour * 60 + from_minute, to_hour * 60 + to_minute
    if start >= DAY_MINUTES or end > DAY_MINUTES:
        raise _unreadable(text, f"{written!r} is no span of hours")
    return Span(start, end if end > start else end + DAY_MINUTES)


def _refuse_overlaps(week: Week, text: str) -> None:
    """Spans of one week stand apart, also that of a Sunday night from Monday's."""
    spans = sorted(
        (day * DAY_MINUTES + span.start, day * DAY_MINUTES + span.end)
        for day, spans in enumerate(week)
        for span in spans
    )
    if not spans:
        raise _unreadable(text, "no time is worked at all")
    for before, after in pairwise([*spans, (spans[0][0] + WEEK_MINUTES, 0)]):
        if before[1] > after[0]:
            raise _unreadable(text, f"two spans meet on {DAYS[after[0] // DAY_MINUTES % 7]}")


def _unreadable(text: str, why: str) -> DefinitionError:
    return DefinitionError(
        f"working hours {text!r} can't be read: {why}",
        remedy="Write days and spans, such as 'Mo-Fr 09:00-17:00' or 'Mo-Th 08:00-12:00,13:00-17:00; Fr 08:00-14:00'.",
    )
