"""`async def` stages and steps: one loop a process, their caller's context, steps that are remembered, time limits."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from orchestrator import Fail, Flow, Registry, Retry, idempotency_key, process, seconds, stage, step
from orchestrator.core.run import RunStatus
from orchestrator.engine.event_loop import EVENT_LOOP
from orchestrator.errors import RunFailed
from orchestrator.testing import ProcessTester

TENANT: ContextVar[str] = ContextVar("tenant", default="none")
registry = Registry()
seen: list[Any] = []


@pytest.fixture(scope="module")
def tester() -> Iterator[ProcessTester]:
    with ProcessTester(registry=registry) as tester:
        yield tester


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


async def charge(amount: int) -> str:
    seen.append(("charge", amount, idempotency_key(), id(asyncio.get_running_loop())))
    await asyncio.sleep(0)
    return f"charged {amount}"


@stage(registry=registry, retry=Retry(max_attempts=2, delay_seconds=1))
async def pay(amounts: list[int]) -> list[str]:
    seen.append(("pay", idempotency_key(), TENANT.get(), id(asyncio.get_running_loop())))
    done = await asyncio.gather(*(step(charge, amount) for amount in amounts))
    if sum(each[0] == "pay" for each in seen) == 1:
        raise ConnectionError("the bank went away")
    return done


@stage(registry=registry)
async def boil(how: str) -> str:
    if how == "steps of a def":
        return step(str, 1)
    if how == "fails":
        raise Fail("no gas")
    raise SystemExit(how)


@stage(registry=registry)
def plain(how: str) -> Any:
    async def both() -> str:
        return await step(charge, 3) + step(str, 1)

    return asyncio.run(both()) if how == "its own loop" else step(charge, 3)


@stage(registry=registry, timeout_seconds=0.05, retry=Retry(max_attempts=1))
async def wait_for_ever(how: str) -> str:
    try:
        await asyncio.Event().wait()
    finally:
        seen.append("cleaned up")
    return how


@process(version=1, registry=registry)
async def shop(flow: Flow, amounts: list[int]) -> list[str]:
    first = await flow.step(charge, 1)
    return [first, *await flow.stage(pay, amounts), first]


@process(version=1, registry=registry)
async def kitchen(flow: Flow, what: tuple[str, str]) -> Any:
    name, how = what
    return await flow.stage(name, how)


def test_async_stages_and_steps_share_one_loop_and_are_remembered(tester):
    """What is made once on the loop works over stages; a step that was recorded isn't awaited again."""
    TENANT.set("ours")
    run = tester.start(shop, [5, 6])
    assert run.status is RunStatus.RUNNING  # it rests until its second attempt
    tester.advance_time(seconds(10))
    assert tester.result(run) == ["charged 1", "charged 5", "charged 6", "charged 1"]
    assert [each[:3] for each in seen] == [
        ("charge", 1, f"{run.id}/charge"),
        ("pay", f"{run.id}/pay", "ours"),
        ("charge", 5, f"{run.id}/pay/charge"),
        ("charge", 6, f"{run.id}/pay/charge#2"),
        ("pay", f"{run.id}/pay", "ours"),
    ]
    assert len({each[-1] for each in seen}) == 1


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (("boil", "fails"), "Fail.*no gas"),
        (
            ("boil", "steps of a def"),
            "DefinitionError.*would wait for it.*an `async def`, and await",
        ),
        (("plain", "no loop"), "DefinitionError.*a plain `def` calls an `async def`.*await step"),
        (("wait-for-ever", ""), "StageTimedOut.*attempt 1 of wait-for-ever overran its timeout"),
    ],
)
def test_what_a_stage_raises_is_its_outcome(tester, what, says):
    run = tester.start(kitchen, what)
    if run.status is RunStatus.RUNNING:
        for _ in range(12):
            tester.advance_time(seconds(7200))
    with pytest.raises(RunFailed, match=rf"(?s){says}"):
        tester.result(run)
    assert (seen == ["cleaned up"]) == (what[0] == "wait-for-ever")


def test_a_def_stage_with_a_loop_of_its_own_may_have_steps_of_both_kinds(tester):
    assert tester.result(tester.start(kitchen, ("plain", "its own loop"))) == "charged 31"


def test_a_coroutine_that_ends_its_worker_leaves_the_loop_alone(tester):
    """Python ends a loop on which a task raises SystemExit; others' stages are on it."""
    with pytest.raises(SystemExit):
        tester.start(kitchen, ("boil", "out of gas"))
    assert EVENT_LOOP.run(charge(1)) == "charged 1"


def test_who_ends_its_wait_cancels_it():
    """As Celery's soft time limit does, or Ctrl-C."""

    class Interrupted(BaseException):
        pass

    def interrupt(*_: Any) -> None:
        raise Interrupted

    async def wait() -> None:
        try:
            signal.pthread_kill(main, signal.SIGUSR2)
            await asyncio.Event().wait()
        finally:
            seen.append("cleaned up")

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR2, interrupt)
    try:
        with pytest.raises(Interrupted):
            EVENT_LOOP.run(wait())
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == ["cleaned up"]


def test_what_is_cancelled_before_it_begins_is_closed() -> None:
    """Else Python says, whenever it is collected, that it was never awaited."""
    held, let_go, ended = threading.Event(), threading.Event(), threading.Event()

    async def hold() -> None:
        held.set()
        let_go.wait(timeout=30)

    EVENT_LOOP.begin(hold(), timeout_seconds=None, on_end=lambda _call: None)
    assert held.wait(timeout=30)
    coroutine = charge(1)
    call = EVENT_LOOP.begin(coroutine, timeout_seconds=None, on_end=lambda _call: ended.set())
    EVENT_LOOP.cancel(call)
    let_go.set()
    assert ended.wait(timeout=30)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    assert not seen
