"""What Celery's tracer came to, as a worker tells it of a task that a message brought."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.states import IGNORED, REJECTED, RETRY

from orchestrator.core.failures import repr_of


def tell_end(send_event: Callable[..., None], task_id: str, traced: Any, *, runtime: float) -> None:
    """Send the event of its success, failure or retry. Of what was ignored there is none."""
    ended, which = traced.info, {"uuid": task_id}
    if ended is None:
        send_event("task-succeeded", result="None", runtime=runtime, **which)
        return
    printed = str(getattr(traced.retval, "traceback", ""))
    if ended.state == RETRY:
        send_event("task-retried", exception=repr_of(ended.retval.exc), traceback=printed, **which)
    elif ended.state not in (IGNORED, REJECTED):
        send_event("task-failed", exception=repr_of(ended.retval), traceback=printed, **which)
