"""For the tests of process authors: a real Postgres, the real engine, and a clock that the test holds.

    tester          ProcessTester: let time pass, look
    world           what people and partners do: start, decide, signal, answer
    stand_ins       what a stage or a step does instead: it returns, fails, dies, runs over its time
    inspection      a run's journal, timers, approvals and signals
    always_replay   each await goes on from the record: a flow that is not pure is found out
    deaths          the worker dies where it writes; `crashes`: at each place, one after the other
    databases       a fresh, migrated database for each tester
    plugin          the same for pytest: a fixture, and one server for all of a session's workers

Nothing here runs in production, and nothing in production imports it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.testing.crashes import crashes_at_each_await
    from orchestrator.testing.errors import FlowNotPure, StandInFailed, TesterError
    from orchestrator.testing.inspection import JournalLine, SignalView, TimerView
    from orchestrator.testing.stand_ins import Call
    from orchestrator.testing.tester import ProcessTester

__all__ = [
    "Call",
    "FlowNotPure",
    "JournalLine",
    "ProcessTester",
    "SignalView",
    "StandInFailed",
    "TesterError",
    "TimerView",
    "crashes_at_each_await",
]

# Each is imported when it is used: pytest imports this package for its plug-in in every session.
_HOMES = {
    "Call": "stand_ins",
    "FlowNotPure": "errors",
    "JournalLine": "inspection",
    "ProcessTester": "tester",
    "SignalView": "inspection",
    "StandInFailed": "errors",
    "TesterError": "errors",
    "TimerView": "inspection",
    "crashes_at_each_await": "crashes",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home = import_module(f"{__name__}.{_HOMES[name]}")
        found = globals()[name] = getattr(home, name)
        return found
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
