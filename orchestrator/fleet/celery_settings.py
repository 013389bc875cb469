"""Celery's settings, at a worker's start: what can't be honoured is refused, in a sentence.

A worker that starts and moves nothing is worse than one that doesn't start. (docs/celery-settings.md)
"""

from __future__ import annotations

from collections.abc import Iterator

from celery import Celery

from orchestrator.core.definition import Registry
from orchestrator.errors import DefinitionError
from orchestrator.fleet.compat import content_type_of, is_eventlet
from orchestrator.fleet.routes import Routes
from orchestrator.fleet.timer_index import KEYS
from orchestrator.settings import Settings

ADVANCE_AND_FIRE = ("perennial.advance", "perennial.fire")
JSON = "application/json"


class WorkerRefused(SystemExit):
    """The worker ends, and these are its last words: Celery prints nothing else."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("\n".join(["perennial: this worker is not started.", *reasons]))


def check_worker(
    app: Celery, registry: Registry, settings: Settings, routes: Routes, pool: type
) -> None:
    """Raises WorkerRefused, with every reason at once."""
    reasons = [
        *_pool(pool),
        *_content(app),
        *_default_queue(app),
        *_queues(registry, settings, routes),
    ]
    if reasons:
        raise WorkerRefused(reasons)


def _pool(pool: type) -> Iterator[str]:
    if is_eventlet(pool):
        yield (
            "worker_pool is eventlet, under which nothing of ours would move. "
            "Use -P prefork, threads, gevent or solo."
        )


def _content(app: Celery) -> Iterator[str]:
    accepted = {content_type_of(each) for each in (app.conf.accept_content or ())}
    if JSON not in accepted:
        yield (
            f"accept_content is {sorted(app.conf.accept_content or ())}, and our messages are JSON: this worker "
            "would drop each. Add 'json' to accept_content."
        )


def _default_queue(app: Celery) -> Iterator[str]:
    name = app.conf.task_default_queue
    if not app.conf.task_create_missing_queues and name not in app.amqp.queues:
        yield (
            f"task_default_queue is {name!r}, which is not among task_queues, and task_create_missing_queues is off: "
            "what names no queue would go where nobody takes it. Declare the queue, or name another default."
        )


def _queues(registry: Registry, settings: Settings, routes: Routes) -> Iterator[str]:
    prefix = f"{settings.keys_prefix}:"
    keys = {prefix + key for key in KEYS}
    chosen = [
        (f"stage {stage.name}", stage.name, stage.queue) for stage in registry.stages.values()
    ]
    chosen += [
        (f"process {process.name}", ADVANCE_AND_FIRE[0], process.queue)
        for process in registry.processes.values()
    ]
    chosen += [("what names no queue", task, None) for task in ADVANCE_AND_FIRE]
    for what, task, queue in chosen:
        try:
            name = routes.queue_of(task, queue)
        except DefinitionError as refused:
            yield str(refused)
            continue
        if name in keys:
            yield (
                f"the queue of {what} is {name!r}, which is a key of our own in Redis. "
                "Name another queue, or set PERENNIAL_NAMESPACE."
            )
