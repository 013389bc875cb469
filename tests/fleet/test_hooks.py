"""Hooks on a worker: by messages, at once, in a batch, and of `async def` stages that nobody waits for."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextvars import ContextVar
from typing import Any

import pytest

from orchestrator import AttemptEnd, AttemptInfo, Flow, Hooks, RunReport, process, stage, step
from orchestrator.engine.event_loop import EVENT_LOOP
from tests.fleet.test_async_stages import until_all_ended
from tests.fleet.test_failures_seen import World
from tests.fleet.test_failures_seen import world as world  # noqa: PLC0414 - a fixture

TENANT: ContextVar[str] = ContextVar("tenant", default="nobody's")


class Watching(Hooks):
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def before_attempt(self, attempt: AttemptInfo) -> None:
        TENANT.set(f"{attempt.run.business_key} {attempt.key}")
        self.seen.append(("before", attempt.run.business_key, attempt.key))

    def after_attempt(self, attempt: AttemptInfo, end: AttemptEnd) -> None:
        self.seen.append((end.outcome, attempt.run.business_key, attempt.key))
        raise RuntimeError

    def run_ended(self, report: RunReport) -> None:
        self.seen.append((str(report.status), report.business_key, ""))


def tenant() -> str:
    return TENANT.get()


def order_of(world: World) -> Any:
    @stage(registry=world.registry)
    def first() -> list[str]:
        return [step(tenant), TENANT.get()]

    @stage(registry=world.registry)
    def second() -> str:
        return TENANT.get()

    @process(version=1, registry=world.registry)
    async def order(flow: Flow) -> list[str]:
        return [*await flow.stage(first), await flow.stage(second), await flow.step(tenant)]

    return order


@pytest.mark.parametrize("eager_seconds", [0, 5])
def test_each_attempt_has_its_own_also_where_runs_go_on_together(world, eager_seconds):
    """In a batch the runs take turns in one thread: none of them sees another's variables."""
    hooks = Watching()
    order = order_of(world)
    member = world.install(hooks=[hooks], eager_seconds=eager_seconds)
    keys = ["a", "b", "c"]
    for warm in (True, False):  # a batch goes on with what it knows to be short
        hooks.seen.clear()
        runs = [world.harness.start(order, key=f"{key}{warm}") for key in keys]
        world.advance(*runs)
        world.do_all()
        for run, key in zip(runs, keys, strict=True):
            at = [f"{key}{warm} {what}" for what in ("first/tenant", "first", "second", "tenant")]
            assert world.harness.client.result(run) == at
    for key in keys:
        found = [each[0::2] for each in hooks.seen if each[1] == f"{key}False"]
        assert found == [
            ("before", "first"),
            ("before", "first/tenant"),
            ("done", "first/tenant"),
            ("done", "first"),
            ("before", "second"),
            ("done", "second"),
            ("before", "tenant"),
            ("done", "tenant"),
            ("completed", ""),
        ]
    assert member.hook_errors == {"Watching.after_attempt": 24}
    assert TENANT.get() == "nobody's"


@pytest.mark.parametrize("ends_by", ["itself", "being given back"])
def test_an_async_stage_has_them_though_nobody_waits_for_it(world, ends_by):
    opened, hooks = asyncio.Event(), Watching()

    @stage(registry=world.registry)
    async def call() -> str:
        await asyncio.wait_for(opened.wait(), 3)
        return TENANT.get()

    @process(version=1, registry=world.registry)
    async def order(flow: Flow) -> str:
        return await flow.stage(call)

    member = world.install(hooks=[hooks], eager_seconds=0)
    runs = [world.harness.start(order, key=key) for key in ("a", "b")]
    world.advance(*runs)
    for task, arguments in world.handoffs():
        world.deliver(task, *arguments)
    assert hooks.seen == [("before", "a", "call"), ("before", "b", "call")]
    assert TENANT.get() == "nobody's"

    async def open_it() -> None:
        opened.set()

    if ends_by == "itself":
        EVENT_LOOP.run(open_it())
    else:
        member.async_tasks.give_back()
    until_all_ended(world)
    outcome = "done" if ends_by == "itself" else "lost"
    ended = [(outcome, key, "call") for key in ("a", "b")]
    if ends_by == "itself":
        assert [world.harness.client.result(run) for run in runs] == ["a call", "b call"]
        ended += [("completed", key, "") for key in ("a", "b")]
    assert Counter(hooks.seen[2:]) == Counter(ended)
    assert member.hook_errors == {"Watching.after_attempt": 2}
