"""Durations are taken alike wherever an author may give one: a timedelta, or a number of seconds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from orchestrator.errors import DefinitionError

Duration = timedelta | float
"""What every argument that is a duration takes; a plain number counts seconds."""


def seconds_of(duration: Any, *, what: str) -> float:
    """A Duration in seconds. `what` names it in the error (`the timeout of signal 'paid'`).

    Raises DefinitionError: it is neither a timedelta nor a number.
    """
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, (int, float)) and not isinstance(duration, bool):
        try:
            return float(duration)
        except OverflowError:
            return float("inf") if duration > 0 else float("-inf")
    raise DefinitionError(
        f"{what} is given {duration!r}, a {type(duration).__name__}",
        remedy="Give a timedelta, such as hours(24), or a number of seconds.",
    )


def seconds_or_none(duration: Any, *, what: str) -> float | None:
    """`seconds_of`, where None stands for no bound."""
    return None if duration is None else seconds_of(duration, what=what)


def days(number: float) -> timedelta:
    """`number` times 24 hours."""
    return _timedelta(number, "days", 86_400)


def hours(number: float) -> timedelta:
    """`number` hours."""
    return _timedelta(number, "hours", 3_600)


def minutes(number: float) -> timedelta:
    """`number` minutes."""
    return _timedelta(number, "minutes", 60)


def seconds(number: float) -> timedelta:
    """`number` seconds."""
    return _timedelta(number, "seconds", 1)


def _timedelta(number: float, unit: str, unit_seconds: int) -> timedelta:
    try:
        return timedelta(seconds=number * unit_seconds)
    except (TypeError, ValueError, OverflowError):
        raise DefinitionError(
            f"{unit}({number!r}) is no duration", remedy="Give a number that is not too large."
        ) from None
