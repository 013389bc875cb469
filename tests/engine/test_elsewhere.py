"""What a worker can't run goes to a living one that can; where there is none it waits for one, in sight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pydantic import BaseModel
from uuid_utils.compat import uuid7

from orchestrator import Flow, Registry, RunStatus, process, stage
from orchestrator.core.declarative import load_process
from orchestrator.engine.elsewhere import KNOWN_SECONDS, Elsewhere
from orchestrator.engine.runnable import capabilities_of, capabilities_with
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.store.transitions import capabilities, workers
from orchestrator.store.transitions.capabilities import LOCK_CLASS, Registration
from orchestrator.store.transitions.outbox import Handoff
from tests.harness import wait_for
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="it is about where messages go, whatever the mode")

QUEUE = "default"


class Sent:
    """The fleet's part: what would have been sent on, and where."""

    def __init__(self, own_queue: str = "code:own", *, takes: bool = True) -> None:
        self.own_queue, self.takes = own_queue, takes
        self.messages: list[tuple[str, str]] = []

    def queue_of(self, handoff: Handoff) -> str | None:
        return handoff.queue or QUEUE

    def send_on(self, handoff: Handoff, queue: str, to: str, *, hops: int | None = None) -> bool:
        if self.takes:
            self.messages.append((handoff.task, to))
        return self.takes


@pytest.fixture
def others(harness) -> Iterator[Others]:
    with ExitStack() as sessions:
        yield Others(harness, sessions)


class Others:
    """Celery workers as the record knows them."""

    def __init__(self, harness, sessions: ExitStack) -> None:
        self._harness, self._sessions, self._locks = harness, sessions, iter(range(1, 100))

    def come(
        self, *can: str, queue: str = "code:new", queues: tuple[str, ...] = (QUEUE,)
    ) -> Callable[[], None]:
        """One registers; what is answered ends its process."""
        session = self._sessions.enter_context(self._harness.database.psycopg(autocommit=True))
        worker = Registration(
            uuid7(), f"worker of {queue}", 1, can, queues, queue, next(self._locks)
        )
        session.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_CLASS, worker.lock))
        with self._harness.context.connection() as connection:
            capabilities.register(connection, worker)
            capabilities.make_due_what_can_be_run(connection, can)
        return session.close

    def asks(self, *needs: str, queue: str = QUEUE, but: str | None = None) -> list[str | None]:
        with self._harness.context.connection() as connection:
            return capabilities.queues_of_those_who_can(connection, needs, queue=queue, but=but)


@pytest.fixture
def r(harness):
    return harness.registry


@pytest.fixture
def parcel(r):
    @stage(registry=r)
    def pack() -> str:
        return "packed"

    @process(version=2, registry=r)
    async def parcel(flow: Flow) -> str:
        return await flow.stage(pack)

    return parcel


def old_worker(harness, *stages: str, clock: Callable[[], float] = lambda: 0.0):
    """One whose release lacks the version."""
    older = Registry()
    for name in stages:
        older.add_stage(harness.registry.stages[name])
    worker = harness.worker("old", registry=older)
    sent = Sent()
    worker.elsewhere = Elsewhere(sent, clock=clock)
    return worker, sent


def outbox_row(harness):
    (row,) = harness.database.rows(
        "SELECT needs, publishes, publish_at <= perennial.now() AS is_due FROM perennial.outbox"
    )
    return row


def test_a_turn_that_this_worker_cannot_take_goes_to_one_that_can(harness, parcel, others):
    """At once, and nothing is written: neither of the run, nor of when a relay sends it again."""
    others.come("turn parcel 2 r1", "stage pack")
    old, sent = old_worker(harness)
    run = harness.start(parcel)
    harness.pending()
    before = outbox_row(harness)
    advance(old, run.run_id)
    assert sent.messages == [("perennial.advance", "code:new")]
    assert outbox_row(harness) == before
    assert "left for another worker" not in harness.events(run)


def test_a_stages_end_is_recorded_before_its_turn_goes_on(harness, parcel, others):
    others.come("turn parcel 2 r1", "stage pack")
    half, sent = old_worker(harness, "pack")
    run = harness.start(parcel)
    harness.deliver(Handoff.advance(run.run_id, None))
    run_stage(half, run.run_id, "pack", 1)
    assert "stage done" in harness.events(run)
    assert sent.messages == [("perennial.advance", "code:new")]
    assert half.messenger.handed_off == []


def test_without_a_living_worker_that_can_it_waits_and_is_due_when_one_comes(
    harness, parcel, others
):
    old, sent = old_worker(harness)
    run = harness.start(parcel)
    harness.pending()
    for _ in range(2):
        advance(old, run.run_id)
    assert sent.messages == []
    assert harness.client.get(run).waiting_for == "a worker that can run parcel version 2"
    assert harness.events(run).count("left for another worker") == 1
    assert (outbox_row(harness).needs, outbox_row(harness).is_due) == (["turn parcel 2 r1"], False)
    others.come("stage pack")
    assert not outbox_row(harness).is_due  # this one can't either
    others.come("turn parcel 2 r1", "stage pack")
    assert tuple(outbox_row(harness)) == (None, 0, True)


def test_who_comes_while_the_lack_is_noted_gets_the_turn(harness, parcel, others, monkeypatch):
    """What waits was made due before this run was noted: nobody would look at it again for long."""
    old, sent = old_worker(harness)
    run = harness.start(parcel)
    note = capabilities.note_needs_of_turn

    def note_late(*arguments, **words):
        others.come("turn parcel 2 r1", "stage pack")
        note(*arguments, **words)

    monkeypatch.setattr(capabilities, "note_needs_of_turn", note_late)
    advance(old, run.run_id)
    assert sent.messages == [("perennial.advance", "code:new")]


def test_a_stage_that_nobody_has_is_noted_in_its_run_and_due_when_one_comes(
    harness, parcel, others
):
    run = harness.start(parcel)
    harness.deliver(Handoff.advance(run.run_id, None))
    for _ in range(2):
        with harness.context.connection() as connection:
            capabilities.note_needs_of_stage(
                connection, run.run_id, "pack", 1, ["stage pack"], why="nobody has it", actor="old"
            )
    assert harness.events(run).count("left for another worker") == 1
    assert outbox_row(harness).needs == ["stage pack"]
    others.come("stage pack")
    assert outbox_row(harness).is_due


def test_a_flow_that_asks_for_a_stage_by_name_needs_that_too(harness, others):
    """Both releases have the version; one of them lacks the stage. Nothing comes back to where it was."""

    async def flow_of_both(flow: Flow) -> str:
        return await flow.stage("new")

    older = Registry()
    process(version=1, registry=older, name="p")(flow_of_both)
    p = process(version=1, registry=harness.registry, name="p")(flow_of_both)
    old = harness.worker("old", registry=older)
    sent = Sent()
    old.elsewhere = Elsewhere(sent)
    run = harness.start(p)
    others.come("turn p 1 r1", "stage new", queue="code:own")
    advance(old, run.run_id)
    assert sent.messages == []
    assert outbox_row(harness).needs == ["turn p 1 r1", "stage new"]
    others.come("turn p 1 r1", "stage new")
    advance(old, run.run_id)
    assert sent.messages == [("perennial.advance", "code:new")]


class Old(BaseModel):
    user: str


class New(BaseModel):
    login: str


def with_a_renamed_field(harness) -> tuple[Any, Any, Sent]:
    """A run of version 1 at its stage; and a worker of a release that has only version 2, and reads another model."""

    def provision(request: Old) -> str:
        return request.user

    def provision_anew(request: New) -> str:
        return request.login

    @process(version=1, registry=harness.registry)
    async def access(flow: Flow, request: Old) -> str:
        return await flow.stage("provision", request)

    stage(registry=harness.registry, name="provision")(provision)
    newer = Registry()
    stage(registry=newer, name="provision")(provision_anew)
    worker, sent = harness.worker("new", registry=newer), Sent()
    worker.elsewhere = Elsewhere(sent)
    run = harness.start(access, {"user": "ann"})
    harness.deliver(Handoff.advance(run.run_id, None))
    return run, worker, sent


def test_a_stage_whose_arguments_another_release_wrote_goes_to_a_worker_that_has_its_code(
    harness, others
):
    """It is no incident. What somebody else has done by now is not given back."""
    run, newer, sent = with_a_renamed_field(harness)
    others.come("turn access 1 r1", "stage provision", queue="code:old")
    run_stage(newer, run.run_id, "provision", 1)
    assert sent.messages == [("provision", "code:old")]
    assert harness.status(run) is RunStatus.RUNNING
    (told,) = [e for e in harness.client.history(run) if e.event == "left for another worker"]
    assert (told.key, told.attempt, told.actor) == ("provision", 1, "new")
    assert "login" in told.detail["why"]
    (row,) = harness.database.rows("SELECT key, attempt, publishes FROM perennial.outbox")
    assert tuple(row) == ("provision", 2, 1)
    run_stage(harness.context, run.run_id, "provision", 2)
    harness.drain()
    assert harness.client.result(run) == "ann"
    with harness.context.connection() as connection:
        assert not capabilities.give_back_attempt_if_claimed(
            connection, run.run_id, "provision", 2, why="", actor="", relay_after=1
        )
    assert harness.database.value("SELECT count(*) FROM perennial.outbox") == 0


def test_without_such_a_worker_it_is_an_incident_and_so_it_is_for_who_has_its_code(harness, others):
    run, newer, sent = with_a_renamed_field(harness)
    others.come("stage provision")
    run_stage(newer, run.run_id, "provision", 1)
    assert harness.status(run) is RunStatus.INCIDENT
    harness.client.operations.resume(run)
    others.come("turn access 1 r1", "stage provision", queue="code:old")
    with_its_code = Registry()
    with_its_code.add_process(harness.registry.processes["access", 1])
    with_its_code.add_stage(newer.registry.stages["provision"])
    worker = harness.worker("half", registry=with_its_code)
    worker.elsewhere = Elsewhere(sent)
    run_stage(worker, run.run_id, "provision", 2)
    assert harness.status(run) is RunStatus.INCIDENT
    assert sent.messages == []


def test_only_the_living_are_sent_to_and_only_what_they_take(harness, others):
    end = others.come("turn parcel 2 r1")
    others.come("turn parcel 2 r1", queue="code:far", queues=("elsewhere",))
    assert others.asks("turn parcel 2 r1") == ["code:new"]
    assert others.asks("turn parcel 2 r1", queue="elsewhere") == ["code:far"]
    assert others.asks("turn parcel 2 r1", but="code:new") == []
    assert others.asks("turn parcel 3") == []
    harness.freeze()
    harness.move(seconds=capabilities.SILENT_SECONDS + 1)  # its machine has vanished
    assert others.asks("turn parcel 2 r1") == []
    harness.database.set_clock(None)
    assert others.asks("turn parcel 2 r1") == ["code:new"]
    end()
    wait_for(lambda: others.asks("turn parcel 2 r1") == [], "the end of its session")


def test_what_is_known_of_others_is_asked_for_once_a_second(harness, parcel, others):
    """That there is nobody is asked anew each time."""
    at = [0.0]
    old, sent = old_worker(harness, clock=lambda: at[0])
    asked = []
    asks = capabilities.queues_of_those_who_can

    def count(*arguments, **words):
        asked.append(at[0])
        return asks(*arguments, **words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capabilities, "queues_of_those_who_can", count)
        run = harness.start(parcel)
        advance(old, run.run_id)
        assert len(asked) == 2
        others.come("turn parcel 2 r1")
        for at[0] in (0.0, 0.5, KNOWN_SECONDS + 0.1):
            advance(old, run.run_id)
    assert asked == [0.0, 0.0, 0.0, KNOWN_SECONDS + 0.1]
    assert len(sent.messages) == 3


def test_a_worker_that_leaves_is_sent_nothing_and_long_after_it_is_forgotten(harness, others):
    harness.freeze()
    others.come("turn parcel 2 r1")
    others.come("turn parcel 2 r1", queue="code:other")
    (first, _) = harness.database.rows("SELECT id FROM perennial.worker ORDER BY queue")
    with harness.context.connection() as connection:
        assert capabilities.beat(connection, first.id)
        capabilities.leave(connection, first.id)
        assert others.asks("turn parcel 2 r1") == ["code:other"]
        assert not capabilities.beat(connection, first.id)  # it would have to register anew
        assert workers.forget_old_workers(connection) == []
    harness.move(hours=2, seconds=1)
    with harness.context.connection() as connection:
        assert sorted(workers.forget_old_workers(connection)) == ["code:new", "code:other"]
        assert not capabilities.beat(connection, first.id)


def test_a_program_can_run_what_it_registers_and_what_its_names_bind(harness, parcel):
    names = "process: {{name: {0}, version: 1, stages: [{1}]}}"
    other = Registry()

    @stage(registry=other)
    def send() -> None: ...

    harness.client.processes.deploy(
        load_process(names.format("ours", "pack"), registry=harness.registry),
        load_process(names.format("theirs", "send"), registry=other),
    )
    assert list(capabilities_of(harness.registry)) == ["stage pack", "turn parcel 2"]
    assert capabilities_with(harness.context) == (
        "stage pack",
        "turn ours 1",
        "turn ours 1 r1",
        "turn parcel 2",
    )
    harness.client.processes.deploy(parcel)
    assert "turn parcel 2 r1" in capabilities_with(harness.context)
