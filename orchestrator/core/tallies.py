"""When branches that are awaited together are decided, and what the flow is then given.

    Everything       a gather: all of them
    Race             so many successes, or so many failures that there can't be so many successes
    Many             by a CompletionPolicy

A tally is told how each branch has ended, in the order in which they did.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.branch_results import (
    BranchOutcome,
    BranchResults,
    BranchState,
    RaceResult,
    WhyCompleted,
)
from orchestrator.core.kinds.base import Answer
from orchestrator.errors import DefinitionError, TooFewSucceeded


class Tally(ABC):
    """How some branches have ended so far. `leaves_rest`: once it is decided, the others go on."""

    leaves_rest = False

    @property
    @abstractmethod
    def is_decided(self) -> bool:
        """Nothing that the other branches come to makes a difference."""

    @abstractmethod
    def take(self, index: int, answer: Answer) -> None:
        """That branch has ended, by itself."""

    @abstractmethod
    def let_go(self, index: int, state: BranchState, answer: Answer | None = None) -> None:
        """That branch was not waited for: it is cancelled, goes on, or was never started."""

    @abstractmethod
    def verdict(self) -> Answer:
        """What the flow is given, or what is raised at its await."""


class Everything(Tally):
    """All of them, or the first failure by position."""

    def __init__(self, total: int, shape: Callable[[list[Any]], Any]) -> None:
        self.answers: list[Answer | None] = [None] * total
        self.missing, self.shape = total, shape

    @property
    def is_decided(self) -> bool:
        """None is missing."""
        return not self.missing

    def take(self, index: int, answer: Answer) -> None:
        """One more."""
        self.answers[index] = answer
        self.missing -= 1

    def let_go(self, index: int, state: BranchState, answer: Answer | None = None) -> None:
        """It is broken off as a whole, and has no verdict."""

    def verdict(self) -> Answer:
        """In the shape that the author gave them in."""
        answers = [answer for answer in self.answers if answer is not None]
        failed = next((answer for answer in answers if answer.error is not None), None)
        return failed or Answer(self.shape([answer.value for answer in answers]))


class _Named(Tally):
    """What became of each, by name."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.outcomes: list[BranchOutcome[Any] | None] = [None] * len(names)
        self.succeeded = self.failed = 0

    def take(self, index: int, answer: Answer) -> None:
        """It has succeeded or failed."""
        if answer.error is None:
            self.succeeded += 1
            self._note(index, BranchState.SUCCEEDED, answer)
        else:
            self.failed += 1
            self._note(index, BranchState.FAILED, answer)

    def let_go(self, index: int, state: BranchState, answer: Answer | None = None) -> None:
        """As it was told."""
        self._note(index, state, answer)

    def _note(self, index: int, state: BranchState, answer: Answer | None) -> None:
        error = answer.error if answer is not None else None
        self.outcomes[index] = BranchOutcome(
            index,
            self.names[index],
            state,
            answer.value if answer is not None else None,
            error if issubclass(type(error), Exception) else None,  # type: ignore[arg-type]  # it is one then
        )

    def _all(self) -> tuple[BranchOutcome[Any], ...]:
        return tuple(each for each in self.outcomes if each is not None)


class Race(_Named):
    """So many successes."""

    def __init__(self, names: Sequence[str], count: int, *, key: str, leaves_rest: bool) -> None:
        super().__init__(names)
        self.count, self.key, self.leaves_rest = count, key, leaves_rest
        self.winners: list[int] = []

    @property
    def is_decided(self) -> bool:
        """It is won, or can't be any more."""
        return len(self.winners) >= self.count or self._is_lost

    @property
    def _is_lost(self) -> bool:
        return len(self.names) - self.failed < self.count

    def take(self, index: int, answer: Answer) -> None:
        """A success wins."""
        super().take(index, answer)
        if answer.error is None and len(self.winners) < self.count:
            self.winners.append(index)

    def verdict(self) -> Answer:
        """A RaceResult. Raises TooFewSucceeded."""
        branches = self._all()
        if len(self.winners) < self.count:
            errors = [f"{each.name}: {each.error}" for each in branches if each.error is not None]
            return Answer(
                error=TooFewSucceeded(
                    self.key, count=self.count, branches=branches, message="; ".join(errors)
                )
            )
        return Answer(RaceResult(tuple(branches[index] for index in self.winners), branches))


@dataclass(frozen=True, slots=True)
class CompletionPolicy:
    """When many branches are done with. Raises DefinitionError, with the remedy."""

    max_concurrency: int | None = None
    min_successful: int | None = None
    tolerated_failures: int | None = None
    tolerated_failure_percentage: float | None = None

    def __post_init__(self) -> None:
        _check("max_concurrency", self.max_concurrency, 1, "leave it out to start all at once")
        _check("min_successful", self.min_successful, 1, "leave it out to wait for all")
        _check("tolerated_failures", self.tolerated_failures, 0, "0 stops at the first failure")
        percentage = self.tolerated_failure_percentage
        if percentage is not None and (
            type(percentage) not in (int, float) or not 0 <= percentage <= 100  # noqa: PLR2004 - per cent
        ):
            raise DefinitionError(
                f"tolerated_failure_percentage is {percentage!r}",
                remedy="Give a number from 0 to 100; 0 stops at the first failure.",
            )

    @property
    def waits_for_all(self) -> bool:
        """It says of no branch that it may be the last."""
        return (
            self.min_successful is None
            and self.tolerated_failures is None
            and self.tolerated_failure_percentage is None
        )

    def is_exceeded(self, failed: int, total: int) -> bool:
        """More have failed than is tolerated: strictly more."""
        if self.tolerated_failures is not None and failed > self.tolerated_failures:
            return True
        percentage = self.tolerated_failure_percentage
        return percentage is not None and failed * 100 > percentage * total


def _check(what: str, value: object, least: int, otherwise: str) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DefinitionError(
            f"{what} is {value!r}",
            remedy=f"Give a whole number of {least} or more; {otherwise}.",
        )


class Many(_Named):
    """By a policy: all of them, unless enough succeed or too many fail before."""

    def __init__(self, names: Sequence[str], policy: CompletionPolicy) -> None:
        super().__init__(names)
        self.policy = policy
        self.why: WhyCompleted | None = None if names else WhyCompleted.ALL

    @property
    def is_decided(self) -> bool:
        """There is a reason."""
        return self.why is not None

    def take(self, index: int, answer: Answer) -> None:
        """It may be the one that decides."""
        super().take(index, answer)
        if self.why is not None:
            return
        total, policy = len(self.names), self.policy
        if policy.is_exceeded(self.failed, total):
            self.why = WhyCompleted.TOO_MANY_FAILED
        elif self.succeeded + self.failed == total:
            self.why = WhyCompleted.ALL
        elif policy.min_successful is not None and self.succeeded >= policy.min_successful:
            self.why = WhyCompleted.ENOUGH

    def verdict(self) -> Answer:
        """BranchResults."""
        assert self.why is not None  # noqa: S101 - it is decided
        return Answer(BranchResults(self._all(), self.why))
