"""Inline steps of a flow: called under a held turn, and only on facts that are recorded. (docs/adr/0009)"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from orchestrator import Flow, Registry, RunStatus, hours, process, stage
from orchestrator.engine import turn
from orchestrator.engine.relay import relay
from orchestrator.engine.stage import run_stage
from orchestrator.engine.sweep import sweep
from orchestrator.engine.turn import CONFLICTS_MAX, advance
from orchestrator.store.transitions import turns


class WorkerKilled(BaseException):
    """A worker that is told to go, or dies, at this point."""


def test_a_turn_held_by_a_worker_that_has_not_beaten_yet_is_not_free(harness):
    """A worker's row appears with its first beat, up to one interval after its first claim. So a
    hold counts as a dead worker's only when the hold itself is old enough too; else two workers
    would be inside one step at once.
    """
    called = []

    def charge() -> int:
        called.append(len(called))
        if len(called) == 1:
            other = harness.worker("worker-2")  # while worker-1 is inside the step
            harness.database.rows("UPDATE perennial.outbox SET publish_at = perennial.now()")
            relay(other)
            advance(other, run.run_id)
        return len(called)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.step(charge)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    assert called == [0]


def test_a_step_that_was_recorded_is_not_called_again_by_a_turn_that_read_before_it(harness):
    """Recording a step raises the run's revision like any fact. A turn that read its journal
    before it, here that of a stage claimed before the signal came, can't hold the turn on the
    old revision: it reads again and finds the step.
    """
    called = []

    @stage(registry=harness.registry)
    def slow() -> int:
        with contextlib.suppress(WorkerKilled):
            advance(
                harness.context, run.run_id
            )  # worker-1 takes the signal's turn, and is killed in it
        return 1

    def charge() -> int:
        called.append("charge")
        return 1

    def dies_once() -> int:
        called.append("dies once")
        if called.count("dies once") == 1:
            raise WorkerKilled
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        beside = flow.stage(slow)
        await flow.signal("go")
        await flow.step(charge)
        await flow.step(dies_once)
        return await beside

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    harness.client.signal(run, "go")
    run_stage(harness.worker("worker-2"), run.run_id, "slow", 1)
    with contextlib.suppress(WorkerKilled):  # where the turn was left before it came to that step
        harness.recover()
    harness.recover()
    assert harness.status(run) is RunStatus.COMPLETED
    assert called.count("charge") == 1


def test_a_step_is_not_recorded_on_a_result_that_is_not(harness):
    """Before its first inline step a turn records what it stands on. So when the worker is killed
    in a later step, the stage isn't done again with another result, to which the remembered
    step would not belong.
    """
    numbers = iter(range(100))
    called = []

    @stage(registry=harness.registry)
    def draw() -> int:
        return next(numbers)

    def double(number: int) -> int:
        return 2 * number

    def dies_once() -> None:
        called.append("dies once")
        if len(called) == 1:
            raise WorkerKilled

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[int]:
        number = await flow.stage(draw)
        twice = await flow.step(double, number)
        await flow.step(dies_once)
        return [number, twice]

    harness.freeze()
    run = harness.start(p)
    with pytest.raises(WorkerKilled):
        harness.drain()
    harness.recover()
    number, twice = harness.client.result(run)
    assert twice == 2 * number


def test_a_stage_that_ended_in_time_is_not_timed_out_by_the_steps_that_follow_it(harness):
    """The stage's result is recorded before the flow's inline steps run, so its claim has ended:
    however long they take, they don't count into its timeout.
    """
    attempts = []

    @stage(registry=harness.registry, timeout_seconds=60)
    def quick() -> int:
        attempts.append("quick")
        return 1

    def slow_step() -> int:
        harness.beat(harness.context)
        harness.database.rows(
            "UPDATE perennial.activity SET claimed_at = claimed_at - interval '5 minutes'"
        )
        sweep(harness.worker("worker-2"))
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        await flow.stage(quick)
        return await flow.step(slow_step)

    run = harness.run(p)
    harness.drain()
    assert attempts == ["quick"]
    assert "attempt handed out again" not in harness.events(run)


def test_a_turn_that_went_on_and_lost_its_step_does_not_speak_of_a_lost_attempt(harness, caplog):
    """Once the turn went on, the stage's end is recorded. If the step's hold is then refused,
    there is nothing left to settle: the log must not warn that an outcome was dropped, and the
    run goes on with the next turn.
    """

    @stage(registry=harness.registry)
    def a() -> int:
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        await flow.stage(a)
        return await flow.step(int, 1)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "hold_turn", lambda *_args, **_kwargs: None)
        run_stage(harness.context, run.run_id, "a", 1)
    assert "dropped" not in caplog.text
    harness.freeze()
    harness.recover(2)
    assert harness.client.result(run) == 1


def test_a_turn_that_another_worker_holds_is_left_after_one_look(harness):
    """A commit or a hold that is refused at an unchanged revision means that another worker holds
    the turn, and will see every fact. So the turn is left at once, and not decided again as
    after a conflict.
    """
    looks = []
    load_run = turn.load_run

    def counted(*args: Any) -> Any:
        looks.append(1)
        return load_run(*args)

    def long_step() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(turn, "load_run", counted)
            advance(harness.worker("worker-2", registry=other), run.run_id)
        return 1

    other = Registry()

    async def flow_body(flow: Flow) -> int:
        if stepless:
            await flow.signal("go")
        return await flow.step(long_step)

    stepless = False

    @process(version=1, registry=harness.registry, name="p")
    async def p(flow: Flow) -> int:
        return await flow_body(flow)

    @process(version=1, registry=other, name="p")
    async def p_elsewhere(flow: Flow) -> int:
        await flow.signal("go")
        return 1

    harness.beat(harness.context)
    run = harness.start(p)
    advance(harness.context, run.run_id)
    assert len(looks) <= 2


def test_a_run_with_a_step_that_nobody_awaits_yet_waits_for_people(harness):
    """A step is called when it is awaited. Until then it is not at work, so the run is shown as
    waiting for its approval, not as running at the step.
    """

    def total() -> int:
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        later = flow.step(total)
        await flow.approval("manager", assign=["bob"])
        return await later

    harness.run(p)
    (listed,) = harness.client.list()
    assert (listed.status, listed.stage, listed.waiting_for) == (
        RunStatus.WAITING,
        "manager",
        "approval manager",
    )


@pytest.mark.parametrize("is_waited_for", [False, True])
def test_a_step_is_not_called_on_a_signal_that_is_not_recorded_as_taken(harness, is_waited_for):
    """A signal that was sent earlier may become visible later. Were it the first at the next turn, the
    remembered step would belong to another. So the turn that takes a signal records that first.
    """
    taken = []

    def charge(amount: int) -> int:
        taken.append(harness.database.value("SELECT consumed_key FROM perennial.signal"))
        return amount

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.step(charge, await flow.signal("amount"))

    run = harness.start(p)
    if is_waited_for:
        harness.drain()
    harness.client.signal(run, "amount", 7)
    harness.drain()
    assert harness.client.result(run) == 7
    assert taken == ["amount"]


ASKED = {
    "approval": (
        lambda flow: flow.approval("boss", assign=["bob"], timeout=hours(1)),
        "SELECT name || ' ' || state || ' ' || (deadline IS NOT NULL) FROM perennial.approval",
        "boss open true",
    ),
    "signal": (
        lambda flow: flow.signal("go", timeout=hours(1)),
        "SELECT kind || ' ' || state FROM perennial.timer",
        "signal-timeout armed",
    ),
    "sleep": (
        lambda flow: flow.sleep(60),
        "SELECT kind || ' ' || state FROM perennial.timer",
        "sleep armed",
    ),
    "stage": (
        lambda flow: flow.stage("quick"),
        "SELECT kind || ' ' || (state <> 'cancelled') FROM perennial.activity WHERE kind = 'stage'",
        "stage true",
    ),
}


@pytest.mark.parametrize("kind", ASKED)
def test_what_was_asked_is_there_while_the_step_after_it_runs(harness, kind):
    """A link that is mailed leads to an approval that is open, with its deadline."""
    ask, where, expected = ASKED[kind]
    found = []

    @stage(registry=harness.registry)
    def quick() -> int:
        return 1

    def mail_link() -> int:
        found.append(harness.database.value(where))
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        asked = ask(flow)
        await flow.step(mail_link)
        await asked
        return 1

    harness.run(p)
    assert found == [expected]


def test_a_stage_is_handed_off_before_a_step_of_another_branch_runs(harness):
    """Also what a sibling has asked for is on its way before anything is done inline."""
    found = []

    @stage(registry=harness.registry)
    def quick() -> int:
        return 1

    def look() -> int:
        found.append(
            harness.database.value(
                "SELECT count(*) FROM perennial.activity WHERE kind IN ('stage', 'approval')"
            )
        )
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[int]:
        async def looks() -> int:
            return await flow.step(look)

        async def asks() -> int:
            kept = [flow.approval("boss", assign=["bob"])]
            return await flow.stage(quick) * len(kept)

        return await flow.gather(looks(), asks())

    run = harness.run(p)
    assert found == [2]
    assert harness.client.result(run) == [1, 1]


def test_a_decision_is_taken_while_the_step_that_mailed_its_link_still_runs(harness):
    """And the flow sees it after the step, as often as it is replayed."""

    def mail_link() -> int:
        harness.client.approve(run, by="bob")
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> bool:
        asked = flow.approval("boss", assign=["bob"])
        await flow.step(mail_link)
        return (await asked).approved

    run = harness.start(p)
    harness.drain()
    assert harness.client.result(run) is True


def test_a_worker_killed_after_what_was_asked_is_recorded_asks_once(harness):
    """The crash between that commit and the step: the step is called again, the approval stays as it is."""
    called = []

    def dies_once() -> int:
        called.append("step")
        if len(called) == 1:
            raise WorkerKilled
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> bool:
        asked = flow.approval("boss", assign=["bob"])
        await flow.step(dies_once)
        return (await asked).approved

    harness.freeze()
    run = harness.start(p)
    with pytest.raises(WorkerKilled):
        harness.drain()
    (asked,) = harness.client.approvals(run=run.run_id)
    harness.recover()
    assert called == ["step", "step"]
    harness.client.approve(run, by="bob")
    harness.drain()
    assert harness.client.result(run) is True
    assert harness.events(run).count("approval asked") == 1
    assert asked.key == "boss"


def test_as_many_things_as_one_likes_may_be_asked_between_steps_in_one_turn(harness):
    """To record what was asked is no conflict: a turn goes on however often it does."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        kept = []
        for number in range(CONFLICTS_MAX + 5):
            kept.append(flow.signal(f"s-{number}"))
            await flow.step(int, number)
        return 1

    run = harness.start(p)
    advance(harness.context, run.run_id)
    if harness.status(run) is not RunStatus.COMPLETED:  # where its mode leaves a turn early
        harness.drain()
    assert harness.client.result(run) == 1


def test_a_fact_that_came_before_a_step_was_recorded_is_seen_before_the_flow_goes_on(harness):
    """Else the flow would go on without it now, and with it at each replay: another way."""
    called = []

    def slow() -> int:
        harness.client.signal(run, "stop")
        return 1

    def after(what: str) -> str:
        called.append(what)
        return what

    def dies_once() -> int:
        called.append("dies once")
        if called.count("dies once") == 1:
            raise WorkerKilled
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        stopped = []

        async def works() -> str:
            await flow.step(slow)
            done = await flow.step(after, "stopped" if stopped else "on")
            await flow.step(dies_once)
            return done

        async def listens() -> None:
            await flow.signal("stop")
            stopped.append(True)

        (done, _) = await flow.gather(works(), listens())
        return done

    harness.freeze()
    run = harness.start(p)
    for _ in range(2):
        with contextlib.suppress(WorkerKilled):
            harness.recover()
    assert harness.client.result(run) == "stopped"
    assert called == ["stopped", "dies once", "dies once"]


def test_workers_that_race_for_facts_see_them_in_one_order(harness):
    """A pool of branches on one iterator, in every mode: each item is taken once."""
    done = []

    @stage(registry=harness.registry)
    def work(item: int) -> int:
        done.append(item)
        return item

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[int]:
        items, order = iter(range(8)), []

        async def takes() -> None:
            for item in items:
                await flow.step(int, item)
                order.append(await flow.stage(work, item, key=f"work-{item}"))

        await flow.gather(*(takes() for _ in range(3)))
        return order

    run = harness.run(p)
    assert sorted(harness.client.result(run)) == list(range(8))
    assert sorted(set(done)) == list(range(8))
