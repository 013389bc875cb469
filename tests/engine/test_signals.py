"""Signals: each answers one wait, and no wait loses its answer or its deadline to another."""

from __future__ import annotations

from typing import Any

from orchestrator import Flow, RunStatus, hours, process
from orchestrator.engine.fire import fire


def test_a_signal_for_one_wait_does_not_take_the_timeout_of_another(harness):
    """A signal answers one wait. When two waits of its name are overdue, the first to fire takes
    the buffered signal and the second times out: neither loses its deadline to the other.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        async def wait() -> Any:
            try:
                return await flow.signal("go", timeout=hours(1))
            except TimeoutError:
                return "timed out"

        return await flow.gather(wait(), wait())

    harness.freeze()
    run = harness.run(p)
    harness.move(hours=1)
    harness.client.signal(run, "go", "here")
    for timer_id in harness.due_timers():
        fire(harness.context, timer_id)
    harness.drain()
    for _ in range(5):
        harness.move(minutes=10)
        harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED


def test_a_signal_awaited_twice_answers_twice(harness):
    """A handle consumes one signal in its life. To await it again gives the same answer, also
    within the turn that consumed it; it does not take the next signal.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        go = flow.signal("go")
        return [await go, await go]

    run = harness.start(p)
    harness.client.signal(run, "go", 1)
    harness.drain()
    assert harness.client.result(run) == [1, 1]


def test_a_signal_that_does_not_fit_can_be_caught_by_its_flow(harness):
    """A payload that doesn't fit its declared type is raised at the await, as PayloadError, and
    the signal is consumed. So the flow can wait for the next, and a malformed signal doesn't
    park its run.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        while True:
            try:
                return await flow.signal("amount", type=int)
            except Exception:  # noqa: BLE001
                continue

    run = harness.start(p)
    harness.client.signal(run, "amount", "a lot")
    harness.client.signal(run, "amount", 7)
    harness.drain()
    assert harness.client.result(run) == 7


def test_an_overdue_signal_that_nobody_awaits_yet_does_not_poll(harness):
    """A due timeout gives its wait the signal that came in time, also where the flow has not
    awaited the handle yet. So the timer ends there: it neither comes back every few seconds nor
    raises the revision for nothing.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        stop = flow.signal("stop", timeout=hours(1))
        await flow.approval("manager", assign=["bob"])
        return await stop

    harness.freeze()
    run = harness.run(p)
    harness.client.signal(run, "stop", "please")
    harness.move(hours=1)
    harness.drain()
    before = harness.client.get(run).revision
    for _ in range(10):
        harness.move(minutes=1)
        harness.drain()
    assert harness.client.get(run).revision - before <= 2
    harness.client.approve(run, by="bob")
    harness.move(minutes=1)
    harness.drain()
    assert harness.client.result(run) == "please"


def test_a_paused_run_with_an_overdue_signal_is_left_in_peace(harness):
    """The same for a run at rest, where no turn gives signals to waits: facts are recorded once,
    nothing comes back until it is resumed, and then the signal is answered.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        return await flow.signal("stop", timeout=hours(1))

    harness.freeze()
    run = harness.run(p)
    harness.client.pause(run)
    harness.client.signal(run, "stop", "please")
    harness.move(hours=1)
    harness.drain()
    before = harness.client.get(run).revision
    for _ in range(10):
        harness.move(minutes=1)
        harness.drain()
    assert harness.client.get(run).revision - before <= 2
    harness.client.resume(run)
    harness.drain()
    assert harness.client.result(run) == "please"
