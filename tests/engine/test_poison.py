"""A message that can never succeed parks its run, explained: it is not delivered for ever."""

from __future__ import annotations

import asyncio
import contextlib
import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Flow, Retry, RunStatus, process, stage, step
from orchestrator.core import requests
from orchestrator.engine.turn import advance
from tests.modes import NORMAL, TWICE, modes_of


class WorkerKilled(BaseException):
    """A worker that is told to go, or dies, at this point."""


def assert_parks(harness, run) -> None:
    for _ in range(3):
        harness.drain()
        harness.database.rows("UPDATE perennial.outbox SET publish_at = perennial.now()")
    harness.drain()
    view = harness.client.get(run)
    assert view.status is RunStatus.INCIDENT, view.status
    assert view.error is not None


@modes_of(NORMAL, TWICE, because="a flow that stays where it is meets its journal when replayed")
def test_a_contradiction_met_with_a_finally_that_awaits_is_an_incident(harness):
    """The first contradiction is kept on the turn, and the turn ends with it whatever comes out of
    the flow, also from a `finally` that asks for more. Else the turn would crash at every
    delivery.
    """

    @stage(registry=harness.registry)
    def a() -> None: ...

    @stage(registry=harness.registry)
    def b() -> None: ...

    order = [a]

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        try:
            await flow.stage(order[0])
        finally:
            await flow.stage(a, key="clean-up")

    run = harness.start(p)
    advance(harness.context, run.run_id)
    order[0] = b
    harness.client.signal(run, "wake up")
    assert_parks(harness, run)


@modes_of(NORMAL, TWICE, because="a flow that stays where it is meets its journal when replayed")
def test_a_bare_except_does_not_swallow_a_contradiction(harness):
    """A flow that catches BaseException around its await may return, but the kept contradiction is
    what the turn ends with: the run must not complete over a journal that is not its own.
    """

    @stage(registry=harness.registry)
    def a() -> None: ...

    is_changed = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        try:
            await (flow.signal("a") if is_changed else flow.stage(a))
        except BaseException:  # noqa: BLE001
            return "swallowed"
        return "done"

    run = harness.start(p)
    advance(harness.context, run.run_id)
    is_changed.append(True)
    harness.client.signal(run, "wake up")
    assert_parks(harness, run)


@pytest.mark.parametrize("text_of_error", ["NUL \x00", "a file name that is no UTF-8: \udce9"])
def test_an_error_message_that_jsonb_cannot_keep_still_parks_the_run(harness, text_of_error):
    """Every recorded message is made readable first: jsonb refuses NUL and lone surrogates, and an
    incident that can't be written would be delivered again for ever.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        raise ValueError(text_of_error)

    assert_parks(harness, harness.start(p))


def test_a_stage_error_that_jsonb_cannot_keep_fails_the_stage(harness):
    """The same for a stage's error: were it not recorded, the attempt would look like a dead
    worker's and be handed out again.
    """

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def broken() -> None:
        raise ValueError("NUL \x00")

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(broken)

    run = harness.run(p)
    assert harness.status(run) is RunStatus.FAILED


@pytest.mark.parametrize(
    "asks",
    [
        pytest.param(lambda flow, _: flow.sleep(math.inf), id="sleep(inf)"),
        pytest.param(lambda flow, _: flow.sleep(math.nan), id="sleep(nan)"),
        pytest.param(lambda flow, _: flow.sleep(1e15), id="sleep(30 million years)"),
        pytest.param(lambda flow, a: flow.stage(a, key="k" * 5000), id="a key of 5000 characters"),
        pytest.param(lambda flow, a: flow.stage(a, key="nul\x00"), id="a key with NUL"),
        pytest.param(lambda flow, _: flow.signal("nul\x00"), id="a signal name with NUL"),
        pytest.param(
            lambda flow, _: flow.approval("m", assign=["nul\x00"]), id="an assignee with NUL"
        ),
    ],
)
def test_what_postgres_cannot_take_parks_the_run_and_does_not_loop(harness, asks):
    """Delays, keys, names and people are checked where the flow asks, and what still reaches
    Postgres and is refused as data parks the run. A commit that can never succeed is not tried
    for ever.
    """

    @stage(registry=harness.registry)
    def a() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await asks(flow, a)

    assert_parks(harness, harness.start(p))


def test_a_retry_without_an_upper_bound_is_refused_or_works(harness):
    """`Infinity` is no JSON, so Postgres would refuse this policy at every commit. Retry takes
    finite numbers only, and says so where it is made.
    """
    try:
        retry = Retry(max_delay_seconds=math.inf)
    except Exception:  # noqa: BLE001 - refused early is as good
        return

    @stage(registry=harness.registry, retry=retry)
    def a() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(a)

    run = harness.run(p)
    assert harness.status(run) is RunStatus.COMPLETED


def test_a_step_that_kills_its_worker_parks_the_run_at_last(harness):
    """A held turn whose worker was lost is counted when the next takes it over. TURN_LOSSES_MAX
    losses in a row, with no step recorded and no turn committed between them, park the run.
    """
    called = []

    def out_of_memory() -> None:
        called.append(1)
        raise WorkerKilled

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.step(out_of_memory, retry=Retry(max_attempts=3))

    run = harness.start(p)
    for _ in range(60):
        with contextlib.suppress(WorkerKilled):
            harness.drain()
        harness.database.rows("UPDATE perennial.outbox SET publish_at = perennial.now()")
        harness.database.rows(
            "UPDATE perennial.run SET turn_claimed_at = turn_claimed_at - interval '1 hour'"
        )
    assert harness.status(run) is not RunStatus.RUNNING
    assert len(called) < 60


def test_a_flow_that_kills_its_worker_without_a_step_parks_the_run_at_last(harness):
    """A turn without inline steps holds nothing, so nobody could count its losses. One that was
    asked for SUSPICIOUS_SENDS times and never committed is taken under a hold, and then counts
    like the others.
    """
    called = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        called.append(1)
        raise WorkerKilled  # stands for a hard time limit

    run = harness.start(p)
    for _ in range(40):
        with contextlib.suppress(WorkerKilled):
            harness.drain()
        harness.database.rows("UPDATE perennial.outbox SET publish_at = perennial.now()")
        harness.database.rows(
            "UPDATE perennial.run SET turn_claimed_at = turn_claimed_at - interval '1 hour'"
        )
    assert harness.status(run) is RunStatus.INCIDENT


def test_a_runaway_flow_that_catches_everything_is_parked(harness):
    """Where a flow has asked for too much it is parked as by a contradiction, which `except
    Exception` can't catch: a loop that retries whatever fails must not keep its turn for ever.
    """

    spins, kept = [], []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        while True:
            try:
                kept.append(flow.sleep(1))
            except Exception:  # noqa: BLE001
                spins.append(1)
                if len(spins) > 10:
                    return  # so that this test ends; the author's loop would not

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "REQUESTS_PER_TURN_MAX", 20)
        assert_parks(harness, harness.start(p))


def test_a_finally_that_fails_while_its_flow_is_let_go_is_not_an_incident(harness):
    """A flow that waits is closed, and its `finally` blocks run with names that are not bound yet.
    What they raise then is no outcome of the turn: the flow runs from the top again, and may
    well get there.
    """

    @stage(registry=harness.registry)
    def grant() -> str:
        return "grant"

    @stage(registry=harness.registry)
    def revoke(what: str) -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        granted = None
        try:
            granted = await flow.stage(grant)
            return granted
        finally:
            await flow.stage(revoke, granted.upper())

    run = harness.run(p)
    assert harness.status(run) is RunStatus.COMPLETED


def test_a_foreign_awaitable_in_a_gather_is_told_at_once(harness):
    """Only outcomes (ActivityFailed, SignalTimedOut, Fail) wait for the siblings of their branch.
    A bug is told at once, not when the slowest sibling is done in a month.
    """

    class Foreign:
        def __await__(self) -> Any:
            yield "something"

        def __repr__(self) -> str:
            return "something foreign"  # the same at each replay, as its address is not

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.gather(flow.sleep(30 * 86_400), Foreign())

    assert harness.status(harness.run(p)) is RunStatus.INCIDENT


def test_a_broken_flow_is_explained_with_its_own_line(harness):
    """The innermost frame is often in a library. What an author needs, and an incident names, is
    the last line that is the flow's own.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        resting = asyncio.sleep(1)
        await resting

    run = harness.run(p)
    assert Path(__file__).name in harness.client.get(run).error["message"]


def test_a_step_whose_declared_result_has_no_json_form_is_not_called(harness):
    """A declared result that has no JSON form is a PayloadError, whatever pydantic calls it. It is known
    before the step is called, and trying again can't mend it.
    """
    charged = []

    class Receipt: ...

    def charge() -> Receipt:
        charged.append(1)
        return Receipt()

    charge.__annotations__["return"] = Receipt

    @stage(registry=harness.registry, retry=Retry(max_attempts=5, delay_seconds=0))
    def pay() -> None:
        step(charge)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(pay)

    run = harness.run(p)
    assert not charged
    assert harness.client.get(run).error["type"] == "ActivityFailed"
