"""Votes and what they come to, against a count by hand over all orders."""

from __future__ import annotations

import re
from itertools import permutations, product

import pytest

from orchestrator.core.approvals import Outcome
from orchestrator.core.voting import Rule, Vote, rule_of
from orchestrator.errors import AlreadyVoted, DefinitionError

YES, NO = Outcome.APPROVED, Outcome.REJECTED
PEOPLE = ("ann", "bob", "cleo", "dora")


@pytest.mark.parametrize("needs", [1, 2, 3, 4])
@pytest.mark.parametrize("rejects", [1, 2, None])
def test_the_same_votes_come_to_the_same_and_once_decided_stay_so(
    needs: int, rejects: int | None
) -> None:
    """All 16 ways in which four people vote, in all orders: who comes first in time may decide it, never who is who."""
    rule = Rule(needs, rejects)
    for said in product((YES, NO), repeat=4):
        for order in permutations(range(4)):
            votes = [Vote(PEOPLE[one], said[one]) for one in order]
            outcomes = [rule.outcome(PEOPLE, votes[:count]) for count in range(5)]
            decided = next(count for count, found in enumerate(outcomes) if found is not None)
            yes = sum(1 for vote in votes[:decided] if vote.outcome is YES)
            assert (outcomes[decided] is YES) == (yes == needs)
            if outcomes[decided] is NO:
                no = decided - yes
                assert no == rejects or 4 - no < needs
            assert rule.outcome(PEOPLE, ()) is None


def test_a_joiner_of_an_escalation_makes_it_reachable_again() -> None:
    rule = Rule(2, None)
    votes = [Vote("ann", YES), Vote("bob", NO)]
    assert rule.outcome(("ann", "bob"), votes) is NO
    assert rule.outcome(("ann", "bob", "director"), votes) is None


def test_progress_is_said() -> None:
    rule = Rule(2, None, ("eve",))
    assert rule.progress(("ann", "bob", "eve"), ()) == "0 of 2 approved; ann, bob may still decide"
    votes = [Vote("ann", NO)]
    assert (
        rule.progress(("ann", "bob", "cleo"), votes)
        == "0 of 2 approved, 1 rejected; bob, cleo may still decide"
    )
    assert rule.progress(("ann",), [Vote("ann", YES)]) == "1 of 2 approved"


def test_nobody_votes_twice() -> None:
    rule = Rule(2, 1)
    with pytest.raises(AlreadyVoted, match="ann has approved approval 'boss' already"):
        rule.refuse_second([Vote("ann", YES)], name="boss", by="ann")
    rule.refuse_second([Vote("ann", YES)], name="boss", by="bob")


def asked(needs: object = 1, rejects: object = 1, exclude: tuple[str, ...] = ()) -> Rule | None:
    return rule_of(
        needs,  # type: ignore[arg-type]
        rejects,  # type: ignore[arg-type]
        exclude,
        assignees=("ann", "bob"),
        others=("bob", "director"),
        where="approval 'boss'",
    )


def test_what_the_first_decides_has_no_rule() -> None:
    assert asked() is None
    assert asked("all") == Rule(2, 1)
    assert asked(3) == Rule(3, 1)
    assert asked(exclude=("eve",)) == Rule(1, 1, ("eve",))
    for rule in (Rule(), Rule(2, None, ("eve",))):
        assert Rule.from_json(rule.as_json()) == rule


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"needs": 4}, "needs 4 approvals, and asks 3 people"),
        ({"needs": 0}, "needs=0"),
        ({"needs": True}, "needs=True"),
        ({"needs": "some"}, 'Give a number from 1, or "all"'),
        ({"rejects": 0}, "rejects=0"),
    ],
)
def test_what_nobody_could_fulfil_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(DefinitionError, match=re.escape(said)):
        asked(**given)  # type: ignore[arg-type]
