"""Callers: what they mean is found, and what they say wrongly is refused in our words."""

from __future__ import annotations

import contextlib
import math

import pytest

from orchestrator import Flow, RunStatus, hours, process
from orchestrator.core.selection import RunFilter
from orchestrator.errors import DecisionRefused, PerennialError
from tests.modes import NORMAL, modes_of


def test_a_decision_by_a_name_that_several_open_approvals_have_is_refused(harness):
    """A person who is asked twice under one name must say the key. To pick one for them would
    record a decision that they may not have meant.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        async def review(person: str) -> None:
            await flow.approval("review", assign=[person])

        await flow.gather({"first": review("bob"), "second": review("bob")}, key="reviews")

    run = harness.run(p)
    with pytest.raises(DecisionRefused):
        harness.client.approve(run, "review", by="bob")


def test_a_person_is_not_refused_because_another_approval_has_the_same_name(harness):
    """Of several open approvals with one name, that one is meant which asks this person."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        async def review(person: str) -> None:
            await flow.approval("review", assign=[person])

        await flow.gather({"first": review("bob"), "second": review("carol")}, key="reviews")

    run = harness.run(p)
    harness.client.approve(run, "review", by="carol")
    harness.client.approve(run, "review", by="bob")
    harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED


def test_a_business_key_that_looks_like_an_id_finds_its_run(harness):
    """UUIDs are common business keys. Text is looked up as a business key too, also where it could
    be a run's id.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    key = "3f2f4dc2-55c7-4d0e-9d5b-1d9f4b0f7a01"
    run = harness.run(p, key=key)
    assert harness.client.get(key).id == run.run_id


@modes_of(NORMAL, because="a caller is refused before there is any message")
@pytest.mark.parametrize(
    "says",
    [
        pytest.param(lambda client, run: client.signal(run, "nul\x00"), id="a signal's name"),
        pytest.param(
            lambda client, run: client.signal(run, "go", signal_id="nul\x00"), id="a signal's id"
        ),
        pytest.param(
            lambda client, run: client.signal(run, "go", by="nul\x00"), id="a signal's sender"
        ),
        pytest.param(lambda client, run: client.approve(run, "m", by="nul\x00"), id="a decider"),
        pytest.param(
            lambda client, run: client.approve(run, "nul\x00", by="bob"), id="an approval's name"
        ),
        pytest.param(lambda client, run: client.cancel(run, by="nul\x00"), id="an operator"),
        pytest.param(lambda client, run: client.cancel(run, reason="nul\x00"), id="a reason"),
        pytest.param(lambda client, run: client.start("p", by="nul\x00"), id="a producer"),
        pytest.param(
            lambda client, run: client.start("p", attributes={"a": object()}), id="attributes"
        ),
        pytest.param(
            lambda client, run: client.start("p", attributes={"a": math.nan}),
            id="attributes with NaN",
        ),
        pytest.param(
            lambda client, run: client.start("p", expires_in=hours(10**10)),
            id="an expiry in a million years",
        ),
        pytest.param(lambda client, run: client.get("nul\x00"), id="a business key"),
    ],
)
def test_what_a_caller_says_wrongly_is_refused_in_our_words(harness, says):
    """What callers say is checked at the door of each verb, or made readable where only people
    read it: no error of SQLAlchemy or json reaches them, only PerennialError.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.approval("m", assign=["bob"])

    run = harness.run(p)
    with contextlib.suppress(PerennialError):
        says(harness.client, run)


@modes_of(NORMAL, because="nothing is found, nor sent")
@pytest.mark.parametrize("text", ["nul\x00", "\ud800"])
def test_what_is_looked_for_is_text_that_postgres_can_hold(harness, text):
    """As it comes in a web page's address: refused in a sentence, whichever door it came by."""
    client, of = harness.client, RunFilter
    doors = [
        lambda: client.start(text),
        lambda: client.start_many(text, [1]),
        lambda: client.list(process=text),
        lambda: client.list(key=text),
        lambda: client.list(where={"team": text}),
        lambda: client.list(matching=of(key_prefix=text)),
        lambda: client.list(matching=of(cause=text)),
        lambda: client.list(matching=of(error_type=text)),
        lambda: client.list(matching=of(stage=text)),
        lambda: client.list(matching=of(waiting_for=text)),
        lambda: client.list(matching=of(attributes={"team": text})),
        lambda: client.approvals(assignee=text),
        lambda: client.approvals(process=text),
        lambda: client.approvals(state=text),
        lambda: client.operations.counts(text),
        lambda: client.operations.timer_lateness(text),
        lambda: client.operations.incidents(process=text),
        lambda: client.processes.list(text),
        lambda: client.processes.history(text),
        lambda: client.processes.set_current(text, 1),
        lambda: client.processes.retire(text, 1),
    ]
    for door in doors:
        with pytest.raises(PerennialError) as refused:
            door()
        assert "\x00" not in str(refused.value)
        str(refused.value).encode()
