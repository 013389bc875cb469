"""Quorum as pure policy: how many people have to say yes, who may not, and what the votes so far come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from orchestrator.core.approvals import Decision, Outcome
from orchestrator.errors import AlreadyVoted, DefinitionError

ALL: Literal["all"] = "all"
Needs = int | Literal["all"]
"""How many approvals an approval needs: a number, or of all whom it asks at first."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What one person said. `at` is in UTC."""

    person: str
    outcome: Outcome
    reason: str = ""
    at: datetime | None = None

    def __post_init__(self) -> None:
        if self.at is not None and self.at.utcoffset():
            object.__setattr__(self, "at", self.at.astimezone(UTC))


@dataclass(frozen=True, slots=True)
class VotedDecision(Decision):
    """A Decision for which votes were counted; `by` is whose vote decided it.

    To whoever votes while others are needed, its outcome is OPEN; a flow never sees that.
    """

    votes: tuple[Vote, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """What has to come together. An approval without a rule is decided by the first of its people.

    `rejects`: so many rejections reject; None: it goes on as long as enough can still approve. `excluded`: who may not
    decide, whoever asks them.
    """

    needs: int = 1
    rejects: int | None = 1
    excluded: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As it is recorded."""
        return {"needs": self.needs, "rejects": self.rejects, "excluded": list(self.excluded)}

    @classmethod
    def from_json(cls, recorded: Mapping[str, Any]) -> Rule:
        """As it was recorded."""
        return cls(recorded["needs"], recorded["rejects"], tuple(recorded["excluded"]))

    # -- what votes come to ------------------------------------------------------------------

    def outcome(self, assignees: Sequence[str], votes: Sequence[Vote]) -> Outcome | None:
        """How it is decided. None: it is open still."""
        yes, no = self._counted(votes)
        if yes >= self.needs:
            return Outcome.APPROVED
        if self.rejects is not None and no >= self.rejects:
            return Outcome.REJECTED
        if yes + len(self.missing(assignees, votes)) < self.needs:
            return Outcome.REJECTED
        return None

    def missing(self, assignees: Sequence[str], votes: Sequence[Vote]) -> list[str]:
        """Who may vote and has not."""
        voted = {vote.person for vote in votes}
        return [one for one in assignees if one not in voted and one not in self.excluded]

    def progress(self, assignees: Sequence[str], votes: Sequence[Vote]) -> str:
        """`1 of 2 approved; bob, carol may still decide`."""
        yes, no = self._counted(votes)
        said = f"{yes} of {self.needs} approved"
        if no:
            said += f", {no} rejected"
        missing = self.missing(assignees, votes)
        return f"{said}; {', '.join(missing)} may still decide" if missing else said

    @staticmethod
    def refuse_second(votes: Sequence[Vote], *, name: str, by: str) -> None:
        """Whether this person has a vote left; returns if so. Raises AlreadyVoted."""
        for vote in votes:
            if vote.person == by:  # guard: a person has one vote
                raise AlreadyVoted(
                    f"{by} has {vote.outcome} approval {name!r} already, and others are still to decide",
                    by=by,
                    outcome=vote.outcome,
                    at=vote.at,
                )

    @staticmethod
    def _counted(votes: Sequence[Vote]) -> tuple[int, int]:
        yes = sum(1 for vote in votes if vote.outcome is Outcome.APPROVED)
        return yes, len(votes) - yes


def rule_of(
    needs: Needs,
    rejects: int | None,
    exclude: Sequence[str],
    *,
    assignees: Sequence[str],
    others: Sequence[str],
    where: str,
) -> Rule | None:
    """The rule that an author asks for; None where the first of the people decides. Raises DefinitionError.

    `assignees`: who is asked at first, and `others` once it escalates; none of them is excluded.
    """
    if needs != ALL and not _is_count(needs):
        raise DefinitionError(
            f"it is given needs={needs!r}", where=where, remedy='Give a number from 1, or "all".'
        )
    if rejects is not None and not _is_count(rejects):
        raise DefinitionError(
            f"it is given rejects={rejects!r}", where=where, remedy="Give a number from 1, or None."
        )
    count = len(assignees) if needs == ALL else int(needs)
    people = len({*assignees, *others})
    if count > people:
        raise DefinitionError(
            f"it needs {count} approvals, and asks {people} people",
            where=where,
            remedy="Ask more people, or need fewer.",
        )
    if count == 1 and rejects == 1 and not exclude:
        return None
    return Rule(count, rejects, tuple(exclude))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
