"""Perennial: long-running business processes on the Celery fleet you already run.

Define with `process`, `stage`, `approval`, `step`; await what `Flow` offers; `install(app)` makes a
Celery app a member of the fleet; `Client` starts runs, decides, and shows what waits on whom.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orchestrator.core.approvals import Decision, Outcome
from orchestrator.core.declarative import DeclarativeResult, load_process
from orchestrator.core.definition import (
    Process,
    Registry,
    Stage,
    approval,
    days,
    default_registry,
    hours,
    minutes,
    process,
    seconds,
    stage,
)
from orchestrator.core.flow import Flow
from orchestrator.core.retries import Retry
from orchestrator.core.run import RunStatus
from orchestrator.core.steps import idempotency_key, step
from orchestrator.errors import ActivityFailed, Fail, PerennialError, SignalTimedOut
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.client import Client
    from orchestrator.fleet import install

__all__ = [
    "ActivityFailed",
    "Client",
    "Decision",
    "DeclarativeResult",
    "Fail",
    "Flow",
    "Outcome",
    "PerennialError",
    "Process",
    "Registry",
    "Retry",
    "RunStatus",
    "Settings",
    "SignalTimedOut",
    "Stage",
    "approval",
    "days",
    "default_registry",
    "hours",
    "idempotency_key",
    "install",
    "load_process",
    "minutes",
    "process",
    "seconds",
    "stage",
    "step",
]


# Imported when used: a process's module needs neither SQLAlchemy nor Celery, a producer no Celery.
_LATE = {"Client": "orchestrator.client", "install": "orchestrator.fleet"}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
