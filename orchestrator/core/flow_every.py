"""`Flow.every`: moments that come again and again, each counted from the first; and what becomes of missed ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from orchestrator.core.checks import check_delay, composed
from orchestrator.core.durations import Duration, seconds_of
from orchestrator.core.flow_part import FlowPart
from orchestrator.core.kinds.base import Ask
from orchestrator.core.kinds.missed import MissedMoments
from orchestrator.core.kinds.sleep import Sleep
from orchestrator.core.kinds.step import StepCall
from orchestrator.core.pending import Pending
from orchestrator.core.retries import Retry
from orchestrator.core.timetables import Months, Timetable, timetable_of
from orchestrator.errors import DefinitionError

IfMissed = Literal["last", "all", "none"]

GRACE = timedelta(hours=1)
"""So late may a moment be taken, where missed ones are not, if nothing else is said."""


@dataclass(frozen=True, slots=True)
class DueMoment:
    """A moment of a series that has come. `missed`: how many were left out since the one that was given before."""

    at: datetime
    missed: int = 0


class Series(FlowPart):
    """What a `Flow` does again and again, by the calendar."""

    def every(
        self,
        every: Duration | Months,
        *,
        start: datetime | None = None,
        until: datetime | None = None,
        missed: IfMissed = "last",
        grace: Duration | None = None,
        name: str = "moment",
    ) -> Moments:
        """Moments, again and again: `async for due in flow.every(days(7)):`, or `months(1)` by the calendar.

        The first is `start`, or one `every` from now; all others are counted from it, so that none drifts, however
        long a charge takes. It ends, without an error, after the last moment that is not later than `until`.

        `missed` says what is taken of moments that have passed before the flow went on: as its run was paused, was an
        incident, or had no worker, or as its own work took long. "last": the last of them alone, however late; "all":
        each, one after the other; "none": one that is at most `grace` late (an hour, if nothing is said). What is left
        out is said by `DueMoment.missed`, and by `history`. `name` is what people read. Raises DefinitionError.
        """
        timetable = timetable_of(every, start, until, self.now)
        recorder = self._recorder
        return Moments(
            lambda: self.now,
            self._asked,
            lambda name, mark: recorder.request(name, None, mark),
            timetable=timetable,
            missed=missed,
            grace=_grace(missed, grace),
            name=composed(name),
        )


class Moments:
    """Moments of one series, one after the other; made by `Flow.every`."""

    def __init__(
        self,
        now: Callable[[], datetime],
        asks: Callable[[str, str | None, Ask], Pending[Any]],
        marks: Callable[[str, Ask], object],
        *,
        timetable: Timetable,
        missed: IfMissed,
        grace: timedelta | None,
        name: str,
    ) -> None:
        self._now, self._asks, self._marks = now, asks, marks
        self._timetable, self._missed, self._grace, self._name = timetable, missed, grace, name
        self._place = self._left_out = 0

    @property
    def next_at(self) -> datetime | None:
        """The next moment that was not given yet. None: there is none."""
        at = self._timetable.at(self._place)
        return None if at is None else self._timetable.shown(at)

    def __aiter__(self) -> AsyncIterator[DueMoment]:
        return self

    async def __anext__(self) -> DueMoment:
        table = self._timetable
        while (at := table.at(self._place)) is not None:
            if self._now() < at:
                await self._asks(self._name, None, Sleep(at=at))
            if self._missed == "all":
                return self._gives(self._place, at)
            # The sleep is over since it was due. Its flow may go on much later: a pause is over, or a worker is there.
            # guard: a series looks at the clock
            await self._asks(f"{self._name}-clock", None, _clock())
            last = max(table.last_by(self._now()), self._place)
            latest = table.at(last) or at
            if self._grace is not None and self._now() - latest > self._grace:
                self._leave_out(last + 1)
            else:
                self._leave_out(last)
                return self._gives(last, latest)
        raise StopAsyncIteration

    def _gives(self, place: int, at: datetime) -> DueMoment:
        due = DueMoment(self._timetable.shown(at), self._left_out)
        self._place, self._left_out = place + 1, 0
        return due

    def _leave_out(self, up_to: int) -> None:
        """All before that place that were not given; history says so."""
        count, table = up_to - self._place, self._timetable
        first, last = table.at(self._place), table.at(up_to - 1)
        if count == 0 or first is None or last is None:
            return
        mark = MissedMoments(count, table.shown(first), table.shown(last), self._now())
        self._marks(self._name, mark)
        self._place, self._left_out = up_to, self._left_out + count


def look_at_clock() -> None:
    """A step for the moment at which it is recorded: `Flow.now` after it."""


def _clock() -> StepCall:
    return StepCall(look_at_clock, (), {}, Retry())


def _grace(missed: str, grace: Duration | None) -> timedelta | None:
    if missed not in ("last", "all", "none"):
        raise DefinitionError(
            f"flow.every is given missed={missed!r}", remedy='Give "last", "all" or "none".'
        )
    if missed != "none":
        if grace is not None:
            raise DefinitionError(
                f"flow.every is given a grace, and takes missed moments by missed={missed!r}",
                remedy='Leave out the grace, or give missed="none".',
            )
        return None
    if grace is None:
        return GRACE
    seconds = seconds_of(grace, what="the grace of flow.every")
    check_delay(seconds, what="the grace of flow.every")
    return timedelta(seconds=seconds)
