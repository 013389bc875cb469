"""Approvals that several people decide: votes in a record, and what they come to."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import (
    AlreadyDecided,
    AlreadyVoted,
    DecisionTooLate,
    Excluded,
    Flow,
    NotAssigned,
    Outcome,
    VotedDecision,
    hours,
    process,
)
from orchestrator.core.definition import Process
from tests.harness import Harness
from tests.modes import EAGER, EVICT, NORMAL, TWICE, modes_of

modes = modes_of(NORMAL, EVICT, TWICE, EAGER, because="votes are counted once, and decide once")


def asks(harness: Harness, **how: Any) -> Process:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        made = await flow.approval("boss", assign=["ann", "bob", "cleo"], **how)
        assert isinstance(made, VotedDecision)
        return [made.outcome, made.by, [[vote.person, vote.outcome] for vote in made.votes]]

    return p


@modes
def test_two_of_three_approve_and_the_third_comes_too_late(harness: Harness) -> None:
    run = harness.run(asks(harness, needs=2))
    client = harness.client
    first = client.approve(run, by="ann", comment="fine")
    assert (first.outcome, first.by) == (Outcome.OPEN, "ann")
    assert first.reason == "1 of 2 approved; bob, cleo may still decide"
    harness.drain()

    assert not client.approvals(assignee="ann")  # nothing waits for her any more
    (asked,) = client.approvals(assignee="bob")
    assert asked.progress == first.reason
    assert [(vote.person, vote.reason) for vote in asked.votes] == [("ann", "fine")]
    (wait,) = client.get(run).waits
    assert wait.detail == first.reason
    assert wait.who == asked.to_decide == ("bob", "cleo")

    last = client.approve(run, asked, by="bob")
    assert isinstance(last, VotedDecision)
    assert (last.outcome, last.by, len(last.votes)) == ("approved", "bob", 2)
    with pytest.raises(AlreadyDecided, match="approved by bob"):
        client.reject(run, by="cleo")
    harness.drain()
    assert client.get(run).output == [
        "approved",
        "bob",
        [["ann", "approved"], ["bob", "approved"]],
    ]
    events = [(each.event, each.actor) for each in client.history(run) if each.key == "boss"]
    assert ("voted: approved", "ann") in events
    assert ("approved", "bob") in events


@modes
def test_one_rejection_rejects_unless_others_may_outvote_it(harness: Harness) -> None:
    strict = harness.run(asks(harness, needs=2))
    assert harness.client.reject(strict, by="cleo", comment="no").outcome == "rejected"
    harness.drain()
    assert harness.client.get(strict).output[0] == "rejected"

    @process(version=1, registry=harness.registry)
    async def q(flow: Flow) -> Any:
        made = await flow.approval("boss", assign=["ann", "bob", "cleo"], needs=2, rejects=None)
        return made.outcome

    mild = harness.run(q)
    assert harness.client.reject(mild, by="ann").outcome == "open"
    assert harness.client.reject(mild, by="bob").outcome == "rejected"
    harness.drain()
    assert harness.client.get(mild).output == "rejected"


def test_nobody_votes_twice_and_nobody_for_another(harness: Harness) -> None:
    run = harness.run(asks(harness, needs="all", exclude=["req"]))
    client = harness.client
    client.approve(run, by="ann")
    with pytest.raises(AlreadyVoted, match="ann has approved approval 'boss' already") as refused:
        client.reject(run, by="ann")
    assert (refused.value.by, refused.value.outcome) == ("ann", "approved")
    with pytest.raises(Excluded, match="req may not decide approval 'boss'"):
        client.approve(run, by="req")
    with pytest.raises(NotAssigned):
        client.approve(run, by="mallory")
    (asked,) = client.approvals()
    assert [vote.person for vote in asked.votes] == ["ann"]
    assert client.approve(run, by="bob").outcome == "open"
    assert client.approve(run, by="cleo").outcome == "approved"


def test_who_is_excluded_is_not_asked_by_an_escalation_either(harness: Harness) -> None:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        made = await flow.approval(
            "boss", assign=["ann"], escalate={hours(1): ["req", "bob"]}, exclude=["req"]
        )
        return made.outcome

    harness.freeze()
    run = harness.run(p)
    harness.move(hours=1)
    harness.drain()
    (asked,) = harness.client.approvals()
    assert asked.assignees == ("ann", "bob")
    with pytest.raises(Excluded):
        harness.client.approve(run, by="req")
    assert harness.client.approve(run, by="bob").outcome == "approved"
    harness.drain()
    assert harness.client.get(run).output == "approved"


def test_all_of_those_asked_are_left_out_is_an_incident_that_says_so(harness: Harness) -> None:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.approval("boss", assign=["req"], exclude=["req"])

    run = harness.run(p)
    view = harness.client.get(run)
    assert view.status == "incident"
    assert "asks req, and leaves out all of them" in str(view.error)


@modes
def test_votes_that_were_too_few_stand_in_the_decision_of_the_deadline(harness: Harness) -> None:
    harness.freeze()
    run = harness.run(asks(harness, needs=2, timeout=hours(48)))
    harness.client.approve(run, by="ann")
    harness.move(hours=48)
    with pytest.raises(DecisionTooLate):
        harness.client.approve(run, by="bob")
    harness.drain()
    assert harness.client.get(run).output == ["timed_out", None, [["ann", "approved"]]]


def test_a_vote_is_part_of_the_callers_transaction(harness: Harness) -> None:
    run = harness.run(asks(harness, needs=2))
    with harness.context.transaction() as connection:
        harness.client.approve(run, by="ann", connection=connection)
        connection.rollback()
    (asked,) = harness.client.approvals()
    assert not asked.votes


def test_a_client_of_the_release_before_cannot_decide_alone(harness: Harness) -> None:
    run = harness.run(asks(harness, needs=2))
    with pytest.raises(Exception, match="approval_reached_check"):
        harness.database.value(
            "UPDATE perennial.approval SET state = 'approved', decided_by = 'ann', decided_at = perennial.now()"
            " WHERE run_id = :id",
            id=run.run_id,
        )
