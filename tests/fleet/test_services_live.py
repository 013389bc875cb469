"""The services of a worker, one look at a time, on a real Redis and Postgres and without a worker."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from celery import Celery
from redis import Redis

from orchestrator import Flow, Registry, Settings, hours, install, process, stage
from orchestrator.embedded import EmbeddedRedis
from orchestrator.engine.relay import relay
from orchestrator.fleet import timer_dispatcher
from orchestrator.fleet.maintenance import Maintenance
from orchestrator.fleet.member import Member
from orchestrator.fleet.services import Service
from orchestrator.fleet.timer_dispatcher import TimerDispatcher
from orchestrator.fleet.timer_index import TimerIndex
from orchestrator.store.transitions.timers import ArmedTimer
from tests.harness import Harness, wait_for

QUEUE = "services-tests"


@pytest.fixture
def member(harness: Harness, redis: EmbeddedRedis) -> Iterator[Member]:
    """A worker's process, as far as its services need one."""
    app = Celery("services-tests", broker=redis.url)
    app.conf.task_default_queue = QUEUE
    member = install(app, registry=Registry(), settings=harness.settings)
    yield member
    member.context.dispose()
    app.close()


@pytest.fixture
def timer_index(member: Member) -> TimerIndex:
    assert member.timer_index is not None
    return member.timer_index


@pytest.fixture
def client(redis: EmbeddedRedis) -> Iterator[Redis]:
    with Redis.from_url(redis.url) as client:
        yield client


# -- timer dispatcher ---------------------------------------------------------------------------------------


def test_a_timer_dispatcher_that_finds_no_epoch_puts_timers_and_handoffs_back(
    harness, member, timer_index, client
):
    """The missing key says that Redis was emptied. Guards the epoch check: without it timers that
    are not due for hours would never be in the index again.
    """

    @process(version=1, registry=harness.registry)
    async def sleeps(flow: Flow) -> None:
        await flow.sleep(hours(1))

    harness.run(sleeps)
    dispatcher = TimerDispatcher(member, timer_index)
    dispatcher.work()
    harness.client.start(sleeps)
    relay(member.context)
    assert client.llen(QUEUE) == 1
    client.flushall()
    dispatcher.work()
    assert client.zcard("perennial:due") == 1
    relay(member.context)
    assert client.llen(QUEUE) == 1
    assert timer_index.move().epoch_is_there


def test_one_worker_at_a_time_rebuilds_the_index(timer_index):
    """All timer dispatchers find the epoch missing at once; a fleet of fifty must not send every handoff
    fifty times.
    """
    assert timer_index.may_rebuild()
    assert not timer_index.may_rebuild()
    timer_index.rebuilt()
    assert timer_index.may_rebuild()


def test_a_due_timer_is_moved_onto_its_queue_once(timer_index, client):
    """What is moved leaves the index in the same script; another timer dispatcher finds nothing."""
    timer_index.arm([ArmedTimer(uuid4(), 0.0, None)])
    assert wait_for(lambda: timer_index.move().count, "the move") == 1
    assert timer_index.move().count == 0
    assert client.llen(QUEUE) == 1


def test_a_rebuild_that_fails_is_made_again_at_once(member, timer_index, monkeypatch):
    """Postgres may be away just then, or its connection cut. Whoever fails lets the next try, and
    does not keep the others out for as long as a rebuild may take.
    """

    def away(_context: object) -> int:
        raise ConnectionError

    dispatcher = TimerDispatcher(member, timer_index)
    with monkeypatch.context() as patch:
        patch.setattr(timer_dispatcher, "rebuild_index", away)
        with pytest.raises(ConnectionError):
            dispatcher.work()
    dispatcher.work()
    assert timer_index.move().epoch_is_there


# -- maintenance -----------------------------------------------------------------------------------


def test_maintenance_whose_connections_were_cut_needs_one_look_to_know_it(harness, member):
    """Its subscription is dead, and so is what the pool keeps: it doesn't stumble over one after
    the other, with a pause each time.
    """
    maintenance = Maintenance(member)
    maintenance.work()
    harness.database.cut_connections()
    with pytest.raises(psycopg.OperationalError):
        maintenance.work()
    maintenance.reset()
    maintenance.work()
    maintenance.reset()


# -- any service ---------------------------------------------------------------------------------


def test_a_service_that_fails_for_long_tries_as_often_as_a_worker_sweeps():
    """The pause between two tries is what a server's return may go unnoticed for."""
    pauses = []

    def fails() -> None:
        raise ConnectionError

    service = Service("fails", fails)

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            service.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service._stopped, "wait", wait)
        service._run()
    assert pauses == sorted(pauses)
    assert pauses[-1] == Settings().sweep_seconds


# -- tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["perennial.advance", "perennial.fire", "work"])
def test_a_message_is_not_consumed_in_vain_because_a_connection_was_cut(harness, member, task):
    """Every process of a fleet keeps connections. Were a message lost on each of them after a restart
    of Postgres, a run would have to wait for one resending after the other.
    """

    @stage(registry=member.registry)
    def work() -> str:
        return "done"

    @process(version=1, registry=member.registry)
    async def p(flow: Flow) -> str:
        await flow.sleep(0)
        return await flow.stage(work)

    run = harness.start(p)
    member.app.tasks["perennial.advance"](str(uuid4()))  # of no run: the pool has a connection now
    arguments = {"perennial.advance": (str(run.run_id),), "work": (str(run.run_id), "work", 1)}
    for name in ("perennial.advance", "perennial.fire", "work"):
        if name == "perennial.fire":
            arguments[name] = (str(harness.database.value("SELECT id FROM perennial.timer")),)
        if name == task:
            harness.database.cut_connections()
        before = harness.database.value("SELECT revision FROM perennial.run")
        member.app.tasks[name](*arguments[name])
        assert harness.database.value("SELECT revision FROM perennial.run") > before
    assert harness.database.value("SELECT output FROM perennial.run") == "done"
