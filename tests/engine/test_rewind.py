"""`rewind`: a run goes back to a point; what lies behind leaves the journal, and history keeps it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from orchestrator import Client, Fail, Flow, Registry, Retry, RunStatus, hours, process, stage, step
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.errors import ApprovalChanged, NotAssigned, OperationRefused
from orchestrator.store.transitions.claim import claim_activity_if_pending
from tests.harness import Harness
from tests.modes import NORMAL, modes_of


class House:
    """Stages that count their calls, and a flow of all kinds."""

    def __init__(self, harness: Harness) -> None:
        self.calls: Counter[str] = Counter()

        def call(name: str) -> str:
            self.calls[name] += 1
            return name

        @stage(registry=harness.registry, retry=Retry(max_attempts=2, delay_seconds=0))
        def first() -> str:
            return call("first")

        @stage(registry=harness.registry)
        def second() -> str:
            step(call, "in-second")
            return call("second")

        @stage(registry=harness.registry)
        def third() -> str:
            return call("third")

        @process(version=1, registry=harness.registry)
        async def line(flow: Flow) -> Any:
            await flow.stage(first)
            said = await flow.signal("go")
            boss = await flow.approval("boss", assign=["bob"], timeout=hours(9))
            await flow.stage(second)
            await flow.sleep(0)
            inline = await flow.step(call, "inline")
            return [said, boss.outcome, await flow.stage(third), inline]

        async def branch(flow: Flow, work: Any, name: str) -> str:
            await flow.stage(work)
            return (await flow.approval(name, assign=["bob"])).outcome

        @process(version=1, registry=harness.registry)
        async def branches(flow: Flow) -> Any:
            return await flow.gather(
                {"a": branch(flow, first, "x"), "b": branch(flow, second, "y")}, key="g"
            )

        self.line, self.branches, self.first, self.third = line, branches, first, third


@pytest.fixture
def house(harness: Harness) -> House:
    return House(harness)


def rewind(harness: Any, run: Any, to: str, **how: Any) -> Any:
    client = harness if isinstance(harness, Client) else harness.client
    return client.operations.rewind(run, to, by="ann", reason="wrong", **how)


def completed(harness: Harness, house: House) -> Any:
    run = harness.run(house.line, key="k")
    harness.client.signal(run, "go", 1)
    harness.drain()
    harness.client.approve(run, by="bob")
    harness.drain()
    assert harness.client.result(run) == [1, "approved", "third", "inline"]
    return run


def test_a_run_goes_back_and_does_again_what_the_preview_says(harness, house):
    """A completed one: decisions are asked for anew, a signal is taken again, and history has all results."""
    run = completed(harness, house)
    with pytest.raises(OperationRefused, match="--even-if-completed"):
        rewind(harness, run, "boss")
    preview = rewind(harness, run, "go", even_if_completed=True, dry_run=True).preview
    assert preview.goes_on == ("signal go is asked for anew",)
    assert preview.repeats == (
        "stage second, with the 1 step(s) in it",
        "sleep sleep, in full",
        "step call",
        "stage third",
    )
    assert preview.drops == (
        "approval boss, approved by bob: it is asked for anew, its deadlines too",
    )
    assert preview.notes == ("signals are taken again: go",)
    rewind(harness, run, "go", even_if_completed=True, digest=preview.digest)
    harness.drain()
    view = harness.client.get(run)
    assert (view.status, view.output, view.closed_at) == (RunStatus.WAITING, None, None)
    harness.client.reject(view, by="bob")
    harness.drain()
    assert harness.client.result("k") == [1, "rejected", "third", "inline"]
    assert house.calls == {"first": 1, "second": 2, "in-second": 2, "inline": 2, "third": 2}
    harness.assert_ended_cleanly(run)
    told = [each for each in harness.client.history(run) if each.event == "left the journal"]
    kept = {each.key: each.detail.get("result") for each in told}
    assert (kept["second"], kept["second/call"], kept["go"]) == ("second", "in-second", 1)
    assert kept["boss"]["by"] == "bob"
    (word,) = [each for each in harness.client.history(run) if each.event == "rewound"]
    assert (word.actor, word.key, word.detail["reason"]) == ("ann", "go", "wrong")


def test_another_branch_stays(harness, house):
    """Replay knows what hangs on the point, and what does not."""
    run = harness.run(house.branches)
    harness.client.approve(run, "g/a/x", by="bob")
    harness.drain()
    assert rewind(harness, run, "g/b/second").preview.repeats == (
        "stage second (key g/b/second), with the 1 step(s) in it",
    )
    harness.drain()
    harness.client.approve(run, "g/b/y", by="bob", edition=1)
    harness.drain()
    assert harness.client.result(run) == {"a": "approved", "b": "approved"}
    assert house.calls == {"first": 1, "second": 2, "in-second": 2}
    assert harness.events(run).count("approval asked") == 3
    harness.assert_ended_cleanly(run)


@modes_of(NORMAL, because="a view is a view")
def test_a_decision_on_what_was_asked_before_is_refused(harness, house):
    """A click on the page that was open as the run went back. Guards the edition in a commit's approvals."""
    run = harness.run(house.line)
    harness.client.signal(run, "go", 1)
    harness.drain()
    (seen,) = harness.client.approvals(assignee="bob")
    rewind(harness, run, "boss")
    harness.drain()
    with pytest.raises(ApprovalChanged, match="changed since it was looked at"):
        harness.client.approve(run, seen, by="bob")
    for bare in ("boss", None):
        with pytest.raises(ApprovalChanged, match=r"asked anew.* --edition 1`") as refusal:
            harness.client.approve(run, bare, by="bob")
        assert refusal.value.edition == 1
    with pytest.raises(NotAssigned):
        harness.client.approve(run, "boss", by="eve")
    (asked,) = harness.client.approvals(assignee="bob")
    harness.client.reject(run, asked, by="bob")
    harness.drain()
    assert harness.client.result(run)[1] == "rejected"


@modes_of(NORMAL, because="a stale message is a stale message")
def test_attempts_of_before_reach_nothing(harness, house):
    run = harness.run(house.line)
    rewind(harness, run, "first")
    harness.relay_all()
    advance(harness.context, run.run_id)
    run_stage(harness.context, run.run_id, "first", 1)
    assert house.calls["first"] == 1
    harness.drain()
    assert house.calls["first"] == 2
    assert harness.status(run) is RunStatus.WAITING


@modes_of(NORMAL, because="the journal is read alone")
def test_without_the_code_all_that_came_later_leaves(harness, house):
    run = harness.run(house.branches)
    harness.client.approve(run, "g/a/x", by="bob")
    harness.drain()
    with Client(harness.settings, registry=Registry()) as bare:
        harness.database.adopt(bare._context.database)
        preview = rewind(bare, run, "g/b/second", dry_run=True).preview
        assert "not at hand" in preview.notes[0]
        assert set(preview.change.removed) >= {"g/b/second", "g/b/y"}
        rewind(bare, run, "g/b/second")
    harness.drain()
    for asked in harness.client.approvals(assignee="bob"):
        harness.client.approve(run, asked, by="bob")
    harness.drain()
    assert harness.client.result(run) == {"a": "approved", "b": "approved"}
    assert house.calls["first"] == 1


def test_an_incident_and_a_failed_run_go_back(harness, house):

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, fails: bool) -> Any:
        await flow.stage(house.first)
        decision = await flow.approval("boss", assign=["bob"])
        if not decision.approved:
            if fails:
                raise Fail("no")
            return {}[0]
        return await flow.stage(house.third)

    for fails, status in ((True, RunStatus.FAILED), (False, RunStatus.INCIDENT)):
        run = harness.run(p, fails)
        harness.client.reject(run, by="bob")
        harness.drain()
        assert harness.status(run) is status
        rewind(harness, run, "boss")
        harness.drain()
        assert harness.status(run) is RunStatus.WAITING
        harness.client.approve(harness.client.get(run), by="bob")
        harness.drain()
        assert harness.client.result(run) == "third"
        harness.assert_ended_cleanly(run)
    assert house.calls == {"first": 2, "third": 2}


@modes_of(NORMAL, because="what is refused is the same in all")
def test_each_refusal_says_what_to_do_instead(harness, house):
    run = harness.run(house.line, key="k")
    with pytest.raises(OperationRefused, match=r"has no activity 'firts'.*Did you mean 'first'"):
        rewind(harness, run, "firts")
    harness.client.signal(run, "go", 1)
    harness.drain()
    harness.client.approve(run, by="bob")
    harness.relay_all()
    advance(harness.context, run.run_id)
    with harness.context.connection() as connection:
        claim_activity_if_pending(
            connection, run.run_id, "second", 1, worker_id=harness.beat(harness.context)
        )
    with pytest.raises(OperationRefused, match=r"second .* is being worked on by worker-1"):
        rewind(harness, run, "boss")
    harness.client.cancel(run)
    with pytest.raises(OperationRefused, match=r"is cancelled.*`perennial restart RUN`"):
        rewind(harness, run, "boss")
    new = harness.client.operations.restart(run)
    with pytest.raises(OperationRefused, match=f"started anew as {new.run_id}"):
        rewind(harness, run.run_id, "boss")
