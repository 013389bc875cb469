"""The Celery app of these tests: stages that can be held in their middle, and count their effects.

`everything` meets each kind of wait; a worker that is told a mode (tests/fleet/modes.py) runs it there.

A gate is a Postgres advisory lock that the test holds: a stage waits at it without a clock, and the
test sees it waiting in `pg_locks`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from functools import cache
from typing import Any

from celery import Celery
from sqlalchemy import Engine, create_engine, text

from orchestrator import (
    ActivityFailed,
    Flow,
    Registry,
    Retry,
    Settings,
    hours,
    idempotency_key,
    install,
    process,
    seconds,
    stage,
    step,
)
from tests.fleet import modes

registry = Registry()
settings = Settings()
app = Celery("fleet-tests", broker=settings.broker())
FOLDER = os.environ.get("FLEET_TESTS_FOLDER", "")
app.conf.update(
    task_default_queue="tests",
    broker_connection_retry_on_startup=True,
    broker_transport_options=(
        {"data_folder_in": FOLDER, "data_folder_out": FOLDER, "control_folder": FOLDER}
        if FOLDER
        else {"socket_timeout": 5, "socket_connect_timeout": 2}
    ),
    worker_send_task_events=True,
)


@cache
def database(_process_id: int) -> Engine:
    """One pool per process."""
    return create_engine(settings.database(), isolation_level="AUTOCOMMIT")


def count_effect(name: str) -> int:
    """Do something that must happen once per step: how often it was asked for."""
    with database(os.getpid()).connect() as connection:
        return connection.execute(
            text(
                "INSERT INTO effect AS e (key, name) VALUES (:key, :name) "
                "ON CONFLICT (key) DO UPDATE SET calls = e.calls + 1 RETURNING calls"
            ),
            {"key": idempotency_key(), "name": name},
        ).scalar_one()


def pass_gate(number: int) -> None:
    """Wait until the test opens this gate."""
    with database(os.getpid()).connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock_shared(:number)"), {"number": number})
        connection.execute(text("SELECT pg_advisory_unlock_shared(:number)"), {"number": number})


@stage(registry=registry)
def prepare(name: str) -> str:
    """An effect, and on."""
    count_effect("prepare")
    return f"prepared {name}"


@stage(registry=registry, retry=Retry(max_attempts=3, delay_seconds=0.1, jitter=0))
def gated(gate: int) -> int:
    """Two steps with a gate between them: kill here, and the first step is not done again."""
    first = step(first_step)
    pass_gate(gate)
    return first + step(second_step)


def first_step() -> int:
    """The step before the gate."""
    return count_effect("first")


def second_step() -> int:
    """The step after the gate."""
    return count_effect("second")


async def first_async_step() -> int:
    """The step before the gate."""
    return await asyncio.to_thread(count_effect, "first")


async def second_async_step() -> int:
    """The step after the gate."""
    return await asyncio.to_thread(count_effect, "second")


@stage(registry=registry, retry=Retry(max_attempts=3, delay_seconds=0.1, jitter=0))
async def gated_async(gate: int) -> int:
    """The same as a coroutine."""
    first = await step(first_async_step)
    await asyncio.to_thread(pass_gate, gate)
    return first + await step(second_async_step)


@process(version=1, registry=registry)
async def async_gate(flow: Flow, gate: int) -> int:
    """One gated coroutine."""
    return await flow.stage(gated_async, gate)


@stage(registry=registry, queue="elsewhere")
def faraway(name: str) -> str:
    """Served only by workers of another queue."""
    return f"{name} was far away"


HELD_SECONDS = 4.0
"""Twice `PERENNIAL_DEAD_AFTER_SECONDS` of the harness."""


def hold_the_lock(wait_seconds: float) -> None:
    """One C call that keeps the interpreter's lock: as a regular expression does, or a driver."""
    ctypes.PyDLL(None).usleep(round(wait_seconds * 1_000_000))


def breathless(wait_seconds: float) -> int:
    """No thread of this process runs while it does its work."""
    calls = count_effect("breathless")
    hold_the_lock(wait_seconds)
    return calls


BREATHLESS = {
    pool: stage(
        registry=registry,
        name=f"breathless-{pool}",
        queue=f"breathless-{pool}",
        retry=Retry(max_attempts=3, delay_seconds=0.1, jitter=0),
    )(breathless)
    for pool in ("prefork", "threads", "solo")
}


@process(version=1, registry=registry)
async def holds_the_lock(flow: Flow, pool: str) -> int:
    """A stage of that pool's worker, which is a living one all the time."""
    return await flow.stage(BREATHLESS[pool], HELD_SECONDS)


@process(version=1, registry=registry)
async def gate_process(flow: Flow, gate: int) -> int:
    """One gated stage between two plain ones."""
    await flow.stage(prepare, "gate")
    result = await flow.stage(gated, gate)
    await flow.stage(prepare, "end", key="end")
    return result


@process(version=1, registry=registry)
async def patient(flow: Flow, name: str) -> str:
    """Waits for a person, for long."""
    await flow.stage(prepare, name)
    decision = await flow.approval("boss", assign=["bob"], timeout=hours(48))
    return decision.outcome


@process(version=1, registry=registry)
async def sleeper(flow: Flow, wait_seconds: float) -> str:
    """Sleeps, escalates and times out, all by timers."""
    await flow.sleep(wait_seconds)
    decision = await flow.approval(
        "boss",
        assign=["bob"],
        escalate={seconds(wait_seconds): ["director"]},
        timeout=seconds(2 * wait_seconds),
    )
    await flow.stage(prepare, "end")
    return decision.outcome


@process(version=1, registry=registry)
async def traveller(flow: Flow, name: str) -> str:
    """Goes through a queue that only some workers serve."""
    return await flow.stage(faraway, name)


@stage(registry=registry)
def provision(user: str) -> int:
    """Two steps, each an effect."""
    return step(first_step) + step(second_step) + len(user)


@stage(registry=registry, retry=Retry(max_attempts=3, delay_seconds=0.2, jitter=0))
def stumble() -> int:
    """Fails at first; how many attempts it took."""
    attempts = count_effect("attempts")
    if attempts == 1:
        raise ConnectionError
    return attempts


@stage(registry=registry, retry=Retry(max_attempts=1))
def give_up() -> None:
    """Fails for good."""
    count_effect("given up")
    raise ValueError


def note_inline(user: str) -> str:
    """An inline step."""
    count_effect("inline")
    return f"noted {user}"


@process(version=1, registry=registry)
async def everything(flow: Flow, wait_seconds: float) -> dict[str, Any]:
    """Every kind of wait. It wants signals, `word` and `more`, and the director's yes to `manager`."""
    wait = seconds(wait_seconds)
    await flow.sleep(wait)
    result: dict[str, Any] = {"steps": await flow.stage(provision, "ann")}
    result["inline"] = await flow.step(note_inline, "ann")
    result["word"] = await flow.signal("word", timeout=hours(1))
    try:
        await flow.signal("silence", timeout=wait)
    except TimeoutError:
        result["silence"] = "timed out"
    manager = await flow.approval("manager", assign=["bob"], escalate={wait: ["director"]})
    result["manager"] = [manager.outcome, manager.by, manager.escalated]
    board = await flow.approval(
        "board", assign=["bob"], escalate={wait: ["director"]}, timeout=2 * wait
    )
    result["board"] = [board.outcome, board.escalated]
    result["gathered"] = await flow.gather(
        flow.stage(prepare, "left", key="left"),
        flow.stage(prepare, "right", key="right"),
        flow.signal("more"),
    )
    result["attempts"] = await flow.stage(stumble)
    try:
        await flow.stage(give_up)
    except ActivityFailed as error:
        result["failed"] = error.error_type
    return result


if modes.VARIABLE in os.environ:
    modes.live_in(os.environ[modes.VARIABLE])
install(app, registry=registry, settings=settings)
