"""The private doors of Celery, kombu and billiard: every place of the house that leans on a part they don't document.

Each is named here once, with why it is needed and the first version that has it. The rest of the house calls these
names, so that a part that moves is mended in one file. `tests/contract` says for each which part has moved, and
`make test-lowest` asks that on the lowest versions that are promised. What is called for every message is bound,
not wrapped. (The doors of SQLAlchemy and psycopg: orchestrator.store.driver. Of redis-py none is used.)

Documented, and so used as they are: `app.steps`, `app.amqp.queues` and `routes`, `app.producer_pool`, `app.loader`,
`Task` and its `Context`, a worker's `app`, `hostname`, `hub`, `pool` and `timer`. One name stands in
`core/failures.py`, which knows no Celery: `celery.app.autoretry`, the module of the frames around a task's body.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from operator import attrgetter
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Celery, Task
from celery import _state as state
from celery.app import trace
from celery.app.routes import MapRoute
from celery.concurrency import prefork
from celery.exceptions import Retry
from celery.worker import state as worker_state
from kombu.messaging import Producer
from kombu.serialization import registry as serializers

_log = logging.getLogger(__name__)

# -- tasks ---------------------------------------------------------------------------------------

tasks_so_far: Callable[[Celery], Mapping[str, Task]] = attrgetter("_tasks")
"""`Celery._tasks`: an app's tasks, while it is being defined; `app.tasks` would finalize it. Since Celery 3.0."""


def task_behind(function: Any) -> Any:
    """`Proxy._get_current_object`: a decorator gives a proxy, and a subclass or a signal wants the task. Since 2.2."""
    unwrap = getattr(function, "_get_current_object", None)
    return function if unwrap is None else unwrap()


def unregistered_task(app: Celery, name: str, **attributes: Any) -> Task:
    """`Task.bind`: a task of the app's own class that no message may name, to send signals as. Since Celery 3.0."""
    made: Task = type("Run", (app.Task,), {"name": name, **attributes})()
    made.bind(app)
    return made


# -- a task's body, as a worker calls it ----------------------------------------------------------

push_task: Callable[[Task], None] = state._task_stack.push  # noqa: SLF001 - this is its place
pop_task: Callable[[], object] = state._task_stack.pop  # noqa: SLF001 - the same
"""`celery._state._task_stack`: what `current_task` finds while a stage calls an existing task. Since Celery 3.0."""

task_of_message: Callable[[], Task | None] = state.get_current_worker_task
"""`celery._state`: the task that a message brought, whatever is called in it, where no app is at hand. Since 3.0."""

requests_of: Callable[[Task], Any] = attrgetter("request_stack")
"""`Task.request_stack`: `self.request` is what lies on top (`push`, `pop`, `top`). Since Celery 3.0."""

has_custom: Callable[[Task, str], bool] = trace.task_has_custom
"""`celery.app.trace`: whether a task's class has a method of its own, as the tracer asks of `__call__`. Since 3.1."""

NEXT_MESSAGE = "signature_from_request"
"""`Task.retry` takes the message that it sends from this method of its task, gives it the request and the options, and
calls `apply_async()` of it: with another in its place a retry becomes the stage's next attempt. Since Celery 4.0."""


def cause_given_to(asked: Retry) -> object:
    """`Retry.args[1]`: the `exc` of a retry itself; `asked.exc` may be what could be pickled of it. Since 3.0."""
    return asked.args[1] if len(asked.args) > 1 else None


# -- a task, as a worker traces it ----------------------------------------------------------------

TRACE_LOG = "celery.app.trace"
"""The logger of a task's own lines, its failures among them. Since Celery 3.1."""


def tracer_of(task: Task, app: Celery) -> Callable[..., Any]:
    """`Task.__trace__`, which `celery.app.trace.build_tracer` makes as a worker starts; a later task has none yet.

    Called with (id, args, kwargs, request) it does all that a message's arrival does, and answers with `retval`,
    `info` (None, or an end that is no success, with `state` and `retval`) and `runtime`. Since Celery 4.0.
    """
    if task.__trace__ is None:
        # By its module's name: Sentry and others put their own in its place.
        task.__trace__ = trace.build_tracer(task.name, task, app=app)
    tracer: Callable[..., Any] = task.__trace__
    return tracer


def exception_info(error: Exception) -> Any:
    """`billiard.einfo.ExceptionInfo`: what `on_failure` and `task_failure` give as `einfo`. Since billiard 3.3.

    It takes none without a traceback: what was never raised gets one here.
    """
    if error.__traceback__ is None:
        with suppress(Exception):
            raise error
    return ExceptionInfo((type(error), error, error.__traceback__))


# billiard's words around the reason: `signal 9 (SIGKILL)`, `exitcode 3`.
_EXIT = re.compile(r"Worker exited prematurely: (?P<reason>.*?)(?: Job: \d+)?\.?")


def reason_of(error: Exception) -> str:
    """How a child of the pool ended, which a WorkerLostError has in words alone. With its job since billiard 3.6.4."""
    found = _EXIT.fullmatch(str(error))
    return found["reason"] if found else str(error)


# -- a worker and its pool ------------------------------------------------------------------------


def pool_class_of(worker: Any) -> type:
    """`WorkController.pool_cls`: known before the pool is made, which a refusal must be too. Since Celery 2.2."""
    pool: type = worker.pool_cls
    return pool


def ends_what_overruns(pool: type) -> bool:
    """`celery.concurrency.prefork.TaskPool`: the one pool that keeps both time limits. Since Celery 3.1."""
    return issubclass(pool, prefork.TaskPool)


def is_eventlet(pool: type) -> bool:
    """`celery.concurrency.eventlet`: by its module's name, since to import it would patch. Since Celery 2.4."""
    return pool.__module__.rpartition(".")[2] == "eventlet"


def look_at_children_of(worker: Any) -> Callable[[], object] | None:
    """`BasePool.maintain_pool`: sees at once which children have ended; Celery calls it each 5 s. Since 3.0.

    None where no event loop would call it.
    """
    look: Callable[[], object] | None = getattr(worker.pool, "maintain_pool", None)
    return None if worker.hub is None else look


def is_started_with_events(worker: Any) -> bool:
    """`WorkController.task_events`: `-E`, or its setting. Since Celery 4.0."""
    return bool(worker.task_events)


def sends_events_now(worker: Any) -> bool | None:
    """`EventDispatcher.groups` of `worker.consumer`: what remote control has made of `-E`. Since Celery 3.1.

    None while its consumer has no dispatcher.
    """
    dispatcher = getattr(getattr(worker, "consumer", None), "event_dispatcher", None)
    return None if dispatcher is None else not dispatcher.groups or "task" in dispatcher.groups


def is_told_to_terminate() -> bool:
    """`celery.worker.state.should_terminate`: whether a worker that goes down has to do so at once. Since 3.0."""
    told = worker_state.should_terminate
    return told is not None and told is not False


CONSUMER_LOG = "celery.worker.consumer.consumer"
"""The logger of why a consumer begins anew: the error is the line's exception, or among its arguments. Since 4.0."""

REFUSALS_LOGS = ("celery.worker.loops", "kombu.transport.redis")
"""Those of what a broker refuses besides: at the end of a consumer's loop, or while it goes on. Since Celery 3.1."""


def rest_between_beginnings(consumer: Any, resting: Callable[[Any], Any]) -> None:
    """`Consumer._restart_state`: its `step()` is called before a consumer begins, and is all that rests there.

    Not before it begins for the second time (Celery counts from -1). `resting`: what is to stand in its place, given
    what stood there. Since Celery 3.1.
    """
    was = getattr(consumer, "_restart_state", None)
    if was is not None:
        consumer._restart_state = resting(was)  # noqa: SLF001 - this is its place


def queues_consumed(app: Celery) -> list[str]:
    """`Queues.consume_from`: what a worker takes from, as `-Q`, its settings and remote control have it. Since 2.2."""
    return sorted(app.amqp.queues.consume_from)


def transport_of(app: Celery) -> str:
    """`Transport.driver_type`: which kind of broker it is; empty where its library isn't there. Since kombu 1.0."""
    try:
        return str(app.connection_for_read().transport.driver_type)
    except Exception:  # noqa: BLE001 - it is said where the worker connects
        return ""


def takes_unknown_tasks(consumer: Any, takes: Callable[[Any], bool]) -> None:
    """`Consumer.on_unknown_task`: where a message comes whose task the worker hasn't got, to be rejected with an error.

    `takes` is asked before; what it takes is acknowledged, and nothing is said. Since Celery 3.1.
    """
    rejects = consumer.on_unknown_task

    def on_unknown_task(body: Any, message: Any, error: Exception) -> None:
        if takes(message):
            message.ack_log_error(_log, consumer.connection_errors)
        else:
            rejects(body, message, error)

    consumer.on_unknown_task = on_unknown_task


# -- messages and routes --------------------------------------------------------------------------


def message_maker_of(app: Celery) -> Callable[..., Any]:
    """`AMQP.as_task_v2`: a task's message, unsent: we publish to queues by name, and many at once. Since Celery 4.0.

    Not `create_task_message`, which is version 1 where `task_protocol` says so, and that has no headers.
    """
    maker: Callable[..., Any] = app.amqp.as_task_v2
    return maker


def route_of(app: Celery, name: str, arguments: Sequence[object]) -> Any:
    """`Router.lookup_route`: what the app's own routers answer, before it is expanded. Since Celery 3.0."""
    task = tasks_so_far(app).get(name)
    return app.amqp.router.lookup_route(name, tuple(arguments), {}, {}, task)


def routes_stay(app: Celery) -> bool:
    """`celery.app.routes.MapRoute`: a router that is a table answers the same each time. Since Celery 3.0."""
    return all(isinstance(router, MapRoute) for router in app.amqp.routes)


def content_type_of(name: str) -> str:
    """`SerializerRegistry.name_to_type`: `accept_content` takes either, a name or a type. Since kombu 3.0."""
    found: str = serializers.name_to_type.get(name, name)
    return found


def batch(producer: Producer) -> AbstractContextManager[object]:
    """One round trip for many messages, where this kombu (5.7) and its transport can."""
    made = getattr(producer, "batch", None)
    return made() if made is not None else nullcontext()


def redis_envelope(
    body: str,
    *,
    headers: Mapping[str, Any],
    properties: Mapping[str, Any],
    queue: str,
    delivery_tag: str,
) -> dict[str, Any]:
    """A message as kombu's Redis transport has it in a queue's list, whose key is the queue's name. Since kombu 3.0.

    The body stays what it is: without `body_encoding` kombu decodes nothing.
    """
    return {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": dict(headers),
        "properties": {
            **properties,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "delivery_tag": delivery_tag,
        },
    }
