"""Perennial: long-running business processes on the Celery fleet you already run.

Define with `process`, `stage`, `approval`, `step`; await what `Flow` offers; `install(app)` makes a
Celery app a member of the fleet; `Client` starts runs, decides, and shows what waits on whom.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.client import Client
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
    from orchestrator.engine.reports import RunReport
    from orchestrator.errors import (
        ActivityFailed,
        Fail,
        PayloadError,
        PerennialError,
        RecordedOtherwise,
        SignalTimedOut,
        WorkerLost,
    )
    from orchestrator.fleet import install
    from orchestrator.settings import Settings

__all__ = [
    "ActivityFailed",
    "Client",
    "Decision",
    "DeclarativeResult",
    "Fail",
    "Flow",
    "Outcome",
    "PayloadError",
    "PerennialError",
    "Process",
    "RecordedOtherwise",
    "Registry",
    "Retry",
    "RunReport",
    "RunStatus",
    "Settings",
    "SignalTimedOut",
    "Stage",
    "WorkerLost",
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


# Each is imported when it is used: a process's module needs neither SQLAlchemy nor Celery, a producer no
# Celery, and `perennial --help` none of them.
_HOMES = {
    "ActivityFailed": "orchestrator.errors",
    "Client": "orchestrator.client",
    "Decision": "orchestrator.core.approvals",
    "DeclarativeResult": "orchestrator.core.declarative",
    "Fail": "orchestrator.errors",
    "Flow": "orchestrator.core.flow",
    "Outcome": "orchestrator.core.approvals",
    "PayloadError": "orchestrator.errors",
    "PerennialError": "orchestrator.errors",
    "Process": "orchestrator.core.definition",
    "RecordedOtherwise": "orchestrator.errors",
    "Registry": "orchestrator.core.definition",
    "Retry": "orchestrator.core.retries",
    "RunReport": "orchestrator.engine.reports",
    "RunStatus": "orchestrator.core.run",
    "Settings": "orchestrator.settings",
    "SignalTimedOut": "orchestrator.errors",
    "Stage": "orchestrator.core.definition",
    "WorkerLost": "orchestrator.errors",
    "approval": "orchestrator.core.definition",
    "days": "orchestrator.core.definition",
    "default_registry": "orchestrator.core.definition",
    "hours": "orchestrator.core.definition",
    "idempotency_key": "orchestrator.core.steps",
    "install": "orchestrator.fleet",
    "load_process": "orchestrator.core.declarative",
    "minutes": "orchestrator.core.definition",
    "process": "orchestrator.core.definition",
    "seconds": "orchestrator.core.definition",
    "stage": "orchestrator.core.definition",
    "step": "orchestrator.core.steps",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
