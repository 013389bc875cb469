"""Payloads that can't be kept, or can't be read any more: a clear state, words that help, and others go on."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator import Flow, Registry, Retry, RunStatus, process, stage, step
from orchestrator.core import codec
from orchestrator.core.codec import PAYLOAD_BYTES_MAX
from orchestrator.engine.context import EngineContext
from orchestrator.engine.fire import fire
from orchestrator.engine.relay import relay
from orchestrator.engine.stage import run_stage
from orchestrator.engine.sweep import sweep
from orchestrator.engine.turn import advance
from orchestrator.errors import PayloadError
from tests.harness import Harness
from tests.modes import NORMAL, NOTIFY_OFF, TWICE, modes_of

TOO_LARGE = "x" * PAYLOAD_BYTES_MAX
BYTES = PAYLOAD_BYTES_MAX + 2


class Thing:
    """Has no JSON form."""


# -- over the bound, or without a JSON form ------------------------------------------------------


def processes(registry: Registry, value: Any) -> dict[str, Any]:
    """Each brings `value` to the record by another way."""

    @stage(registry=registry)
    def returns() -> Any:
        return value

    @stage(registry=registry)
    def takes(given: Any) -> None: ...

    def in_a_step() -> Any:
        return value

    @stage(registry=registry)
    def steps() -> None:
        step(in_a_step)

    @process(version=1, registry=registry)
    async def result(flow: Flow) -> None:
        await flow.stage(returns)

    @process(version=1, registry=registry)
    async def argument(flow: Flow) -> None:
        await flow.stage(takes, value)

    @process(version=1, registry=registry)
    async def stage_step(flow: Flow) -> None:
        await flow.stage(steps)

    @process(version=1, registry=registry)
    async def flow_step(flow: Flow) -> None:
        await flow.step(in_a_step)

    @process(version=1, registry=registry)
    async def output(flow: Flow) -> Any:
        return value

    return {
        "result": result,
        "argument": argument,
        "stage step": stage_step,
        "flow step": flow_step,
        "output": output,
    }


WHERE = {
    "result": (RunStatus.FAILED, "result of stage returns"),
    "argument": (RunStatus.INCIDENT, "argument of stage takes"),
    "stage step": (RunStatus.FAILED, "result of step steps/in-a-step"),
    "flow step": (RunStatus.FAILED, "result of step in-a-step"),
    "output": (RunStatus.INCIDENT, "result of output"),
}


@pytest.mark.parametrize("how", list(WHERE))
@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(
            TOO_LARGE,
            f" is {BYTES} bytes; the bound is {PAYLOAD_BYTES_MAX}. Store it elsewhere and pass a reference.",
            id="1 MiB and more",
        ),
        pytest.param(
            Thing(),
            ": a Thing can't be written as JSON: Unable to serialize unknown type: "
            f"{Thing!r}. Use plain data, a dataclass or a pydantic model, and declare its type.",
            id="no JSON form",
        ),
    ],
)
def test_a_value_that_cannot_be_kept_ends_or_parks_its_run_once_and_says_what_and_where(
    harness, how, value, words
):
    """What a stage or step made can't be made good by trying again: its activity fails, and the flow may
    catch that. What the flow itself asked for or returned parks the run: its code must be mended.
    """
    status, where = WHERE[how]
    run = harness.run(processes(harness.registry, value)[how])
    view = harness.client.get(run)
    assert view.status is status
    assert where + words in view.error["message"]
    assert harness.events(run).count("stage failed") <= 1
    harness.move(hours=1)
    assert harness.drain() == 0


@pytest.mark.parametrize("value", [TOO_LARGE, Thing()], ids=["1 MiB and more", "no JSON form"])
def test_what_a_caller_gives_is_refused_where_it_is_given_and_nothing_is_written(harness, value):
    """An input, attributes, a signal: the caller is there to be told, and no run is touched."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, given: Any) -> Any:
        return await flow.signal("go")

    run = harness.run(p, 1)
    before = harness.client.get(run)
    with pytest.raises(PayloadError, match="input of p"):
        harness.client.start(p, value)
    with pytest.raises(PayloadError, match="attributes of a run of p"):
        harness.client.start(p, 1, attributes={"note": value})
    with pytest.raises(PayloadError, match="signal go"):
        harness.client.signal(run, "go", value)
    assert harness.client.get(run) == before
    assert len(harness.client.list()) == 1


# -- recorded by other code ----------------------------------------------------------------------


class Old(BaseModel):
    """What the deployed code recorded."""

    amount: int


class New(BaseModel):
    """What the newer code declares."""

    amount_in_cents: int


def release(declared: type[BaseModel]) -> tuple[Registry, dict[str, Any]]:
    """A release whose code declares this type, and its processes by what they let the record keep.

    The stages fail at their first try, in any release, and rest for an hour.
    """
    registry, tried = Registry(), []
    rests = Retry(max_attempts=2, delay_seconds=3600)

    def fail_once() -> None:
        tried.append(1)
        if len(tried) == 1:
            raise ConnectionError

    def price() -> Any:
        return Old(amount=1)

    def pay(given: Any) -> None:
        fail_once()

    async def an_input(flow: Flow, given: Any) -> None:
        await flow.signal("go")

    price.__annotations__["return"] = declared
    pay.__annotations__["given"] = declared
    an_input.__annotations__["given"] = declared

    @stage(registry=registry, retry=rests)
    def steps() -> None:
        step(price)
        fail_once()

    priced, paid = stage(registry=registry)(price), stage(registry=registry, retry=rests)(pay)

    @process(version=1, registry=registry)
    async def a_result(flow: Flow) -> None:
        await flow.stage(priced)
        await flow.signal("go")

    @process(version=1, registry=registry)
    async def a_flow_step(flow: Flow) -> None:
        await flow.step(price)
        await flow.signal("go")

    @process(version=1, registry=registry)
    async def an_argument(flow: Flow) -> None:
        await flow.stage(paid, Old(amount=1))

    @process(version=1, registry=registry)
    async def a_stage_step(flow: Flow) -> None:
        await flow.stage(steps)

    return registry, {
        "result of stage price": a_result,
        "result of step price": a_flow_step,
        "argument of stage pay: given": an_argument,
        "result of step steps/price": a_stage_step,
        "input of an-input version 1": process(version=1, registry=registry)(an_input),
    }


def work(harness: Harness, worker: EngineContext) -> None:
    """That worker alone does all that is due."""
    while True:
        relay(worker)
        due = harness.due_timers()
        found, worker.messenger.handed_off = worker.messenger.handed_off, []
        if not found and not due:
            return
        for timer_id in due:
            worker.messenger.hand_off(fire(worker, timer_id))
        for handoff in found:
            harness.deliver(handoff, worker)


@modes_of(NORMAL, TWICE, NOTIFY_OFF, because="one worker after the other does all that it hears of")
@pytest.mark.parametrize("what", list(release(Old)[1]))
def test_what_other_code_has_recorded_parks_the_run_until_there_is_code_that_can_read_it(
    harness, what
):
    """A result that changed its type, an argument, an input, a remembered step: nothing is wrong with the
    run. It is an incident and no failure, says what doesn't fit and what to do, and goes on with the
    code that was deployed. Guards PayloadMismatch, and `_park` in `engine/stage.py`.
    """
    (old, by_old), (new, by_new) = release(Old), release(New)
    before, after = harness.worker("old", registry=old), harness.worker("new", registry=new)
    harness.freeze()
    p = by_old[what]
    is_seen = p.fingerprint_by_way != by_new[what].fingerprint_by_way
    harness.client.processes.deploy(p)
    run = harness.client.start(p, Old(amount=1) if p.takes_input else None)
    work(harness, before)
    if harness.status(run) is RunStatus.WAITING:
        harness.client.signal(run, "go")
    harness.move(hours=2)
    if is_seen:  # such a run is left, unless somebody says that it is to go on with that code
        harness.stand_on(by_new[what], run)
    work(harness, after)
    view = harness.client.get(run)
    assert (view.status, view.error["type"]) == (RunStatus.INCIDENT, "PayloadMismatch")
    assert view.error["message"].startswith(
        f"{what} doesn't fit New: amount_in_cents: Field required. It was recorded by other code: "
        "give this worker the code that was deployed, or let New take the old form too."
    )
    if is_seen:
        harness.stand_on(p, run)
    harness.client.operations.resume(run, by="ann")
    work(harness, before)
    assert harness.status(run) is RunStatus.COMPLETED
    harness.assert_ended_cleanly(run)


def test_an_attempt_that_was_lost_meanwhile_parks_nothing(harness):
    """Who can't read what was recorded, and has lost the attempt besides, has no say. Guards the lock on
    the claimed attempt in `_park`.
    """
    (old, by_old), (new, _) = release(Old), release(New)
    before, after = harness.worker("old", registry=old), harness.worker("new", registry=new)
    harness.freeze()
    p = by_old["argument of stage pay: given"]
    harness.client.processes.deploy(p)
    run = harness.client.start(p)
    advance(before, run.run_id)
    decode = codec.decode_recorded

    def lose_it_first(*args: Any, **options: Any) -> Any:
        harness.move(seconds=60)
        assert sweep(before).attempts_recovered == 1
        return decode(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "decode_recorded", lose_it_first)
        run_stage(after, run.run_id, "pay", 1)
    assert harness.status(run) is RunStatus.RUNNING
    assert harness.database.value("SELECT attempt FROM perennial.activity") == 2
