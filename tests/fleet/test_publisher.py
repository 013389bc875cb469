"""Handoffs on the wire, without a worker."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any
from uuid import uuid4

import amqp
import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError
from kombu.messaging import Producer

from orchestrator import Registry, RunStatus, Settings, install, stage
from orchestrator.core.run_notice import RunNotice
from orchestrator.engine.eager.batch import BATCH_MAX
from orchestrator.fleet.publisher import Publisher
from orchestrator.fleet.services import limit_stages
from orchestrator.store.parts import ADVANCE
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.timers import ArmedTimer


def to(*queues: str | None) -> list[Handoff]:
    return [Handoff(uuid4(), "work", 1, "work", queue) for queue in queues]


def sizes(app: Celery, *queues: str) -> dict[str, int]:
    with app.connection_for_read() as connection, connection.channel() as channel:
        return {queue: channel._size(queue) for queue in queues}


def test_a_queue_that_this_app_does_not_know_keeps_no_other_handoff_back() -> None:
    """With `task_create_missing_queues` off, another app's queue is served all the same."""
    app = Celery("publisher-tests", broker="memory://")
    app.conf.update(task_create_missing_queues=False, task_default_queue="here")
    publisher = Publisher(app, None)
    assert not publisher.hand_off(to(None, "of-another-app", None))
    assert sizes(app, "here", "of-another-app") == {"here": 2, "of-another-app": 1}


def refusing(monkeypatch: pytest.MonkeyPatch, queue: str, error: Exception) -> None:
    """A broker that says no to one queue."""
    publish = Producer.publish

    def refuse(self: Producer, *arguments: Any, **options: Any) -> Any:
        if options["routing_key"] == queue:
            raise error
        return publish(self, *arguments, **options)

    monkeypatch.setattr(Producer, "publish", refuse)


@pytest.mark.parametrize(
    "error",
    [
        amqp.PreconditionFailed("declared otherwise by another app"),
        redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        redis.ResponseError("OOM command not allowed"),
        NotImplementedError("by this transport"),
        RuntimeError("a transport like no other"),
        TypeError("in a library"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_queue_that_the_broker_refuses_keeps_no_other_back(monkeypatch, caplog, error) -> None:
    """Whatever a broker raises is swallowed: the work that is handed on is committed already. What stood
    before and after in the same batch is sent, and what was refused counts as sent: it is tried again
    at growing intervals.
    """
    app = Celery("refusing-tests", broker="memory://")
    one, no, two = (f"{name}-{uuid4()}" for name in ("one", "no", "two"))
    refusing(monkeypatch, no, error)
    assert not Publisher(app, None).hand_off(to(one, no, two, no, one))
    assert sizes(app, one, two) == {one: 2, two: 1}
    assert f"2 handoff(s) wait in the outbox: queue {no} refuses them" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("no connection"),
        ConnectionRefusedError(),
        TimeoutError(),
        socket.gaierror(),
        BrokenPipeError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_broker_that_is_away_is_asked_once_and_the_rest_is_told(monkeypatch, caplog, error):
    """Each try may cost seconds. Whoever handed off learns what was not sent, and does not count it as sent."""
    app = Celery("away-tests", broker="memory://")
    one, away, two = (f"{name}-{uuid4()}" for name in ("one", "away", "two"))
    refusing(monkeypatch, away, error)
    handoffs = to(one, away, away, two)
    assert list(Publisher(app, None).hand_off(handoffs)) == handoffs[1:]
    assert sizes(app, one, two) == {one: 1, two: 0}
    assert "3 handoff(s) wait in the outbox: the broker is away" in caplog.text


def test_a_transport_whose_library_is_missing_is_a_broker_that_is_away() -> None:
    app = Celery("missing-tests", broker="a-transport-that-is-not-there://")
    handoffs = to(None)
    assert list(Publisher(app, None).hand_off(handoffs)) == handoffs


class Angry:
    """An index of timers, and an app, that raise what nobody has foreseen."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_no_word_to_the_fleet_raises() -> None:
    """The transition that it tells of is committed. Raised here, it would look like the transition's own
    failure, and a sweep would not come to what it has to do after it.
    """
    publisher = Publisher(Celery("angry-tests", broker="memory://"), Angry())  # type: ignore[arg-type]
    publisher._app = Angry()
    publisher.arm([ArmedTimer(uuid4(), 1.0, None)])
    publisher.disarm([(uuid4(), None)])
    publisher.announce(RunNotice(uuid4(), "p", RunStatus.WAITING))
    assert publisher.backlog_of("q") == 0


def test_celery_ends_a_stage_a_grace_after_its_soft_limit() -> None:
    """The grace is a setting; settings are read when a worker starts, not when its app is imported."""
    registry = Registry()

    @stage(registry=registry, timeout_seconds=60)
    def work() -> None: ...

    app = Celery("limits-tests", broker="memory://")
    settings = Settings(timeout_grace_seconds=3)
    member = install(app, registry=registry, settings=settings)
    limit_stages(member)
    assert (app.tasks["work"].soft_time_limit, app.tasks["work"].time_limit) == (60, 63)


def test_runs_whose_turn_is_asked_for_the_first_time_share_messages() -> None:
    """What was sent before goes alone: it may have ended its worker, and would end the others' too."""
    app = Celery("publisher-tests", broker="memory://")
    queue = f"together-{uuid4()}"
    new = [Handoff.advance(uuid4(), queue) for _ in range(BATCH_MAX + 1)]
    again = [replace(Handoff.advance(uuid4(), queue), publishes=1) for _ in range(2)]
    publisher = Publisher(app, None, batch_max=BATCH_MAX)
    assert not publisher.hand_off([again[0], *new, *to(queue), again[1]])
    assert sorted(len(arguments) for task, arguments in sent(app, queue) if task == ADVANCE) == [
        1,
        1,
        1,
        BATCH_MAX,
    ]


def test_a_fleet_that_does_not_go_on_in_place_gets_a_message_for_each_run() -> None:
    app = Celery("publisher-tests", broker="memory://")
    queue = f"alone-{uuid4()}"
    runs = [Handoff.advance(uuid4(), queue) for _ in range(3)]
    assert not Publisher(app, None).hand_off(runs)
    assert [arguments for _, arguments in sent(app, queue)] == [[str(run.run_id)] for run in runs]


def test_events_come_from_the_worker_whatever_runs_them(monkeypatch) -> None:
    """A run that goes on with others has no current task at its side (Celery looks by greenlet)."""
    app = Celery("publisher-tests", broker="memory://")
    told: list[tuple[str, str]] = []

    class Dispatcher:
        def __init__(self, _connection: object, *, hostname: str, **_: Any) -> None:
            self.hostname = hostname

        def send(self, event: str, **_: Any) -> None:
            told.append((self.hostname, event))

    monkeypatch.setattr(app.events, "Dispatcher", Dispatcher)
    publisher = Publisher(app, None, hostname="w1@here")
    publisher.announce(RunNotice(uuid4(), "p", RunStatus.WAITING, waiting_for="approval m"))
    assert told == [("w1@here", "task-waiting")]


def sent(app: Celery, queue: str) -> list[tuple[str, list[Any]]]:
    """Task and arguments of each message on the queue."""
    found = []
    with app.connection_for_read() as connection, connection.channel() as channel:
        while message := channel.basic_get(queue):
            found.append((message.headers["task"], message.decode()[0]))
    return found
