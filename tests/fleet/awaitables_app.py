"""The Celery app of tests/fleet/test_each_awaitable.py: a process for each awaitable, each of which can be held in its
middle. Stages wait at one gate, which the test holds; what the world answers waits for the world.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Any

from celery import Celery
from sqlalchemy import text

from orchestrator import (
    ActivityFailed,
    BlockTimedOut,
    CallbackToken,
    Fail,
    Flow,
    Registry,
    Retry,
    Settings,
    hours,
    install,
    process,
    seconds,
    stage,
    step,
)
from tests.fleet.app import count_effect, database, pass_gate

GATE = 4711

registry = Registry()
settings = Settings()
app = Celery("awaitable-tests", broker=settings.broker())
app.conf.update(
    task_default_queue="awaitables",
    broker_connection_retry_on_startup=True,
    broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 2},
)
AGAIN = Retry(max_attempts=3, delay_seconds=0.1, jitter=0)


def begun() -> int:
    """The step before the gate: its result is recorded."""
    return count_effect("begun")


@stage(registry=registry, retry=AGAIN)
def held(number: int) -> int:
    """Killed at the gate, its first step is not done again."""
    first = step(begun)
    pass_gate(GATE)
    return number * 10 + first


async def begun_async() -> int:
    """The same as a coroutine."""
    return await asyncio.to_thread(count_effect, "begun")


@stage(registry=registry, retry=AGAIN)
async def held_async(number: int) -> int:
    """The same as a coroutine."""
    first = await step(begun_async)
    await asyncio.to_thread(pass_gate, GATE)
    return number * 10 + first


@stage(registry=registry, retry=AGAIN)
def quick(number: int) -> int:
    """Done before anybody is killed."""
    count_effect("quick")
    return number


@stage(registry=registry, retry=AGAIN)
def undo(number: int) -> None:
    """A compensation that is held."""
    held.function(number)


@stage(registry=registry, retry=AGAIN)
def ask_partner(token: CallbackToken) -> None:
    """Leaves the token where the test finds it."""
    with database(os.getpid()).connect() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS token (token text)"))
        connection.execute(text("INSERT INTO token VALUES (:token)"), {"token": token.secret})


def held_step(number: int) -> int:
    """An inline step, which its turn waits for: it is called again."""
    pass_gate(GATE)
    return number * 10


@process(version=1, registry=registry)
async def stages(flow: Flow) -> int:
    return await flow.stage(held, 1)


@process(version=1, registry=registry)
async def async_stages(flow: Flow) -> int:
    return await flow.stage(held_async, 2)


@process(version=1, registry=registry)
async def steps(flow: Flow) -> int:
    return await flow.step(held_step, 3)


@process(version=1, registry=registry)
async def signals(flow: Flow) -> int:
    await flow.stage(quick, 4)
    return await flow.signal("word", type=int, timeout=hours(1))


@process(version=1, registry=registry)
async def correlations(flow: Flow) -> int:
    return await flow.signal("paid", type=int, correlation="INV-1", timeout=hours(1))


@process(version=1, registry=registry)
async def callbacks(flow: Flow) -> int:
    return await flow.call_back("payment", ask_partner, type=int, timeout=hours(1))


@process(version=1, registry=registry)
async def approvals(flow: Flow) -> str:
    decision = await flow.approval("boss", assign=["ann"], timeout=hours(1))
    return f"{decision.outcome} by {decision.by}"


@process(version=1, registry=registry)
async def polls(flow: Flow) -> int:
    """A check is held."""
    return await flow.poll(held, 5, until=bool, every=seconds(1))


@process(version=1, registry=registry)
async def sleeps(flow: Flow) -> str:
    """It is due while nobody lives."""
    await flow.sleep(seconds(2))
    return "over"


@process(version=1, registry=registry)
async def races(flow: Flow) -> list[Any]:
    race = await flow.first(flow.stage(held, 6), flow.signal("never"), flow.sleep(hours(1)))
    return [race.index, race.value]


@process(version=1, registry=registry)
async def gathers(flow: Flow) -> list[int]:
    return await flow.gather(flow.stage(held, 7), flow.stage(quick, 7))


@process(version=1, registry=registry)
async def maps(flow: Flow) -> list[int]:
    results = await flow.map(held, [8, 9], max_concurrency=1, tolerated_failures=0)
    return results.raise_if_failed()


async def part(flow: Flow) -> int:
    """Of a scope."""
    return await flow.stage(quick, 1) + await flow.stage(held, 1)


@process(version=1, registry=registry)
async def scopes(flow: Flow) -> int:
    return await flow.scope("part", part, flow, record=True)


@process(version=1, registry=registry)
async def blocks(flow: Flow) -> list[Any]:
    """Its clean-up is held."""
    cleaned = 0
    try:
        with flow.timeout(timedelta(milliseconds=50)):
            try:
                await flow.signal("never")
            finally:
                cleaned = await flow.stage(held, 2)
    except BlockTimedOut:
        return ["late", cleaned]
    return ["in time"]


@process(version=1, registry=registry)
async def childs_own(flow: Flow, number: int) -> int:
    return await flow.stage(held, number)


@process(version=1, registry=registry)
async def children(flow: Flow) -> int:
    return await flow.child(childs_own, 3)


@process(version=1, registry=registry)
async def sagas(flow: Flow) -> list[Any]:
    """What undoes it is held."""
    try:
        async with flow.undo():
            await flow.stage(quick, 4, compensate=undo)
            raise Fail("enough")  # noqa: TRY301 - that is what leaves the block
    except (ActivityFailed, Fail) as error:
        return [str(error)]


@process(version=1, registry=registry)
async def chapters(flow: Flow, number: int | None) -> int:
    """Its second chapter is held."""
    if number is None:
        await flow.continue_as_new(await flow.stage(quick, 5))
    return await flow.stage(held, number or 0)


@process(version=1, registry=registry)
async def moments(flow: Flow) -> list[int]:
    """The first is held; those that come then are given, or said to be missed."""
    count = number = 0
    async for due in flow.every(seconds(1), start=flow.now, until=flow.now + seconds(3)):
        if count == 0:
            number = await flow.stage(held, 6)
        count += 1 + due.missed
    return [count, number]


install(app, registry=registry, settings=settings)
