"""What the fleet of these tests does: short processes that together reach every place of the main path.

Each stage and step counts its effects in a table of the tests' own, committed at once, whatever becomes
of the process that did it. Nothing here knows of faults.
"""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from functools import cache

from sqlalchemy import Engine, create_engine, text

from orchestrator import (
    ActivityFailed,
    BlockTimedOut,
    Flow,
    Registry,
    Retry,
    SignalTimedOut,
    hours,
    idempotency_key,
    process,
    stage,
    step,
)

registry = Registry()

BRIEFLY = timedelta(seconds=0.1)
AGAIN = Retry(max_attempts=50, delay_seconds=0.05, jitter=0)


@cache
def _database(_process_id: int) -> Engine:
    return create_engine(os.environ["PERENNIAL_DATABASE_URL"], isolation_level="AUTOCOMMIT")


def count_effect(name: str) -> int:
    """An effect that the world sees: how often it was asked for."""
    with _database(os.getpid()).connect() as connection:
        return connection.execute(
            text(
                "INSERT INTO effect AS e (key, name) VALUES (:key, :name)"
                " ON CONFLICT (key) DO UPDATE SET calls = e.calls + 1 RETURNING calls"
            ),
            {"key": idempotency_key(), "name": name},
        ).scalar_one()


def first() -> int:
    return count_effect("first")


def second() -> int:
    return count_effect("second")


def stumble() -> int:
    """Fails the first time, whoever calls it."""
    if count_effect("stumble") == 1:
        message = "the first time never works"
        raise RuntimeError(message)
    return 1


BETWEEN_STEPS_SECONDS = 0.4
"""Long enough for a heartbeat."""


@stage(registry=registry, retry=AGAIN)
def two_steps() -> str:
    step(first)
    threading.Event().wait(BETWEEN_STEPS_SECONDS)
    step(second)
    return "two steps"


@stage(registry=registry, retry=AGAIN)
def plain() -> str:
    count_effect("plain")
    return "plain"


@stage(registry=registry, retry=AGAIN)
def clumsy() -> str:
    stumble()
    return "clumsy"


def crash() -> int:
    """Takes its process along the first time."""
    calls = count_effect("crash")
    if calls == 1:
        os._exit(3)
    return calls


@stage(registry=registry, retry=AGAIN)
def fragile() -> int:
    return crash()


@stage(registry=registry, retry=Retry(max_attempts=1))
def once() -> str:
    """Its first loss is its last."""
    count_effect("once")
    return "once"


@stage(registry=registry, retry=Retry(max_attempts=1), timeout_seconds=0.3)
def endless() -> str:
    """Overruns its timeout, and nothing on a solo pool can end it."""
    if count_effect("endless") == 1:
        threading.Event().wait(3)
    return "endless"


@process(version=1, registry=registry)
async def stages(flow: Flow) -> list[str]:
    """Stages, their steps, and a step of the flow itself."""
    begun = await flow.stage(two_steps)
    await flow.step(first)
    return [begun, *await flow.gather(flow.stage(plain), flow.stage(plain, key="other"))]


@process(version=1, registry=registry)
async def gathers(flow: Flow) -> list[str]:
    """Stages that are all waited for."""
    keys = ("one", "two", "three")
    return await flow.gather(*[flow.stage(plain, key=key) for key in keys])


@process(version=1, registry=registry)
async def crowd(flow: Flow) -> str:
    """Two timers that are due in one instant."""
    await flow.gather(flow.sleep(BRIEFLY), flow.sleep(BRIEFLY))
    return await flow.stage(plain)


@process(version=1, registry=registry)
async def retries(flow: Flow) -> str:
    """A stage and a step of the flow that fail once."""
    await flow.step(stumble, retry=AGAIN)
    return await flow.stage(clumsy)


@process(version=1, registry=registry)
async def waits(flow: Flow) -> str:
    """Every kind of timer fires once."""
    await flow.sleep(BRIEFLY)
    try:
        await flow.signal("never", timeout=BRIEFLY)
    except SignalTimedOut:
        await flow.stage(plain)
    decision = await flow.approval(
        "boss", assign=["bob"], escalate={BRIEFLY: ["director"]}, timeout=3 * BRIEFLY
    )
    return decision.outcome


@process(version=1, registry=registry)
async def people(flow: Flow) -> list[str]:
    """Waits for a signal and a decision, both with deadlines that are not met."""
    said = await flow.signal("go", type=str, timeout=hours(1))
    decision = await flow.approval("boss", assign=["bob"], timeout=hours(1))
    return [said, decision.outcome, await flow.stage(plain)]


@process(version=1, registry=registry)
async def crashes(flow: Flow) -> int:
    """A stage that crashes."""
    return await flow.stage(fragile)


@process(version=1, registry=registry)
async def crashes_in_its_turn(flow: Flow) -> int:
    """A step of the flow that crashes."""
    return await flow.step(crash)


def linger() -> int:
    """Long enough for somebody to pause the run meanwhile."""
    threading.Event().wait(0.5)
    return count_effect("linger")


@process(version=1, registry=registry)
async def errand(flow: Flow) -> None:
    """A child that nobody answers."""
    await flow.signal("never")


@process(version=1, registry=registry)
async def parents(flow: Flow) -> list[str]:
    """A child that is awaited, and one that is needed no more as its deadline comes."""
    done = await flow.child(proof)
    try:
        with flow.timeout(BRIEFLY):
            await flow.child(errand)
    except BlockTimedOut:
        await flow.stage(plain)
    return [done]


@process(version=1, registry=registry)
async def chapters(flow: Flow, chapter: int | None) -> list[int | str]:
    """The first ends with a stage, in one commit; what it leaves open ends too."""
    if chapter is None:
        _open = [flow.sleep(timedelta(hours=1)), flow.signal("never")]
        await flow.stage(plain)
        return await flow.continue_as_new(2)
    return [chapter, await flow.stage(plain)]


@process(version=1, registry=registry)
async def lingers(flow: Flow) -> int:
    """A step of the flow that takes its time."""
    return await flow.step(linger)


@process(version=1, registry=registry)
async def belated(flow: Flow) -> str:
    """Waits for a signal with a deadline, which is so far away that only a test's clock comes to it."""
    return await flow.signal("go", type=str, timeout=timedelta(hours=1))


@process(version=1, registry=registry)
async def rests(flow: Flow) -> None:
    """Has no stage: any worker that serves one process can end it."""
    await flow.sleep(timedelta(seconds=0.6))


@process(version=1, registry=registry, expires_after=timedelta(seconds=0.5))
async def expires(flow: Flow) -> None:
    """Nobody ever decides."""
    await flow.approval("boss", assign=["bob"])


@process(version=1, registry=registry)
async def loses(flow: Flow) -> str:
    """A stage that may be lost only once."""
    return await flow.stage(once)


@process(version=1, registry=registry)
async def overruns(flow: Flow) -> str:
    """A stage that overruns its only attempt."""
    try:
        return await flow.stage(endless)
    except ActivityFailed as failure:
        return failure.error_type


@process(version=1, registry=registry)
async def proof(flow: Flow) -> str:
    """One stage: who does it is well."""
    return await flow.stage(plain)


@process(version=1, registry=registry)
async def strange(flow: Flow) -> str:
    """Steps and stages that an older release may lack."""
    await flow.stage(plain)
    await flow.step(first)
    return await flow.stage(clumsy)
