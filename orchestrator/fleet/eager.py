"""Eager execution as Celery sees it: each stage that is taken over is a task of its own.

It runs through Celery's own tracer, under its own id, with its signals, its log lines and, where anybody
hears them, its events. What it has not got is a message: so it is taken over only where a message
would have come to this very worker, and where Celery would not have kept it back for its rate. A pool of
processes keeps time by the message: there, only where the limits of the current task are the stage's own, which
then come early by no more than a hundredth. And only for `eager_seconds`, counted from the message that began
it: other runs wait in the queue. (docs/adr/0012)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf
from typing import Any
from uuid import UUID

from celery import Celery, Task, uuid

from orchestrator.core.kinds.base import NewActivity
from orchestrator.engine.async_stages import Settling
from orchestrator.engine.context import EngineContext, NoKeptFlows, UntimedCalls
from orchestrator.engine.eager.batch import BATCH_MAX, advance_batch, settle_batch
from orchestrator.engine.eager.call_durations import CallDurations
from orchestrator.engine.eager.execution import run_stage_eagerly
from orchestrator.engine.eager.kept_flows import KeptFlows
from orchestrator.fleet.compat import tracer_of
from orchestrator.fleet.forwarding import QUEUE_HEADER
from orchestrator.fleet.routes import Routes
from orchestrator.fleet.traced import tell_end
from orchestrator.fleet.way import Worker
from orchestrator.store.transitions.claim import Claim

_Limits = tuple[float | None, float | None]


@dataclass
class _TakenOver:
    """The stage that this worker does now: the body of its task finds it here. Once: a retry comes by a message."""

    arguments: tuple[str, str, int]
    work: Callable[[], Claim | None] | None
    taken: Claim | None = None


_taken_over: ContextVar[_TakenOver | None] = ContextVar("perennial_taken_over", default=None)


def perform_taken_over(run_id: str, key: str, attempt: int) -> bool:
    """Do the stage if this worker has taken it over, and say so; False: the task came by a message."""
    current = _taken_over.get()
    if current is None or current.work is None or current.arguments != (run_id, key, attempt):
        return False
    work, current.work = current.work, None
    current.taken = work()
    return True


class Eager:
    """The way of a worker that goes on at once: with the stages that its commits open, and many runs together."""

    batch_max = BATCH_MAX

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.call_durations: UntimedCalls = CallDurations()
        self.kept_flows: NoKeptFlows = KeptFlows()

    def advance(self, run_ids: Sequence[UUID]) -> None:
        """Side by side, each with the stages that follow at once."""
        advance_batch(self._worker.context, run_ids, self._execution())

    def run_stage(self, run_id: str, key: str, attempt: int) -> None:
        """The one that this worker has taken over; or the one that a message asks for, and what follows at once."""
        if not perform_taken_over(run_id, key, attempt):
            run_stage_eagerly(self._worker.context, UUID(run_id), key, attempt, self._execution())

    def came_by_message(self) -> bool:
        """Whether the task that is traced now is none of those that were taken over."""
        return _taken_over.get() is None

    def settle_together(self, context: EngineContext, settlings: Sequence[Settling]) -> None:
        """Side by side: one statement for several."""
        settle_batch(context, settlings)

    def _execution(self) -> EagerTasks:
        """For the message that this process works on now: how long it may go on with its run."""
        worker = self._worker
        return EagerTasks(
            worker.app,
            seconds=worker.settings.eager_seconds,
            limits_are_kept=worker.pool_keeps_limits,
            send_event=worker.send_event,
            is_heard=worker.is_heard,
            routes=worker.routes,
        )


class EagerTasks:
    """An `EagerExecution` for as long as one message of this worker's is being worked on."""

    def __init__(
        self,
        app: Celery,
        *,
        seconds: float,
        limits_are_kept: bool,
        send_event: Callable[..., None] = lambda *_, **__: None,
        is_heard: Callable[[], bool] = lambda: True,
        monotonic: Callable[[], float] = time.monotonic,
        routes: Routes | None = None,
    ) -> None:
        self._routes = routes or Routes(app)
        self._app, self._monotonic = app, monotonic
        self._send_event, self._is_heard = send_event, is_heard
        self._seconds, self._until = seconds, monotonic() + seconds
        task = app.current_worker_task
        self._request = task.request if task is not None else None
        self._queue = _queue_of(self._request) if self._request is not None else None
        self._limits = _limits_of(task, self._request) if limits_are_kept else None

    def may_take(self, stage: NewActivity) -> bool:
        """Only what would come back to this queue, under the limits that are kept now, and while there is time."""
        if not self._comes_here(stage):
            return False
        task = self._app.tasks.get(stage.request.name)
        if task is None or task.rate_limit or self._monotonic() >= self._until:
            return False
        if task.is_asynchronous:  # guard: others wait for no coroutine
            return False
        # guard: limits of a pool are those of the message
        return self._limits is None or self._may_keep(_limits_of(task))

    def _comes_here(self, stage: NewActivity) -> bool:
        try:
            return self._queue == self._routes.queue_of(stage.request.name, stage.queue)
        except Exception:  # noqa: BLE001 - a router is the app's own code; the publisher says what it raises
            return False

    def _may_keep(self, limits: _Limits) -> bool:
        shortest = min((limit for limit in limits if limit is not None), default=inf)
        return limits == self._limits and shortest >= self._seconds * 100

    def perform(self, claim: Claim, work: Callable[[], Claim | None]) -> Claim | None:
        """Trace it as Celery traces a task that came by a message."""
        task, task_id = self._app.tasks[claim.name], uuid()
        arguments = (str(claim.run.context.id), claim.key, claim.attempt)
        current = _TakenOver(arguments, work)
        token = _taken_over.set(current)
        request = self._request_of(task, task_id, arguments)
        is_heard = self._is_heard()
        if is_heard:
            self._send_event(
                "task-received", uuid=task_id, name=task.name, args=request["argsrepr"], kwargs="{}"
            )
            self._send_event("task-started", uuid=task_id)
        try:
            traced = tracer_of(task, self._app)(task_id, arguments, {}, request)
        finally:
            _taken_over.reset(token)
        if is_heard:
            tell_end(self._send_event, task_id, traced, runtime=traced.runtime)
        return current.taken

    def _request_of(self, task: Task, task_id: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        of = self._request
        return {
            "id": task_id,
            "task": task.name,
            "args": arguments,
            "kwargs": {},
            "argsrepr": repr(arguments),
            "kwargsrepr": "{}",
            "root_id": task_id,
            "origin": "perennial",
            "ignore_result": True,
            "is_eager": False,
            "headers": {},  # else Celery looks for them among all of these
            "hostname": of and of.hostname,
            "delivery_info": of and of.delivery_info,
        }


def _queue_of(request: Any) -> str | None:
    """The queue that the current message came from, or had come from before it was sent on."""
    found = request.get(QUEUE_HEADER) or (request.delivery_info or {}).get("routing_key")
    return found if isinstance(found, str) else None


def _limits_of(task: Task | None, request: Any = None) -> _Limits:
    """Hard and soft, in seconds, as Celery finds them: its message's first, then its task's."""
    own = (None, None) if task is None else (task.time_limit, task.soft_time_limit)
    hard, soft = (request.timelimit if request is not None else None) or (None, None)
    return (own[0] if hard is None else hard, own[1] if soft is None else soft)
