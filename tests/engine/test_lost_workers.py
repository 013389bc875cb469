"""What becomes of an attempt whose worker died: when the next is made, and what its flow may meet."""

from __future__ import annotations

import logging

import pytest

from orchestrator import (
    ActivityFailed,
    Flow,
    Retry,
    RunStatus,
    WorkerLost,
    process,
    stage,
)
from orchestrator.engine.stage import run_stage
from orchestrator.engine.sweep import sweep
from orchestrator.engine.turn import advance
from orchestrator.errors import DefinitionError
from tests.modes import NORMAL, TWICE, modes_of


def lose(harness, run, key: str, attempt: int = 1) -> None:
    """The worker dies in the stage, and nobody else has its message."""
    with pytest.raises(SystemExit):
        run_stage(harness.context, run.run_id, key, attempt)
    harness.messenger.handed_off.clear()


def kills(harness, retry: Retry, *, timeout_seconds: float = 3600, times: int = 1) -> list[int]:
    """A stage `pay` that kills its worker as often."""
    tried: list[int] = []

    @stage(registry=harness.registry, retry=retry, timeout_seconds=timeout_seconds)
    def pay() -> str:
        tried.append(1)
        if len(tried) <= times:
            raise SystemExit
        return "paid"

    return tried


@modes_of(NORMAL, TWICE, because="its messages are lost anyway")
def test_a_flow_that_wants_to_know_of_a_lost_worker_meets_it_at_the_await(harness):
    """`Retry(on_lost="raise")`: a typed error, the same on every replay. Guards `on_lost` in `_recover`."""
    tried = kills(harness, Retry(max_attempts=1, on_lost="raise"))

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[str]:
        found = []
        try:
            await flow.stage("pay")
        except WorkerLost as lost:
            found += [lost.key, lost.error_type, str(lost.attempts), lost.message]
        await flow.sleep(60)
        return found

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    lose(harness, run, "pay")
    harness.move(seconds=7)
    assert sweep(harness.context).attempts_recovered == 1
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING
    harness.move(seconds=60)
    harness.drain()
    assert harness.client.result(run) == [
        "pay",
        "WorkerLost",
        "1",
        "the worker of attempt 1 of pay died or fell silent",
    ]
    assert len(tried) == 1
    assert "stage failed" in harness.events(run)
    harness.assert_ended_cleanly(run)


@modes_of(NORMAL, because="its messages are lost anyway")
def test_attempts_that_are_left_are_made_before_the_flow_is_told(harness):
    tried = kills(harness, Retry(max_attempts=2, delay_seconds=0, on_lost="raise"), times=2)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        try:
            await flow.stage("pay")
        except WorkerLost as lost:
            return lost.attempts
        return 0

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    for attempt in (1, 2):
        lose(harness, run, "pay", attempt)
        harness.move(seconds=7)
        sweep(harness.context)
    harness.drain()
    assert harness.client.result(run) == 2
    assert len(tried) == 2


@modes_of(NORMAL, because="its messages are lost anyway")
def test_the_delay_of_a_retry_counts_from_the_lost_workers_last_sign(harness):
    """A minute's delay is a minute, whatever ended the attempt. Guards `_rest_seconds` in recovery."""
    tried = kills(harness, Retry(max_attempts=2, delay_seconds=60, jitter=0))

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        return await flow.stage("pay")

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    lose(harness, run, "pay")
    harness.move(seconds=10)
    assert sweep(harness.context).attempts_recovered == 1
    harness.drain()
    (wait,) = harness.client.get(run).waits
    assert (wait.attempt, [next_.what for next_ in wait.next]) == (2, ["attempt 2 is made"])
    assert "died or fell silent" in wait.detail
    harness.move(seconds=49)
    harness.drain()
    assert len(tried) == 1
    harness.move(seconds=1)
    harness.drain()
    assert harness.client.result(run) == "paid"
    assert harness.events(run).count("attempt handed out again") == 1


@modes_of(NORMAL, because="its messages are lost anyway")
@pytest.mark.parametrize(("delay_seconds", "is_due"), [(1.0, True), (30.0, False)])
def test_the_delay_of_an_attempt_that_overran_counts_from_its_timeout(
    harness, delay_seconds, is_due
):
    tried = kills(
        harness, Retry(max_attempts=2, delay_seconds=delay_seconds, jitter=0), timeout_seconds=60
    )

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        return await flow.stage("pay")

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    lose(harness, run, "pay")
    harness.move(seconds=75)
    sweep(harness.context)
    harness.drain()
    assert (len(tried) == 2) is is_due
    harness.move(seconds=15)
    harness.drain()
    assert harness.client.result(run) == "paid"


def test_an_authors_own_error_of_such_a_name_is_no_lost_worker(harness):
    class OfAnAuthor(Exception): ...

    OfAnAuthor.__name__ = "WorkerLost"

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def pay() -> None:
        raise OfAnAuthor

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        try:
            await flow.stage(pay)
        except ActivityFailed as failure:
            return type(failure).__name__
        return ""

    assert harness.client.result(harness.run(p)) == "ActivityFailed"


@modes_of(NORMAL, because="nothing is run")
def test_only_two_answers_to_a_lost_worker_are_known(harness):
    with pytest.raises(DefinitionError, match='"park" or "raise", not \'ignore\''):
        Retry(on_lost="ignore")  # type: ignore[arg-type]
    assert Retry.from_policy(Retry(on_lost="raise").as_policy()).on_lost == "raise"
    assert "on_lost" not in Retry().as_policy()


def lost_for_good(harness, retry: Retry, *, timeout_seconds: float, seconds: float):
    """A run whose only attempt's worker dies, and which recovery has seen since."""
    kills(harness, retry, timeout_seconds=timeout_seconds)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage("pay")

    harness.freeze()
    run = harness.start(p, key="k-1")
    advance(harness.context, run.run_id)
    lose(harness, run, "pay")
    harness.move(seconds=seconds)
    assert sweep(harness.context).attempts_recovered == 1
    return run


@pytest.mark.parametrize(
    ("retry", "timing", "error"),
    [
        (
            Retry(max_attempts=1, on_lost="raise"),
            {"timeout_seconds": 3600, "seconds": 7},
            "WorkerLost",
        ),
        (Retry(max_attempts=1), {"timeout_seconds": 10, "seconds": 60}, "StageTimedOut"),
    ],
)
@modes_of(NORMAL, because="its messages are lost anyway")
def test_a_stage_that_recovery_fails_for_good_is_an_error_of_the_log(
    harness, caplog, retry, timing, error
):
    """As one that has raised. Guards `_log_failed` in recovery."""
    run = lost_for_good(harness, retry, **timing)
    (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert line.getMessage().startswith(
        f"stage pay of run {run.run_id} failed at attempt 1, for good: {error}: "
    )
    assert (line.action, line.stage, line.attempt) == ("fail", "pay", 1)


@modes_of(NORMAL, because="its messages are lost anyway")
def test_a_run_that_recovery_parks_is_reported(harness, caplog):
    """By the worker that recovered it, which has never seen it. Guards `_report_parked` in recovery."""
    reports = []
    harness.context.reports.on_run.append(reports.append)
    run = lost_for_good(harness, Retry(max_attempts=1), timeout_seconds=3600, seconds=7)
    (report,) = reports
    assert (report.run_id, report.status) == (run.run_id, RunStatus.INCIDENT)
    assert (report.business_key, report.process, report.version) == ("k-1", "p", 1)
    assert report.error["type"] == "WorkerLost"
    (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "is an incident: WorkerLost: " in line.getMessage()
