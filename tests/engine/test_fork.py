"""`fork`: a copy of a run from a point, which goes on by itself; the run stays as it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from orchestrator import Flow, Retry, RunStatus, days, hours, process, stage, step
from orchestrator.errors import OperationRefused
from tests.harness import Harness
from tests.modes import NORMAL, modes_of


@pytest.fixture
def calls() -> Counter[str]:
    return Counter()


@pytest.fixture
def line(harness: Harness, calls: Counter[str]) -> Any:
    def call(name: str) -> str:
        calls[name] += 1
        return name

    @stage(registry=harness.registry)
    def first() -> str:
        return call("first")

    @stage(registry=harness.registry, retry=Retry(max_attempts=2, delay_seconds=3600))
    def second(fails: bool) -> str:
        step(call, "in-second")
        call("second")
        if fails and calls["second"] == 1:
            raise ConnectionError
        return "second"

    @process(version=1, registry=harness.registry, expires_after=days(9))
    async def line(flow: Flow, fails: bool) -> Any:
        began = flow.now
        await flow.stage(first)
        said = await flow.signal("go")
        boss = await flow.approval("boss", assign=["bob"], timeout=hours(9))
        await flow.sleep_until(began)
        await flow.stage(second, fails)
        return [said, boss.outcome, await flow.signal("last")]

    return line


def fork(harness: Harness, run: Any, **how: Any) -> Any:
    return harness.client.operations.fork(run, by="ann", reason="a try", **how)


def said(harness: Harness, line: Any, fails: bool = False) -> Any:
    run = harness.run(line, fails, key="k")
    harness.client.signal(run, "go", 1, signal_id="go-1")
    harness.client.signal(run, "last", 2)
    harness.drain()
    return run


def test_a_copy_goes_another_way(harness, line, calls):
    """From a point of a run that has completed: decisions before it stand, signals are there, nothing is shared."""
    run = said(harness, line)
    harness.client.approve(run, by="bob")
    harness.drain()
    before = harness.client.get(run)
    assert before.output == [1, "approved", 2]
    preview = fork(harness, run, at="boss", dry_run=True).preview
    assert preview.repeats == ("stage second",)
    copy = fork(harness, run, at="boss", digest=preview.digest).new_run_id
    harness.drain()
    (asked,) = harness.client.approvals(assignee="bob")
    assert asked.run_id == copy
    harness.client.reject(copy, by="bob")
    harness.drain()
    assert harness.client.result(copy) == [1, "rejected", 2]
    assert calls == {"first": 1, "second": 2, "in-second": 2}
    harness.assert_ended_cleanly(copy)
    after = harness.client.get(run)
    assert (after.output, after.revision, after.business_key) == (
        before.output,
        before.revision,
        "k",
    )
    view = harness.client.get(copy)
    assert (view.business_key, view.created_at) == (None, before.created_at)
    (told,) = [each for each in harness.client.history(copy) if each.event == "forked"]
    assert told.detail == {"reason": "a try", "of": str(run.run_id), "at": "boss"}
    (of_run,) = [each for each in harness.client.history(run) if each.event == "forked"]
    assert of_run.detail["as"] == str(copy)


def test_what_is_open_is_asked_for_anew_in_the_copy(harness, line, calls):
    """An approval, with its deadline; a stage at rest, whose steps are remembered."""
    run = said(harness, line, fails=True)
    copy = fork(harness, run, key="k2").new_run_id
    harness.drain()
    assert {each.run_id for each in harness.client.approvals(assignee="bob")} == {run.run_id, copy}
    harness.client.approve(run, by="bob")
    harness.drain()
    assert harness.client.get(run).waits[0].attempt == 2
    at_rest = fork(harness, run, operation="op")
    again = fork(harness, run, operation="op")
    assert (again.is_applied, again.new_run_id) == (False, at_rest.new_run_id)
    harness.drain()
    assert harness.client.result(at_rest.new_run_id) == [1, "approved", 2]
    assert calls["in-second"] == 1
    assert harness.client.get("k2").id == copy
    harness.move(hours=2)
    harness.drain()
    assert harness.client.result(run) == [1, "approved", 2]
    harness.client.cancel(copy)
    for each in (run, copy, at_rest.new_run_id):
        harness.assert_ended_cleanly(each)


def test_a_copy_that_goes_back_takes_the_signals_again_that_its_run_has_taken(harness, line):
    """A copy has them, as taken by the waits that it has copied; who sends them again says nothing new."""
    run = said(harness, line)
    copy = fork(harness, run, at="boss").new_run_id
    harness.drain()
    assert not harness.client.signal(copy, "go", 3, signal_id="go-1")
    harness.client.operations.rewind(copy, "go", by="ann")
    harness.drain()
    (asked,) = harness.client.approvals(run=copy)
    harness.client.approve(copy, asked, by="bob")
    harness.drain()
    assert harness.client.result(copy) == [1, "approved", 2]
    with pytest.raises(OperationRefused, match="the mark of a copy, which nobody goes back to"):
        harness.client.operations.rewind(copy, "origin#", even_if_completed=True)


@modes_of(NORMAL, because="what is refused is the same in all")
def test_each_refusal_says_what_to_do_instead(harness, line):
    run = said(harness, line)
    with pytest.raises(OperationRefused, match=f"run {run.run_id} of line has the key 'k'"):
        fork(harness, run, key="k")
    with pytest.raises(OperationRefused, match="Did you mean 'boss'"):
        fork(harness, run, at="bos")
    harness.client.cancel(run)
    with pytest.raises(OperationRefused, match="`perennial fork RUN --at KEY`"):
        fork(harness, run)
    assert harness.status(fork(harness, run, at="boss").new_run_id) is RunStatus.RUNNING
