"""A Celery task that a team has already, as a stage: its body finds in `self` what it finds under Celery.

request         of a worker's form. Its id is the same for all attempts of the activity; `retries` are
                those made before this one
retry           Celery's own decides whether and when; what it would send is the stage's next attempt instead,
autoretry_for   recorded, and due at that time
Ignore          the stage is done, with None
Reject          the attempt has failed, for good unless it says `requeue=True`
replace, add_to_chord   refused: what they send would run beside the run, and nobody would wait for it
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from traceback import walk_tb
from types import TracebackType
from typing import Any
from uuid import uuid5

from celery import Task
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry

from orchestrator.core.definition import Stage
from orchestrator.core.durations import seconds_of
from orchestrator.core.retries import RetryAsked
from orchestrator.engine.context import call_plainly
from orchestrator.errors import DefinitionError, Fail, PayloadMismatch
from orchestrator.fleet.compat import (
    NEXT_MESSAGE,
    cause_given_to,
    has_custom,
    pop_task,
    push_task,
    requests_of,
    task_behind,
    task_of_message,
)
from orchestrator.store.transitions.claim import Claim

_REFUSED = {
    "replace": "let the task return, and await the other stage in the flow",
    "add_to_chord": "let the task return, and gather the stages in the flow",
}

_TRACEBACK = BaseException.__dict__["__traceback__"]


class StageRequest(Context):
    """`self.request` of a task at work as a stage."""

    next_attempt: _NextAttempt | None = None
    """What the body has asked of `retry`."""


class _NextAttempt:
    """Stands where Celery has the signature of the message that it would send."""

    def __init__(self, request: StageRequest) -> None:
        self.args, self.kwargs = request.args, request.kwargs
        self.is_asked = False

    def apply_async(self) -> None:
        """Celery's `retry` grants it; else it raises instead."""
        self.is_asked = True


def call_stage(stage: Stage[..., Any], claim: Claim, arguments: dict[str, Any]) -> Any:
    """Call the stage's function; of a Celery task its body, in a request such as a worker makes.

    Raises what it raises; RetryAsked where the task has decided itself whether it is tried again.
    """
    function: Any = stage.function
    if not isinstance(function, Task):
        return call_plainly(stage, claim, arguments)
    task: Task = task_behind(function)
    _prepare(task)
    request = _request_of(task, stage, claim, arguments)
    requests = requests_of(task)
    push_task(task)
    requests.push(request)
    try:
        outcome = _run(task, request)
    finally:
        requests.pop()
        pop_task()
    if isinstance(outcome, _Raised):  # here, where no other exception is in hand
        try:
            raise outcome.error
        finally:
            del outcome  # its traceback leads here
    return outcome


class _Raised:
    """An error that the body's own exception stands for."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _run(task: Task, request: StageRequest) -> Any:
    try:
        call = task if has_custom(task, "__call__") else task.run
        value = call(**request.kwargs)
    except Ignore:
        return None
    except Reject as rejected:
        cause = rejected.reason if isinstance(rejected.reason, BaseException) else rejected
        return _Raised(RetryAsked(cause, is_last=not rejected.requeue))
    except Retry as asked:
        return _Raised(_asked(task, asked))
    except Exception as error:
        refused = request.next_attempt is not None and not request.next_attempt.is_asked
        if refused and not isinstance(error, PayloadMismatch):
            return _Raised(RetryAsked(error, is_last=True))
        raise
    if request.next_attempt is not None and request.next_attempt.is_asked:
        message = (
            f"task {task.name} asked for a retry, and went on and returned: of a stage, it is one or the other. "
            "Write `raise self.retry(...)`, and let nothing catch it"
        )
        return _Raised(Fail(message))
    return value


def _asked(task: Task, asked: Retry) -> BaseException:
    given = cause_given_to(asked)
    cause = given if isinstance(given, BaseException) else asked.__context__ or asked
    traceback = _until_celery(asked.__traceback__)
    # It is among its own arguments and in the frame that has raised it. In a circle, what frames hold would be kept.
    asked.args = (str(asked),)
    asked.exc = asked.__context__ = None
    asked.__traceback__ = traceback if cause is asked else None
    if isinstance(cause, PayloadMismatch):
        return cause
    if _TRACEBACK.__get__(cause) is None:  # it was made for `retry`, and never raised
        _TRACEBACK.__set__(cause, traceback)
    when = asked.when
    if isinstance(when, datetime):
        at = when if when.tzinfo is not None else when.replace(tzinfo=task.app.timezone)
        return RetryAsked(cause, at=at)
    if when is None:
        return RetryAsked(cause)
    try:
        return RetryAsked(cause, delay_seconds=seconds_of(when, what=f"retry of task {task.name}"))
    except DefinitionError as wrong:
        return Fail(str(wrong))


def _until_celery(traceback: TracebackType | None) -> TracebackType | None:
    """Without the frames at its end of Celery's `retry`: what it names last is the author's line."""
    walked = list(walk_tb(traceback))
    while walked and walked[-1][0].f_globals.get("__name__") == Task.__module__:
        walked.pop()
    kept = None
    for frame, line in reversed(walked):
        kept = TracebackType(kept, frame, frame.f_lasti, line)
    return kept


def _request_of(
    task: Task, stage: Stage[..., Any], claim: Claim, arguments: dict[str, Any]
) -> StageRequest:
    message = task_of_message()
    of = message.request if message is not None else None
    run_id = claim.run.context.id
    task_id = str(uuid5(run_id, claim.key))
    queue = stage.queue or task.app.conf.task_default_queue
    return StageRequest(
        id=task_id,
        root_id=str(run_id),
        parent_id=of and of.id,
        correlation_id=task_id,
        task=task.name,
        args=[],
        kwargs=arguments,
        retries=claim.attempt - 1,
        called_directly=False,
        is_eager=False,
        timelimit=(None, stage.timeout_seconds),
        origin="perennial",
        hostname=of and of.hostname,
        delivery_info=dict(
            (of and of.delivery_info)
            or {"exchange": "", "routing_key": queue, "priority": None, "redelivered": False}
        ),
    )


def _prepare(task: Task) -> None:
    """While the task is a stage, what it asks of Celery is asked of the stage; else all is as it was. Once."""
    if "perennial_is_ready" in vars(task):
        return
    setattr(task, NEXT_MESSAGE, _next_attempt_of(task, getattr(task, NEXT_MESSAGE)))
    for name, remedy in _REFUSED.items():
        setattr(task, name, _refused(task, getattr(task, name), name, remedy))
    task.perennial_is_ready = True


def _next_attempt_of(task: Task, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def signature_from_request(
        request: Context | None = None,
        args: Any = None,
        kwargs: Any = None,
        queue: str | None = None,
        **options: Any,
    ) -> Any:
        if not isinstance(request, StageRequest):
            return original(request, args, kwargs, queue, **options)
        others = sorted(set(options) - {"countdown", "eta", "retries"})
        if queue is not None or others or not _are_the_same(task, request, args, kwargs):
            message = (
                f"task {task.name} asks for a retry with other arguments or options: of a stage, `retry` takes exc, "
                "throw, eta, countdown and max_retries. Let the flow call the stage again"
            )
            raise Fail(message)
        request.next_attempt = _NextAttempt(request)
        return request.next_attempt

    return signature_from_request


def _are_the_same(task: Task, request: StageRequest, args: Any, kwargs: Any) -> bool:
    """As in `self.retry(args=[url])`, which is how it once had to be written."""
    if args is None and kwargs is None:
        return True
    try:
        bound = inspect.signature(task.run).bind(*(args or ()), **(kwargs or {}))
    except TypeError:
        return False
    return bool(dict(bound.arguments) == request.kwargs)


def _refused(
    task: Task, original: Callable[..., Any], name: str, remedy: str
) -> Callable[..., Any]:
    @wraps(original)
    def refuse(*args: Any, **kwargs: Any) -> Any:
        if isinstance(requests_of(task).top, StageRequest):
            message = (
                f"task {task.name} calls self.{name}, which a stage can't: what it sends would run beside the run, "
                f"and nobody would wait for it. Instead, {remedy}"
            )
            raise Fail(message)
        return original(*args, **kwargs)

    return refuse
