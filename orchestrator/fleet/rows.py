"""A run as a row of Flower's: a task event under the run's own id.

Celery's monitors keep a task's state unless the next one ranks higher: after a state of one's own, `STARTED` and
`REVOKED` are taken for news of what was before, and change nothing. So all that a run comes through are states of
its own, and only its ends are Celery's.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from orchestrator.core.run import RunStatus
from orchestrator.core.run_notice import RunNotice

_EVENTS = {
    RunStatus.RUNNING: "task-running",
    RunStatus.WAITING: "task-waiting",
    RunStatus.PAUSED: "task-paused",
    RunStatus.INCIDENT: "task-incident",
    RunStatus.COMPLETED: "task-succeeded",
    RunStatus.FAILED: "task-failed",
    RunStatus.CANCELLED: "task-cancelled",
    RunStatus.EXPIRED: "task-failed",
}

_RESTING = "task-retried"


def event_of(notice: RunNotice, now: datetime) -> tuple[str, dict[str, Any]]:
    """The event, and what the row shows: the business key where its arguments stand, the wait beside it.

    Flower's list shows some forty characters of each: who can act and until when stand in a column of their own.
    """
    words = notice.words(now)
    error = notice.resting.error if notice.resting is not None else notice.error
    told = f"{error.get('type')}: {error.get('message')}" if error else None
    return (
        _EVENTS[notice.status] if notice.resting is None else _RESTING,
        {
            "uuid": str(notice.run_id),
            "name": notice.process,
            # Flower sorts its rows by it.
            "received": notice.created_at.timestamp() if notice.created_at else time.time(),
            "args": notice.business_key or "",
            "kwargs": words,
            "retries": notice.resting.attempt - 1 if notice.resting is not None else 0,
            "result": notice.whose_turn(now) or told or notice.status.value,
            "exception": told,
            "traceback": error.get("traceback") if error else None,
            "runtime": None,
        },
    )
