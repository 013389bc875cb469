"""Stages that a flow waits for together: the end of one is a fact alone, and the last of them takes the turn."""

from __future__ import annotations

from collections import Counter
from threading import Barrier, Thread

import pytest

from orchestrator import Flow, Retry, faults, process, stage
from orchestrator.core.run import RunStatus
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from tests.modes import NORMAL, TWICE, modes_of


def gathering(harness, many=5, *, fails=(), retry=None, waits_too=False):
    @stage(registry=harness.registry, retry=retry or Retry(max_attempts=1))
    def double(n: int) -> int:
        if n in fails:
            raise ValueError(n)
        return 2 * n

    @process(version=1, registry=harness.registry)
    async def doubles(flow: Flow) -> list[int]:
        stages = [flow.stage(double, n, key=f"double-{n}") for n in range(many)]
        others = [flow.signal("go", type=int)] if waits_too else []
        return await flow.gather(*stages, *others)

    return doubles


def turns_taken(harness, run):
    """Each raises the revision once, and so does each end of a stage that is a fact alone."""
    ends = harness.events(run).count("stage done") + harness.events(run).count("stage failed")
    return harness.database.value("SELECT revision FROM perennial.run") - ends


def work(harness, run, n, context=None):
    run_stage(context or harness.context, run.run_id, f"double-{n}", 1)


def waiting_for(harness):
    return harness.database.value("SELECT waiting_for FROM perennial.run")


@modes_of(
    NORMAL,
    TWICE,
    because="it counts turns, and who goes on at once takes one stage over with the first",
)
def test_five_stages_cost_two_turns(harness):
    run = harness.run(gathering(harness))
    assert harness.client.result(run) == [0, 2, 4, 6, 8]
    assert turns_taken(harness, run) == 2


def test_whatever_the_mode_each_is_called_once_and_the_results_stand_in_their_order(harness):
    run = harness.run(gathering(harness, 7))
    assert harness.client.result(run) == [0, 2, 4, 6, 8, 10, 12]
    assert Counter(harness.events(run))["stage done"] == 7


def test_those_that_fail_are_counted_and_the_first_by_position_is_raised(harness):
    run = harness.run(gathering(harness, fails=(1, 3)))
    view = harness.client.get(run)
    assert (view.status, view.error["message"].split(":")[0]) == (
        RunStatus.FAILED,
        "double-1 failed after 1 attempt(s)",
    )


def test_one_that_is_tried_again_is_not_counted_before_its_end(harness):
    harness.freeze()
    run = harness.run(
        gathering(harness, fails=(1,), retry=Retry(max_attempts=2, delay_seconds=60, jitter=0))
    )
    assert harness.status(run) is RunStatus.RUNNING
    harness.move(seconds=61)
    harness.drain()
    assert harness.status(run) is RunStatus.FAILED


@modes_of(NORMAL, because="messages are delivered one by one")
def test_what_people_read_of_it_goes_along(harness):
    run = harness.start(gathering(harness, 4))
    advance(harness.context, run.run_id)
    said = [waiting_for(harness)]
    for n in (2, 0, 3):
        work(harness, run, n)
        said.append(waiting_for(harness))
    assert said == [
        "stage double and 3 more",
        "stage double and 2 more",
        "stage double and 1 more",
        "stage double",
    ]
    view = harness.client.get(run)
    assert [wait.key for wait in view.waits] == ["double-1"]
    assert view.untaken_turn == ""


@modes_of(NORMAL, because="messages are delivered one by one")
def test_a_claim_of_one_of_many_reads_no_journal(harness):
    run = harness.start(gathering(harness, 4))
    advance(harness.context, run.run_id)
    seen: list[str] = []
    faults.listen(lambda when, what: seen.append(what) if when == "before" else None)
    try:
        work(harness, run, 1)
    finally:
        faults.listen(None)
    assert seen == ["claim_activity", "work", "count_settlement"]


@modes_of(NORMAL, because="messages are delivered one by one")
def test_a_wait_for_the_world_among_them_is_not_counted(harness):
    """Each end takes its turn then, so that what the run waits for is right."""
    run = harness.start(gathering(harness, 3, waits_too=True))
    advance(harness.context, run.run_id)
    assert harness.database.value("SELECT outstanding FROM perennial.run") is None
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING
    harness.client.signal(run, "go", 9)
    harness.drain()
    assert harness.client.result(run) == [0, 2, 4, 9]


@modes_of(NORMAL, because="a worker of the release before, between two of this one")
def test_a_turn_of_another_release_ends_the_count(harness):
    """It takes a turn at each end and knows of no count, so the one that stands there says nothing any more."""
    run = harness.start(gathering(harness, 3))
    advance(harness.context, run.run_id)
    work(harness, run, 0)
    harness.database.rows(
        "UPDATE perennial.run SET revision = revision + 1, turn_revision = revision + 1"
    )
    harness.database.rows(
        "UPDATE perennial.activity SET state = 'done', result = '2', settled_at = perennial.now(), settled_revision ="
        " (SELECT revision FROM perennial.run) WHERE key = 'double-1'"
    )
    work(harness, run, 2)
    harness.messenger.handed_off.clear()
    harness.recover(1)
    assert harness.client.result(run) == [0, 2, 4]


@modes_of(NORMAL, because="workers race by real connections")
def test_of_those_that_end_at_once_the_last_asks_for_the_turn(harness):
    run = harness.start(gathering(harness, 6))
    advance(harness.context, run.run_id)
    at_once = Barrier(6)
    contexts = [harness.worker(f"worker-{n}") for n in range(6)]

    def end(n):
        at_once.wait()
        work(harness, run, n, contexts[n])

    threads = [Thread(target=end, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert harness.client.result(run) == [0, 2, 4, 6, 8, 10]


@modes_of(NORMAL, because="messages are delivered one by one")
@pytest.mark.parametrize("door", ["cancelled", "paused", "signalled"])
def test_other_facts_meanwhile_lose_nothing(harness, door):
    run = harness.start(gathering(harness, 3))
    advance(harness.context, run.run_id)
    work(harness, run, 0)
    if door == "cancelled":
        harness.client.cancel(run)
    elif door == "paused":
        harness.client.operations.pause(run)
    else:
        harness.client.signal(run, "anything", 1)
        harness.drain()
    work(harness, run, 1)
    work(harness, run, 2)
    if door == "paused":
        assert harness.status(run) is RunStatus.PAUSED
        harness.client.operations.resume(run)
    harness.drain()
    expected = RunStatus.CANCELLED if door == "cancelled" else RunStatus.COMPLETED
    assert harness.status(run) is expected


@modes_of(NORMAL, because="a branch with code of its own")
def test_a_branch_with_code_of_its_own_takes_its_turns(harness):
    @stage(registry=harness.registry)
    def double(n: int) -> int:
        return 2 * n

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[int]:
        async def twice(n: int) -> int:
            return await flow.stage(double, await flow.stage(double, n))

        return await flow.gather(twice(1), twice(2))

    assert harness.client.result(harness.run(p)) == [4, 8]
