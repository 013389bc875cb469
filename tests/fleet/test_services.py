"""The services in one process, with a clock that the test holds: no worker, no broker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from celery.exceptions import WorkerLostError
from celery.signals import task_failure
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from orchestrator import Flow, Registry, Retry, install, process, stage
from orchestrator.engine import context
from orchestrator.engine.liveness import Heartbeat
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.fleet import maintenance as maintenance_module
from orchestrator.fleet import member
from orchestrator.fleet.child_exits import ChildExits
from orchestrator.fleet.compat import reason_of
from orchestrator.fleet.maintenance import Maintenance
from orchestrator.fleet.member import Member
from orchestrator.fleet.services import Service
from orchestrator.store.parts import ADVANCE
from orchestrator.store.transitions import exits
from tests.harness import Harness, wait_for


class Clock:
    """The monotonic clock of `maintenance`."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(maintenance_module, "time", clock)
    return clock


@pytest.fixture
def maintenance(harness: Harness, clock: Clock) -> Iterator[Maintenance]:
    """Over the harness's engine. Its first sweep is due at once, the next ones when the clock was moved."""
    settings = harness.settings.model_copy(update={"sweep_seconds": 0.1})
    harness.context.settings = settings
    maintenance = Maintenance(SimpleNamespace(context=harness.context, settings=settings))  # type: ignore[arg-type]
    yield maintenance
    maintenance.reset()


def lost_run(harness: Harness, name: str = "lost") -> Any:
    """A run whose first attempt was claimed by a worker that has died since."""

    @stage(registry=harness.registry, retry=Retry(max_attempts=3), name=f"work-of-{name}")
    def work() -> None:
        raise SystemExit

    @process(version=1, registry=harness.registry, name=name)
    async def p(flow: Flow) -> None:
        await flow.stage(work)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    with pytest.raises(SystemExit):
        run_stage(harness.context, run.run_id, work.name, 1)
    harness.database.rows(
        "UPDATE perennial.activity SET claimed_at = claimed_at - interval '1 minute'"
    )
    return run


def is_recovered(harness: Harness, run: Any) -> bool:
    return "attempt handed out again" in harness.events(run)


# -- who is dead ---------------------------------------------------------------------------------


def test_maintenance_that_has_just_regained_contact_judges_nobody(harness, clock, maintenance):
    """While Postgres was away nobody could beat. Whoever has just come back, or just started, watches for
    `dead_after_seconds` before it says who is dead. Guards `_may_judge`.
    """
    run = lost_run(harness)
    patience = harness.settings.dead_after_seconds
    for _ in range(2):
        maintenance.work()
        clock.seconds += patience - 0.5
        maintenance.work()
        assert not is_recovered(harness, run)
        maintenance.reset()  # as when a connection broke
    maintenance.work()
    clock.seconds += patience
    maintenance.work()
    assert is_recovered(harness, run)


# -- a flood -------------------------------------------------------------------------------------


def test_maintenance_in_a_flood_recovers_and_fires_after_each_share(harness, clock, maintenance):
    """Lost work and late timers wait for one share of handoffs, and not for all of them; and while there is
    more to hand off, maintenance doesn't sleep. Guards the share in `relay` and `share` in `work`.
    """
    harness.context.settings = harness.context.settings.model_copy(update={"batch_size": 10})

    @process(version=1, registry=harness.registry)
    async def flood(flow: Flow) -> None: ...

    maintenance.work()
    clock.seconds += harness.settings.dead_after_seconds
    run = lost_run(harness)
    harness.messenger.handed_off.clear()
    harness.client.processes.deploy(flood)
    harness.client.start_many(flood, [None] * 100)
    maintenance.work()
    assert is_recovered(harness, run)
    assert len(started(harness)) <= 20
    for _ in range(12):  # a sweep is not due any more: only that there may be more makes it go on
        if len(started(harness)) < 100:
            maintenance.work()
    assert len(started(harness)) == 100


def started(harness: Harness) -> set[UUID]:
    """The runs whose first turn was asked for."""
    return {handoff.run_id for handoff in harness.messenger.handed_off if handoff.task == ADVANCE}


# -- how they ended ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Worker exited prematurely: signal 11 (SIGSEGV) Job: 12.", "signal 11 (SIGSEGV)"),
        ("Worker exited prematurely: exitcode 3 Job: 4.", "exitcode 3"),
        ("Worker exited prematurely: exitcode 1.", "exitcode 1"),
        ("something that a later release says", "something that a later release says"),
    ],
)
def test_the_reason_is_taken_out_of_celerys_words(said, reason):
    assert reason_of(WorkerLostError(said)) == reason


@pytest.fixture
def watching(harness: Harness) -> Iterator[tuple[ChildExits, Any]]:
    """A worker's parent that listens, and its task for `work-of-lost`."""
    app = Celery("child_exits-tests", broker="memory://")
    install(app, registry=harness.registry, settings=harness.settings)
    child_exits = ChildExits(
        SimpleNamespace(app=app, context=harness.context, settings=harness.settings)
    )  # type: ignore[arg-type]
    child_exits.watch(SimpleNamespace(pool=None, hub=None))
    yield child_exits, app
    child_exits.unwatch()


def tell(task: Any, arguments: list[Any], said: str = "exitcode 3") -> None:
    """As Celery does in the parent."""
    error = WorkerLostError(f"Worker exited prematurely: {said} Job: 1.")
    task_failure.send(sender=task, task_id="t", exception=error, args=arguments, kwargs={})


def test_an_exit_is_noted_of_the_attempt_that_is_claimed_and_moves_nothing(harness, watching):
    """A note may be about another process: a message came twice, say. It neither hands out nor judges: a
    worker that lives keeps its claim. Guards `note_exit_if_claimed`.
    """
    child_exits, app = watching
    run = lost_run(harness)
    revision = harness.client.get(run).revision
    work = app.tasks["work-of-lost"]
    tell(work, [str(run.run_id), "work-of-lost", 1])
    tell(work, [str(run.run_id), "work-of-lost", 2])  # not handed out yet
    child_exits.note()
    noted = [entry for entry in harness.client.history(run) if entry.event == "worker exited"]
    assert [(entry.attempt, entry.detail) for entry in noted] == [(1, {"reason": "exitcode 3"})]
    assert harness.client.get(run).revision == revision
    assert harness.database.value("SELECT state FROM perennial.activity") == "claimed"
    harness.client.cancel(run)
    tell(work, [str(run.run_id), "work-of-lost", 1])
    child_exits.note()
    assert harness.events(run)[-1] == "cancelled"


def test_only_exits_in_our_own_tasks_are_kept(harness, watching):
    """Another app's, another task's, and what a task itself raised, are not ours to note."""
    child_exits, app = watching
    run = lost_run(harness)
    arguments = [str(run.run_id), "work-of-lost", 1]
    other = Celery("another-app", broker="memory://")
    install(other, registry=Registry(), settings=harness.settings)
    tell(other.tasks[ADVANCE], [str(run.run_id)])
    tell(app.tasks["celery.accumulate"], arguments)
    task_failure.send(
        sender=app.tasks["work-of-lost"], task_id="t", exception=ValueError(), args=arguments
    )
    tell(app.tasks["perennial.fire"], ["a timer"])
    child_exits.note()
    assert "worker exited" not in harness.events(run)


def test_an_exit_that_could_not_be_written_is_written_later(harness, watching):
    """Postgres is away: nothing is forgotten, and maintenance's next look has it."""
    child_exits, app = watching
    run = lost_run(harness)
    tell(app.tasks["work-of-lost"], [str(run.run_id), "work-of-lost", 1])

    def away(*_: object, **__: object) -> None:
        raise OperationalError("away", None, Exception())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exits, "note_exit_if_claimed", away)
        with pytest.raises(OperationalError):
            child_exits.note()
    child_exits.note()
    assert harness.events(run).count("worker exited") == 1


def test_a_message_that_nobody_of_ours_has_sent_keeps_no_caretaker_from_its_work(harness, watching):
    """Somebody called a stage's task with arguments of their own, and it died: there is nothing to note."""
    child_exits, app = watching
    run = lost_run(harness)
    work = app.tasks["work-of-lost"]
    for arguments in (["no id", "work-of-lost", 1], [str(run.run_id), "\x00", "one"], [1, 2]):
        tell(work, arguments)
    tell(work, [str(run.run_id), "work-of-lost", 1])
    child_exits.note()
    assert harness.events(run).count("worker exited") == 1


def test_the_incident_of_a_turn_that_kills_its_workers_has_the_last_exit_reason(harness, watching):
    """The turn's holders are lost one by one; what their parents saw stands beside each, and in the incident."""
    child_exits, app = watching

    def kills() -> None:
        raise SystemExit

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.step(kills)

    harness.freeze()
    run = harness.start(p)
    for number in range(5):
        with pytest.raises(SystemExit):
            harness.drain()
        tell(app.tasks[ADVANCE], [str(run.run_id)], said=f"exitcode {number}")
        child_exits.note()
        harness.move(minutes=10)
    harness.drain()
    message = harness.client.get(run).error["message"]
    assert message == (
        "5 workers in a row were lost in this run's turn, at the same step; the last one died (exitcode 4). "
        "Mend what the flow calls there, then resume"
    )
    freed = [
        entry.detail["message"]
        for entry in harness.client.history(run)
        if entry.event == "turn freed"
    ]
    assert freed == [
        f"the worker that held the turn died (exitcode {number})" for number in range(5)
    ]


# -- threads that must not end -------------------------------------------------------------------


def test_a_service_outlives_its_work_and_its_clean_up(caplog):
    """Both fail, and it works on: a thread that ended silently would leave its worker without maintenance."""
    worked = threading.Semaphore(0)

    def work() -> None:
        worked.release()
        raise RuntimeError("in the work")

    def clean_up() -> None:
        raise RuntimeError("in the clean-up")

    service = Service("tested", work, clean_up)
    with caplog.at_level(logging.WARNING):
        service.start()
        assert worked.acquire(timeout=10)
        assert worked.acquire(timeout=10)
    service.stop()
    service.join(10)
    assert "its clean-up failed" in caplog.text


def test_a_process_whose_pool_is_exhausted_still_beats(harness, monkeypatch):
    """The heartbeat has a connection of its own. One that waited for the pool would make a busy process look
    dead, and its work would be done twice. Guards `heart_database` in `fleet/member.py`.
    """
    opened: list[Engine] = []
    beating: list[Heartbeat] = []

    class Watched(Heartbeat):
        def start(self) -> None:
            beating.append(self)
            super().start()

    def connect(*arguments: Any, **options: Any) -> Engine:
        opened.append(context.connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(member, "connect", connect)
    monkeypatch.setattr(member, "Heartbeat", Watched)
    settings = harness.settings.model_copy(update={"heartbeat_seconds": 0.01})
    engine = Member(
        Celery("heartbeat-tests", broker="memory://"), harness.registry, settings
    ).context
    with ExitStack() as stack:
        for each in opened:
            stack.callback(each.dispose)
        pool: Any = engine.database.pool
        for _ in range(pool.size() + pool._max_overflow):
            stack.enter_context(engine.database.connect())
        worker_id = stack.enter_context(engine.identity.lease())
        for each in beating:  # a beat that outlives its engine leaves its connection open
            stack.callback(each.stop)
        wait_for(lambda: beats_of(harness, worker_id), "a heartbeat")


def beats_of(harness: Harness, worker_id: UUID) -> bool:
    return bool(harness.database.rows("SELECT FROM perennial.worker WHERE id = :id", id=worker_id))


# -- a worker's own code -------------------------------------------------------------------------


def test_a_worker_whose_code_differs_says_so_once_at_its_start(harness, maintenance, caplog):
    """It names the process, the version, and what to do. Nothing is said where the code is the same."""

    @process(version=1, registry=harness.registry)
    async def same(flow: Flow) -> None: ...

    @process(version=3, registry=harness.registry)
    async def differs(flow: Flow) -> None: ...

    harness.client.processes.deploy(same, differs)
    harness.database.rows("UPDATE perennial.process SET fingerprint = 'x' WHERE name = 'differs'")
    for _ in range(2):
        maintenance.work()
    (said,) = [record for record in caplog.records if "deployed as" in record.message]
    assert said.levelname == "WARNING"
    assert "deployed as differs version 3. " in said.message
    assert "raise the version and `perennial deploy`" in said.message
