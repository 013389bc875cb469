"""What Celery's users watch sees what has failed: signals, hooks of tasks, Sentry, events, and hooks of our own."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
import sentry_sdk
from billiard.pool import Worker
from celery import Celery, Task, signals
from celery.app import trace
from kombu.messaging import Producer
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from orchestrator import ActivityFailed, Flow, Hooks, Retry, RunReport, install, process, stage
from orchestrator.engine.fire import fire
from orchestrator.fleet.member import Member
from orchestrator.store.parts import ADVANCE
from tests.harness import Harness
from tests.unit.hostile import HOSTILE, exception_of

QUEUE = "failures-seen"


class Trouble(Exception):
    """One that can be watched."""


class Watching(Task):
    """A team's own base class."""

    seen: list[tuple[str, str, str]]

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.seen.append(("on_failure", self.name, type(exc).__name__))

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.seen.append(("on_retry", self.name, type(exc).__name__))


class World:
    """A worker's process without its loop: each message is traced as a worker does it."""

    def __init__(self, harness: Harness) -> None:
        self.harness, self.registry = harness, harness.registry
        self.seen: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.reports: list[RunReport] = []
        self.incidents: list[RunReport] = []
        base = type("Base", (Watching,), {"seen": self.seen})
        self.app = Celery("failures-seen", broker="memory://", task_cls=base)
        self.app.conf.task_default_queue = QUEUE

    def install(self, *, hooks: Sequence[Hooks] = (), **settings: Any) -> Member:
        self.member = install(
            self.app,
            registry=self.registry,
            settings=self.harness.settings.model_copy(update=settings),
            on_failed=self.reports.append,
            on_incident=self.incidents.append,
            hooks=hooks,
        )
        self.member.pool_keeps_limits = False
        self.app.finalize()
        return self.member

    def deliver(self, task: str, *arguments: object) -> Any:
        request = {
            "id": "message",
            "delivery_info": {"routing_key": QUEUE},
            "args": arguments,
            "kwargs": {},
            "hostname": "w@here",
        }
        return trace.build_tracer(task, self.app.tasks[task], app=self.app)(
            "message", arguments, {}, request
        )

    def advance(self, *runs: Any) -> Any:
        return self.deliver(ADVANCE, *(str(run.run_id) for run in runs))

    def handoffs(self) -> list[tuple[str, list[Any]]]:
        found = []
        with self.app.connection_for_read() as connection, connection.channel() as channel:
            while message := channel.basic_get(QUEUE):
                task, arguments = message.headers["task"], message.decode()[0]
                found.append((task, arguments))
        return found

    def do_all(self) -> None:
        while messages := self.handoffs():
            for task, arguments in messages:
                self.deliver(task, *arguments)


@pytest.fixture
def world(harness: Harness) -> Iterator[World]:
    world = World(harness)

    def failed(sender: Any, task_id: str, exception: Any, **_: Any) -> None:
        world.seen.append(("task_failure", sender.name, type(exception).__name__))
        world.ids.append(task_id)

    def retried(sender: Any, request: Any, reason: Any, **_: Any) -> None:
        world.seen.append(("task_retry", sender.name, type(reason.exc).__name__))
        world.ids.append(request.id)

    signals.task_failure.connect(failed, weak=False)
    signals.task_retry.connect(retried, weak=False)
    yield world
    signals.task_failure.disconnect(failed)
    signals.task_retry.disconnect(retried)
    world.member.context.dispose()
    world.app.close()


def failing(
    world: World,
    retry: Retry,
    make: Callable[[], BaseException] = lambda: Trouble("no money"),
    **settings: Any,
) -> Any:
    @stage(registry=world.registry, retry=retry)
    def charge() -> None:
        raise make()

    @process(version=1, registry=world.registry)
    async def order(flow: Flow) -> None:
        await flow.stage(charge)

    world.install(**settings)
    return order


def test_a_retry_and_a_failure_are_seen_by_signals_and_by_the_tasks_own_class(world, caplog):
    """Each under the stage's name; the run's own failure under the process's, with the run's id."""
    order = failing(world, Retry(max_attempts=2, delay_seconds=0), eager_seconds=0)
    run = world.harness.start(order, key="o-1")
    world.advance(run)
    (message,) = world.handoffs()
    traced = world.deliver(message[0], *message[1])
    assert traced.info.state == "RETRY"
    world.harness.move(seconds=1)
    for timer_id in world.harness.due_timers():
        world.deliver("perennial.fire", str(timer_id))
    (message,) = world.handoffs()
    traced = world.deliver(message[0], *message[1])
    assert traced.info.state == "FAILURE"
    assert world.seen == [
        ("on_retry", "charge", "Trouble"),
        ("task_retry", "charge", "Trouble"),
        ("on_failure", "charge", "Trouble"),
        ("task_failure", "charge", "Trouble"),
        ("on_failure", "order", "ActivityFailed"),
        ("task_failure", "order", "ActivityFailed"),
    ]
    assert world.ids == ["message", "message", str(run.run_id)]
    assert [(report.run_id, report.business_key) for report in world.reports] == [
        (run.run_id, "o-1")
    ]
    assert not world.incidents
    # The traceback stands once: Celery's own line goes without.
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    with_trouble = [each for each in errors if each.exc_info and each.exc_info[0] is Trouble]
    assert len(with_trouble) == 1
    assert any(each.name == "celery.app.trace" for each in errors)


def test_nothing_is_requeued_stored_or_sent_because_of_it(world):
    run = world.harness.start(failing(world, Retry(max_attempts=3, delay_seconds=3600)))
    world.advance(run)
    assert world.seen[:2] == [
        ("on_retry", "charge", "Trouble"),
        ("task_retry", "charge", "Trouble"),
    ]
    assert not world.handoffs()
    assert world.app.backend.__class__.__name__ == "DisabledBackend"


def test_of_stages_that_go_on_together_each_fails_under_its_own_name_and_id(world):
    """Many runs in one message, and several stages of each: the message itself did what it was to do."""

    @stage(registry=world.registry, retry=Retry(max_attempts=1))
    def charge(number: int) -> None:
        raise Trouble(str(number))

    @stage(registry=world.registry, retry=Retry(max_attempts=1))
    def refund(number: int) -> None:
        raise LookupError(str(number))

    @process(version=1, registry=world.registry)
    async def order(flow: Flow, number: int) -> None:
        for what in (charge, refund):
            with suppress(ActivityFailed):
                await flow.stage(what, number)

    world.install(eager_seconds=60)
    runs = [world.harness.start(order, number) for number in range(3)]
    traced = world.advance(*runs)
    world.do_all()
    assert traced.info is None
    failures = [each for each in world.seen if each[0] == "task_failure"]
    assert (
        sorted(failures)
        == [("task_failure", "charge", "Trouble")] * 3
        + [("task_failure", "refund", "LookupError")] * 3
    )
    assert world.ids.count("message") == 3  # on which World delivers
    assert len(set(world.ids)) == 4
    assert not world.reports


def test_a_flow_that_becomes_an_incident_is_seen(world):
    @process(version=1, registry=world.registry)
    async def broken(flow: Flow) -> None:
        raise Trouble

    world.install()
    run = world.harness.start(broken, key="b-1")
    assert world.advance(run).info is None
    assert world.seen == [
        ("on_failure", "broken", "Trouble"),
        ("task_failure", "broken", "Trouble"),
    ]
    assert world.ids == [str(run.run_id)]
    (report,) = world.incidents
    assert (report.process, report.business_key, report.error["type"]) == (
        "broken",
        "b-1",
        "Trouble",
    )
    assert not world.reports


def test_a_run_that_a_deadline_ended_is_seen_though_nothing_was_raised(world):
    @process(version=1, registry=world.registry, expires_after=0.001)
    async def patient(flow: Flow) -> None:
        await flow.signal("go")

    member = world.install()
    run = world.harness.start(patient, key="b-1")
    world.advance(run)
    (due,) = world.harness.due_timers()
    fire(member.context, due)
    assert world.seen == [
        ("on_failure", "patient", "RunFailed"),
        ("task_failure", "patient", "RunFailed"),
    ]
    assert world.ids == [str(run.run_id)]
    assert [report.status for report in world.reports] == ["expired"]


@pytest.mark.parametrize("sort", HOSTILE)
def test_celery_survives_whatever_a_stage_raises(world, sort):
    run = world.harness.start(
        failing(world, Retry(max_attempts=1), lambda: exception_of(sort)), key=sort
    )
    world.advance(run)
    world.do_all()
    assert world.harness.client.get(run).status == "failed"
    assert ("task_failure", "order", "ActivityFailed") in world.seen
    assert len([each for each in world.seen if each[:2] == ("task_failure", "charge")]) == 1


@pytest.mark.parametrize("make", [MemoryError, lambda: BaseExceptionGroup("x", [SystemExit()])])
def test_what_would_end_celerys_worker_is_told_in_other_words(world, make):
    run = world.harness.start(failing(world, Retry(max_attempts=1), make))
    world.advance(run)
    world.do_all()
    assert ("task_failure", "charge", "Unreadable") in world.seen


@pytest.mark.parametrize("retry", [Retry(max_attempts=1), Retry(max_attempts=2)])
def test_what_was_raised_is_let_go_without_a_collection_of_garbage(world, monkeypatch, retry):
    """A worker that fails all day must not grow. At the latest at its next task."""
    raised: list[weakref.ref[Trouble]] = []

    def trouble() -> Trouble:
        made = Trouble()
        raised.append(weakref.ref(made))
        return made

    run = world.harness.start(failing(world, retry, trouble))
    for name in ("celery.app.trace", "orchestrator.engine.reports"):
        monkeypatch.setattr(
            logging.getLogger(name), "disabled", True
        )  # pytest keeps what is logged
    gc.collect()
    gc.disable()
    try:
        world.advance(run)
        world.do_all()
        world.advance(run)
        assert [each() for each in raised] == [None]
    finally:
        gc.enable()


class Collecting(Transport):
    """Sentry's server."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Any) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(event)


def test_sentry_sees_a_failure_once_and_a_retry_as_no_failure(world, monkeypatch):
    """Whether the attempt came by a message or went on in place; the run's failure is an event of its own."""
    collecting = Collecting()
    for place, name in (
        (trace, "build_tracer"),
        (trace, "_signal_internal_error"),
        (Task, "apply_async"),
        (Celery, "send_task"),
        (Producer, "publish"),
        (Worker, "workloop"),
        (logging.Logger, "callHandlers"),
    ):
        monkeypatch.setattr(place, name, getattr(place, name))  # given back at the end
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:1/1",
        transport=collecting,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[CeleryIntegration(), LoggingIntegration(), DedupeIntegration()],
    )
    try:
        run = world.harness.start(failing(world, Retry(max_attempts=2, delay_seconds=0)))
        world.advance(run)
        assert not collecting.events
        world.harness.move(seconds=1)
        for timer_id in world.harness.due_timers():
            world.deliver("perennial.fire", str(timer_id))
        world.do_all()
        types = [each["exception"]["values"][-1]["type"] for each in collecting.events]
        assert types == ["Trouble", "ActivityFailed"]

        @stage(registry=world.registry, retry=Retry(max_attempts=1))
        def refund() -> None:
            raise Trouble

        @process(version=1, registry=world.registry)
        async def order_back(flow: Flow) -> None:
            with suppress(ActivityFailed):
                await flow.stage(refund)

        collecting.events.clear()
        world.advance(world.harness.start(order_back))  # no message in between
        (event,) = collecting.events
        assert event["exception"]["values"][-1]["type"] == "Trouble"
        assert "test_failures_seen" in event["exception"]["values"][-1]["module"]
        assert not world.handoffs()
    finally:
        sentry_sdk.init(default_integrations=False, auto_enabling_integrations=False)


def test_an_existing_task_is_a_stage_in_its_messages_company(world):
    """Its request knows the message; a retry it asks for is one that Celery's watchers see, and no message."""
    requests = []

    @world.app.task(name="shop.pay", bind=True, max_retries=1, shared=False)
    def pay(self: Task) -> None:
        requests.append(self.request)
        self.retry(exc=Trouble("no money"), countdown=40)

    made = stage(registry=world.registry, retry=Retry(delay_seconds=1), name="pay")(pay)

    @process(version=1, registry=world.registry)
    async def order(flow: Flow) -> None:
        await flow.stage(made)

    world.install(eager_seconds=0)
    run = world.harness.start(order)
    world.advance(run)
    world.do_all()

    (request,) = requests
    assert (request.parent_id, request.hostname) == ("message", "w@here")
    assert request.delivery_info == {"routing_key": QUEUE}
    assert sorted(world.seen) == [("on_retry", "pay", "Trouble"), ("task_retry", "pay", "Trouble")]
    assert world.handoffs() == []  # a worker would have kept Celery's own in its memory
    (failed,) = world.harness.client.get(run).failures
    assert "Trouble: no money" in str(failed)
    (row,) = world.harness.database.rows("SELECT due_at FROM perennial.timer WHERE state = 'armed'")
    assert 39 < (row.due_at - world.harness.now).total_seconds() <= 40


def test_a_stages_hooks_are_those_of_the_apps_base_class(world):
    """Not of an existing task's own class: the stage is another task."""
    own = []

    class Own(Task):
        def on_failure(self, *_: Any) -> None:
            own.append(1)

    @world.app.task(name="shop.pay", base=Own, shared=False)
    def pay() -> None:
        raise Trouble

    made = stage(registry=world.registry, retry=Retry(max_attempts=1), name="pay")(pay)

    @process(version=1, registry=world.registry)
    async def order(flow: Flow) -> None:
        await flow.stage(made)

    world.install(eager_seconds=0)
    world.advance(world.harness.start(order))
    world.do_all()
    assert ("on_failure", "pay", "Trouble") in world.seen
    assert own == []


@pytest.mark.parametrize("how", ["bare", "made", "raised", "autoretry"])
def test_what_asked_for_a_retry_is_let_go_too(world, monkeypatch, how):
    """Celery's Retry is among its own arguments, and in the frame that raises it."""
    held: list[weakref.ref[Trouble]] = []
    options = {"autoretry_for": (Trouble,)} if how == "autoretry" else {}

    @world.app.task(name="shop.pay", bind=True, shared=False, default_retry_delay=1, **options)
    def pay(self: Task) -> None:
        local = Trouble()
        held.append(weakref.ref(local))
        if how == "bare":
            self.retry()
        if how == "made":
            self.retry(exc=Trouble())
        if how == "autoretry":
            raise Trouble
        try:
            fail()
        except Trouble as error:
            raise self.retry(exc=error) from None

    made = stage(registry=world.registry, retry=Retry(max_attempts=2), name="pay")(pay)

    @process(version=1, registry=world.registry)
    async def order(flow: Flow) -> None:
        await flow.stage(made)

    world.install(eager_seconds=0)
    run = world.harness.start(order)
    for name in ("celery.app.trace", "orchestrator.engine.reports"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    gc.collect()
    gc.disable()
    try:
        world.advance(run)
        world.do_all()
        world.advance(run)
        assert [each() for each in held] == [None]
    finally:
        gc.enable()


def fail() -> None:
    raise Trouble
