"""What Perennial is measured with: the same work as `plain_app.py` and `dbos_program.py` do."""

from __future__ import annotations

import asyncio
import time

from orchestrator import Flow, Registry, process, stage

STEPS = 5

registry = Registry()


@stage(registry=registry)
def first(number: int) -> int:
    """The least that a stage can do: what is measured is all around it."""
    return number + 1


@stage(registry=registry)
def second(number: int) -> int:
    """The same."""
    return number + 1


@stage(registry=registry)
def third(number: int) -> int:
    """The same."""
    return number + 1


@stage(registry=registry)
def fourth(number: int) -> int:
    """The same."""
    return number + 1


@stage(registry=registry)
def fifth(number: int) -> int:
    """The same."""
    return number + 1


@process(version=1, registry=registry)
async def chain(flow: Flow, number: int) -> int:
    """Five stages, each handed off as its own Celery task."""
    number = await flow.stage(first, number)
    number = await flow.stage(second, number)
    number = await flow.stage(third, number)
    number = await flow.stage(fourth, number)
    return await flow.stage(fifth, number)


def add_one(number: int) -> int:
    """The least that a step can do."""
    return number + 1


@process(version=1, registry=registry)
async def steps(flow: Flow, number: int) -> int:
    """Five steps, inline."""
    for _ in range(STEPS):
        number = await flow.step(add_one, number)
    return number


def now_nanoseconds() -> int:
    """The machine's own clock: one for all processes on it."""
    return time.monotonic_ns()


@stage(registry=registry)
def stamp() -> tuple[int, int]:
    """When its function began and ended."""
    return now_nanoseconds(), now_nanoseconds()


@process(version=1, registry=registry)
async def stamps(flow: Flow) -> list[tuple[int, int]]:
    """Five stages that say when they ran."""
    return [await flow.stage(stamp) for _ in range(STEPS)]


@process(version=1, registry=registry)
async def wait_for_word(flow: Flow) -> int:
    """How long after it was sent a signal has moved the run on. Its payload says when that was."""
    sent: int = await flow.signal("word", type=int)
    return await flow.step(now_nanoseconds) - sent


@stage(registry=registry)
async def wait_a_second(number: int) -> int:
    """What an `async def` stage mostly does: it waits for somebody else."""
    await asyncio.sleep(1)
    return number


@process(version=1, registry=registry)
async def waits_a_second(flow: Flow, number: int) -> int:
    """One `async def` stage."""
    return await flow.stage(wait_a_second, number)


@process(version=1, registry=registry)
async def many(flow: Flow, count: int) -> int:
    """So many stages, all waited for."""
    return sum(await flow.gather(*[flow.stage(first, number) for number in range(count)]))


@process(version=1, registry=registry)
async def long(flow: Flow, count: int) -> int:
    """So many stages, one after the other."""
    number = 0
    for _ in range(count):
        number = await flow.stage(first, number)
    return number
