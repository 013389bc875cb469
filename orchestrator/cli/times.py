"""Times as people say them. Own code because a deadline needs two units: humanize's `naturaltime`
says "a day from now" of a deadline 47 hours away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from orchestrator.cli.failures import CommandRefused

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


@dataclass(frozen=True, slots=True)
class Clock:
    """One moment, and the zone to show times in (None: the machine's)."""

    now: datetime
    zone: tzinfo | None = None

    def stamp(self, at: datetime) -> str:
        """`2026-03-01 14:05:09 CET`."""
        try:
            return at.astimezone(self.zone).strftime("%Y-%m-%d %H:%M:%S %Z")
        except (
            OverflowError,
            ValueError,
        ):  # at the ends of the calendar, where not each zone has a date
            return at.isoformat(sep=" ", timespec="seconds")

    def relative(self, at: datetime) -> str:
        """`2 h 5 min ago`, `in 1 d 3 h`, `now`."""
        seconds = int((at - self.now).total_seconds())
        if seconds == 0:
            return "now"
        return f"in {spell(seconds)}" if seconds > 0 else f"{spell(-seconds)} ago"

    def upcoming(self, at: datetime) -> str:
        """As `relative`; something that should have happened by now is `due`."""
        return self.relative(at) if at > self.now else "due now"

    def both(self, at: datetime) -> str:
        """Relative for people, absolute for the record."""
        return f"{self.relative(at)}  ({self.stamp(at)})"


def spell(seconds: int) -> str:
    """The two largest units, rounded down: `1 d 23 h`, `4 min 5 s`, `3 s`."""
    counts = []
    rest = seconds
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        counts.append((count, unit))
    first = next((index for index, (count, _) in enumerate(counts) if count), len(counts) - 1)
    shown = [f"{count} {unit}" for count, unit in counts[first : first + 2] if count]
    return " ".join(shown) or "0 s"


_AGO = re.compile(r"(\d{1,6}) ?(d|h|min|s)")


def moment_of(typed: str, now: datetime) -> datetime:
    """`7d`, `24h`, `30min` before now, or a date or time by ISO 8601 (UTC, if it names no zone).

    Raises CommandRefused.
    """
    ago = _AGO.fullmatch(typed.strip())
    try:
        if ago is not None:
            return now - timedelta(seconds=int(ago[1]) * dict(_UNITS)[ago[2]])
        moment = datetime.fromisoformat(typed.strip())
    except (ValueError, OverflowError):
        raise CommandRefused(
            f"{typed!r} is no time: say how long ago (7d, 24h, 30min), or a date (2026-03-02)"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
