"""Hooks: a plug-in's code around each attempt, and told of what this worker has recorded.

    before_attempt, after_attempt   around a stage's or a step's call, nested as middleware is
    activity_opened, activity_settled, run_started, run_ended
                                    after the commit that records it, in the worker that made it

What a hook raises changes no outcome (`engine.hooks`). What it is given names a run and an activity, and holds
nothing of what these are about: no input, no arguments, no result. (docs/adr/0061)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from orchestrator.core.journal import ActivityKind
from orchestrator.core.run_report import RunReport

AttemptOutcome = Literal["done", "failed", "lost"]
"""`lost`: nobody's to record any more, as its worker ends, or as it was handed out again."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Which run."""

    id: UUID
    business_key: str | None
    process: str
    version: int


@dataclass(frozen=True, slots=True)
class ActivityInfo:
    """Which activity of it. `kind`: `stage`, `step`, `approval`, …; `key`: its name in the journal."""

    run: RunInfo
    key: str
    kind: ActivityKind
    name: str


@dataclass(frozen=True, slots=True)
class ActivityEnd:
    """How it was recorded. `error` has `type` and `message`, and mostly `traceback`."""

    outcome: Literal["done", "failed"]
    error: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AttemptInfo:
    """Which attempt of a stage or a step: the first is 1. A step within a stage has its stage's number."""

    run: RunInfo
    key: str
    kind: ActivityKind
    name: str
    attempt: int


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """What the call came to, before it is recorded. `error` is the exception itself; `seconds` is how long it took."""

    outcome: AttemptOutcome
    error: BaseException | None = field(default=None, repr=False)
    seconds: float = 0.0


class Hooks:
    """Derive from it, override what you need, and give an instance to `install(app, hooks=[…])`.

    Hooks are plain functions, called on whatever thread is at work: of an async step on the event loop's, so they may
    not block. One that raises is logged once for each place, and counted; nothing else becomes of it.
    """

    def before_attempt(self, attempt: AttemptInfo) -> None:
        """Right before a stage or step is called. Context variables that it sets are seen there, and end with it."""

    def after_attempt(self, attempt: AttemptInfo, end: AttemptEnd) -> None:
        """Its call has ended, and isn't recorded yet. With the context variables of `before_attempt`.

        The hook that was called first is called last. One whose `before_attempt` has raised isn't called.
        """

    def run_started(self, run: RunInfo) -> None:
        """Its first turn is recorded."""

    def activity_opened(self, activity: ActivityInfo) -> None:
        """A turn of this worker's has asked for it."""

    def activity_settled(self, activity: ActivityInfo, end: ActivityEnd) -> None:
        """This worker has recorded the end of a stage, or of a flow's own step: no other attempt follows."""

    def run_ended(self, report: RunReport) -> None:
        """This worker has recorded the end of a run, whatever that is, or that it needs an operator."""
