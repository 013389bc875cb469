"""`async def` stages on a worker: nobody waits for them, they are seen as any task, and no end of them is lost."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import signals

from orchestrator import Flow, Retry, process, stage
from orchestrator.engine.async_stages import AsyncStages
from orchestrator.engine.event_loop import EVENT_LOOP
from tests.fleet.harness import Fleet
from tests.fleet.test_failures_seen import World
from tests.fleet.test_failures_seen import world as world  # noqa: PLC0414 - a fixture
from tests.fleet.test_promises import NOTHING


class Trouble(Exception):
    pass


@pytest.fixture
def told(world: World) -> Iterator[list[tuple[str, str]]]:
    """What Celery's signals have told of each task, with its id."""
    told: list[tuple[str, str]] = []

    def postrun(task_id: str, state: str, **_: Any) -> None:
        told.append((task_id, state))

    signals.task_postrun.connect(postrun, weak=False)
    yield told
    signals.task_postrun.disconnect(postrun)


def order_of(world: World, function: Any, **settings: Any) -> Any:
    made = stage(registry=world.registry, name="call", retry=Retry(2, delay_seconds=0))(function)

    @process(version=1, registry=world.registry)
    async def order(flow: Flow, value: int) -> Any:
        return await flow.stage(made, value)

    world.install(**settings)
    return order


def until_all_ended(world: World) -> None:
    stages = world.member.async_tasks.stages
    stages.drain()
    stages.is_closed = False


@pytest.mark.parametrize("eager_seconds", [0, 5])
def test_a_message_only_begins_it_and_its_end_is_told_when_it_has_ended(world, told, eager_seconds):
    """Under the message's id; two that end at once are settled together, where that is faster."""
    opened = asyncio.Event()

    async def call(value: int) -> int:
        await asyncio.wait_for(opened.wait(), 3)
        if value == 1:
            raise Trouble
        return value

    order = order_of(world, call, eager_seconds=eager_seconds)
    runs = [world.harness.start(order, value) for value in (1, 2)]
    for run in runs:
        world.advance(run)
    messages = world.handoffs()  # also where others are gone on with at once
    assert [task for task, _ in messages] == ["call", "call"]
    told.clear()
    for task, arguments in messages:
        assert world.deliver(task, *arguments).info.state == "IGNORED"
    assert told == [("message", "IGNORED")] * 2
    assert len(world.member.context.identity.leased_ids()) == 2  # each beats while it lives
    told.clear()

    async def open_it() -> None:
        opened.set()

    EVENT_LOOP.run(open_it())
    until_all_ended(world)
    assert sorted(told) == [("message", "RETRY"), ("message", "SUCCESS")]
    assert world.seen == [("on_retry", "call", "Trouble"), ("task_retry", "call", "Trouble")]
    assert world.harness.client.result(runs[1]) == 2
    assert world.member.context.identity.leased_ids() == []


def test_as_many_as_are_stated_are_awaited_side_by_side_and_the_next_waits_for_a_place(world):
    active: list[int] = []
    most: list[int] = []

    async def call(value: int) -> int:
        active.append(value)
        most.append(len(active))
        await asyncio.sleep(0.1)
        active.remove(value)
        return value

    order = order_of(world, call, async_stages_max=2, eager_seconds=0)
    runs = [world.harness.start(order, value) for value in range(3)]
    world.advance(*runs)
    for task, arguments in world.handoffs():
        world.deliver(task, *arguments)
    until_all_ended(world)
    assert max(most) == 2
    assert [world.harness.client.result(run) for run in runs] == [0, 1, 2]


def test_one_whose_end_is_not_recorded_falls_silent(world, monkeypatch):
    """It is handed out again as a dead worker's is: its id is never held again."""

    async def call(value: int) -> int:
        return value

    def fails(*_: Any) -> None:
        raise Trouble

    order = order_of(world, call, eager_seconds=0)
    world.advance(world.harness.start(order, 1))
    monkeypatch.setattr(AsyncStages, "finish", fails)
    identity = world.member.context.identity
    ids = []
    hold = identity.hold
    monkeypatch.setattr(identity, "hold", lambda: ids.append(hold()) or ids[-1])
    for task, arguments in world.handoffs():
        world.deliver(task, *arguments)
    until_all_ended(world)
    assert identity.leased_ids() == []
    fresh = hold()
    identity.let_go(fresh)
    assert fresh not in ids


def test_a_worker_that_ends_at_once_cancels_them_and_gives_them_back_as_no_further_try(world):
    cancelled: list[int] = []
    begun = threading.Event()

    async def call(value: int) -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(value)
        return value

    order = order_of(world, call)
    run = world.harness.start(order, 7)
    world.advance(run)
    for task, arguments in world.handoffs():
        world.deliver(task, *arguments)
    tasks = world.member.async_tasks
    assert tasks.may_begin()
    assert begun.wait(
        timeout=30
    )  # what has not begun is given back too, and has nothing to clean up
    tasks.give_back()
    assert not tasks.may_begin()  # from now on a stage holds its slot, for which Celery waits
    tasks.drain()
    assert cancelled == [7]
    with world.member.context.connection() as connection:
        found = connection.exec_driver_sql(
            "SELECT key, attempt FROM perennial.activity WHERE state = 'pending'"
        ).all()
    assert [tuple(each) for each in found] == [("call", 2)]


def test_what_is_done_at_most_once_is_not_given_back_to_another_worker(world):
    begun: list[int] = []

    async def call(value: int) -> int:
        begun.append(value)
        await asyncio.Event().wait()
        return value

    pay = stage(registry=world.registry, name="call", at_most_once=True)(call)

    @process(version=1, registry=world.registry)
    async def order(flow: Flow, value: int) -> Any:
        return await flow.stage(pay, value)

    world.install(eager_seconds=0)
    run = world.harness.start(order, 7)
    world.advance(run)
    for task, arguments in world.handoffs():
        world.deliver(task, *arguments)
    EVENT_LOOP.run(asyncio.sleep(0))  # until it has begun
    tasks = world.member.async_tasks
    tasks.give_back()
    tasks.drain()
    assert begun == [7]
    assert world.harness.client.get(run).error["message"].startswith("call failed after 1 attempt")


def test_a_killed_workers_coroutine_is_done_by_another_that_ends_only_when_it_has(
    fleet: Fleet,
) -> None:
    """`kill -9` while it awaits: its first step isn't repeated. Then the other is told to stop, and waits for it."""
    gate = fleet.hold_gate(3)
    first = fleet.start_worker(pool="threads")
    run = fleet.client.start("async-gate", 3)
    fleet.wait_for("the stage at its gate", gate.waiting)
    fleet.kill(first)
    second = fleet.start_worker(pool="prefork")
    fleet.wait_for(
        "attempt 2",
        lambda: fleet.scalar(
            "SELECT count(*) FROM perennial.activity WHERE key = 'gated-async' AND attempt = 2"
            " AND state = 'claimed'"
        ),
    )
    second.send_signal(signal.SIGTERM)
    gate.open()
    fleet.wait_until_closed(run)
    second.wait(30)
    assert fleet.client.result(run) == 2
    assert fleet.effects("first") == [1]
    assert fleet.effects("second") == [1]
    assert fleet.scalar("SELECT max(attempt) FROM perennial.activity") == 2
    assert fleet.leftovers() == NOTHING
