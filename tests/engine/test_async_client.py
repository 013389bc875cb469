"""`AsyncClient` has the verbs of `Client`, and one description of each."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from orchestrator import AsyncClient, Flow, process, stage
from orchestrator.client.asynchronous import AsyncBulk, AsyncOperations, AsyncProcesses, Verb
from orchestrator.client.bulk import Bulk
from orchestrator.client.client import Client
from orchestrator.client.operations import Operations
from orchestrator.client.processes import Processes
from orchestrator.core.run import RunStatus
from orchestrator.core.selection import RunFilter
from orchestrator.errors import RunNotClosed, RunNotFound, UnusableConnection
from tests.harness import Harness
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="the callers' side is the same in each")

PAIRS = [
    (Client, AsyncClient),
    (Operations, AsyncOperations),
    (Processes, AsyncProcesses),
    (Bulk, AsyncBulk),
]


@pytest.mark.parametrize(("waits", "is_awaited"), PAIRS)
def test_no_verb_is_forgotten_and_each_is_the_same_function(waits, is_awaited):
    """So that its arguments, its answer and its errors are the same."""
    verbs = {name for name, _ in inspect.getmembers(waits, inspect.isfunction) if name[0] != "_"}
    found = {name: each for name, each in vars(is_awaited).items() if isinstance(each, Verb)}
    assert set(found) == verbs
    assert all(each.function is getattr(waits, name) for name, each in found.items())


def order_of(harness: Harness) -> Any:
    @stage(registry=harness.registry)
    def double(value: int) -> int:
        return 2 * value

    @process(version=1, registry=harness.registry)
    async def order(flow: Flow, value: int) -> int:
        decision = await flow.approval("boss", assign=["bob"])
        return await flow.stage(double, value) if decision.approved else 0

    return order


def on_a_loop(
    harness: Harness, program: Callable[[AsyncClient], Coroutine[Any, Any, Any]], given: Any = None
) -> Any:
    async def run() -> Any:
        async with AsyncClient(given or harness.settings, registry=harness.registry) as client:
            return await program(client)

    return asyncio.run(run())


def test_a_run_is_started_decided_and_read_on_a_loop(harness):
    order = order_of(harness)
    others = 0

    async def program(client: AsyncClient) -> Any:
        nonlocal others
        await client.processes.deploy(order)
        run = await client.start("order", 21, key="o-1")
        again = await asyncio.gather(*(client.start("order", 21, key="o-1") for _ in range(12)))
        assert {each.run_id for each in again} == {run.run_id}
        harness.drain()
        assert [wait.key for wait in (await client.get("o-1")).waits] == ["boss"]
        assert (await client.approve(run, by="bob")).approved
        with pytest.raises(RunNotFound):
            await client.get("nobody's")
        looking = asyncio.create_task(client.result(run, timeout_seconds=0.2))
        while not looking.done():  # the loop goes on while a verb waits
            others += 1
            await asyncio.sleep(0.01)
        with pytest.raises(RunNotClosed):
            looking.result()
        harness.drain()
        assert [each.id for each in await client.list(status=RunStatus.COMPLETED)] == [run.run_id]
        lines = list(await client.operations.export([run]))
        assert len(lines) == 1
        preview = await client.operations.bulk.preview("cancel", RunFilter(process="order"))
        assert preview.runs == ()
        assert (await client.operations.counts("order"))[RunStatus.COMPLETED] == 1
        return await client.result(run)

    assert on_a_loop(harness, program) == 42
    assert others > 3


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_a_callers_connection_is_its_transaction(harness, kind):
    """What it rolls back has not begun. And its client may stand on the same engine."""
    harness.client.processes.deploy(order_of(harness))
    url = harness.settings.database()

    async def program() -> Any:
        engine = create_async_engine(url)
        try:
            async with AsyncClient(engine, registry=harness.registry) as client:
                for end in ("rollback", "commit"):
                    async with (
                        AsyncSession(engine) if kind == "session" else engine.connect() as own
                    ):
                        await own.execute(text("SELECT 1"))
                        run = await client.start("order", 1, connection=own)
                        await getattr(own, end)()
                    found = [each.id for each in await client.list()]
                    assert found == ([run.run_id] if end == "commit" else [])
                for given, says in (
                    (engine, "no connection"),
                    (engine.connect(), "not begun"),
                    (object(), "use Client"),
                ):
                    with pytest.raises(UnusableConnection, match=says):
                        await client.start("order", 1, connection=given)
        finally:
            await engine.dispose()

    asyncio.run(program())


def test_an_engine_that_does_not_wait_on_a_loop_is_refused(harness):
    with pytest.raises(TypeError, match="AsyncEngine"):
        AsyncClient(create_engine(harness.settings.database()))


def test_a_verb_is_cancelled_with_its_task_and_its_connection_is_not_used_again(harness):
    """While a statement waits for a lock: what was asked is not done."""
    harness.client.processes.deploy(order_of(harness))
    run = harness.client.start("order", 1)

    async def program(client: AsyncClient) -> None:
        await client.get(run)
        with harness.context.transaction() as blocks:
            blocks.exec_driver_sql("SELECT FROM perennial.run FOR UPDATE")
            cancelling = asyncio.create_task(client.cancel(run))
            done, _ = await asyncio.wait([cancelling], timeout=0.2)
            assert not done
            cancelling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelling
        assert not (await client.get(run)).status.is_closed

    on_a_loop(harness, program)
