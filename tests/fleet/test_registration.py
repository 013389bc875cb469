"""A worker says in the record what it can run, and that it lives: one look at a time, on a real Redis and Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from celery import Celery
from redis import Redis

from orchestrator import Flow, Registry, hours, install, process, stage
from orchestrator.core.declarative import load_process
from orchestrator.core.schemas import InputSchema
from orchestrator.embedded import EmbeddedRedis
from orchestrator.engine.elsewhere import Elsewhere
from orchestrator.engine.turn import advance
from orchestrator.fleet.forwarding import declared
from orchestrator.fleet.maintenance import Maintenance
from orchestrator.fleet.member import Member
from orchestrator.fleet.registration import BEAT_SECONDS, Registration
from orchestrator.store.transitions import capabilities
from orchestrator.store.transitions.amend import amend_if_current
from tests.harness import Harness


def letter(after: float = 24) -> Any:
    """A version whose content is told apart by its expiry."""

    async def letter(flow: Flow) -> None: ...

    return process(version=1, expires_after=hours(after), registry=Registry())(letter)


QUEUE, CODE = "registration-tests", "perennial:code:ours"


@pytest.fixture
def member(harness: Harness, redis: EmbeddedRedis) -> Iterator[Member]:
    app = Celery("registration-tests", broker=redis.url)
    app.conf.task_default_queue = QUEUE
    registry = Registry()

    @stage(registry=registry)
    def pack() -> None: ...

    registry.add_process(letter())
    member = install(app, registry=registry, settings=harness.settings)
    app.amqp.queues.select_add(declared(CODE))
    yield member
    member.context.dispose()
    app.close()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registration(harness: Harness, member: Member, clock: Clock) -> Registration:
    context = harness.worker("here", registry=member.registry)
    return Registration(
        member.app,
        lambda: context,
        name="here",
        queue=CODE,
        troubles=member.troubles,
        clock=clock,
    )


@pytest.fixture
def session(harness: Harness) -> Iterator[psycopg.Connection[Any]]:
    with harness.database.psycopg(autocommit=True) as session:
        yield session


def rows(harness: Harness) -> list[Any]:
    return harness.database.rows(
        "SELECT name, can, queues, queue, heartbeat_at FROM perennial.worker WHERE can IS NOT NULL"
    )


def asks(harness: Harness, *needs: str) -> list[str | None]:
    with harness.context.connection() as connection:
        return capabilities.queues_of_those_who_can(connection, needs, queue=QUEUE, but=None)


def in_yaml(name: str, registry: Registry) -> Any:
    text = f"process: {{name: {name}, version: 1, stages: [pack]}}"
    return load_process(text, registry=registry)


def test_it_says_so_at_its_start_and_beats_now_and_then(harness, registration, session, clock):
    harness.freeze()
    registration.look(session, deployed=False)
    (row,) = rows(harness)
    assert tuple(row)[:4] == ("here", ["stage pack", "turn letter 1"], [QUEUE], CODE)
    assert asks(harness, "stage pack") == [CODE]
    harness.move(seconds=5)
    clock.now = BEAT_SECONDS - 1
    registration.look(session, deployed=False)
    assert rows(harness) == [row]
    clock.now = BEAT_SECONDS
    registration.look(session, deployed=False)
    assert (rows(harness)[0].heartbeat_at - row.heartbeat_at).total_seconds() == 5
    registration.leave()
    assert asks(harness, "stage pack") == []


def test_it_hears_of_a_deploy_and_what_waited_for_that_is_due(harness, member, registration):
    """By its maintenance, in one look: a process in YAML is of whoever has its stages."""
    maintenance = Maintenance(member, registration=registration)
    maintenance.work()
    assert asks(harness, "turn parcel 1 r1") == []
    harness.client.processes.deploy(in_yaml("parcel", member.registry))
    run = harness.client.start("parcel")
    older = harness.worker("old", registry=Registry())
    advance(older, run.run_id)
    (needs,) = harness.database.rows("SELECT needs FROM perennial.outbox")
    assert needs.needs == ["turn parcel 1 r1"]
    for _ in range(3):  # of the deploy, of the start, and what it has woken itself with
        maintenance.work()
    assert asks(harness, "turn parcel 1 r1") == [CODE]
    (needs,) = harness.database.rows("SELECT needs FROM perennial.outbox")
    assert needs.needs is None
    maintenance.reset()


def test_at_its_start_and_at_each_deploy_it_says_in_one_line_where_its_code_differs(
    harness, member, caplog
):
    """Once each, with what to do."""

    def lines() -> list[str]:
        maintenance.work()
        maintenance.work()
        return [
            record.getMessage()
            for record in caplog.records
            if getattr(record, "action", "") == "compare-with-deployed"
        ]

    harness.client.processes.deploy(letter(48), by="ann")
    maintenance = Maintenance(member)
    (line,) = lines()
    assert "this worker's code is not what was deployed as letter version 1. " in line.lower()
    assert "by ann" in line
    assert "`perennial deploy --amend`" in line
    harness.client.processes.deploy(in_yaml("parcel", member.registry))
    assert lines() == [line]
    with harness.context.transaction() as connection:
        for current, content in ((1, letter()), (2, letter(72))):
            amend_if_current(
                connection, content, InputSchema(), current=current, by="bob", reason="", diff={}
            )
    (_, newer) = lines()
    assert "its revision 2, and revision 3 is deployed (since " in newer
    assert "start this worker with that" in newer
    maintenance.reset()


def test_what_changes_is_said_anew_and_so_is_all_after_its_session_is_lost(
    harness, member, registration, session, clock
):
    registration.look(session, deployed=False)
    member.app.amqp.queues.select_add("another")
    clock.now = BEAT_SECONDS
    registration.look(session, deployed=False)
    assert rows(harness)[0].queues == ["another", QUEUE]
    session.close()
    registration.lose()
    with harness.database.psycopg(autocommit=True) as again:
        registration.look(again, deployed=False)
        assert len(rows(harness)) == 1
        assert asks(harness, "stage pack") == [CODE]


def test_that_it_was_thought_dead_it_sees_and_what_waited_meanwhile_is_due(
    harness, registration, session, clock
):
    harness.freeze()
    registration.look(session, deployed=False)
    harness.move(seconds=capabilities.SILENT_SECONDS + 1)
    harness.database.rows(
        "INSERT INTO perennial.outbox (run_id, key, attempt, task, publish_at, publishes, needs) VALUES"
        " (gen_random_uuid(), 'pack', 1, 'pack', perennial.now() + interval '5 minutes', 6, '{stage pack}')"
    )
    clock.now = BEAT_SECONDS
    registration.look(session, deployed=False)
    (row,) = harness.database.rows(
        "SELECT publishes, publish_at <= perennial.now() AS is_due, needs FROM perennial.outbox"
    )
    assert tuple(row) == (0, True, None)


def test_a_record_that_refuses_it_stops_nothing(harness, registration, session, caplog):
    harness.database.rows("ALTER TABLE perennial.worker RENAME COLUMN can TO could")
    try:
        registration.look(session, deployed=False)
    finally:
        harness.database.rows("ALTER TABLE perennial.worker RENAME COLUMN could TO can")
    assert "is not registered, so nothing is sent on to it" in caplog.text
    assert rows(harness) == []


def test_the_queue_of_a_code_that_nobody_has_any_more_goes(
    harness, member, registration, session, redis
):
    """What a broker has put back into it, long after its last worker was killed, stays for nobody."""
    registration.look(session, deployed=False)
    with Redis.from_url(redis.url) as client:
        client.lpush(CODE, "a message")
        for age, kept in (("1 hour", 1), ("3 hours", 0)):
            harness.database.rows(
                f"UPDATE perennial.worker SET heartbeat_at = perennial.now() - interval '{age}'"
            )
            maintenance = Maintenance(member)
            maintenance.work()
            maintenance.reset()
            assert client.llen(CODE) == kept
    assert rows(harness) == []


def test_a_worker_that_sends_on_asks_for_those_who_can(member):
    assert isinstance(member.context.elsewhere, Elsewhere)
