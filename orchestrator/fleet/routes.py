"""Where messages go: to a queue by its name, found as Celery would find it.

First what the stage or process says; then what an existing task that is a stage says of itself (`queue=`); then
the app's `task_routes`, by the stage's name and by that task's own; then the app's `task_default_queue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery, Task
from celery.exceptions import QueueNotFound

from orchestrator.core.definition import Registry
from orchestrator.errors import DefinitionError
from orchestrator.fleet.compat import route_of, routes_stay


class Routes:
    """For one app. What never changes is looked up once."""

    def __init__(self, app: Celery, registry: Registry | None = None) -> None:
        self._app, self._registry = app, registry or Registry()
        self._known: dict[str, str] = {}

    def queue_of(self, task: str, queue: str | None, arguments: Sequence[object] = ()) -> str:
        """The queue's name. `queue`: as the definition says; None leaves it to the app.

        Raises DefinitionError where a route names no queue of the app's.
        """
        if queue is not None:
            return queue
        known = self._known.get(task)
        if known is not None:
            return known
        found = self._find(task, arguments)
        if routes_stay(self._app):
            self._known[task] = found
        return found

    def _find(self, name: str, arguments: Sequence[object]) -> str:
        stage = self._registry.stages.get(name)
        wrapped = getattr(stage, "function", None)
        existing = wrapped if isinstance(wrapped, Task) else None
        if existing is not None and getattr(existing, "queue", None):
            return _name_of(existing.queue)
        for each in [name, *([existing.name] if existing is not None else [])]:
            route = route_of(self._app, each, arguments)
            if route:
                return self._queue_in(route, each)
        return str(self._app.conf.task_default_queue)

    def _queue_in(self, route: Any, name: str) -> str:
        queue = route if isinstance(route, str) else route.get("queue")
        if not queue:
            raise DefinitionError(
                f"task_routes send {name!r} to {dict(route)}, which names no queue",
                where="task_routes",
                remedy="Perennial publishes to queues by name: give the route a `queue`.",
            )
        chosen = _name_of(queue)
        try:
            self._app.amqp.queues[chosen]
        except (KeyError, QueueNotFound):
            raise DefinitionError(
                f"task_routes send {name!r} to queue {chosen!r}, which is not among the app's "
                "task_queues, and task_create_missing_queues is off",
                where="task_routes",
                remedy="Declare the queue, or mend the route.",
            ) from None
        return chosen


def _name_of(queue: Any) -> str:
    return str(getattr(queue, "name", queue))
