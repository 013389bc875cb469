"""A decision is of the asking that its maker saw: a yes for one thing never approves another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import (
    AlreadyDecided,
    DecisionRefused,
    DecisionTooEarly,
    DecisionTooLate,
    Flow,
    NotAssigned,
    Registry,
    hours,
    process,
)
from orchestrator.core.views import ApprovalView
from orchestrator.testing import ProcessTester

REGISTRY = Registry()


@process(version=1, registry=REGISTRY)
async def order(flow: Flow, amounts: list[int]) -> list[str]:
    """Asks anew, under one name, for each amount."""
    said = []
    for amount in amounts:
        decision = await flow.approval("boss", assign=["ann", "bob"], timeout=hours(1))
        said.append(f"{amount} {decision.outcome} by {decision.by}")
    return said


@process(version=1, registry=REGISTRY)
async def two_names(flow: Flow) -> list[str | None]:
    manager = await flow.approval("manager", assign=["ann"])
    security = await flow.approval("security", assign=["ann", "eve"])
    return [manager.by, security.by]


@process(version=1, registry=REGISTRY)
async def own_keys(flow: Flow) -> list[str | None]:
    first = await flow.approval("boss", assign=["ann"], key="first")
    second = await flow.approval("boss", assign=["ann", "eve"], key="second")
    return [first.by, second.by]


@process(version=1, registry=REGISTRY)
async def side_by_side(flow: Flow) -> list[str | None]:
    both = await flow.gather(
        flow.approval("boss", assign=["ann"]), flow.approval("boss", assign=["eve"])
    )
    return [decision.by for decision in both]


@pytest.fixture(scope="module")
def tester() -> Iterator[ProcessTester]:
    with ProcessTester(registry=REGISTRY) as tester:
        yield tester


def open_of(tester: ProcessTester, run: Any) -> list[ApprovalView]:
    tester.get(run)
    return tester.client.approvals(run=run)


def keys(tester: ProcessTester, run: Any) -> list[str]:
    return [approval.key for approval in open_of(tester, run)]


@pytest.mark.parametrize(
    "named", [lambda seen: seen, lambda seen: seen.key, lambda seen: seen.name, lambda _: None]
)
@pytest.mark.parametrize("door", ["approve", "reject"])
def test_a_yes_to_what_was_rejected_since_and_asked_anew_is_refused(tester, named, door):
    run_id = tester.start(order, [100, 1_000_000]).id
    (seen,) = open_of(tester, run_id)
    tester.reject(run_id, by="ann")
    assert keys(tester, run_id) == ["boss#2"]
    with pytest.raises(
        AlreadyDecided, match=r"rejected by ann.*'boss#2' is asked since"
    ) as refused:
        getattr(tester.client, door)(run_id, named(seen), by="bob")
    assert (refused.value.by, refused.value.outcome) == ("ann", "rejected")
    assert keys(tester, run_id) == ["boss#2"]


def test_a_run_that_was_looked_at_before_it_asked_anew_decides_nothing_of_that(tester):
    """Its view is what the person saw: also where the name alone would do."""
    before = tester.start(order, [100, 1_000_000])
    tester.client.reject(before.id, by="ann")
    tester.get(before.id)
    for approval in (None, "boss"):
        with pytest.raises(AlreadyDecided, match="'boss#2' is asked since"):
            tester.client.approve(before, approval, by="bob")
    for approval in (None, "boss", "boss#2"):
        assert tester.client.get(before.id).waits[0].key == "boss#2"
        with pytest.raises(DecisionRefused):
            tester.client.approve(before, approval, by="eve")
    with pytest.raises(DecisionRefused, match="changed since it was looked at"):
        tester.client.approve(before, "boss#2", by="bob")
    assert tester.client.approve(tester.client.get(before.id), by="bob").approved


def test_what_was_asked_after_a_look_at_nothing_is_not_decided(tester):
    run = tester.start(two_names)
    looked = tester.get(run)
    tester.approve(run, by="ann")
    with pytest.raises(DecisionRefused, match="looked at"):
        tester.client.approve(looked, "security", by="ann")


@pytest.mark.parametrize("name", [None, "boss"])
def test_a_doubled_click_decides_once(tester, name):
    run_id = tester.start(order, [1, 2]).id
    tester.client.approve(run_id, name, by="ann")
    tester.get(run_id)
    with pytest.raises(AlreadyDecided, match="approved by ann"):
        tester.client.approve(run_id, name, by="ann")
    assert keys(tester, run_id) == ["boss#2"]


def test_a_doubled_click_does_not_decide_the_next_approval_of_another_name(tester):
    run_id = tester.start(two_names).id
    tester.client.approve(run_id, by="ann")
    tester.get(run_id)
    with pytest.raises(AlreadyDecided, match="'security' is asked since"):
        tester.client.approve(run_id, by="ann")
    assert keys(tester, run_id) == ["security"]
    assert tester.client.approve(run_id, "security", by="ann").by == "ann"


def test_a_person_who_was_asked_only_once_need_not_name_it(tester):
    run_id = tester.start(two_names).id
    tester.client.approve(run_id, by="ann")
    tester.get(run_id)
    assert tester.client.approve(run_id, by="eve").approval == "security"


def test_what_timed_out_is_no_yes_to_what_was_asked_since(tester):
    run_id = tester.start(order, [1, 2]).id
    tester.advance_time(hours(1))
    assert keys(tester, run_id) == ["boss#2"]
    for name in (None, "boss"):
        with pytest.raises(DecisionTooLate, match=r"timed out.*'boss#2' is asked since"):
            tester.client.approve(run_id, name, by="ann")


@pytest.mark.parametrize("named", [lambda seen: seen, lambda seen: seen.key])
def test_an_asking_that_is_named_is_decided_how_often_its_name_was_asked_for(tester, named):
    run_id = tester.start(order, [1, 2, 3]).id
    for _ in range(3):
        (seen,) = open_of(tester, run_id)
        tester.client.approve(run_id, named(seen), by="bob")
    assert tester.result(run_id) == [f"{amount} approved by bob" for amount in (1, 2, 3)]


def test_a_wait_of_the_run_names_its_asking_too(tester):
    run_id = tester.start(order, [1, 2]).id
    wait = tester.get(run_id).waits[0]
    tester.client.approve(run_id, wait, by="bob")
    tester.get(run_id)
    with pytest.raises(AlreadyDecided):
        tester.client.approve(run_id, wait, by="bob")


def test_a_name_that_two_askings_share_is_no_name_for_whoever_was_asked_both(tester):
    run_id = tester.start(own_keys).id
    tester.client.approve(run_id, "boss", by="ann")
    tester.get(run_id)
    with pytest.raises(AlreadyDecided, match="'second' is asked since"):
        tester.client.approve(run_id, "boss", by="ann")
    assert tester.client.approve(run_id, "boss", by="eve").by == "eve"


def test_a_key_means_its_asking_though_another_of_its_name_asks_this_person(tester):
    run_id = tester.start(side_by_side).id
    assert keys(tester, run_id) == ["boss", "boss#2"]
    with pytest.raises(NotAssigned):
        tester.client.approve(run_id, "boss", by="eve")
    tester.client.approve(run_id, "boss", by="ann")
    with pytest.raises(AlreadyDecided):
        tester.client.approve(run_id, "boss", by="eve")
    assert tester.client.approve(run_id, "boss#2", by="eve").by == "eve"


def test_an_approval_that_was_seen_in_another_run_is_not_decided_here(tester):
    one, other = tester.start(order, [1]).id, tester.start(order, [1_000_000]).id
    (seen,) = open_of(tester, one)
    with pytest.raises(DecisionRefused, match=f"seen in run {one}"):
        tester.client.approve(other, seen, by="ann")
    assert keys(tester, other) == ["boss"]


def test_what_was_never_asked_is_too_early(tester):
    run_id = tester.start(order, [1]).id
    for run in (run_id, tester.get(run_id)):
        with pytest.raises(DecisionTooEarly):
            tester.client.approve(run, "other", by="ann")


def test_the_tester_says_yes_to_what_its_run_asks_now(tester):
    run = tester.start(order, [1, 2])
    tester.approve(run, by="ann")
    tester.approve(run, "boss", by="ann")
    assert tester.result(run) == ["1 approved by ann", "2 approved by ann"]


def test_the_flow_knows_the_key_of_what_it_asks():
    """So that a link it mails decides this asking, and no other."""
    mailed = []

    @process(version=1, name="mails-links", registry=REGISTRY)
    async def mails(flow: Flow) -> list[str]:
        for _ in range(2):
            asked = flow.approval("boss", assign=["ann"])
            await flow.step(mailed.append, asked.key)
            await asked
        return mailed

    with ProcessTester(registry=REGISTRY) as own:
        run = own.start(mails).id
        own.client.approve(run, mailed[0], by="ann")
        with pytest.raises(AlreadyDecided):
            own.client.approve(run, mailed[0], by="ann")
        own.get(run)
        assert mailed == ["boss", "boss#2"]
        own.client.approve(run, mailed[1], by="ann")
        assert own.result(run) == ["boss", "boss#2"]


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("permit-1", lambda _: None),
        ("permit-2", lambda seen: seen.name),
        ("permit-3", lambda seen: seen),
    ],
)
def test_a_yes_by_business_key_is_none_for_the_run_that_was_started_anew_since(tester, key, named):
    tester.start(order, [100], key=key)
    (seen,) = open_of(tester, key)
    tester.client.cancel(key, by="eve")
    anew = tester.client.operations.restart(key, by="eve")
    (asked,) = open_of(tester, anew.run_id)
    assert asked.follows == seen.run_id
    with pytest.raises(DecisionRefused, match=f"{anew.run_id}"):
        tester.client.approve(key, named(seen), by="ann")
    assert keys(tester, anew.run_id) == ["boss"]
    assert tester.client.approve(key, asked, by="ann").approved


def test_a_business_key_that_was_used_before_is_enough_for_whom_nobody_asked_then(tester):
    tester.start(order, [1], key="permit-9")
    tester.client.cancel("permit-9", by="eve")
    for _ in range(2):  # not only of the last
        anew = tester.client.operations.restart("permit-9", by="eve").run_id
        tester.get(anew)
        with pytest.raises(DecisionRefused, match="by its id"):
            tester.client.approve("permit-9", by="bob")
        with pytest.raises(NotAssigned):
            tester.client.approve("permit-9", by="eve")
        tester.client.cancel(anew, by="eve")
