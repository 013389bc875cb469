"""What several threads ask at once is asked in one statement.

    group_commit = GroupCommit(ask_for_all, ask_alone, kind=..., mark=..., goes_alone=...)
    answer = group_commit.ask(ask)

A thread asks at once while fewer than `IN_FLIGHT_MAX` others are asking: nobody waits for company, and who is
alone pays nothing. Who comes then waits until one of them has its answer; the first of those who wait then
asks for all of them. So the more there are, the more share a statement. (docs/adr/0023)
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from weakref import WeakSet

Call = TypeVar("Call")
Answer = TypeVar("Answer")

IN_FLIGHT_MAX = 2
"""So many statements are under way: while Postgres commits one, it does the other."""

GROUP_MAX = 50
"""So many are asked in one statement: more would save little, and each may be a megabyte."""


def _shut() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class _Place:
    """One thread's: what it asks, and how it stands."""

    ask: Any = field(repr=False)
    turn: threading.Lock = field(default_factory=_shut)
    """Opens when the thread is answered, or is to ask for others."""
    is_leading: bool = False
    is_told: bool = False
    """It has an answer or a failure. If that never comes, its thread asks for itself."""
    answer: Any = None
    failure: Exception | None = None


@dataclass(slots=True, eq=False)
class _Queue:
    """Those whose asks fit into one statement."""

    in_flight: int = 0
    waiting: deque[_Place] = field(default_factory=deque)


class GroupCommit(Generic[Call, Answer]):
    """A door that many threads may stand at. Whatever ends a thread, the others are answered."""

    def __init__(
        self,
        together: Callable[[Sequence[Call]], Sequence[Answer]],
        alone: Callable[[Call], Answer],
        *,
        kind: Callable[[Call], Hashable],
        mark: Callable[[Call], Hashable | None],
        goes_alone: Callable[[Exception, int], bool],
    ) -> None:
        """`together` answers in the order of the asks, which are of one kind, and no two of them have one mark.

        `goes_alone`: whether so many that have failed together each ask once more alone, which may be done as
        often as one likes and wait for as long as it must. Else the failure is theirs.
        """
        self._together, self._alone = together, alone
        self._kind, self._mark, self._goes_alone = kind, mark, goes_alone
        self.begin_anew()
        _of_this_process.add(self)

    def begin_anew(self) -> None:
        """Nobody stands here: in a process that was forked the other threads are gone."""
        self._lock = threading.RLock()
        self._queues: dict[Hashable, _Queue] = {}
        self._here = threading.local()

    def ask(self, ask: Call) -> Answer:
        """The answer, or what has come of it. Who asks in the midst of asking for others, asks alone."""
        if getattr(self._here, "is_leading", False):  # guard: a start within a start
            return self._alone(ask)
        place, kind = _Place(ask), self._kind(ask)
        try:
            self._come(place, kind)
            if not place.is_leading:
                place.turn.acquire()
            if place.is_leading:
                self._lead(place, kind)
        finally:
            try:
                self._go(place, kind)
            except BaseException:  # a signal's, in the midst of it: nobody may be left behind
                self._go(place, kind)  # guard: a place is given up twice
                raise
        if not place.is_told:
            return self._alone(ask)
        if place.failure is not None:
            failure, place.failure = place.failure, None
            try:
                raise failure
            finally:  # its traceback leads here: a circle would stay until a collection of garbage
                del failure
        answer: Answer = place.answer
        return answer

    def _come(self, place: _Place, kind: Hashable) -> None:
        with self._lock:
            queue = self._queues.setdefault(kind, _Queue())
            if queue.in_flight < IN_FLIGHT_MAX:
                queue.in_flight += 1
                place.is_leading = True
            else:
                queue.waiting.append(place)

    def _lead(self, leader: _Place, kind: Hashable) -> None:
        """Ask for the leader and for those who wait. However it ends, they go on."""
        group: list[_Place] = [leader]
        try:
            self._here.is_leading = True
            self._gather(group, kind)
            self._ask_for(group)
        finally:
            try:
                self._let_go(group)
            except BaseException:
                self._let_go(group)
                raise

    def _let_go(self, group: Sequence[_Place]) -> None:
        self._here.is_leading = False
        for place in group[1:]:
            if place.turn.locked():
                place.turn.release()

    def _gather(self, group: list[_Place], kind: Hashable) -> None:
        """Take in those who wait, the first first."""
        if not self._queues[kind].waiting:
            return  # who comes now is asked for by whoever is answered next
        marks = {self._mark(place.ask) for place in group}
        with self._lock:
            waiting = self._queues[kind].waiting
            for place in tuple(waiting):
                if len(group) == GROUP_MAX:
                    break
                mark = self._mark(place.ask)
                if mark is None or mark not in marks:  # guard: one key once in a statement
                    group.append(place)  # first: who is in neither is never answered
                    waiting.remove(place)
                    marks.add(mark)

    def _ask_for(self, group: Sequence[_Place]) -> None:
        try:
            answers = self._together([place.ask for place in group])
        except Exception as failure:  # noqa: BLE001 - theirs to judge
            if self._goes_alone(failure, len(group)):
                return
            for place in group:
                own = failure if place is group[0] else _again(failure)
                place.failure, place.is_told = own, True
        else:
            for place, answer in zip(group, answers, strict=True):
                place.answer, place.is_told = answer, True

    def _go(self, place: _Place, kind: Hashable) -> None:
        """Whoever leads hands that on to the first who waits; whoever waits, and is ended, doesn't any more."""
        with self._lock:
            queue = self._queues.get(kind)
            if queue is None:
                return
            if not place.is_leading:
                if place in queue.waiting:
                    queue.waiting.remove(place)
                return
            waiting = queue.waiting
            if waiting:
                # No call stands between the changes, so no signal's exception comes between them.
                with suppress(RuntimeError):  # it is awake: a signal has ended who took it in
                    following = waiting[0]
                    del waiting[0]
                    # guard: the next asks for the rest
                    following.is_leading, place.is_leading = True, False
                    following.turn.release()
                return
            queue.in_flight, place.is_leading = queue.in_flight - 1, False
            if not queue.in_flight:
                del self._queues[kind]


def _again(failure: Exception) -> Exception:
    """The same for another thread, which has its own traceback, and its own context to raise it in."""
    try:
        again: Exception = copy(failure)
    except Exception:  # noqa: BLE001 - its `__init__` wants what it doesn't tell a copy
        again = type(failure).__new__(type(failure), *failure.args)
    again.__dict__.update(failure.__dict__)
    return again


_of_this_process: WeakSet[GroupCommit[Any, Any]] = WeakSet()


def _begin_anew() -> None:
    for each in _of_this_process:
        each.begin_anew()


if hasattr(os, "register_at_fork"):  # guard: a fork begins anew
    os.register_at_fork(after_in_child=_begin_anew)
