"""Failures as Celery's users watch them: signals, `on_failure`, `on_retry`, Sentry, exporters, Flower.

A stage's failure is recorded first. Then it is raised in the stage's own task, where Celery's tracer does all
that it does of any task's: it acknowledges as ever, and neither stores nor sends anything, since we ask for none
of it. A run that failed, expired or became an incident is told as a task of its own: under the process's name
and the run's id, by `task_failure` and the app's `on_failure`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from celery import Celery, Task, signals
from celery.exceptions import Retry, TaskPredicate, Terminated, WorkerLostError

from orchestrator.core.failures import clear_frames, presentable, standing_for
from orchestrator.core.journal import ActivityKind
from orchestrator.core.run import RunStatus
from orchestrator.core.run_report import RunReport
from orchestrator.engine.hooks import HookCalls
from orchestrator.engine.reports import FailedAttempt, Reports
from orchestrator.errors import RunFailed
from orchestrator.fleet.compat import exception_info, unregistered_task

OnRun = Callable[[RunReport], None]

# What Celery's workers act upon themselves, whoever raised it: by requeueing, or by ending.
_CELERY_ACTS_ON = (TaskPredicate, MemoryError, WorkerLostError, Terminated)


@dataclass
class _Slot:
    """What the stage of the task at work has raised, and how its run has ended by it."""

    failed: FailedAttempt | None = None
    ended: list[Callable[[], None]] = field(default_factory=list)


class _Said(threading.local):
    """What this thread's last task has told."""

    id: int | None = None
    last: Retry | None = None
    ended: Sequence[Callable[[], None]] = ()


_slot: ContextVar[_Slot | None] = ContextVar("perennial_failed", default=None)
_said = _Said()


class raising_what_fails:  # noqa: N801 - it reads as a verb; a class costs a third of a generator
    """Around a task's body. At its end, the failure of the stage that was its own is raised, for Celery to see."""

    __slots__ = ("_slot", "_token")

    def __enter__(self) -> None:
        end_of_task()
        _let_go_of_last()
        self._slot = _Slot()
        self._token = _slot.set(self._slot)

    def __exit__(self, kind: object, _error: object, _traceback: object) -> None:
        _slot.reset(self._token)
        if kind is None and self._slot.failed is not None:
            _raise(self._slot)


def _raise(slot: _Slot) -> None:
    failed, slot.failed = slot.failed, None
    _said.ended = slot.ended
    assert failed is not None  # noqa: S101 - its caller has looked
    error = _for_celery(failed.raised)
    again = failed.retry_in_seconds
    _said.id = id(error)
    try:
        if again is None:
            raise error
        _said.last = retry = Retry(exc=error, when=again)
        raise retry
    finally:
        del failed, error, slot  # their tracebacks lead here


def _for_celery(raised: BaseException) -> Exception:
    """The exception itself, where Celery does no more with it than tell it."""
    shown = presentable(raised)
    if isinstance(shown, Exception) and not isinstance(shown, _CELERY_ACTS_ON):
        return shown
    return standing_for(shown)


def _let_go_of_last() -> None:
    """Celery calls nothing of ours at the end of a task that is to be retried (see `install`)."""
    _said.id = None
    last, _said.last = _said.last, None
    if last is not None:
        clear_frames(last.exc)
        clear_frames(last)
        last.args = ()  # Celery's own has itself among them


def end_of_task() -> None:
    """Celery has told of the stage's failure: now of the run's that came of it, which is news of its own."""
    if _said.ended:
        ended, _said.ended = _said.ended, ()
        for say in ended:
            say()


class TaskReports(Reports):
    """What fails in this process is told to Celery, and to the app's own hooks."""

    def __init__(
        self,
        app: Celery,
        *,
        on_failed: OnRun | None,
        on_incident: OnRun | None,
        hooks: HookCalls | None = None,
    ) -> None:
        super().__init__(hooks)
        self.on_run.append(_Runs(app).tell_celery)
        for hook, statuses in (
            (on_failed, (RunStatus.FAILED, RunStatus.EXPIRED)),
            (on_incident, (RunStatus.INCIDENT,)),
        ):
            if hook is not None:
                self.on_run.append(_only(statuses, hook))

    def attempt_failed(self, failed: FailedAttempt) -> None:
        """Log it, and keep it for the end of its task."""
        super().attempt_failed(failed)
        slot = _slot.get()
        if slot is not None and failed.kind is ActivityKind.STAGE:
            slot.failed = failed

    def run_ended(self, report: RunReport) -> None:
        """After the failure of the stage that ended it, if one did: whoever counts failures counts each once."""
        slot = _slot.get()
        if slot is None or slot.failed is None:
            super().run_ended(report)
        else:
            slot.ended.append(partial(super().run_ended, report))


def _only(statuses: tuple[RunStatus, ...], hook: OnRun) -> OnRun:
    def told(report: RunReport) -> None:
        if report.status in statuses:
            hook(report)

    return told


class _Runs:
    """The processes as tasks: never registered, and never sent."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._tasks: dict[str, Task] = {}

    def tell_celery(self, report: RunReport) -> None:
        """As the failure of a task whose name is the process, and whose id is the run's."""
        task = self._tasks.get(report.process)
        if task is None:
            task = self._tasks[report.process] = unregistered_task(
                self._app, report.process, run=_is_no_task, is_perennial=True
            )
        error = _for_celery(
            report.exception
            or RunFailed(
                report.run_id, status=report.status, message=report.error.get("message", "")
            )
        )
        einfo = exception_info(error)
        told: dict[str, Any] = {
            "task_id": str(report.run_id),
            "exception": error,
            "args": (),
            "kwargs": {"business_key": report.business_key},
            "traceback": error.__traceback__,
            "einfo": einfo,
        }
        try:
            task.on_failure(error, told["task_id"], told["args"], told["kwargs"], einfo)
        finally:
            signals.task_failure.send(sender=task, **told)
            if report.exception is None:
                clear_frames(error)  # it was raised for this alone


def _is_no_task(*_: Any, **__: Any) -> None:
    message = "a run is not a task; start it with Client.start"
    raise TypeError(message)


class SaidOnce(logging.Filter):
    """For Celery's own line of a failure: the engine has logged it, with its traceback and its run, just above."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Every line is kept. The traceback is left out where it would stand there twice."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and id(error) == _said.id:
            record.exc_info = None
        return True


said_once = SaidOnce()
"""One for all apps of a process: a logger takes each filter once."""
