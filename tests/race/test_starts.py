"""Starts that meet: a producer's open transaction holds up neither runs nor other producers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError

from orchestrator import Flow, process
from orchestrator.core import codec
from orchestrator.engine import start as starting
from orchestrator.engine.eager.group_commit import IN_FLIGHT_MAX
from orchestrator.engine.turn import take_turns
from orchestrator.faults import listen
from orchestrator.store.reads import loading
from tests.harness import Thread, wait_for, wait_until_blocked


def test_a_second_start_in_an_open_transaction_does_not_hold_up_the_run(harness):
    """A start that finds its business key leaves the run there unlocked (ON CONFLICT DO NOTHING),
    so the run's turns go on while the producer's transaction is open. Guards `start_runs`.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    run = harness.start(p, key="REQ-1")
    with harness.database.psycopg() as producer:
        assert harness.client.start(p, key="REQ-1", connection=producer).run_id == run.run_id
        with harness.context.connection() as connection:
            connection.execute(text("SET lock_timeout = '300ms'"))
            loaded = loading.load_run(connection, run.run_id)

            assert take_turns(harness.context, connection, loaded).is_recorded


def test_two_batches_of_starts_in_opposite_order_do_not_deadlock(harness):
    """Runs are inserted in the order of their keys, whatever the callers' order: of two batches
    with the same keys one waits for the other, and Postgres needs to kill neither. Guards the
    ORDER BY of `start_runs`.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    harness.client.processes.deploy(p)
    keys = ["k1", "k2", "k3"]
    # A third caller stands on the middle, so that each of the two has its first and wants the other's.
    with harness.database.psycopg() as standing:
        harness.client.start(p, key="k2", connection=standing)
        forward = Thread(lambda: harness.client.start_many(p, [None] * 3, keys=keys))
        wait_until_blocked(harness.database, 1)
        backward = Thread(lambda: harness.client.start_many(p, [None] * 3, keys=keys[::-1]))
        wait_until_blocked(harness.database, 2)
        standing.rollback()
    ids = [{started.run_id for started in thread.outcome()} for thread in (forward, backward)]
    assert ids[0] == ids[1]


class Producers:
    """Threads of one client. Their first statements are held up, so that the rest come meanwhile."""

    def __init__(self, harness: Any, p: Any) -> None:
        self._client, self._process = harness.client, p
        self._go_on = threading.Event()
        self._busy: list[Thread] = []
        self.statements = 0

    def at(self, when: str, what: str) -> None:
        if (when, what) == ("before", "start_runs"):
            self.statements += 1
            number = self.statements
            if number <= IN_FLIGHT_MAX:
                assert self._go_on.wait(10)
            if (
                1 < number <= IN_FLIGHT_MAX
            ):  # one is answered before the rest: who asks then asks for all
                wait_for(lambda: self.statements > IN_FLIGHT_MAX, "the next statement")

    def start(self, *each: dict[str, Any]) -> list[Thread]:
        """A start for each, all of which come while others are under way."""
        listen(self.at)
        self._busy = [self._come({"input": 0}) for _ in range(IN_FLIGHT_MAX)]
        threads = [self._come(start) for start in each]
        self._go_on.set()
        return threads

    def go(self) -> None:
        """Who was held up has its answer too, before the engine's connections are closed."""
        for thread in self._busy:
            thread.outcome()

    def _come(self, start: dict[str, Any]) -> Thread:
        before = self._known()
        thread = Thread(lambda: self._client.start(self._process, **start))
        wait_for(lambda: self._known() > before, "a thread that starts a run")
        return thread

    def _known(self) -> int:
        queues = self._client._starts._group_commit._queues.values()
        return self.statements + sum(len(queue.waiting) for queue in queues)


@pytest.fixture
def patient(harness: Any) -> Any:
    @process(version=1, registry=harness.registry)
    async def patient(flow: Flow, number: int) -> None:
        await flow.signal("go")

    harness.client.processes.deploy(patient)
    return patient


@pytest.fixture
def producers(harness: Any, patient: Any) -> Iterator[Producers]:
    producers = Producers(harness, patient)
    yield producers
    producers.go()
    listen(None)


@pytest.mark.parametrize("keys", [[None] * 4, ["one", None, None, "four"]], ids=["no keys", "keys"])
def test_starts_of_several_threads_are_one_statement_each_on_its_own_terms(
    harness, producers, keys
):
    asked: list[dict[str, Any]] = [
        {"input": 1, "by": "ann"},
        {"input": 2, "by": "bob", "attributes": {"colour": 'red, {"or"} blue'}},
        {"input": 3, "expires_in": timedelta(hours=3)},
        {"input": 4, "attributes": {"colour": "green"}},
    ]
    for start, key in zip(asked, keys, strict=True):
        start["key"] = key
    started = [thread.outcome() for thread in producers.start(*asked)]
    assert producers.statements == IN_FLIGHT_MAX + 1
    assert all(each.created for each in started)
    views = [harness.client.get(each) for each in started]
    assert [view.business_key for view in views] == keys
    assert [view.input for view in views] == [1, 2, 3, 4]
    assert [view.attributes for view in views] == [each.get("attributes", {}) for each in asked]
    expiries = [view.expires_at and view.expires_at - view.created_at for view in views]
    assert expiries == [None, None, timedelta(hours=3), None]
    assert [harness.client.history(each)[0].actor for each in started] == [
        "ann",
        "bob",
        "producer",
        "producer",
    ]


def test_a_key_that_several_threads_start_at_once_is_one_run(harness, producers):
    threads = producers.start(*({"input": 1, "key": "same", "by": by} for by in ("a", "b", "c")))
    started = [thread.outcome() for thread in threads]
    assert len({each.run_id for each in started}) == 1
    assert sorted(each.created for each in started) == [False, False, True]


def test_a_key_that_an_open_transaction_holds_keeps_no_other_thread_waiting(
    harness, producers, patient
):
    """Its start waits for the holder, and those that came with it don't. Guards the lock timeout of `start_runs`."""
    with harness.database.psycopg() as holder:
        held = harness.client.start(patient, 0, key="held", connection=holder)
        waiting, *others = producers.start(
            {"input": 1, "key": "held"}, {"input": 2, "key": "free"}, {"input": 3}
        )
        assert all(thread.outcome().created for thread in others)
        wait_until_blocked(harness.database, 1)
        assert waiting.is_alive()
        holder.commit()
    assert waiting.outcome().run_id == held.run_id


def test_starts_that_wait_for_their_keys_leave_room_for_others(harness, patient):
    """However many wait, each for somebody's open transaction. Guards the lock timeout of a start that is alone."""
    keys = [f"held {number}" for number in range(IN_FLIGHT_MAX)]
    with harness.database.psycopg() as holder:
        for key in keys:
            harness.client.start(patient, 0, key=key, connection=holder)
        waiting = [
            Thread(lambda key=key: harness.client.start(patient, 1, key=key)) for key in keys
        ]
        wait_until_blocked(harness.database, len(keys))
        assert Thread(lambda: harness.client.start(patient, 2)).outcome().created
        holder.rollback()
    assert all(thread.outcome().created for thread in waiting)


def test_what_postgres_refuses_of_one_thread_the_others_do_not_hear_of(
    harness, producers, patient, monkeypatch
):
    check_input = codec.check_input
    monkeypatch.setattr(
        codec,
        "check_input",
        lambda value, *rest, **more: "{" if value == 2 else check_input(value, *rest, **more),
    )
    before, refused, after = producers.start({"input": 1}, {"input": 2}, {"input": 3})
    assert before.outcome().created
    assert after.outcome().created
    with pytest.raises(DataError, match="json"):
        refused.outcome()


def test_what_the_record_refuses_is_not_taken_for_a_run_that_is_there(
    harness, producers, patient, monkeypatch
):
    there = harness.client.start(patient, 0).run_id
    taken = UUID(int=4)
    with harness.database.psycopg() as connection:
        connection.execute(
            "INSERT INTO perennial.timer (id, run_id, key, kind, due_at) VALUES (%s, %s, '', 'sleep', now())",
            (taken, there),
        )
        connection.commit()
    ids = iter([*(UUID(int=number) for number in range(1, 4)), taken])
    monkeypatch.setattr(starting, "uuid7", lambda: next(ids))
    before, refused = producers.start({"input": 1}, {"input": 2, "expires_in": timedelta(hours=1)})
    assert before.outcome().run_id == UUID(int=3)
    with pytest.raises(IntegrityError, match="timer_pkey"):
        refused.outcome()


@pytest.mark.parametrize("key", [None, "k"])
def test_when_who_asks_for_all_is_ended_after_the_commit_the_others_have_started(
    harness, producers, monkeypatch, key
):
    """They ask again, alone, and are told of the runs that they have. Guards `has_started`."""
    group_commit = harness.client._starts._group_commit
    together = group_commit._together

    def ended(asks: Any) -> Any:
        answers = together(asks)
        if len(asks) > 1:
            raise SystemExit
        return answers

    monkeypatch.setattr(group_commit, "_together", ended)
    leader, follower = producers.start({"input": 1}, {"input": 2, "key": key})
    with pytest.raises(SystemExit):
        leader.outcome()
    started = follower.outcome()
    assert started.created
    assert harness.client.get(started).input == 2
    assert len(list(harness.client.list())) == IN_FLIGHT_MAX + 2


@pytest.mark.parametrize("key", [None, "k"])
def test_the_lock_timeout_ends_with_the_statement(harness, patient, key):
    """The commit that follows waits for other commits that notify, and may be long in it."""
    asked = starting.ask(
        patient,
        [0],
        keys=[key],
        version=None,
        attributes=None,
        expires_in=None,
        if_closed="existing",
        by="",
    )
    contract = harness.client._starts.contracts.find("patient", 1)
    request = asked.by(contract, patient)
    with harness.database.psycopg() as connection:
        before = connection.execute("SHOW lock_timeout").fetchone()
        starting.start(connection, request, lock_timeout_milliseconds=50)
        assert connection.execute("SHOW lock_timeout").fetchone() == before
