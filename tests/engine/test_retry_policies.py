"""What a Retry says beside the number of attempts: which errors, for how long, and the delay that an error brings."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator import (
    ActivityFailed,
    Flow,
    Retry,
    RetryLater,
    RunStatus,
    minutes,
    process,
    retry_after,
    stage,
)
from orchestrator.engine.stage import run_stage
from orchestrator.engine.sweep import sweep
from orchestrator.engine.turn import advance
from tests.modes import NORMAL, modes_of


class Tries:
    """A process that awaits one stage, and then the same as a step, and tells how they failed."""

    def __init__(self, harness, retry: Retry, fail: Any) -> None:
        self.made: list[tuple[str, float]] = []
        began = harness.database.value("SELECT perennial.now()")

        def tried(what: str) -> None:
            now = harness.database.value("SELECT perennial.now()")
            self.made.append((what, (now - began).total_seconds()))
            fail(now)

        @stage(registry=harness.registry, retry=retry)
        def pay() -> None:
            tried("stage")

        def ask() -> None:
            tried("step")

        @process(version=1, registry=harness.registry)
        async def p(flow: Flow) -> list[str]:
            found = []
            for pending in (flow.stage(pay), flow.step(ask, retry=retry)):
                try:
                    await pending
                except ActivityFailed as error:
                    found.append(f"{error.error_type}: {error.message}, {error.attempts}")
            return found

        self.process = p


def finish(harness, run: Any, *, within: int, step: int = 1) -> None:
    for _ in range(0, within, step):
        harness.drain()
        if harness.status(run) is not RunStatus.RUNNING:
            return
        harness.move(seconds=step)
    harness.drain()


def test_no_attempt_begins_after_the_total_duration(harness):
    """The third would begin 120 s after the first. The record says why there is none, by Postgres' clock."""

    def fail(_now: object) -> None:
        raise ConnectionError("away")

    retry = Retry(delay_seconds=60, backoff=1, jitter=0, give_up_after=minutes(1.7))
    harness.freeze()
    tries = Tries(harness, retry, fail)
    run = harness.start(tries.process)
    finish(harness, run, within=200, step=20)
    assert tries.made == [("stage", 0), ("stage", 60), ("step", 60), ("step", 120)]
    assert harness.client.result(run) == ["ConnectionError: away, 2"] * 2
    told = [entry.detail.get("why") for entry in harness.client.history(run) if entry.detail]
    why = "another attempt would come later than Retry(give_up_after), 102 s"
    assert [each for each in told if each] == [why, why]


@pytest.mark.parametrize("asks", ["seconds", "moment", "header"])
def test_an_error_brings_its_delay_along(harness, asks):
    failures = iter(range(99))

    def fail(now: Any) -> None:
        if next(failures) in (0, 2):
            at = now + timedelta(seconds=40)
            raise RetryLater(
                "busy",
                after={
                    "seconds": 40,
                    "moment": at,
                    "header": retry_after(f"{at:%a, %d %b %Y %H:%M:%S} GMT"),
                }[asks],
            )

    harness.freeze()
    tries = Tries(harness, Retry(max_delay_seconds=10), fail)
    run = harness.start(tries.process)
    harness.drain()
    (wait,) = [each for each in harness.client.get(run).waits if each.attempt == 2]
    assert wait.detail == "attempt 1 failed: RetryLater: busy"
    finish(harness, run, within=100, step=10)
    assert harness.client.result(run) == []
    made = [at for _, at in tries.made]
    assert [what for what, _ in tries.made] == ["stage", "stage", "step", "step"]
    assert [made[1] - made[0], made[3] - made[2]] == [pytest.approx(40, abs=10)] * 2
    assert min(made[1] - made[0], made[3] - made[2]) >= 40


def test_an_error_that_asks_for_more_time_than_there_is_is_the_last(harness):
    def fail(_now: object) -> None:
        raise RetryLater("busy", after=61)

    harness.freeze()
    tries = Tries(harness, Retry(give_up_after=60), fail)
    run = harness.start(tries.process)
    harness.drain()
    assert harness.client.result(run) == ["RetryLater: busy, 1"] * 2
    assert len(tries.made) == 2


def test_a_function_that_judges_errors_and_raises_loses_no_attempt(harness):
    """The attempt's own error is the one that counts, and another is made; why is in its history."""

    def judge(error: BaseException) -> bool:
        raise KeyError(str(error))

    def fail(_now: object) -> None:
        raise ValueError("wrong")

    retry = Retry(max_attempts=2, delay_seconds=0, retry_on=judge)
    tries = Tries(harness, retry, fail)
    run = harness.run(tries.process)
    assert harness.client.result(run) == ["ValueError: wrong, 2"] * 2
    told = [entry.detail for entry in harness.client.history(run) if "why" in entry.detail]
    assert {each["why"] for each in told} == {"Retry(retry_on) raised KeyError: 'wrong'"}


@modes_of(NORMAL, because="its messages are lost anyway")
@pytest.mark.parametrize(("on_lost", "status"), [("raise", "failed"), ("park", "incident")])
def test_a_lost_worker_is_not_followed_after_the_total_duration(harness, on_lost, status):
    """The time before it counts: the second attempt began 50 s after the first, and was lost 7 s later."""
    retry = Retry(delay_seconds=50, backoff=1, jitter=0, give_up_after=99, on_lost=on_lost)
    tried = []

    @stage(registry=harness.registry, retry=retry)
    def pay() -> None:
        tried.append(1)
        if len(tried) == 1:
            raise ConnectionError
        raise SystemExit

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(pay)

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    run_stage(harness.context, run.run_id, "pay", 1)
    harness.move(seconds=50)
    with pytest.raises(SystemExit):
        harness.drain()
    harness.messenger.handed_off.clear()
    harness.move(seconds=7)
    sweep(harness.context)
    harness.drain()
    assert harness.status(run) == status
    assert len(tried) == 2
