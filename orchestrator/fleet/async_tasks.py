"""`async def` stages as Celery sees them: the task that a message brings ends at once, and their end is another.

The first begins the coroutine, and is ignored (`celery.exceptions.Ignore`): its slot in the pool is free, its
message acknowledged as ever, and nothing has succeeded or failed yet. When the coroutine has ended and the record
is written, Celery's tracer is called under the same id: signals, log lines, `on_failure` and, where anybody hears
them, events say what has happened, when it has. (docs/adr/0053)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celery import Task

from orchestrator.core.definition import Stage
from orchestrator.engine.async_stages import AsyncStages, UnderWay
from orchestrator.engine.context import EngineContext
from orchestrator.fleet.compat import tracer_of
from orchestrator.fleet.traced import tell_end
from orchestrator.fleet.way import Worker


@dataclass
class _Ending:
    """The stage whose end is traced: the body of its task finds it here, once."""

    arguments: tuple[str, str, int]
    finish: Callable[[], None] | None


_ending: ContextVar[_Ending | None] = ContextVar("perennial_async_ending", default=None)


def is_ending() -> bool:
    """Whether the task that is traced now is the end of an `async def` stage, and no message."""
    return _ending.get() is not None


class AsyncTasks:
    """Those of one process."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._stages: AsyncStages | None = None

    @property
    def stages(self) -> AsyncStages:
        """Of this process, from the first on."""
        with self._lock:
            if self._stages is None:
                worker = self._worker
                self._stages = AsyncStages(
                    worker.context,
                    limit=worker.settings.async_stages_max,
                    together=worker.way.settle_together,
                )
            return self._stages

    def finish(self, run_id: str, key: str, attempt: int) -> bool:
        """Record the end of the stage that is traced now, and say so; False: the task came by a message."""
        ending = _ending.get()
        if ending is None or ending.finish is None or ending.arguments != (run_id, key, attempt):
            return False
        finish, ending.finish = ending.finish, None
        finish()
        return True

    def begin(self, stage: Stage[..., Any], run_id: str, key: str, attempt: int) -> bool:
        """Whether its coroutine is under way, so that nothing is to be said of its message."""
        task = self._worker.app.tasks[stage.name]
        request = _request_of(task)
        return self.stages.begin(
            stage,
            UUID(run_id),
            key,
            attempt,
            on_end=lambda under_way, context: self._trace(task, request, under_way, context),
        )

    def may_begin(self) -> bool:
        """Not while this worker goes down: then a stage holds its slot, for which Celery waits."""
        return self._stages is None or not self._stages.is_closed

    def drain(self, is_hurried: Callable[[], bool] = lambda: False) -> None:
        """This process goes down: wait for those under way; if it `is_hurried`, give them back."""
        if self._stages is not None:
            self._stages.drain(is_hurried=is_hurried)

    def give_back(self) -> None:
        """This process goes down at once."""
        if self._stages is not None:
            self._stages.give_back()

    def _trace(
        self, task: Task, request: dict[str, Any], under_way: UnderWay, context: EngineContext
    ) -> None:
        worker = self._worker
        ending = _Ending(under_way.arguments, lambda: self.stages.finish(under_way, context))
        token = _ending.set(ending)
        try:
            traced = tracer_of(task, worker.app)(request["id"], under_way.arguments, {}, request)
        finally:
            _ending.reset(token)
        if worker.is_heard():
            elapsed = worker.context.monotonic() - under_way.started
            tell_end(worker.send_event, request["id"], traced, runtime=elapsed)


def _request_of(task: Task) -> dict[str, Any]:
    """What a tracer needs of the message's request, after it has gone."""
    of = task.request
    return {
        "id": of.id,
        "task": task.name,
        "args": of.args,
        "kwargs": {},
        "argsrepr": repr(tuple(of.args or ())),
        "kwargsrepr": "{}",
        "root_id": of.root_id or of.id,
        "parent_id": of.parent_id,
        "origin": of.origin,
        "ignore_result": True,
        "is_eager": False,
        "headers": dict(of.headers or {}),
        "hostname": of.hostname,
        "delivery_info": of.delivery_info,
    }
