"""Celery, kombu and billiard: each private part that we rely on does what we rely on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import billiard.pool
import pytest
from celery import Celery, bootsteps, concurrency
from celery.app import trace
from celery.app.task import Context
from celery.concurrency import prefork
from celery.events.dispatcher import EventDispatcher
from celery.exceptions import MaxRetriesExceededError, Retry
from celery.states import FAILURE, RETRY
from celery.worker import control
from kombu import Connection, Producer, Queue
from packaging.version import Version
from redis import Redis
from redis.exceptions import ResponseError

from orchestrator.embedded import EmbeddedRedis
from tests.contract.doors import door


def nothing() -> None:
    """A body: Celery takes no lambda's name."""


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("contract", broker="memory://", set_as_current=False)
    app.conf.broker_connection_retry_on_startup = True
    yield app
    app.close()


# -- tasks ---------------------------------------------------------------------------------------


def test_an_apps_tasks_are_seen_before_it_is_finalized(app: Celery) -> None:
    with door("tasks_so_far", "Celery._tasks", "celery") as tasks_so_far:
        task = app.task(shared=False, name="early", lazy=False)(nothing)
        app.task(shared=False, name="late")(nothing)
        assert tasks_so_far(app).get("early") is task
        assert tasks_so_far(app).get("late") is None
        assert not app.finalized
        app.finalize()
        assert tasks_so_far(app).get("late") is app.tasks["late"]


def test_behind_what_a_decorator_gives_is_the_task(app: Celery) -> None:
    with door("task_behind", "Proxy._get_current_object", "celery") as task_behind:
        proxy = app.task(shared=False, name="lazy")(nothing)
        assert task_behind(proxy) is app.tasks["lazy"]
        assert type(task_behind(proxy)) is not type(proxy)
        assert task_behind(app.tasks["lazy"]) is app.tasks["lazy"]


def test_a_task_can_be_made_that_no_message_may_name(app: Celery) -> None:
    with door("unregistered_task", "Task.bind", "celery") as unregistered_task:
        made = unregistered_task(app, "a process", run=lambda: 7, is_perennial=True)
        assert (made.name, made.app, made.run, made.is_perennial) == ("a process", app, made.run, 1)
        assert isinstance(made, app.Task)
        assert made.request.id is None
        app.finalize()
        assert "a process" not in app.tasks


def test_a_tasks_class_is_its_own_and_the_apps_is_its_parent(app: Celery) -> None:
    """Documented, and relied on in `install`: `super(type(task), task)` is as the app's own tasks have it."""
    task = app.task(shared=False, name="ours", lazy=False, after_return=lambda *_: None)(nothing)
    assert type(task).__bases__ == (app.Task,)
    assert super(type(task), task).after_return.__func__ is app.Task.after_return


# -- a task's body -------------------------------------------------------------------------------


def test_what_is_pushed_is_the_current_task(app: Celery) -> None:
    task = app.task(shared=False, name="pushed", lazy=False)(nothing)
    with (
        door("push_task", "celery._state._task_stack", "celery") as push,
        door("pop_task", "celery._state._task_stack", "celery") as pop,
    ):
        push(task)
        assert app.current_task is task
        pop()
        assert app.current_task is None


def test_a_request_that_is_pushed_is_the_tasks_own(app: Celery) -> None:
    task = app.task(shared=False, name="asked", lazy=False)(nothing)
    with door("requests_of", "Task.request_stack", "celery") as requests_of:
        request = Context(id="7", called_directly=False)
        requests_of(task).push(request)
        assert task.request is request
        assert requests_of(task).top is request
        requests_of(task).pop()
        assert task.request.id is None


def test_the_task_that_a_message_brought_is_found_within_what_it_calls(app: Celery) -> None:
    with door("task_of_message", "get_current_worker_task", "celery") as task_of_message:
        found = []

        def find() -> None:
            found.append(task_of_message())

        task = app.task(shared=False, name="brought", lazy=False)(find)
        trace.build_tracer(task.name, task, app=app)("7", (), {}, {"id": "7", "is_eager": False})
        assert found == [task]
        assert task_of_message() is None


def test_a_class_that_calls_its_body_in_its_own_way_is_known(app: Celery) -> None:
    with door("has_custom", "celery.app.trace.task_has_custom", "celery") as has_custom:
        own = type("Own", (app.Task,), {"__call__": lambda self: self.run()})
        plain = app.task(shared=False, name="plain", lazy=False)(nothing)
        assert not has_custom(plain, "__call__")
        assert has_custom(
            app.task(shared=False, name="own", base=own, lazy=False)(nothing), "__call__"
        )


class NextMessage:
    """In the place of the message that a retry sends."""

    args, kwargs, sent = (), {}, 0

    def apply_async(self) -> None:
        self.sent += 1


def test_a_retry_sends_what_its_task_makes_of_its_request(app: Celery) -> None:
    task = app.task(shared=False, name="again", lazy=False, max_retries=2)(nothing)
    message, asked = NextMessage(), []

    def make(request: Any = None, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        asked.append((request, args, kwargs, options))
        return message

    with door("NEXT_MESSAGE", "Task.signature_from_request", "celery") as name:
        assert callable(getattr(task, name))
        setattr(task, name, make)
        request = Context(id="7", args=[], kwargs={"a": 1}, retries=0, called_directly=False)
        task.request_stack.push(request)
        with pytest.raises(Retry) as retry:
            task.retry(exc=ValueError("busy"), countdown=3)
        assert retry.value.when == 3
        assert message.sent == 1
        ((of, args, kwargs, options),) = asked
        assert (of, args, kwargs) == (request, None, None)
        assert set(options) == {"countdown", "eta", "retries"}
        request.retries = 2
        with pytest.raises(MaxRetriesExceededError):
            task.retry(countdown=3)
        assert message.sent == 1
        task.request_stack.pop()


def test_a_retry_knows_its_cause_itself() -> None:
    class Unpicklable(Exception):
        def __reduce__(self) -> str:
            raise TypeError

    with door("cause_given_to", "Retry.args", "celery") as cause_given_to:
        cause = Unpicklable("busy")
        retry = Retry("again", exc=cause, when=3)
        assert cause_given_to(retry) is cause
        assert retry.exc is not cause
        retry.args = ()
        assert cause_given_to(retry) is None


def test_the_frames_around_a_body_that_retries_by_itself_are_autoretrys(app: Celery) -> None:
    """`core/failures.py` leaves them out of where an error was raised."""
    from orchestrator.core.failures import _KERNEL

    def fail() -> None:
        raise KeyError("body")

    task = app.task(shared=False, name="auto", lazy=False, autoretry_for=(OSError,))(fail)
    with pytest.raises(KeyError) as raised:
        task.run()
    modules = [frame.f_globals["__name__"] for frame, _ in walk_tb(raised.value.__traceback__)]
    assert modules == [__name__, "celery.app.autoretry", __name__]
    assert "celery.app.autoretry" in _KERNEL


# -- a task, as a worker traces it ---------------------------------------------------------------


def request_of(task_id: str) -> dict[str, Any]:
    return {
        "id": task_id,
        "args": (),
        "kwargs": {},
        "is_eager": False,
        "ignore_result": True,
        "headers": {},
        "delivery_info": {},
    }


def test_a_tracer_does_what_a_messages_arrival_does_and_says_how_it_ended(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Mock(side_effect=trace.build_tracer)
    monkeypatch.setattr(trace, "build_tracer", made)  # as Sentry does
    seen: list[Any] = []

    def work() -> None:
        seen.append((task.request.id, task.request.headers))
        if len(seen) == 2:
            raise KeyError("busy")
        if len(seen) == 3:
            raise Retry(exc=KeyError("busy"), when=3)

    task = app.task(shared=False, name="traced", lazy=False, ignore_result=True)(work)
    with door("tracer_of", "Task.__trace__ and build_tracer", "celery") as tracer_of:
        tracer = tracer_of(task, app)
        assert tracer_of(task, app) is tracer
        assert made.call_count == 1
        done, failed, again = (tracer(each, (), {}, request_of(each)) for each in "123")
        assert seen == [("1", {}), ("2", {}), ("3", {})]
        assert (done.info, done.retval) == (None, None)
        assert done.runtime >= 0
        assert failed.info.state == FAILURE
        assert repr(failed.info.retval) == "KeyError('busy')"
        assert "KeyError: 'busy'" in failed.retval.traceback
        assert again.info.state == RETRY
        assert repr(again.info.retval.exc) == "KeyError('busy')"


def test_a_tasks_failure_is_a_line_of_the_tracers_log(app: Celery) -> None:
    def fail() -> None:
        raise KeyError("busy")

    task = app.task(shared=False, name="fails", lazy=False, ignore_result=True)(fail)
    lines: list[logging.LogRecord] = []
    with door("TRACE_LOG", "logger celery.app.trace", "celery") as name:
        log = logging.getLogger(name)
        log.addFilter(lines.append)
        try:
            trace.build_tracer(task.name, task, app=app)("7", (), {}, request_of("7"))
        finally:
            log.removeFilter(lines.append)
        assert [repr(line.exc_info[1]) for line in lines if line.exc_info] == ["KeyError('busy')"]


def test_the_signal_of_a_failure_carries_billiards_copy_of_it() -> None:
    with door("exception_info", "billiard.einfo.ExceptionInfo", "billiard") as exception_info:
        error = KeyError("busy")
        info = exception_info(error)
        assert info.type is KeyError
        assert "KeyError: 'busy'" in info.traceback
        assert str(info) == info.traceback
        assert info.tb is not None
        assert error.__traceback__ is not None


@pytest.mark.parametrize(
    ("code", "reason"), [(-9, "signal 9 (SIGKILL)"), (3, "exitcode 3"), (None, "exitcode None")]
)
def test_a_childs_end_is_told_in_billiards_words(code: int | None, reason: str) -> None:
    with door("reason_of", "words of a WorkerLostError", "billiard") as reason_of:
        job = Mock(_job=7)
        billiard.pool.Pool.mark_as_worker_lost(Mock(), job, code)
        ((_, (_, info)), _) = job._set.call_args
        error = info.exception
        assert reason_of(getattr(error, "exc", error)) == reason


# -- a worker and its pool -----------------------------------------------------------------------


def worker_of(app: Celery, **options: Any) -> Any:
    return app.WorkController(app=app, hostname="contract@here", **options)


@pytest.mark.parametrize(("pool", "ends"), [("prefork", True), ("solo", False), ("threads", False)])
def test_a_workers_pool_and_whether_it_ends_what_overruns_is_known_before_it_is_made(
    app: Celery, pool: str, *, ends: bool
) -> None:
    seen: list[Any] = []

    class Step(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def __init__(self, parent: Any, **options: Any) -> None:
            super().__init__(parent, **options)
            seen.append(pool_class_of(parent))

    app.steps["worker"].add(Step)
    with door("pool_class_of", "WorkController.pool_cls", "celery") as pool_class_of:
        worker_of(app, pool=pool)
        (found,) = seen
        assert isinstance(found, type)
    with door("ends_what_overruns", "celery.concurrency.prefork.TaskPool", "celery") as ends_it:
        assert ends_it(found) is ends


def test_eventlet_is_known_by_the_module_of_its_pool() -> None:
    with door("is_eventlet", "celery.concurrency.eventlet", "celery") as is_eventlet:
        module = concurrency.ALIASES["eventlet"].partition(":")[0]
        assert find_spec(module) is not None
        assert is_eventlet(type("TaskPool", (), {"__module__": module}))
        assert not is_eventlet(prefork.TaskPool)


def test_a_pool_can_be_asked_to_look_at_its_children(app: Celery) -> None:
    class Pool(prefork.TaskPool):
        BlockingPool = Mock(return_value=Mock(spec=billiard.pool.Pool))

    with door("look_at_children_of", "BasePool.maintain_pool", "celery") as look_at_children_of:
        pool = Pool(limit=1, app=app)
        pool.on_start()
        worker = SimpleNamespace(pool=pool, hub=object())
        assert look_at_children_of(worker) is Pool.BlockingPool.return_value.maintain_pool
        assert look_at_children_of(SimpleNamespace(pool=pool, hub=None)) is None
        assert look_at_children_of(SimpleNamespace(pool=object(), hub=object())) is None
        assert hasattr(worker_of(app, pool="solo"), "hub")


@pytest.mark.parametrize("events", [True, False])
def test_a_worker_knows_whether_it_was_started_with_events(app: Celery, *, events: bool) -> None:
    with door("is_started_with_events", "WorkController.task_events", "celery") as is_started:
        assert is_started(worker_of(app, pool="solo", task_events=events)) is events


def test_a_worker_that_goes_down_knows_whether_it_has_time(monkeypatch) -> None:
    with door("is_told_to_terminate", "celery.worker.state.should_terminate", "celery") as is_told:
        assert not is_told()
        monkeypatch.setattr("celery.worker.state.should_terminate", 1)
        assert is_told()
        monkeypatch.setattr("celery.worker.state.should_terminate", 0)  # an exit code, and a yes
        assert is_told()


def test_a_workers_events_are_switched_on_and_off_in_its_dispatchers_groups(app: Celery) -> None:
    with door("sends_events_now", "EventDispatcher.groups", "celery") as sends_events_now:
        worker = worker_of(app, pool="solo")
        assert hasattr(worker.consumer, "event_dispatcher")
        assert sends_events_now(worker) is None
        assert sends_events_now(SimpleNamespace()) is None
        for groups, sends in ((["worker"], False), (None, True)):
            dispatcher = EventDispatcher(app=app, enabled=False, groups=groups)
            worker.consumer.event_dispatcher = dispatcher
            assert sends_events_now(worker) is sends
        dispatcher = worker.consumer.event_dispatcher = EventDispatcher(
            app=app, enabled=False, groups=["worker"]
        )
        dispatcher.send = Mock()
        asked = SimpleNamespace(consumer=worker.consumer)
        control.enable_events(asked)
        assert sends_events_now(worker) is True
        control.disable_events(asked)
        assert sends_events_now(worker) is False


def test_a_consumer_begins_anew_after_a_refusal_and_asks_first_whether_to_rest() -> None:
    """The setting that `outlast` makes, the line that it takes out of the log, and the rest between."""
    app = Celery("contract", broker="redis://nowhere.invalid:1/0", set_as_current=False)
    app.conf.update(broker_connection_retry_on_startup=True, broker_channel_error_retry=True)
    consumer = worker_of(app, pool="solo").consumer
    steps, beginnings, lines = Mock(), [], []

    def start(_: Any) -> None:
        beginnings.append(steps.step.call_count)
        if len(beginnings) < 4:
            raise ResponseError("OOM command not allowed")
        consumer.blueprint.state = bootsteps.CLOSE

    def keep(line: logging.LogRecord) -> bool:
        lines.append(line)
        return False

    consumer.blueprint.start = start
    with door("rest_between_beginnings", "Consumer._restart_state", "celery") as rest:
        rest(consumer, lambda was: steps if hasattr(was, "step") else None)
        with door("CONSUMER_LOG", "logger of the consumer", "celery") as name:
            logging.getLogger(name).addFilter(keep)
            try:
                consumer.start()
            finally:
                logging.getLogger(name).removeFilter(keep)
            met = [
                each
                for line in lines
                for each in (*(line.exc_info or ()), *(line.args or ()))
                if isinstance(each, ResponseError)
            ]
            assert len(met) >= 3
        assert beginnings == [1, 1, 2, 3]
        rest(SimpleNamespace(), Mock(side_effect=AssertionError))


def test_a_worker_takes_from_its_queues_and_from_one_that_is_added() -> None:
    app = Celery("contract", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = "usual"
    with door("queues_consumed", "Queues.consume_from", "celery") as queues_consumed:
        assert queues_consumed(app) == ["usual"]
        app.amqp.queues.select_add(Queue("of its code", routing_key="of its code", expires=600))
        assert queues_consumed(app) == ["of its code", "usual"]
        app.amqp.queues.select(["narrow"])
        app.amqp.queues.select_add(Queue("of its code", routing_key="of its code", expires=600))
        assert queues_consumed(app) == ["narrow", "of its code"]


@pytest.mark.parametrize(
    ("url", "kind"),
    [("redis://nowhere.invalid:1/0", "redis"), ("memory://", "memory"), ("nothing://", "")],
)
def test_the_kind_of_a_broker_is_known_without_it(url: str, kind: str) -> None:
    with door("transport_of", "Transport.driver_type", "kombu") as transport_of:
        assert transport_of(Celery("contract", broker=url, set_as_current=False)) == kind


def test_a_message_with_an_unknown_task_can_be_taken_before_it_is_rejected(app: Celery) -> None:
    consumer = worker_of(app, pool="solo").consumer
    taken, rejected = [], []
    consumer.on_unknown_task = lambda body, message, error: rejected.append(message)
    with door("takes_unknown_tasks", "Consumer.on_unknown_task", "celery") as takes_unknown_tasks:
        takes_unknown_tasks(consumer, lambda message: taken.append(message) or message is ours)
        ours, other = (
            Mock(headers={"task": "unknown", "id": name}) for name in ("ours", "another's")
        )
        consumer.strategies = {}
        takes = consumer.create_task_handler()
        takes(ours)
        takes(other)
        assert taken == [ours, other]
        assert rejected == [other]
        ours.ack_log_error.assert_called_once()
        assert not ours.reject_log_error.called
        assert not other.ack_log_error.called


def test_refusals_are_logged_where_we_listen() -> None:
    from celery.worker import loops
    from kombu.transport import redis

    with door("REFUSALS_LOGS", "loggers of the loop and of the transport", "celery") as names:
        assert names == (loops.logger.name, redis.logger.name)


# -- messages and routes -------------------------------------------------------------------------


def test_a_tasks_message_is_made_and_published_apart(app: Celery) -> None:
    with door("message_maker_of", "AMQP.as_task_v2", "celery") as message_maker_of:
        message = message_maker_of(app)(
            "7", "ship", ("a", 1), {}, ignore_result=True, origin="perennial"
        )
        assert (message.headers["task"], message.headers["id"]) == ("ship", "7")
        assert (message.headers["origin"], message.headers["ignore_result"]) == ("perennial", True)
        assert (message.headers["eta"], message.headers["retries"]) == (None, 0)
        assert list(message.body[0]) == ["a", 1]
        queue = f"contract-{uuid4()}"
        with app.connection_for_write() as connection, connection.channel() as channel:
            Producer(channel).publish(
                message.body,
                exchange="",
                routing_key=queue,
                headers={**message.headers, "perennial_record": "r"},
                serializer="json",
                declare=[app.amqp.queues[queue]],
                retry=False,
                **message.properties,
            )
            found = Queue(queue).bind(channel).get()
            assert found.payload[0] == ["a", 1]
            assert found.headers["perennial_record"] == "r"
            assert found.properties["correlation_id"] == "7"


def route_by(app: Celery, routes: Any) -> None:
    app.conf.task_routes = routes
    app.amqp.flush_routes()
    app.amqp.router = app.amqp.Router()


def by_size(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
    return {"queue": f"of {name}", "asked": (args, kwargs, task)} if args else None


def test_an_apps_routers_are_asked(app: Celery) -> None:
    with door("route_of", "Router.lookup_route", "celery") as route_of:
        assert not route_of(app, "ship", ())
        route_by(app, {"ship": {"queue": "harbour"}, "ship.*": "sea"})
        assert route_of(app, "ship", ()) == {"queue": "harbour"}
        route_by(app, (by_size,))
        task = app.task(shared=False, name="ship", lazy=False)(nothing)
        route = route_of(app, "ship", ["a"])
        assert route == {"queue": "of ship", "asked": (("a",), {}, task)}
        assert not route_of(app, "ship", [])


def test_a_router_that_is_a_table_is_known(app: Celery) -> None:
    with door("routes_stay", "celery.app.routes.MapRoute", "celery") as routes_stay:
        assert routes_stay(app)
        route_by(app, {"ship": {"queue": "harbour"}, "ship.*": "sea"})
        assert routes_stay(app)
        route_by(app, (by_size, {"ship": "harbour"}))
        assert not routes_stay(app)


def test_a_serializer_has_a_name_and_a_type() -> None:
    with door("content_type_of", "SerializerRegistry.name_to_type", "kombu") as content_type_of:
        assert content_type_of("json") == "application/json"
        assert content_type_of("application/json") == "application/json"
        assert content_type_of("nobody's") == "nobody's"


def test_messages_go_in_batches_where_kombu_can(app: Celery) -> None:
    with door("batch", "Producer.batch", "kombu") as batch:
        assert hasattr(Producer, "batch") == (Version(version("kombu")) >= Version("5.7.0rc1"))
        queue = f"contract-{uuid4()}"
        with app.connection_for_write() as connection, connection.channel() as channel:
            producer = Producer(channel)
            with batch(producer):
                for number in range(2):
                    producer.publish(number, routing_key=queue, declare=[Queue(queue)])
            bound = Queue(queue).bind(channel)
            assert [bound.get().payload for _ in range(2)] == [0, 1]


@pytest.mark.parametrize("prefix", ["", "app:"])
def test_a_message_lies_in_redis_as_we_write_it(tmp_path: Path, app: Celery, prefix: str) -> None:
    """What the timer dispatcher moves is read by kombu, and differs in nothing from what kombu writes."""
    message = app.amqp.as_task_v2("7", "ship", ("a",), {})
    options = {"global_keyprefix": prefix}
    with (
        door("redis_envelope", "envelope and key of the Redis transport", "kombu") as envelope,
        EmbeddedRedis(tmp_path / "redis") as server,
        Redis.from_url(server.url) as redis,
        Connection(server.url, transport_options=options) as connection,
        connection.channel() as channel,
    ):
        queue = Queue("harbour").bind(channel)
        Producer(channel).publish(
            message.body,
            exchange="",
            routing_key="harbour",
            headers=message.headers,
            serializer="json",
            declare=[queue],
            **message.properties,
        )
        theirs = json.loads(redis.rpop(f"{prefix}harbour"))
        ours = envelope(
            json.dumps(message.body),
            headers=message.headers,
            properties=message.properties,
            queue="harbour",
            delivery_tag="tag",
        )
        assert set(ours) == set(theirs)
        assert set(ours["properties"]) | {"body_encoding"} == set(theirs["properties"])
        assert ours["properties"]["delivery_info"] == theirs["properties"]["delivery_info"]
        redis.lpush(f"{prefix}harbour", json.dumps(ours))
        found = queue.get()
        assert found.payload == json.loads(json.dumps(message.body))
        assert found.headers["id"] == "7"
        assert found.delivery_info["routing_key"] == "harbour"
        found.ack()
        assert redis.llen(f"{prefix}harbour") == 0
