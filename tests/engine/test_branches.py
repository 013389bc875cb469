"""Races, maps, blocks and scopes in a record: what is cancelled is cancelled there, and told. (docs/adr/0051)"""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import (
    BlockTimedOut,
    DecisionRefused,
    Flow,
    Retry,
    hours,
    process,
    stage,
)
from orchestrator.engine.stage import claim_stage, work_and_settle
from tests.harness import Harness
from tests.modes import EAGER, EVICT, NORMAL, TWICE, modes_of

modes = modes_of(
    NORMAL, EVICT, TWICE, EAGER, because="what a race or a block cancels, it cancels once"
)


@pytest.fixture
def stages(harness: Harness) -> Any:
    calls: list[Any] = []

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def work(number: int) -> int:
        calls.append(number)
        if number < 0:
            raise ValueError(f"{number} is too little")
        return number

    return SimpleNamespace(calls=calls, work=work)


def states(harness: Harness, run: Any) -> dict[str, str]:
    rows = harness.database.rows(
        "SELECT key, state FROM perennial.activity WHERE run_id = :id", id=run.run_id
    )
    return {row.key: row.state for row in rows}


@modes
def test_losers_of_a_race_are_cancelled_in_the_commit_that_decides_it(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        race = await flow.first(
            flow.approval("boss", assign=["ann"], timeout=hours(1), escalate={60: ["bob"]}),
            flow.signal("paid", timeout=hours(2)),
            flow.sleep(hours(3)),
            flow.signal("go"),
        )
        late = await flow.signal("paid")
        return [race.index, [str(each.state) for each in race.branches], late]

    run = harness.run(p)
    assert harness.open_things(run)["timers"] == 4
    assert [view.key for view in harness.client.approvals(assignee="ann")] == ["boss"]
    harness.client.signal(run, "go")
    harness.drain()
    assert states(harness, run) == {
        "boss": "cancelled",
        "paid": "cancelled",
        "sleep": "cancelled",
        "go": "done",
        "paid#2": "pending",
    }
    assert harness.open_things(run) | {"handoffs": 0} == {
        "activities": 1,
        "timers": 0,
        "approvals": 0,
        "handoffs": 0,
        "turns": 0,
    }
    assert not harness.client.approvals(assignee="ann")
    with pytest.raises(DecisionRefused, match="was cancelled"):
        harness.client.approve(run, "boss", by="ann")
    (wait,) = harness.client.get(run).waits
    assert wait.key == "paid#2"
    told = [each for each in harness.client.history(run) if each.key in ("boss", "paid", "sleep")]
    assert {each.event for each in told} >= {
        "approval withdrawn",
        "signal cancelled",
        "sleep cancelled",
    }
    harness.client.signal(run, "paid", 7)
    harness.drain()
    assert harness.client.result(run) == [
        3,
        ["cancelled", "cancelled", "cancelled", "succeeded"],
        7,
    ]
    harness.assert_ended_cleanly(run)


@modes_of(NORMAL, TWICE, because="its worker is driven by hand")
def test_a_stage_at_work_that_has_lost_is_refused_its_late_answer(harness, stages):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        race = await flow.first(flow.stage(stages.work, 1), flow.signal("go"))
        await flow.signal("end")
        return [str(each.state) for each in race.branches]

    run = harness.start(p)
    (advance,) = harness.pending()
    harness.deliver(advance)
    worker = harness.worker("slow")
    with worker.identity.lease() as worker_id:
        claim = claim_stage(worker, run.run_id, "work", 1, worker_id=worker_id)
        assert claim is not None
        harness.client.signal(run, "go")
        harness.drain()
        assert states(harness, run) == {"work": "cancelled", "go": "done", "end": "pending"}
        work_and_settle(worker, claim)
    harness.drain()
    assert stages.calls == [1]
    assert states(harness, run)["work"] == "cancelled"
    assert harness.open_things(run)["handoffs"] == 0
    harness.client.signal(run, "end")
    harness.drain()
    assert harness.client.result(run) == ["cancelled", "succeeded"]


@modes
def test_a_stage_that_rests_before_its_retry_or_waits_for_a_worker_is_called_off(harness):
    @stage(registry=harness.registry, retry=Retry(max_attempts=5, delay_seconds=600))
    def flaky() -> None:
        raise ValueError("not yet")

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        race = await flow.first(flow.stage(flaky), flow.signal("go"))
        await flow.signal("end")
        return race.index

    run = harness.run(p)
    assert states(harness, run)["flaky"] == "retrying"
    harness.client.signal(run, "go")
    harness.drain()
    assert states(harness, run) == {"flaky": "cancelled", "go": "done", "end": "pending"}
    assert harness.open_things(run)["timers"] == 0
    assert "stage cancelled" in harness.events(run)
    harness.client.signal(run, "end")
    harness.drain()
    assert harness.client.result(run) == 1
    harness.assert_ended_cleanly(run)


@modes
def test_a_signal_that_a_deadline_took_for_a_cancelled_wait_stays_for_the_next(harness, stages):
    """The stage's end, then the signal, then the deadline of its wait: all before the turn that cancels the wait."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        race = await flow.first(flow.signal("s", timeout=60), flow.signal("go"))
        await flow.signal("end")
        return [race.index, await flow.signal("s")]

    harness.freeze()
    run = harness.run(p)
    harness.client.signal(run, "go")
    harness.client.signal(run, "s", "kept")
    harness.move(seconds=61)
    (timer_id,) = harness.due_timers()
    harness.deliver(timer_id)
    assert states(harness, run)["s"] == "done"
    harness.drain()
    assert states(harness, run)["s"] == "cancelled"
    assert "signal given back" in harness.events(run)
    harness.client.signal(run, "end")
    harness.drain()
    assert harness.client.result(run) == [1, "kept"]
    harness.assert_ended_cleanly(run)


@modes
def test_clean_up_of_a_loser_is_awaited_and_survives_each_eviction(harness, stages):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        async def booked(number: int) -> int:
            try:
                await flow.stage(stages.work, number)
                await flow.signal("never")
            finally:
                await flow.stage(stages.work, number + 10, key="undo")
            return number

        race = await flow.first(booked(1), booked(2), flow.sleep(60), key="race")
        return [race.index, [str(each.state) for each in race.branches]]

    harness.freeze()
    run = harness.run(p)
    harness.move(seconds=61)
    harness.drain()
    assert harness.client.result(run) == [2, ["cancelled", "cancelled", "succeeded"]]
    assert sorted(stages.calls) == [1, 2, 11, 12]
    harness.assert_ended_cleanly(run)


@modes
def test_a_map_stops_at_what_it_tolerates_and_the_rest_is_called_off(harness, stages):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        async def each(number: int) -> int:
            done = await flow.stage(stages.work, number)
            await flow.signal(f"go-{number}")
            return done

        results = await flow.map(
            each, [0, -1, 2, -3, 4, 5], max_concurrency=4, tolerated_failures=1
        )
        await flow.signal("end")
        return [
            str(results.why),
            results.failed,
            results.started,
            [str(one.state) for one in results],
        ]

    run = harness.run(p)
    harness.client.signal(run, "go-0")
    harness.drain()
    waits = {wait.key for wait in harness.client.get(run).waits}
    assert waits == {"end"}
    found = states(harness, run)
    assert {state for key, state in found.items() if "go-" in key} <= {"done", "cancelled"}
    harness.client.signal(run, "end")
    harness.drain()
    why, failed, _started, of_each = harness.client.result(run)
    assert (why, failed) == ("more have failed than is tolerated", 2)
    assert of_each.count("failed") == 2
    assert len(stages.calls) == len(set(stages.calls))
    harness.assert_ended_cleanly(run)


@modes
def test_a_block_that_is_not_done_in_time_leaves_nothing_open(harness, stages):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        try:
            async with flow.timeout(60):
                await flow.stage(stages.work, 1)
                with flow.timeout(600, key="inner"):
                    await flow.gather(
                        flow.approval("boss", assign=["ann"], timeout=300), flow.signal("go")
                    )
        except BlockTimedOut as error:
            at = flow.now
            await flow.signal("end")
            return [error.key, at.isoformat()]

    began = harness.freeze()
    run = harness.run(p)
    view = harness.client.get(run)
    assert view.waiting_for == "approval boss and 3 more"
    (bound,) = [wait for wait in view.waits if wait.key == "timeout"]
    assert bound.who == ("nobody: it bounds what else is awaited",)
    assert bound.next[0].what == "what its block awaits is cancelled"
    harness.move(seconds=60)
    harness.drain()
    assert states(harness, run) == {
        "timeout": "timed_out",
        "inner": "cancelled",
        "work": "done",
        "boss": "cancelled",
        "go": "cancelled",
        "end": "pending",
    }
    assert harness.open_things(run)["timers"] == 0
    harness.client.signal(run, "end")
    harness.drain()
    assert harness.client.result(run) == ["timeout", (began + timedelta(seconds=60)).isoformat()]
    assert "block timed out" in harness.events(run)
    harness.assert_ended_cleanly(run)


@modes
def test_a_recorded_scope_is_run_to_its_end_once_and_its_flow_goes_on(harness, stages):
    entered: list[str] = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        async def part(user: str) -> list[Any]:
            entered.append(user)
            return [user, await flow.stage(stages.work, 1), await flow.step(len, user)]

        both = await flow.gather(
            flow.scope("part", part, "ann", record=True), flow.stage(stages.work, 2, key="beside")
        )
        await flow.signal("end")
        return both

    run = harness.run(p)
    assert states(harness, run)["part"] == "done"
    assert harness.events(run).count("scope completed") == 1
    before = len(entered)
    harness.client.signal(run, "end")
    harness.drain()
    assert len(entered) == before
    assert harness.client.result(run) == [["ann", 1, 3], 2]
    assert sorted(stages.calls) == [1, 2]
    harness.assert_ended_cleanly(run)
