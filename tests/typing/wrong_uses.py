"""Uses that mypy --strict refuses. Each line says which error is expected of it."""

from __future__ import annotations

from orchestrator import AsyncClient, Flow, Retry, RetryLater, hours, process, stage, step


@stage
def provision(user: str, role: str = "reader") -> str:
    return user + role


@stage
async def charge(user: str) -> int:
    return len(user)


@stage
def count(number: int) -> int:
    return number


@stage
def lock(user: str) -> None: ...


def grant(user: str, *, role: str) -> str:
    return user + role


@process  # E: arg-type
async def without_a_version(flow: Flow) -> None: ...


@process(version="1")  # E: arg-type
async def with_a_word(flow: Flow) -> None: ...


@process(version=1, on_error="retry")  # E: arg-type
async def with_another_end(flow: Flow) -> None: ...


async def produces(client: AsyncClient) -> None:
    await client.start(5)  # E: arg-type
    await client.start("p", kee="o-1")  # E: call-arg
    client.approve("o-1", by="bob")  # E: unused-coroutine


async def flow_of(flow: Flow) -> None:
    await flow.stage(provision, 1)  # E: call-overload
    await flow.stage(provision)  # E: call-overload
    await flow.stage(charge, 1)  # E: call-overload
    (await flow.stage(charge, "ada")).upper()  # E: attr-defined
    await flow.stage(provision, "ada", rule="x")  # E: call-arg
    await flow.stage(grant, "ada", role="x")  # E: call-overload
    await flow.step(grant, "ada")  # E: call-overload
    await flow.step(grant, "ada", role=1)  # E: arg-type
    await flow.step(grant("ada", role="x"))  # E: call-overload
    await flow.stage(provision, "ada", compensate=count)  # E: arg-type
    await flow.stage(lock, "ada", compensate=count)  # E: misc
    await flow.step(grant, "ada", role="x", compensate=count)  # E: arg-type
    async with flow.undo() as undo:
        undo.add(count, "ada")  # E: arg-type
    await flow.sleep("60")  # E: arg-type
    await flow.signal("paid", timeout="60")  # E: call-overload
    await flow.approval("boss", assign=["bob"], escalate={"1": ["ann"]})  # E: arg-type
    (await flow.stage(provision, "ada")).append(1)  # E: attr-defined
    (await flow.signal("paid", type=int)).upper()  # E: attr-defined
    _one, _two, _three = await flow.gather(flow.sleep(1), flow.stage(provision, "a"))  # E: misc
    flow.stage(provision, "ada")  # E: unused-awaitable


def in_a_stage() -> str:
    step(grant, "ada")  # E: call-arg
    Retry(delay_seconds="2")  # E: arg-type
    Retry(retry_on="OSError")  # E: arg-type
    Retry(max_delay=2)  # E: call-arg
    RetryLater(after="2")  # E: arg-type
    hours("2")  # E: arg-type
    return provision(1)  # E: arg-type
