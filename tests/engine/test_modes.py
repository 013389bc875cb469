"""The modes themselves: each takes away what it says, or the matrix would prove nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from orchestrator import Flow, process, stage
from orchestrator.engine import sweep
from orchestrator.engine.turn import advance
from orchestrator.store.transitions import workers
from tests.modes import (
    BATCH_OF_ONE,
    EVICT,
    NORMAL,
    NOTIFY_OFF,
    SWEEPS_ONLY,
    TWICE,
    Mode,
    modes_of,
)


def one_stage(harness: Any) -> Any:
    @stage(registry=harness.registry)
    def work() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(work)

    return p


@modes_of(NORMAL, EVICT, because="they differ in how often a flow is replayed")
def test_a_flow_is_evicted_at_each_await_that_nobody_answered_yet(harness, mode: Mode):
    """Two steps, and two signals that came before: one turn as a rule, and here one for each."""
    replays = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        replays.append(1)
        steps = await flow.step(abs, -1) + await flow.step(abs, -2)
        return steps + await flow.signal("n") + await flow.signal("n")

    run = harness.start(p)
    for number in (10, 20):
        harness.client.signal(run, "n", number)
    harness.drain()
    assert harness.client.result(run) == 33
    # A step's turn is left in its first replay; a signal's is decided twice with it, and once without.
    assert len(replays) == (1 if mode is NORMAL else 1 + 1 + 3 + 3 + 2)


@modes_of(EVICT, because="it is the mode that replays twice")
def test_a_flow_that_is_not_pure_is_found_out(harness):
    replays = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        replays.append(1)
        await flow.sleep(len(replays))

    with pytest.raises(AssertionError, match="another end"):
        harness.run(p)


@modes_of(NORMAL, TWICE, because="they differ in how often a message comes")
def test_each_message_comes_three_times(harness, mode: Mode):
    """At once, right after, and when all is done; a timer's too."""
    delivered = []

    @stage(registry=harness.registry)
    def work() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.sleep(60)
        await flow.stage(work)

    do = harness._do
    with patch.object(
        harness, "_do", lambda message, context: (delivered.append(message), do(message, context))
    ):
        harness.freeze()
        run = harness.run(p)
        harness.move(seconds=60)
        harness.drain()
    harness.assert_ended_cleanly(run)
    turns, (timer,) = 2, harness.database.rows("SELECT id FROM perennial.timer")
    times = 1 if mode is NORMAL else 3
    assert delivered.count(timer.id) == times
    assert [getattr(message, "key", None) for message in delivered].count("work") == times
    assert len(delivered) == (turns + 2) * times


@modes_of(SWEEPS_ONLY, because="it is the mode in which nobody hears a worker")
def test_what_a_worker_says_is_lost_and_a_sweep_finds_it(harness):
    p = one_stage(harness)
    run = harness.start(p)
    advance(harness.context, run.run_id)
    assert (harness.messenger.handed_off, harness.messenger.armed) == ([], [])
    assert [handoff.task for handoff in harness.pending()] == ["work"]


@modes_of(NOTIFY_OFF, SWEEPS_ONLY, because="they leave a producer's handoff to the sweep")
def test_what_a_producer_leaves_is_found_by_a_sweep_only(harness):
    harness.start(one_stage(harness))
    nothing = SimpleNamespace(
        handoffs=False, timers_to_index=False, timers_overdue=False, attempts_lost=False
    )
    with patch.object(workers, "what_needs_care", return_value=nothing):
        assert harness.pending() == []
    assert len(harness.pending()) == 1


@modes_of(BATCH_OF_ONE, because="it is the mode of small batches")
def test_a_sweep_takes_one_of_each_kind(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.gather(flow.sleep(hours), flow.sleep(hours))

    hours = 7 * 3600
    harness.freeze()
    harness.run(p)
    harness.move(hours=2)
    assert sweep.sweep(harness.context).timers_indexed == 1
    harness.move(hours=6)
    assert sweep.sweep(harness.context).timers_fired == 1
    assert sweep.sweep(harness.context).timers_fired == 1
