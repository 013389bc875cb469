"""Perennial: long-running business processes on the Celery fleet you already run.

Define with `process`, `stage`, `approval`, `step`; await what `Flow` offers; `install(app)` makes a
Celery app a member of the fleet; `Client` starts runs, decides, and shows what waits on whom.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.client import Client
    from orchestrator.client.asynchronous import AsyncClient
    from orchestrator.core.approvals import Decision, Outcome
    from orchestrator.core.branch_results import (
        BranchOutcome,
        BranchResults,
        BranchState,
        RaceResult,
        WhyCompleted,
    )
    from orchestrator.core.calendars import BusinessTime, Calendar, business_days, business_hours
    from orchestrator.core.callback_token import CallbackToken
    from orchestrator.core.declarative import DeclarativeResult, load_process
    from orchestrator.core.decorators import approval, process, stage
    from orchestrator.core.definition import Process, Registry, Stage, default_registry
    from orchestrator.core.durations import days, hours, minutes, seconds
    from orchestrator.core.flow import Flow
    from orchestrator.core.flow_poll import Backoff
    from orchestrator.core.kinds.child import ChildHandle
    from orchestrator.core.retries import Retry
    from orchestrator.core.retry_later import RetryLater, retry_after
    from orchestrator.core.run import RunStatus
    from orchestrator.core.selection import Between, RunFilter
    from orchestrator.core.steps import idempotency_key, step
    from orchestrator.engine.reports import RunReport
    from orchestrator.errors import (
        ActivityCancelled,
        ActivityFailed,
        AlreadyDecided,
        ApprovalChanged,
        BadBrokerURL,
        BadDatabaseURL,
        BlockTimedOut,
        BranchCancelled,
        CallbackFailed,
        CallbackRefused,
        CallbackTimedOut,
        ChildFailed,
        ChildKeyTaken,
        ChildRefused,
        CorrelationTaken,
        DecisionRefused,
        DecisionTooEarly,
        DecisionTooLate,
        DefinitionError,
        Fail,
        HeartbeatTimedOut,
        InvalidArguments,
        InvalidInput,
        NotAssigned,
        OperationRefused,
        PayloadError,
        PayloadMismatch,
        PerennialError,
        PollTimedOut,
        PoolerBetween,
        ProcessChanged,
        RunClosed,
        RunCompleted,
        RunFailed,
        RunNotClosed,
        RunNotFound,
        SchemaNotReady,
        SettingsError,
        SignalTimedOut,
        StalePreview,
        TooFewSucceeded,
        TooManySignals,
        UnknownAttribute,
        UnknownProcess,
        UnknownStage,
        UnusableConnection,
        WaitTimedOut,
        WorkerLost,
    )
    from orchestrator.fleet import install
    from orchestrator.settings import Settings

__all__ = [
    "ActivityCancelled",
    "ActivityFailed",
    "AlreadyDecided",
    "ApprovalChanged",
    "AsyncClient",
    "Backoff",
    "BadBrokerURL",
    "BadDatabaseURL",
    "Between",
    "BlockTimedOut",
    "BranchCancelled",
    "BranchOutcome",
    "BranchResults",
    "BranchState",
    "BusinessTime",
    "Calendar",
    "CallbackFailed",
    "CallbackRefused",
    "CallbackTimedOut",
    "CallbackToken",
    "ChildFailed",
    "ChildHandle",
    "ChildKeyTaken",
    "ChildRefused",
    "Client",
    "CorrelationTaken",
    "Decision",
    "DecisionRefused",
    "DecisionTooEarly",
    "DecisionTooLate",
    "DeclarativeResult",
    "DefinitionError",
    "Fail",
    "Flow",
    "HeartbeatTimedOut",
    "InvalidArguments",
    "InvalidInput",
    "NotAssigned",
    "OperationRefused",
    "Outcome",
    "PayloadError",
    "PayloadMismatch",
    "PerennialError",
    "PollTimedOut",
    "PoolerBetween",
    "Process",
    "ProcessChanged",
    "RaceResult",
    "Registry",
    "Retry",
    "RetryLater",
    "RunClosed",
    "RunCompleted",
    "RunFailed",
    "RunFilter",
    "RunNotClosed",
    "RunNotFound",
    "RunReport",
    "RunStatus",
    "SchemaNotReady",
    "Settings",
    "SettingsError",
    "SignalTimedOut",
    "Stage",
    "StalePreview",
    "TooFewSucceeded",
    "TooManySignals",
    "UnknownAttribute",
    "UnknownProcess",
    "UnknownStage",
    "UnusableConnection",
    "WaitTimedOut",
    "WhyCompleted",
    "WorkerLost",
    "approval",
    "business_days",
    "business_hours",
    "days",
    "default_registry",
    "hours",
    "idempotency_key",
    "install",
    "load_process",
    "minutes",
    "process",
    "retry_after",
    "seconds",
    "stage",
    "step",
]


# Each is imported when it is used: a process's module needs neither SQLAlchemy nor Celery, a producer no
# Celery, and `perennial --help` none of them.
_HOMES = {
    "ActivityCancelled": "orchestrator.errors",
    "BlockTimedOut": "orchestrator.errors",
    "BranchCancelled": "orchestrator.errors",
    "BranchOutcome": "orchestrator.core.branch_results",
    "BranchResults": "orchestrator.core.branch_results",
    "BranchState": "orchestrator.core.branch_results",
    "RaceResult": "orchestrator.core.branch_results",
    "TooFewSucceeded": "orchestrator.errors",
    "WhyCompleted": "orchestrator.core.branch_results",
    "ActivityFailed": "orchestrator.errors",
    "AlreadyDecided": "orchestrator.errors",
    "AsyncClient": "orchestrator.client.asynchronous",
    "BadBrokerURL": "orchestrator.errors",
    "BadDatabaseURL": "orchestrator.errors",
    "Between": "orchestrator.core.selection",
    "Client": "orchestrator.client",
    "Decision": "orchestrator.core.approvals",
    "DecisionRefused": "orchestrator.errors",
    "DecisionTooEarly": "orchestrator.errors",
    "DecisionTooLate": "orchestrator.errors",
    "DeclarativeResult": "orchestrator.core.declarative",
    "DefinitionError": "orchestrator.errors",
    "Fail": "orchestrator.errors",
    "Flow": "orchestrator.core.flow",
    "InvalidArguments": "orchestrator.errors",
    "InvalidInput": "orchestrator.errors",
    "ApprovalChanged": "orchestrator.errors",
    "NotAssigned": "orchestrator.errors",
    "OperationRefused": "orchestrator.errors",
    "Outcome": "orchestrator.core.approvals",
    "PayloadError": "orchestrator.errors",
    "PerennialError": "orchestrator.errors",
    "PoolerBetween": "orchestrator.errors",
    "Process": "orchestrator.core.definition",
    "ProcessChanged": "orchestrator.errors",
    "PayloadMismatch": "orchestrator.errors",
    "Registry": "orchestrator.core.definition",
    "Retry": "orchestrator.core.retries",
    "RetryLater": "orchestrator.core.retry_later",
    "retry_after": "orchestrator.core.retry_later",
    "RunClosed": "orchestrator.errors",
    "RunCompleted": "orchestrator.errors",
    "RunFailed": "orchestrator.errors",
    "RunFilter": "orchestrator.core.selection",
    "RunNotClosed": "orchestrator.errors",
    "RunNotFound": "orchestrator.errors",
    "RunReport": "orchestrator.engine.reports",
    "RunStatus": "orchestrator.core.run",
    "SchemaNotReady": "orchestrator.errors",
    "Settings": "orchestrator.settings",
    "SettingsError": "orchestrator.errors",
    "SignalTimedOut": "orchestrator.errors",
    "StalePreview": "orchestrator.errors",
    "Stage": "orchestrator.core.definition",
    "UnknownAttribute": "orchestrator.errors",
    "UnknownProcess": "orchestrator.errors",
    "UnknownStage": "orchestrator.errors",
    "UnusableConnection": "orchestrator.errors",
    "WaitTimedOut": "orchestrator.errors",
    "WorkerLost": "orchestrator.errors",
    "approval": "orchestrator.core.decorators",
    "BusinessTime": "orchestrator.core.calendars",
    "Calendar": "orchestrator.core.calendars",
    "business_days": "orchestrator.core.calendars",
    "business_hours": "orchestrator.core.calendars",
    "days": "orchestrator.core.durations",
    "default_registry": "orchestrator.core.definition",
    "hours": "orchestrator.core.durations",
    "idempotency_key": "orchestrator.core.steps",
    "install": "orchestrator.fleet",
    "load_process": "orchestrator.core.declarative",
    "minutes": "orchestrator.core.durations",
    "process": "orchestrator.core.decorators",
    "seconds": "orchestrator.core.durations",
    "stage": "orchestrator.core.decorators",
    "step": "orchestrator.core.steps",
    "TooManySignals": "orchestrator.errors",
    "CorrelationTaken": "orchestrator.errors",
    "CallbackFailed": "orchestrator.errors",
    "ChildFailed": "orchestrator.errors",
    "ChildHandle": "orchestrator.core.kinds.child",
    "ChildKeyTaken": "orchestrator.errors",
    "ChildRefused": "orchestrator.errors",
    "CallbackRefused": "orchestrator.errors",
    "CallbackTimedOut": "orchestrator.errors",
    "HeartbeatTimedOut": "orchestrator.errors",
    "CallbackToken": "orchestrator.core.callback_token",
    "Backoff": "orchestrator.core.flow_poll",
    "PollTimedOut": "orchestrator.errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
