"""Rows of runs in Flower: as Celery's own monitor state keeps them, whatever door a run was changed by."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery.events.state import State

from orchestrator import Flow, Retry, RunStatus, hours, process, stage
from orchestrator.core.approval_requests import request_approval
from orchestrator.core.journal import ActivityKind
from orchestrator.core.kinds import AskPeople, Request
from orchestrator.core.run_notice import PEOPLE_MAX, OpenApproval, Resting, RunNotice
from orchestrator.fleet import refresh
from orchestrator.fleet.refresh import Refresh
from orchestrator.fleet.rows import event_of
from tests.harness import Harness

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
RUN = uuid4()


class Monitor:
    """What Flower keeps, fed by what is announced."""

    def __init__(self) -> None:
        self.forget()
        self.events = 0
        self.is_open = True

    def forget(self) -> None:
        self.state, self._clock = State(), 0

    def announce(self, notice: RunNotice) -> None:
        kind, fields = event_of(notice, datetime.now(UTC))
        self._clock += 1
        self.events += 1
        self.state.event(
            {
                "type": kind,
                "hostname": "w@here",
                "timestamp": time.time(),
                "local_received": time.time(),
                "clock": self._clock,
                "pid": 1,
                "utcoffset": 0,
                **fields,
            }
        )

    def row(self, run: Any) -> Any:
        return self.state.tasks.get(str(getattr(run, "run_id", run)))


def notice(status: RunStatus, **others: Any) -> RunNotice:
    return RunNotice(RUN, "order", status, "o-1", NOW, **others)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (RunStatus.RUNNING, "RUNNING"),
        (RunStatus.PAUSED, "PAUSED"),
        (RunStatus.INCIDENT, "INCIDENT"),
        (RunStatus.COMPLETED, "SUCCESS"),
        (RunStatus.FAILED, "FAILURE"),
        (RunStatus.EXPIRED, "FAILURE"),
        (RunStatus.CANCELLED, "CANCELLED"),
    ],
)
@pytest.mark.parametrize("before", [RunStatus.WAITING, RunStatus.PAUSED, RunStatus.INCIDENT])
def test_a_row_leaves_its_state_for_any_other(before, status, state):
    """Celery ranks its own states: `STARTED` and `REVOKED` would be taken for older news than ours."""
    monitor = Monitor()
    monitor.announce(notice(before))
    monitor.announce(notice(status))
    assert monitor.row(RUN).state == state
    if not status.is_closed:
        monitor.announce(notice(RunStatus.WAITING))
        assert monitor.row(RUN).state == "WAITING"


def test_a_waiting_row_says_whose_turn_it_is_where_the_list_shows_it():
    asked = OpenApproval("boss", ("ann", "bob"), NOW + timedelta(hours=2))
    _, row = event_of(notice(RunStatus.WAITING, waiting_for="approval boss", asked=(asked,)), NOW)
    assert row["args"] == "o-1"
    assert row["result"] == "ann, bob can act, until 2026-12-01 14:00 UTC"
    assert row["kwargs"] == f"waits for approval boss: {row['result']}"


def test_a_row_that_waits_for_nobody_says_for_what():
    _, row = event_of(notice(RunStatus.WAITING, waiting_for="signal go"), NOW)
    assert row["kwargs"] == row["result"] == "waits for signal go"
    _, row = event_of(notice(RunStatus.PAUSED), NOW)
    assert row["kwargs"] == row["result"] == "paused: an operator resumes it"


def test_a_crowd_is_not_listed():
    asked = OpenApproval("all", tuple(f"p{each}" for each in range(1000)), None)
    words = notice(RunStatus.WAITING, waiting_for="approval all", asked=(asked,)).words(NOW)
    assert f"and {1000 - PEOPLE_MAX} more can act" in words
    assert len(words) < 200


def test_an_escalation_is_not_when_a_wait_ends():
    """Nor is it said to be, by the turn that has asked or as it is read from the record."""
    ask = AskPeople(request_approval("boss", assign=["ann"], escalate={hours(1): ["eve"]}))
    request = Request("boss", "", 1, ActivityKind.APPROVAL, "boss", ask)
    said = notice(RunStatus.WAITING, waiting_for="approval boss", opened=(ask.open(request),))
    assert said.words(NOW) == "waits for approval boss: ann can act"


def test_a_resting_run_is_a_retry_with_its_error():
    monitor = Monitor()
    monitor.announce(notice(RunStatus.WAITING, waiting_for="signal s"))
    error = {"type": "ValueError", "message": "no money", "traceback": "Traceback"}
    monitor.announce(notice(RunStatus.RUNNING, resting=Resting("charge", 2, 3600, error)))
    row = monitor.row(RUN)
    assert (row.state, row.exception, row.retries) == ("RETRY", "ValueError: no money", 1)
    assert "charge rests until attempt 2, at" in row.kwargs
    monitor.announce(notice(RunStatus.WAITING, waiting_for="signal s"))
    assert monitor.row(RUN).state == "WAITING"


def test_a_failed_row_has_its_exception_and_traceback():
    error = {"type": "ValueError", "message": "no money", "traceback": "Traceback"}
    _, row = event_of(notice(RunStatus.FAILED, error=error), NOW)
    assert (row["exception"], row["traceback"]) == ("ValueError: no money", "Traceback")


def test_a_date_that_no_clock_shows_is_no_reason_to_say_nothing():
    far = OpenApproval("boss", ("ann",), datetime.max.replace(tzinfo=UTC))
    words = notice(RunStatus.WAITING, waiting_for="approval boss", asked=(far,)).words(NOW)
    assert "ann can act" in words


# -- what workers tell by themselves ---------------------------------------------------------------


@pytest.fixture
def monitor(harness: Harness) -> Monitor:
    """What this fleet's workers announce is kept as Flower would."""
    monitor = Monitor()
    harness.messenger.announce = monitor.announce  # type: ignore[method-assign]
    return monitor


def asks_people(harness: Harness) -> Any:
    @process(version=1, registry=harness.registry)
    async def permit(flow: Flow) -> None:
        await flow.approval("boss", assign=["ann"], timeout=hours(2))
        await flow.signal("go")

    return permit


def test_a_turn_tells_what_it_leaves_the_run_waiting_for(harness, monitor):
    run = harness.run(asks_people(harness), key="p-1")
    row = monitor.row(run)
    assert (row.state, row.name, row.args) == ("WAITING", "permit", "p-1")
    assert row.kwargs.startswith("waits for approval boss: ann can act, until 20")
    harness.client.approve(run, by="ann")
    harness.drain()
    assert monitor.row(run).kwargs == "waits for signal go"


def test_a_run_that_rests_until_a_retry_is_told_and_what_it_does_after(harness, monitor):
    calls = []

    @stage(registry=harness.registry, retry=Retry(max_attempts=2, delay_seconds=60))
    def shaky() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("no luck")

    @stage(registry=harness.registry)
    def after() -> None:
        assert monitor.row(run).state == "RUNNING"

    @process(version=1, registry=harness.registry)
    async def order(flow: Flow) -> None:
        await flow.stage(shaky)
        await flow.stage(after)

    run = harness.run(order)
    assert monitor.row(run).state == "RETRY"
    harness.move(seconds=120)
    harness.drain()
    assert monitor.row(run).state == "SUCCESS"


# -- what others did -------------------------------------------------------------------------------


class Caretaking:
    """The refresh of one worker, and its clock."""

    def __init__(self, harness: Harness, monitor: Monitor) -> None:
        self.now = 0.0
        self.listening = harness.database.psycopg(autocommit=True)
        self.listening.execute("LISTEN perennial_outbox")
        self.refresh = Refresh(
            lambda: harness.context,
            is_heard=lambda: monitor.is_open,
            fleet="tests",
            monotonic=lambda: self.now,
        )

    def look(self) -> None:
        self.listening.execute("SELECT 1")  # what was notified comes before its answer
        words = [each.payload for each in self.listening.notifies(timeout=0)]
        self.refresh.look(self.listening, [UUID(word) for word in words if word])

    def later(self, seconds: float = refresh.REFRESH_SECONDS) -> None:
        self.now += seconds
        self.look()


@pytest.fixture
def caretaking(harness: Harness, monitor: Monitor) -> Iterator[Caretaking]:
    caretaking = Caretaking(harness, monitor)
    yield caretaking
    caretaking.listening.close()


def test_what_a_client_without_a_broker_does_is_told_by_a_worker_at_once(
    harness, monitor, caretaking
):
    run = harness.run(asks_people(harness), key="p-1")
    caretaking.look()
    harness.client.operations.pause(run)
    caretaking.look()
    assert monitor.row(run).state == "PAUSED"
    harness.client.operations.resume(run)
    caretaking.look()
    harness.drain()
    assert monitor.row(run).state == "WAITING"
    harness.client.cancel(run, reason="a duplicate")
    caretaking.look()
    row = monitor.row(run)
    assert (row.state, row.exception) == ("CANCELLED", "Cancelled: a duplicate")


def test_a_run_that_expires_is_told(harness, monitor, caretaking):
    @process(version=1, registry=harness.registry, expires_after=hours(1))
    async def slow(flow: Flow) -> None:
        await flow.signal("never")

    run = harness.run(slow)
    caretaking.look()
    harness.move(hours=2)
    harness.drain()
    caretaking.look()
    assert monitor.row(run).state == "FAILURE"


def test_after_a_restart_of_flower_the_waiting_runs_come_back(harness, monitor, caretaking):
    """With all that their rows had: who can act, and until when."""
    runs = [harness.run(asks_people(harness), key=f"p-{number}") for number in range(3)]
    caretaking.look()
    before = [monitor.row(run).kwargs for run in runs]
    monitor.forget()
    assert monitor.row(runs[0]) is None
    caretaking.later()
    assert [monitor.row(run).kwargs for run in runs] == before
    assert [monitor.row(run).state for run in runs] == ["WAITING"] * 3


def test_a_run_that_has_left_by_a_door_that_nobody_heard_leaves_its_row(
    harness, monitor, caretaking
):
    run = harness.run(asks_people(harness))
    caretaking.look()
    harness.client.cancel(run)
    caretaking.listening.execute("SELECT 1")
    list(caretaking.listening.notifies(timeout=0))  # a worker of an older release was told
    caretaking.later()
    assert monitor.row(run).state == "CANCELLED"


def test_it_is_bounded_and_paced(harness, monitor, caretaking, monkeypatch):
    monkeypatch.setattr(refresh, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(refresh, "ROWS_MAX", 4)
    permit = asks_people(harness)
    for number in range(6):
        harness.run(permit, key=f"p-{number}")
    monitor.forget()
    told = []
    for _ in range(6):
        monitor.events = 0
        caretaking.later(1.0)
        told.append(monitor.events)
    assert told == [2, 2, 0, 0, 0, 0]
    assert monitor.row(harness.client.list(limit=1)[0].id).state == "WAITING"  # the newest first


def test_where_nobody_listens_nothing_is_read_and_another_worker_may_lead(
    harness, monitor, caretaking
):
    harness.run(asks_people(harness))
    other = Caretaking(harness, monitor)
    caretaking.look()
    monitor.events = 0
    other.look()
    other.later()
    assert monitor.events == 0  # one worker tells, not each
    monitor.is_open = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refresh, "open_runs", SimpleNamespace)  # reading would raise
        caretaking.later()
    monitor.is_open = True
    other.look()
    assert monitor.events == 1
    other.listening.close()
