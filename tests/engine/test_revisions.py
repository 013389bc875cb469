"""A worker moves a run only with the code that the run stands on; one that has other code leaves it, in sight."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Flow, Process, Registry, RunStatus, process, stage
from orchestrator.core.declarative import load_process
from orchestrator.errors import CodeDiffers
from orchestrator.store.transitions import processes
from tests.harness import Harness
from tests.modes import EAGER, NORMAL, TWICE, modes_of

pytestmark = modes_of(NORMAL, TWICE, EAGER, because="what is left is left, however it came")


def first(registry: Registry) -> Process:
    """Work, then people."""

    @stage(registry=registry)
    def work() -> str:
        return "first"

    @process(version=1, registry=registry)
    async def p(flow: Flow) -> str:
        made = await flow.stage(work)
        await flow.approval("manager", assign=["bob"])
        return made

    return p


def second(registry: Registry) -> Process:
    """The same, and its stage has been mended; what follows the people has changed."""

    @stage(registry=registry)
    def work() -> str:
        return "second"

    @process(version=1, registry=registry)
    async def p(flow: Flow) -> str:
        made = await flow.stage(work)
        manager = await flow.approval("manager", assign=["bob"])
        return f"{made} by {manager.by}"

    return p


@pytest.fixture
def other(harness: Harness) -> Any:
    """A worker with the second code, where the first is deployed."""
    registry = Registry()
    second(registry)
    return harness.worker("other", registry=registry)


def test_a_worker_with_other_code_leaves_the_turn_and_says_so_once(harness: Harness, other):
    """Guards `_in_record`."""
    run = harness.run(first(harness.registry))
    harness.client.approve(run, by="bob")
    (message, *_) = harness.pending()
    for _ in range(2):
        harness.deliver(message, other)
    assert harness.client.get(run).waiting_for == "a worker that can run p version 1 revision 1"
    told = [each for each in harness.client.history(run) if each.event == "left for another worker"]
    assert [each.actor for each in told] == ["other"]
    assert "this worker's code of p version 1 is not what was deployed" in told[0].detail["why"]
    assert "`perennial deploy --amend`" in told[0].detail["why"]
    harness.deliver(message)
    harness.drain()
    assert harness.client.result(run) == "first"
    harness.assert_ended_cleanly(run)


def test_a_stage_is_any_workers_and_the_turn_that_follows_is_not(harness: Harness, other):
    """Its result is recorded, by the stage as it is there; the turn is handed to whoever has the flow."""
    run = harness.start(first(harness.registry))
    for message in harness.pending():
        harness.deliver(message)
    for message in [*harness.pending(), *harness.messenger.handed_off]:
        harness.deliver(message, other)
    done = [each for each in harness.client.history(run) if each.event == "stage done"]
    if not harness.mode.goes_on:
        assert [each.actor for each in done] == ["other"]
    harness.messenger.handed_off += other.messenger.handed_off
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING
    harness.client.approve(run, by="bob")
    harness.drain()
    assert harness.client.result(run) == ("first" if harness.mode.goes_on else "second")


def test_each_run_goes_on_with_the_code_of_its_own_revision(harness: Harness, other):
    """Of two that stand on two revisions, each worker moves one, as soon as there is the second."""
    stays, moves = (harness.run(first(harness.registry)) for _ in range(2))
    with pytest.raises(CodeDiffers), other.connection() as connection:
        other.definitions.find(connection, "p", 1, 1)
    harness.stand_on(second(Registry()), moves)
    for run in (stays, moves):
        harness.client.approve(run, by="bob")
    messages = harness.pending()
    for context in (other, harness.context):
        for message in messages:
            harness.deliver(message, context)
    assert [harness.client.result(run) for run in (stays, moves)] == ["first", "first by bob"]
    with other.connection() as connection:
        assert other.definitions.revisions_at_hand(connection, "p", 1) == [2]
        assert harness.context.definitions.revisions_at_hand(connection, "p", 1) == [1]


YAML = "process: {{name: d, stages: [{stages}]}}"


def test_one_worker_runs_all_revisions_of_a_declarative_process(harness: Harness):
    for name in ("one", "two"):
        stage(name=name, registry=harness.registry)(lambda name=name: name)
    former, amended = (
        load_process(YAML.format(stages=stages), registry=harness.registry)
        for stages in ("one, two", "two, one")
    )
    old = harness.start(former)
    harness.stand_on(amended)
    new = harness.client.start("d")
    harness.drain()
    for run, order in ((old, ["one", "two"]), (new, ["two", "one"])):
        done = [each for each in harness.client.history(run) if each.event == "stage done"]
        assert [each.key for each in done] == order


def test_what_differs_is_not_read_at_each_message(harness: Harness, other, monkeypatch):
    """Nor what is ours, ever again. Guards `_revisions`."""
    run = harness.run(first(harness.registry))
    harness.client.approve(run, by="bob")
    (message, *_) = harness.pending()
    now, reads = [0.0], []
    other.definitions._monotonic = lambda: now[0]
    read = processes.read_revisions
    monkeypatch.setattr(
        processes, "read_revisions", lambda *args: reads.append(args[1:]) or read(*args)
    )
    for at, so_far in ((0.0, 1), (0.9, 1), (1.0, 2), (1.9, 2)):
        now[0] = at
        harness.deliver(message, other)
        assert len(reads) == so_far
    harness.deliver(message)
    if not harness.mode.goes_on:  # where tests make a context of their own for each message
        assert len(reads) == so_far
    assert harness.status(run) is RunStatus.COMPLETED


def test_an_install_without_source_that_nobody_can_compare_is_told_so(harness: Harness):
    """What is deployed was recorded by another Python, or by an older release."""
    harness.run(first(harness.registry))
    harness.database.rows(
        """UPDATE perennial.process_revision SET fingerprints = '{"program": "x"}'"""
    )
    registry = Registry()
    space: dict[str, Any] = {"registry": registry, "__name__": "shell"}
    text = (
        "from orchestrator import Flow, process\n"
        "@process(version=1, name='p', registry=registry)\n"
        "async def p(flow: Flow) -> None: ...\n"
    )
    exec(compile(text, "<nowhere>", "exec", dont_inherit=True), space)
    bare = harness.worker("bare", registry=registry)
    with bare.connection() as connection, pytest.raises(CodeDiffers, match="has no source"):
        bare.definitions.find(connection, "p", 1, 1)
