"""Steps and stages with `at_most_once`: begun once, and never called again, whatever becomes of their worker."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest

from orchestrator import (
    ActivityFailed,
    Flow,
    Retry,
    RunStatus,
    StepInterrupted,
    WorkerLost,
    process,
    stage,
)
from orchestrator.engine.stage import run_stage
from orchestrator.engine.sweep import sweep
from orchestrator.engine.turn import advance
from orchestrator.errors import DefinitionError
from tests.modes import EAGER, EVICT, MODES, NORMAL, TWICE, modes_of


class WorkerKilled(BaseException):
    """A worker that dies at this point."""


def paying(harness, pay: Any, seen: list[str] | None = None) -> Any:
    """It goes on after an interruption, and replays it."""

    def look() -> str:
        return "looked up"

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[str]:
        found = []
        try:
            found.append(await flow.step(pay, 5, at_most_once=True))
        except StepInterrupted as error:
            found += [error.key, error.error_type, str(error.is_a(WorkerLost)), error.message]
            if seen is not None:
                seen.append(str(error))
            found.append(await flow.step(look))
        await flow.sleep(60)
        return found

    return p


@modes_of(*MODES, because="it is about what a lost worker leaves, in whatever way a turn is taken")
def test_a_step_whose_worker_died_in_it_is_not_called_again(harness):
    """Guards the look at its recorded beginning in `_perform_held`."""
    calls: list[int] = []
    seen: list[str] = []

    def pay(amount: int) -> str:
        calls.append(amount)
        raise WorkerKilled

    harness.freeze()
    run = harness.start(paying(harness, pay, seen))
    with contextlib.suppress(WorkerKilled):
        harness.drain()
    assert calls == [5]
    for _ in range(3):
        with contextlib.suppress(WorkerKilled):
            harness.recover()
    harness.move(seconds=60)
    harness.recover()
    assert calls == [5]
    assert harness.status(run) is RunStatus.COMPLETED
    key, kind, _, message, looked = harness.client.result(run)
    assert (key, kind, looked) == ("pay", "StepInterrupted", "looked up")
    assert "may be done, in part or not at all, and is not called again" in message
    assert len(set(seen)) == 1
    assert len(seen) > 1 or harness.mode is EAGER, "a replay met it too"
    events = Counter(harness.events(run))
    assert (events["step begun"], events["step failed"], events["step done"]) == (1, 1, 1)
    harness.assert_ended_cleanly(run)


@modes_of(NORMAL, EVICT, TWICE, EAGER, because="its statements are the same in the others")
def test_a_step_that_ends_is_as_any_other_and_one_that_raises_has_failed(harness):
    calls: list[str] = []

    def pay(amount: int) -> str:
        calls.append("pay")
        return f"paid {amount}"

    def refuse() -> None:
        calls.append("refuse")
        raise ConnectionError("away")

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        paid = await flow.step(pay, 7, at_most_once=True)
        try:
            await flow.step(refuse, at_most_once=True)
        except ActivityFailed as error:
            return [paid, error.error_type, error.attempts, isinstance(error, StepInterrupted)]
        return []

    run = harness.run(p)
    assert harness.client.result(run) == ["paid 7", "ConnectionError", 1, False]
    assert calls == ["pay", "refuse"]


@modes_of(NORMAL, because="the other worker's turn is the same in all")
def test_a_worker_that_is_too_late_brings_no_result_to_a_step_that_counts_as_interrupted(harness):
    """It was thought dead while it was in the step: another has recorded that, and goes on."""
    calls: list[int] = []

    def pay(amount: int) -> str:
        calls.append(amount)
        harness.move(seconds=60)
        other = harness.worker("worker-2")
        sweep(other)
        advance(other, run.run_id)
        return "too late"

    harness.freeze()
    run = harness.start(paying(harness, pay))
    advance(harness.context, run.run_id)
    harness.move(seconds=60)
    harness.recover()
    assert calls == [5]
    assert harness.client.result(run)[1] == "StepInterrupted"


@modes_of(NORMAL, because="its messages are lost anyway")
def test_a_stage_whose_worker_died_is_not_tried_again(harness):
    calls: list[int] = []

    @stage(registry=harness.registry, at_most_once=True)
    def pay() -> None:
        calls.append(1)
        raise SystemExit

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        try:
            await flow.stage(pay)
        except WorkerLost as lost:
            return lost.error_type
        return ""

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    with pytest.raises(SystemExit):
        run_stage(harness.context, run.run_id, "pay", 1)
    harness.messenger.handed_off.clear()
    harness.move(seconds=60)
    sweep(harness.context)
    harness.drain()
    assert harness.client.result(run) == "WorkerLost"
    assert calls == [1]


@modes_of(NORMAL, because="nothing runs")
def test_what_is_done_at_most_once_has_no_retry(harness):
    with pytest.raises(DefinitionError, match="at most once, and given a Retry"):
        stage(name="pay", registry=harness.registry, at_most_once=True, retry=Retry())(lambda: None)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, options: dict[str, Any]) -> None:
        options = {"retry": Retry()} if "retry" in options else options
        await flow.step(dict, at_most_once=options.pop("once", True), **options)

    for options, words in (
        ({"retry": 1}, "at_most_once=True and a retry"),
        ({"once": 5}, "at_most_once=5"),
        ({"error_attributes": ["a b"]}, "no attribute's name"),
    ):
        error = harness.client.get(harness.run(p, options)).error
        assert words in error["message"]
