"""A failure is seen: in the log with its traceback, in the record, by whoever listens; and reporting never fails."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest

from orchestrator import (
    ActivityFailed,
    Fail,
    Flow,
    Retry,
    RunStatus,
    approval,
    load_process,
    process,
    stage,
    step,
)
from orchestrator.core.run_report import RunReport
from orchestrator.store.reads import loading
from tests.modes import NORMAL, modes_of
from tests.unit.hostile import HOSTILE, exception_of

pytestmark = modes_of(NORMAL, because="what is said is the same in every mode")


def boom(what: str) -> None:
    raise ValueError(f"no {what}")


@pytest.fixture
def reports(harness) -> list[RunReport]:
    found: list[RunReport] = []
    harness.context.reports.on_run.append(found.append)
    return found


def lines(caplog, level: int) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.levelno == level]


def failing_stage(harness, retry: Retry):
    @stage(registry=harness.registry, retry=retry)
    def charge() -> None:
        boom("money")

    @process(version=1, registry=harness.registry)
    async def order(flow: Flow) -> None:
        await flow.stage(charge)

    return order


def test_each_failed_attempt_is_logged_with_its_traceback_and_the_end_as_an_error(
    harness, caplog, reports
):
    order = failing_stage(harness, Retry(max_attempts=2, delay_seconds=0, jitter=0))
    run = harness.run(order, key="order-7")
    (warning,) = lines(caplog, logging.WARNING)
    attempt, ended = lines(caplog, logging.ERROR)
    for line, number, action in ((warning, 1, "retry"), (attempt, 2, "fail")):
        assert line.exc_info[0] is ValueError
        assert (line.run_id, line.stage, line.attempt, line.action) == (
            str(run.run_id),
            "charge",
            number,
            action,
        )
        assert "no money" in line.getMessage()
        assert "order version 1, order-7" in line.getMessage()
    assert ended.action == "failed"
    assert "charge failed after 2 attempt(s)" in ended.getMessage()
    (report,) = reports
    assert (report.status, report.business_key, report.process) == (
        RunStatus.FAILED,
        "order-7",
        "order",
    )
    assert type(report.exception) is ActivityFailed
    assert report.exception.__traceback__ is None  # and is kept by nobody


def test_the_traceback_is_in_the_record_of_the_stage_and_of_the_run_and_not_in_each_line_of_history(
    harness,
):
    order = failing_stage(harness, Retry(max_attempts=2, delay_seconds=0))
    run = harness.run(order)
    kept = harness.database.value(
        "SELECT error->>'traceback' FROM perennial.activity WHERE run_id = :run", run=run.run_id
    )
    assert "in boom" in kept
    assert "ValueError: no money" in kept
    assert "in order" in harness.client.get(run).error["traceback"]
    assert not any("traceback" in entry.detail for entry in harness.client.history(run))
    with harness.context.connection() as connection:
        (charge,) = loading.load_run(connection, run.run_id).journal
    assert "traceback" not in charge.error  # turns read it again and again
    (failed,) = harness.client.get(run).failures
    assert (failed.key, failed.attempt, failed.traceback) == ("charge", 2, kept)


def test_a_flow_with_a_bug_is_an_incident_that_is_logged_once_with_its_traceback(
    harness, caplog, reports
):
    @process(version=1, registry=harness.registry)
    async def broken(flow: Flow) -> None:
        await flow.step(len, "abc")
        boom("sense")

    run = harness.run(broken)
    (error,) = lines(caplog, logging.ERROR)
    assert "is an incident: ValueError: no sense" in error.getMessage()
    assert error.exc_info[0] is ValueError
    assert "in boom" in harness.client.get(run).error["traceback"]
    assert [report.status for report in reports] == [RunStatus.INCIDENT]


def test_an_inline_step_that_fails_is_logged_too(harness, caplog):
    calls = []

    def shaky() -> int:
        calls.append(1)
        if len(calls) == 1:
            boom("luck")
        return 7

    @process(version=1, registry=harness.registry)
    async def steps(flow: Flow) -> int:
        return await flow.step(shaky, retry=Retry(max_attempts=2, delay_seconds=0))

    run = harness.run(steps)
    assert harness.client.result(run) == 7
    (warning,) = lines(caplog, logging.WARNING)
    assert "step shaky of run" in warning.getMessage()
    assert warning.exc_info[0] is ValueError
    assert not lines(caplog, logging.ERROR)


def test_a_flow_that_fails_on_purpose_is_an_error_too(harness, caplog, reports):
    @process(version=1, registry=harness.registry)
    async def gives_up(flow: Flow) -> None:
        raise Fail("no stock")

    harness.run(gives_up)
    (error,) = lines(caplog, logging.ERROR)
    assert "failed: Fail: no stock" in error.getMessage()
    assert [report.status for report in reports] == [RunStatus.FAILED]


def test_a_run_that_expires_is_seen(harness, caplog, reports):
    @process(version=1, registry=harness.registry, expires_after=timedelta(hours=1))
    async def slow(flow: Flow) -> None:
        await flow.signal("never")

    harness.run(slow, key="slow-1")
    harness.move(hours=2)
    harness.drain()
    (report,) = reports
    assert (report.status, report.business_key) == (RunStatus.EXPIRED, "slow-1")
    assert "expired" in lines(caplog, logging.ERROR)[0].getMessage()


def test_what_a_listener_raises_is_logged_and_changes_nothing(harness, caplog, reports):
    def angry(_report: RunReport) -> None:
        raise RuntimeError("the pager is away")

    harness.context.reports.on_run.insert(0, angry)
    order = failing_stage(harness, Retry(max_attempts=1))
    run = harness.run(order)
    assert harness.status(run) is RunStatus.FAILED
    assert len(reports) == 1
    assert "the pager is away" in caplog.text


def test_a_stage_and_its_steps_may_raise_whatever_they_like(harness, reports):
    """Of every sort of exception: each is recorded as that attempt's failure, and the flow goes on."""

    def call(sort: str) -> None:
        raise exception_of(sort)

    @stage(registry=harness.registry, retry=Retry(max_attempts=2, delay_seconds=0))
    def hostile(sort: str) -> None:
        raise exception_of(sort)

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def steps(sort: str) -> None:
        step(call, sort)

    @process(version=1, registry=harness.registry)
    async def asks(flow: Flow) -> int:
        failed = 0
        for sort in HOSTILE:
            for what in (
                flow.stage(hostile, sort),
                flow.stage(steps, sort),
                flow.step(call, sort, retry=Retry(max_attempts=1)),
            ):
                try:
                    await what
                except ActivityFailed:
                    failed += 1
        return failed

    run = harness.run(asks)
    assert harness.client.result(run) == 3 * len(HOSTILE)
    assert harness.events(run).count("attempt failed") == len(HOSTILE)
    assert not reports


def test_a_flow_and_whoever_is_told_of_it_may_raise_whatever_they_like(harness, reports):
    """In a branch and outside of one. Each is an incident, explained, and told once."""

    @process(version=1, registry=harness.registry)
    async def hostile(flow: Flow, sort: str) -> None:
        async def branch() -> None:
            raise exception_of(sort)

        if flow.business_key == "branch":
            await flow.gather(branch())
        raise exception_of(sort)

    def listener(_report: RunReport) -> None:
        raise exception_of(heard.pop())

    harness.context.reports.on_run.insert(0, listener)
    heard = [*HOSTILE] * 2
    for sort in HOSTILE:
        assert harness.status(harness.run(hostile, sort)) is RunStatus.INCIDENT
    for sort in HOSTILE:
        run = harness.run(hostile, sort, key="branch")
        assert harness.status(run) is RunStatus.INCIDENT
        harness.client.cancel(run)
        harness.database.rows("UPDATE perennial.run SET business_key = NULL")
    assert len(reports) == 2 * len(HOSTILE)
    assert not heard


def test_whoever_names_the_people_to_ask_may_raise_whatever_they_like(harness, reports):
    """The assignees of a declarative process's approval are an author's code too."""

    @approval(registry=harness.registry)
    def boss(sort: str) -> list[str]:
        raise exception_of(sort)

    asks = load_process("process: {name: asks, stages: [boss]}", registry=harness.registry)
    for sort in HOSTILE:
        assert harness.status(harness.run(asks, sort)) is RunStatus.INCIDENT
    assert len(reports) == len(HOSTILE)


@pytest.mark.parametrize(
    "end", [asyncio.CancelledError("given up"), BaseExceptionGroup("all", [KeyboardInterrupt()])]
)
def test_what_only_looks_like_the_end_of_the_process_fails_its_stage_or_flow(harness, end):
    """Libraries of asyncio raise it. A worker that died of it would be lost, and the next one too."""

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def cancelled() -> None:
        raise end

    @process(version=1, registry=harness.registry)
    async def asks(flow: Flow) -> None:
        try:
            await flow.stage(cancelled)
        except ActivityFailed:
            raise end from None

    run = harness.run(asks)
    assert harness.status(run) is RunStatus.INCIDENT
    assert harness.client.get(run).error["type"] == type(end).__name__
