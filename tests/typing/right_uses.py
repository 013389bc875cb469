"""Uses of the public interface that mypy --strict passes, and the types it finds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_type

from orchestrator import (
    AsyncClient,
    BranchResults,
    CallbackToken,
    ChildHandle,
    Decision,
    DueMoment,
    Flow,
    RaceResult,
    Retry,
    RetryLater,
    StepInterrupted,
    approval,
    ask,
    heartbeat,
    hours,
    last_heartbeat,
    months,
    process,
    retry_after,
    stage,
    step,
)
from orchestrator.core.views import RunView, Started


@dataclass
class Paid:
    amount: int


@stage
def provision(user: str, role: str = "reader") -> str:
    return step(grant, user, role=role)


@stage(retry=Retry(delay_seconds=timedelta(seconds=2)), timeout_seconds=hours(1))
def count(number: int) -> int:
    return number


@stage
async def charge(user: str, amount: int = 1) -> Paid:
    assert_type(await step(price, user), int)
    return Paid(amount)


@stage(
    queue="io",
    timeout_seconds=30,
    retry=Retry(give_up_after=hours(1), retry_on=(OSError, TimeoutError), non_retryable=KeyError),
    on_exhausted=ask("it-ops", "ann", timeout=hours(4), escalate={hours(1): ["director"]}),
)
async def read(path: str) -> bytes:
    heartbeat({"path": path})
    assert_type(last_heartbeat(Paid), Paid | None)
    raise RetryLater("busy", after=retry_after("120"))


@stage
def refund(paid: Paid) -> None: ...


@stage
def lock(user: str) -> None: ...


@stage
def unlock(user: str) -> None: ...


async def price(user: str) -> int:
    return len(user)


async def produces(client: AsyncClient) -> None:
    run = await client.start("p", "ada", key="o-1")
    assert_type(run, Started)
    assert_type(await client.get(run), RunView)
    assert_type(await client.operations.restart(run, by="bob"), Started)


async def direct() -> None:
    assert_type(await charge("ada"), Paid)


@stage
def submit(token: CallbackToken, user: str) -> str:
    return token.secret + user


def grant(user: str, *, role: str) -> str:
    return user + role


def upload(path: str, key: str = "") -> bytes:
    return (path + key).encode()


@approval
def boss(_request: object) -> list[str]:
    return ["bob"]


@process(version=1)
async def billing(flow: Flow, paid: Paid) -> int:
    return paid.amount


@process(version=2)
async def tidy(flow: Flow) -> None: ...


@process(version=1, expires_after=3600)
async def p(flow: Flow, user: str) -> tuple[str, int]:
    decision = await flow.approval("boss", assign=["bob"], escalate={3600: ["ann"]}, timeout=7200)
    assert_type(decision, Decision)
    await flow.approval("boss", assign=["bob"], escalate={hours(1): ["ann"]}, key="again")
    assert_type(await flow.stage(provision, user), str)
    assert_type(await flow.stage(provision, user, role="admin", key="again"), str)
    assert_type(await flow.step(grant, user, role="x", retry=Retry(), key="y"), str)
    assert_type(await flow.step(upload, user, key="mine.pdf"), bytes)
    assert_type(await flow.signal("paid", type=Paid, timeout=60), Paid)
    assert_type(await flow.signal("paid", type=Paid, timeout=60, default=None), Paid | None)
    async for paid in flow.signals("paid", type=Paid, max=3):
        assert_type(paid, Paid)
    assert_type(await flow.child(billing, Paid(3), on_parent_end="wait"), int)
    assert_type(await flow.child(tidy, key="once"), None)
    assert_type(await flow.start_child(billing, Paid(3), business_key="B-1"), ChildHandle)
    pair = await flow.gather(flow.child(billing, Paid(1)), flow.child(tidy))
    assert_type(pair, tuple[int, None])
    promised = flow.callback("payment", type=Paid, timeout=60)
    await flow.stage(submit, promised.token, user)
    assert_type(await promised, Paid)
    assert_type(await flow.poll(count, 1, until=lambda number: number > 3, every=60), int)
    assert_type(await flow.poll(upload, "a", until=bool, every=60, attempts=3), bytes)
    async for due in flow.every(months(1), start=flow.now, missed="all"):
        assert_type(due, DueMoment)
        assert_type((due.at, due.missed), tuple[datetime, int])
    assert_type(await flow.stage(charge, user, amount=2), Paid)
    assert_type(await flow.stage(read, user, key="again"), bytes)
    assert_type(await flow.step(price, user), int)
    assert_type(
        await flow.step(price, user, retry=Retry(retry_on=lambda error: "busy" in str(error))), int
    )
    assert_type(await flow.stage(charge, user, compensate=refund), Paid)
    assert_type(await flow.step(price, user, compensate=count, key="undone"), int)
    assert_type(await flow.stage(lock, user, compensate=unlock), None)
    async with flow.undo() as undo:
        undo.add(refund, Paid(1))
        undo.add(provision, user, role="none")
    try:
        wired = await flow.step(grant, user, role="x", at_most_once=True, error_attributes=["code"])
        assert_type(wired, str)
        assert_type(await flow.step(price, user, error_attributes=["code"]), int)
    except StepInterrupted as interrupted:
        assert_type(interrupted.is_a("app.NotFound"), bool)
        assert_type(interrupted.attributes, dict[str, Any])
    assert_type(await flow.step(price, user, key="again", retry=Retry()), int)
    account: str | None = await flow.stage(provision, user) if decision.approved else None
    name, number = await flow.gather(flow.stage(provision, account or user), flow.stage(count, 1))
    assert_type(name, str)
    assert_type(number, int)
    numbers = await flow.gather(flow.stage(count, 1), flow.stage(count, 2))
    assert_type(numbers, list[int])
    assert_type(await flow.gather(*[flow.stage(count, n) for n in numbers]), list[int])
    assert_type(await flow.gather({"a": flow.stage(count, 1)}), dict[str, int])
    race = await flow.first(flow.stage(count, 1), flow.stage(provision, "ann"))
    assert_type(race, RaceResult[int | str])
    assert_type(race.value, int | str)
    assert_type((await flow.first({"a": flow.stage(count, 1)}, count=1)).values, list[int])
    assert_type((await flow.first(*[flow.stage(count, n) for n in numbers])).value, int)
    mapped = await flow.map(count, [1, 2], max_concurrency=1, tolerated_failure_percentage=50)
    assert_type(mapped, BranchResults[int])
    assert_type(mapped.raise_if_failed(), list[int])
    assert_type((await flow.map(length, ["a"])).values, list[int])
    assert_type((await flow.parallel([branch(flow), branch(flow)])).values, list[int])
    assert_type((await flow.parallel({"a": lambda: branch(flow)})).values, list[int])
    with flow.timeout(hours(1)):
        async with flow.timeout(60, key="soon"), flow.scope("part"):
            assert_type(await flow.scope("inner", branch, flow), int)
    assert_type(await flow.scope("kept", branch, flow, record=True), int)
    both = await flow.gather(flow.step(grant, user, role="x"), branch(flow))
    assert_type(both, tuple[str, int])
    return both


async def branch(flow: Flow) -> int:
    await flow.sleep(60)
    return await flow.stage(count, 2)


async def length(item: str) -> int:
    return len(item)
