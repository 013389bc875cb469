"""What became of branches that were awaited together: a race (`Flow.first`), or many (`Flow.map`, `Flow.parallel`).

The same at each replay: it says what the flow had come past when it was decided, and nothing of what came later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


class BranchState(StrEnum):
    """What became of one branch."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GOES_ON = "goes on"
    NOT_STARTED = "not started"


@dataclass(frozen=True, slots=True)
class BranchOutcome(Generic[T_co]):
    """One branch: its place among them, its name, and what came of it.

    `value` is of one that succeeded; `error` is what a failed one raised, or the clean-up of a cancelled one.
    """

    index: int
    name: str
    state: BranchState
    value: T_co | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class RaceResult(Generic[T_co]):
    """A race that was won. `winners`: in the order in which they came; `branches`: all of them, by their places."""

    winners: tuple[BranchOutcome[T_co], ...]
    branches: tuple[BranchOutcome[T_co], ...]

    @property
    def index(self) -> int:
        """The place of the branch that came first."""
        return self.winners[0].index

    @property
    def name(self) -> str:
        """Its name: that of a mapping, else its place as text."""
        return self.winners[0].name

    @property
    def value(self) -> T_co:
        """What it gave."""
        return self.winners[0].value  # type: ignore[return-value]  # a winner has one, and it may be None

    @property
    def values(self) -> list[T_co]:
        """What each winner gave, in the order in which they came."""
        return [winner.value for winner in self.winners]  # type: ignore[misc]  # as above

    @property
    def others(self) -> tuple[BranchOutcome[T_co], ...]:
        """What became of those that did not win."""
        won = {winner.index for winner in self.winners}
        return tuple(each for each in self.branches if each.index not in won)


class WhyCompleted(StrEnum):
    """Why no further branch was waited for."""

    ALL = "all have ended"
    ENOUGH = "enough have succeeded"
    TOO_MANY_FAILED = "more have failed than is tolerated"


@dataclass(frozen=True, slots=True)
class BranchResults(Generic[T_co]):
    """What came of many branches, by their places, whatever the order in which they ended."""

    branches: tuple[BranchOutcome[T_co], ...]
    why: WhyCompleted

    def __len__(self) -> int:
        return len(self.branches)

    def __iter__(self) -> Iterator[BranchOutcome[T_co]]:
        return iter(self.branches)

    @property
    def succeeded(self) -> int:
        """How many have succeeded."""
        return self._count(BranchState.SUCCEEDED)

    @property
    def failed(self) -> int:
        """How many have failed."""
        return self._count(BranchState.FAILED)

    @property
    def started(self) -> int:
        """How many were started, those among them that were cancelled."""
        return len(self.branches) - self._count(BranchState.NOT_STARTED)

    @property
    def values(self) -> list[T_co]:
        """What each gave that has succeeded, by their places."""
        return [
            each.value  # type: ignore[misc]  # one that has succeeded has a value, and it may be None
            for each in self.branches
            if each.state is BranchState.SUCCEEDED
        ]

    @property
    def errors(self) -> list[Exception]:
        """What each raised that has failed, by their places."""
        return [
            each.error
            for each in self.branches
            if each.state is BranchState.FAILED and each.error is not None
        ]

    def raise_if_failed(self) -> list[T_co]:
        """All values, where none has failed. Raises the error of the first that has, by its place."""
        for error in self.errors:
            raise error
        return self.values

    def _count(self, state: BranchState) -> int:
        return sum(each.state is state for each in self.branches)
