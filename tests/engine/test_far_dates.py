"""Moments that Postgres holds and Python doesn't: refused where they are given, and where they are there all the
same they stop no list, no sweep and no other run."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console
from sqlalchemy.exc import DataError

from orchestrator import Flow, Registry, Retry, RunStatus, hours, process, stage
from orchestrator.cli.listings import history_table, inbox, runs_table
from orchestrator.cli.run_page import run_page
from orchestrator.cli.times import Clock
from orchestrator.core.checks import EARLIEST, LATEST
from orchestrator.engine import set_aside
from orchestrator.engine.relay import relay
from orchestrator.engine.sweep import rebuild_index, sweep
from orchestrator.engine.turn import advance
from orchestrator.errors import DefinitionError
from orchestrator.store.transitions import exits, workers
from tests.modes import BATCH_OF_ONE, NORMAL, modes_of

FAR = (
    "infinity",
    "-infinity",
    "20000-01-01 00:00:00+00",
    "0044-03-15 00:00:00+00 BC",
    "9999-12-31 23:59:59-05",
)

SPOILED = (
    "UPDATE perennial.run SET created_at = %s WHERE id = %s",
    "UPDATE perennial.run SET started_at = %s WHERE id = %s",
    "UPDATE perennial.run SET last_progress_at = %s WHERE id = %s",
    "UPDATE perennial.run SET expires_at = %s WHERE id = %s",
    "UPDATE perennial.activity SET opened_at = %s WHERE run_id = %s",
    "UPDATE perennial.activity SET settled_at = %s WHERE run_id = %s AND settled_at IS NOT NULL",
    "UPDATE perennial.activity SET claimed_at = %s WHERE run_id = %s",
    "UPDATE perennial.approval SET opened_at = %s WHERE run_id = %s",
    "UPDATE perennial.approval SET deadline = %s WHERE run_id = %s",
    "UPDATE perennial.signal SET received_at = %s WHERE run_id = %s",
    "UPDATE perennial.timer SET due_at = %s, indexed = false WHERE run_id = %s",
    "UPDATE perennial.timer SET due_at = %s, indexed = true WHERE run_id = %s",
    "UPDATE perennial.outbox SET publish_at = %s WHERE run_id = %s",
    "INSERT INTO perennial.history (at, run_id, actor, event) VALUES (%s, %s, 'ann', 'noted')",
)


def spoil(harness, sql: str, *values: Any) -> None:
    """As hands that no rule of the record holds back."""
    with harness.database.psycopg(autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(sql, values)


def waiting(registry: Registry) -> Any:
    @stage(registry=registry)
    def a() -> int:
        return 1

    @process(version=1, registry=registry)
    async def p(flow: Flow) -> str:
        await flow.stage(a)
        decision = await flow.approval(
            "boss", assign=["ann"], escalate={hours(1): ["bob"]}, timeout=hours(2)
        )
        return decision.outcome

    return p


def read_everything(harness, run: Any) -> None:
    """As `ps`, `show`, `history` and `approvals` do, in the zones that are farthest from each other."""
    client = harness.client
    client.operations.counts()
    client.operations.timer_lateness()
    for name in ("Pacific/Kiritimati", "Etc/GMT+12"):
        clock = Clock(datetime.now(UTC), ZoneInfo(name))
        for page in (
            runs_table(client.list(), clock, width=200),
            run_page(client.get(run), clock),
            history_table(client.history(run), clock, width=200),
            inbox(client.approvals(state=None), clock, person=None, width=200),
        ):
            Console(file=io.StringIO(), width=200).print(page)


@modes_of(BATCH_OF_ONE, because="in a share of one, the first row is all")
@pytest.mark.parametrize("far", FAR)
def test_a_row_with_a_moment_that_python_lacks_stops_nobody(harness, far, caplog):
    """Each of the record's times is spoiled in one run; all is still read, swept and indexed, and the run beside
    it times out at its hour. Guards `loaders`, and `_REMAINING` in store/transitions/timers.py.
    """
    p = waiting(harness.registry)
    harness.freeze()
    bad, good = harness.run(p), harness.run(p)
    harness.client.signal(bad, "later")
    for sql in SPOILED:
        spoil(harness, sql, far, bad.run_id)
        if "timer" in sql or "outbox" in sql:
            sweep(harness.context)
            rebuild_index(harness.context)
    read_everything(harness, bad)
    spoil(harness, "DELETE FROM perennial.history WHERE event = 'noted'")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    harness.drain()
    for _ in range(4):
        harness.move(hours=1)
        sweep(harness.context)
        harness.drain()
    assert harness.client.result(good) == "timed_out"


@modes_of(NORMAL, because="it reads a claim")
@pytest.mark.parametrize("far", FAR)
def test_a_claim_with_such_a_moment_stops_no_look_at_lost_attempts(harness, far):
    """Guards the form of `_ATTEMPTS_LOST`: only the present moment is moved by an interval."""

    @stage(registry=harness.registry)
    def a() -> int:
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.stage(a)

    run = harness.start(p)
    harness.client.processes.deploy(p)
    relay(harness.context)
    for handoff in harness.pending():
        harness.deliver(handoff)
    spoil(
        harness,
        "UPDATE perennial.activity SET state = 'claimed', claimed_at = %s, worker_id = gen_random_uuid(),"
        " timeout_seconds = 'infinity', settled_at = NULL WHERE run_id = %s",
        far,
        run.run_id,
    )
    sweep(harness.context)
    read_everything(harness, run)


@modes_of(NORMAL, because="a look is one statement, whatever is there")
@pytest.mark.parametrize("seconds", ["1e300", "infinity", "NaN"])
def test_a_timeout_that_no_interval_holds_stops_no_sweep(harness, seconds):
    """Guards `least` in `_ATTEMPTS_LOST`."""

    @stage(registry=harness.registry)
    def a() -> int:
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.stage(a)

    harness.start(p)
    for handoff in harness.pending():
        harness.deliver(handoff)
    spoil(
        harness,
        "UPDATE perennial.activity SET state = 'claimed', claimed_at = now(), worker_id = gen_random_uuid(),"
        " settled_at = NULL, timeout_seconds = %s",
        seconds,
    )
    sweep(harness.context)


@modes_of(NORMAL, because="it is about one sweep")
def test_a_kind_of_work_that_fails_keeps_no_other_kind_back(harness, monkeypatch, caplog):
    """Handoffs are relayed though lost attempts can't be read, and the look itself can't. Guards `_share`, `_look`."""

    def broken(*_args: Any, **_options: Any) -> Any:
        raise DataError("SELECT", {}, ValueError("no such moment"))

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None: ...

    harness.start(p)
    monkeypatch.setattr(workers, "lost_attempts", broken)
    monkeypatch.setattr(workers, "what_needs_care", broken)
    swept = sweep(harness.context)
    assert (swept.handoffs, swept.attempts_recovered) == (1, 0)
    assert "a kind of work could not be done" in caplog.text


def sweep_and_deliver(harness, times: int) -> None:
    """Nothing comes by a message of a timer's own."""
    for _ in range(times):
        sweep(harness.context)
        handoffs, harness.messenger.handed_off = harness.messenger.handed_off, []
        for handoff in handoffs:
            harness.deliver(handoff)


@modes_of(BATCH_OF_ONE, because="in a share of one, the first row is all")
def test_a_timer_that_can_never_fire_does_not_stand_at_the_head_for_ever(
    harness, caplog, monkeypatch
):
    """Set aside, told at growing intervals, and the ones behind it have their turn. Guards `SetAside`."""
    monkeypatch.setattr(set_aside, "FIRST_SECONDS", 3600.0)
    p = waiting(harness.registry)
    harness.freeze()
    bad, good = harness.run(p), harness.run(p)
    spoil(
        harness,
        "UPDATE perennial.approval SET escalations = %s WHERE run_id = %s",
        '[{"assignees": {"ann": 1}}]',
        bad.run_id,
    )
    harness.move(hours=3)
    sweep_and_deliver(harness, 8)
    assert harness.client.result(good) == "timed_out"
    assert caplog.text.count("could not be fired") == 1
    read_everything(harness, bad)


def claimed_long_ago(harness, policies: list[str]) -> list[Any]:
    """Runs whose stage's worker was lost, each a second after the one before."""

    @stage(registry=harness.registry)
    def a() -> int:
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.stage(a)

    harness.freeze()
    runs = [harness.start(p) for _ in policies]
    for run, policy in zip(runs, policies, strict=True):
        advance(harness.context, run.run_id)
        spoil(
            harness,
            "UPDATE perennial.activity SET state = 'claimed', worker_id = gen_random_uuid(), policy = %s,"
            " claimed_at = %s WHERE run_id = %s",
            policy,
            harness.move(seconds=1),
            run.run_id,
        )
    harness.messenger.handed_off = []
    spoil(harness, "DELETE FROM perennial.outbox")
    harness.move(minutes=30)
    return runs


@modes_of(BATCH_OF_ONE, because="in a share of one, the first row is all")
def test_an_attempt_that_can_never_be_recovered_does_not_either(harness, caplog, monkeypatch):
    """Guards `SetAside` in `recover_attempts`."""
    monkeypatch.setattr(set_aside, "FIRST_SECONDS", 3600.0)
    bad, good = claimed_long_ago(harness, ["{}", "{}"])
    exit_reason = exits.exit_reason

    def broken(connection: Any, run_id: Any, **options: Any) -> str | None:
        if run_id == bad.run_id:
            raise LookupError(run_id)
        return exit_reason(connection, run_id, **options)

    monkeypatch.setattr(exits, "exit_reason", broken)
    sweep_and_deliver(harness, 4)
    assert harness.client.result(good) == 1
    assert harness.status(bad) is RunStatus.RUNNING
    assert caplog.text.count("could not be recovered") == 1


@modes_of(NORMAL, because="it is about one sweep")
@pytest.mark.parametrize("policy", ['{"max_attempts": "many"}', '{"backoff": 0}'])
def test_an_attempt_whose_policy_cannot_be_read_is_an_incident(harness, policy):
    """In sight, and resumable: it is not handed out for ever, nor left."""
    (run,) = claimed_long_ago(harness, [policy])
    sweep(harness.context)
    assert harness.status(run) is RunStatus.INCIDENT
    assert harness.client.get(run).error["type"] == "WorkerLost"
    harness.client.operations.resume(run)
    harness.drain()
    assert harness.client.result(run) == 1


# -- refused where they are given ----------------------------------------------------------------


@modes_of(NORMAL, because="nothing is delivered")
@pytest.mark.parametrize(
    "at",
    [
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=5))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
        datetime.max.replace(tzinfo=UTC),
        datetime(2030, 1, 1),  # noqa: DTZ001
    ],
)
def test_a_moment_that_not_every_zone_can_show_is_refused_by_the_flow(harness, at):
    """The incident names the flow's line, and no timer is armed."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.sleep_until(at)

    run = harness.run(p)
    view = harness.client.get(run)
    assert (view.status, view.error["type"]) == (RunStatus.INCIDENT, "DefinitionError")
    assert "flow.sleep_until" in view.error["message"]
    read_everything(harness, run)


@modes_of(NORMAL, because="nothing is delivered")
@pytest.mark.parametrize("at", [EARLIEST, LATEST])
def test_the_first_and_the_last_moment_are_taken(harness, at):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.sleep_until(at)

    run = harness.run(p)
    read_everything(harness, run)
    assert harness.status(run) is (RunStatus.COMPLETED if at is EARLIEST else RunStatus.WAITING)


def no_flow(_registry: Registry) -> Any:
    async def p(flow: Flow) -> None: ...

    return p


@modes_of(NORMAL, because="nothing is delivered")
@pytest.mark.parametrize("seconds", [1e300, math.inf, math.nan])
def test_a_timeout_beyond_a_century_is_refused_where_it_is_defined(harness, seconds):
    with pytest.raises(DefinitionError):
        stage(timeout_seconds=seconds, registry=harness.registry)(lambda: 1)


@modes_of(NORMAL, because="nothing is delivered")
def test_a_run_that_would_expire_beyond_a_century_is_refused(harness):
    with pytest.raises(DefinitionError, match="expires_after of process"):
        process(version=1, expires_after=timedelta.max, registry=harness.registry)(
            no_flow(harness.registry)
        )
    harness.client.processes.deploy(
        process(version=1, registry=harness.registry)(no_flow(harness.registry))
    )
    with pytest.raises(DefinitionError, match="expires_in"):
        harness.client.start("p", expires_in=timedelta.max)


def test_a_retry_never_rests_for_longer_than_postgres_can_count(harness):
    """`Retry` takes any finite cap; what it comes to is bounded. Guards the bound in `delay_before_next`."""
    tried: list[int] = []

    @stage(registry=harness.registry, retry=Retry(delay_seconds=1e299, max_delay_seconds=1e300))
    def a() -> None:
        tried.append(1)
        raise ConnectionError

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(a)

    run = harness.run(p)
    assert len(tried) == 1
    assert "ConnectionError" in harness.client.get(run).waits[0].detail
