"""Durations that are counted in working time. `48h`, `2 business days` and `16 business hours` are three things.

business_hours(16)      so much of a calendar's working time
business_days(2)        the same time of the day, so many working days later
read_duration("2 business days")
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from orchestrator.errors import DefinitionError

DAYS_MAX = 10_000
"""Of working days: some forty years."""

HOURS_MAX = 100_000
"""Of working hours: some fifty years."""


@dataclass(frozen=True, slots=True)
class BusinessTime:
    """So many working days or hours, one of the two. Made by `business_days` and `business_hours`."""

    days: int = 0
    hours: float = 0.0

    def __str__(self) -> str:
        number, unit = (self.days, "day") if self.days else (self.hours, "hour")
        return f"{number:g} business {unit}{'' if number == 1 else 's'}"


def business_hours(number: float) -> BusinessTime:
    """`number` hours of working time. Raises DefinitionError."""
    if not _is_number(number, (int, float)) or not 0 < number <= HOURS_MAX:
        raise DefinitionError(
            f"business_hours({number!r}) is no duration",
            remedy=f"Give a number above 0, and at most {HOURS_MAX:,}.",
        )
    return BusinessTime(hours=float(number))


def business_days(number: int) -> BusinessTime:
    """The same time of the day, `number` working days later. Raises DefinitionError."""
    if not _is_number(number, int) or not 0 < number <= DAYS_MAX:
        raise DefinitionError(
            f"business_days({number!r}) is no duration",
            remedy=f"Give a whole number from 1 to {DAYS_MAX:,}; for a part of a day, business_hours.",
        )
    return BusinessTime(days=number)


def _is_number(value: object, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*(business\s+)?([a-z]+)", re.IGNORECASE)
_UNITS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3_600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86_400),
}


def read_duration(text: str) -> timedelta | BusinessTime:
    """A duration as people write it: `48h`, `30 minutes`, `2 business days`, `16 business hours`.

    Without `business` it is elapsed time: `2 days` are 48 hours, whatever day it is. Raises DefinitionError.
    """
    found = _WRITTEN.fullmatch(text.strip())
    unit = _UNITS.get(found[3].lower()) if found else None
    if found is None or unit is None:
        raise _unreadable(text)
    number = float(found[1])
    if not found[2]:
        try:
            return timedelta(seconds=number * unit)
        except OverflowError:
            raise _unreadable(text) from None
    if unit == _UNITS["h"]:
        return business_hours(number)
    if unit == _UNITS["d"] and number.is_integer():
        return business_days(int(number))
    raise _unreadable(text)


def _unreadable(text: str) -> DefinitionError:
    return DefinitionError(
        f"{text!r} is no duration",
        remedy="Write a number and its unit, such as '48h', '30 minutes', '2 business days' or '16 business hours'.",
    )
