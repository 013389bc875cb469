"""What has failed is said: in the log, with its traceback, and to whoever listens besides.

    attempt_failed   a stage's attempt or an inline step's: WARNING where another follows, ERROR for good
    run_ended        a run that failed, expired, or became an incident: ERROR, once
    turn_committed   what a turn came to: such an end; and to hooks what else it has begun, opened and ended

Said after the commit that records it, by whoever made that commit. Said, not asked: what a listener raises is
logged, and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core.failures import FAILURES, LINE_LENGTH_MAX, clear_frames, presentable
from orchestrator.core.journal import ActivityKind
from orchestrator.core.outcome import RunContext, TurnOutcome
from orchestrator.core.run import RunStatus
from orchestrator.core.run_report import RunReport, named
from orchestrator.engine.hooks import HookCalls
from orchestrator.store.reads.loading import LoadedRun
from orchestrator.store.reads.views import get_run

log = logging.getLogger(__name__)

REPORTED = frozenset({RunStatus.FAILED, RunStatus.INCIDENT, RunStatus.EXPIRED})
"""Ends, and stops, that somebody should look at."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that raised. `retry_in_seconds` None: it was the last. `error`: as the record has it."""

    run: RunContext
    kind: ActivityKind
    key: str
    name: str
    attempt: int
    error: dict[str, Any]
    raised: BaseException
    retry_in_seconds: float | None = None


OnRun = Callable[[RunReport], None]


class Reports:
    """Who is told beside the log: nobody, until somebody listens."""

    def __init__(self, hooks: HookCalls | None = None) -> None:
        self.on_run: list[OnRun] = []
        self.hooks = hooks
        """Around attempts too, and told of what isn't logged."""

    @property
    def hook_errors(self) -> dict[str, int]:
        """How often each hook has raised, by its class and place."""
        return {} if self.hooks is None else self.hooks.errors

    def attempt_failed(self, failed: FailedAttempt) -> None:
        """Log it with its traceback, and tell."""
        run = failed.run
        last = failed.retry_in_seconds is None
        log.log(
            logging.ERROR if last else logging.WARNING,
            "%s %s of run %s (%s) failed at attempt %s, %s: %s: %s",
            failed.kind,
            failed.key,
            run.id,
            named(run.process, run.version, run.business_key),
            failed.attempt,
            "for good" if last else f"the next in {failed.retry_in_seconds:.1f} s",
            failed.error.get("type"),
            str(failed.error.get("message"))[:LINE_LENGTH_MAX],
            exc_info=presentable(failed.raised),
            extra={
                "action": "fail" if last else "retry",
                "run_id": str(run.id),
                "stage": failed.key,
                "attempt": failed.attempt,
            },
        )

    def run_ended(self, report: RunReport) -> None:
        """Log it, once, and tell. Its exception's tracebacks are let go: whoever wants them reads them now."""
        log.error(
            "%s %s: %s: %s",
            report,
            "is an incident" if report.status is RunStatus.INCIDENT else report.status,
            report.error.get("type"),
            str(report.error.get("message"))[:LINE_LENGTH_MAX],
            exc_info=None if report.exception is None else presentable(report.exception),
            extra={"action": str(report.status), "run_id": str(report.run_id)},
        )
        for listener in self.on_run:
            _call(listener, report)
        if self.hooks is not None:
            self.hooks.run_ended(report)
        clear_frames(report.exception)

    def turn_committed(self, loaded: LoadedRun, outcome: TurnOutcome) -> None:
        """What a turn has begun and opened, and whether its run has ended by it, or needs an operator."""
        hooks = self.hooks
        if hooks is not None:
            hooks.turn_committed(loaded, outcome)
        if outcome.status in REPORTED:
            self.run_ended(_report_of(loaded.context, outcome))
        elif hooks is not None and outcome.status.is_closed:
            hooks.run_ended(_report_of(loaded.context, outcome))


def _report_of(run: RunContext, outcome: TurnOutcome) -> RunReport:
    return RunReport(
        run.id,
        run.business_key,
        run.process,
        run.version,
        outcome.status,
        outcome.error or {},
        outcome.raised,
    )


def read_report(
    connection: Connection, run_id: UUID, status: RunStatus, error: dict[str, Any]
) -> RunReport | None:
    """Of a run that was ended without being loaded. None: it is gone."""
    run = get_run(connection, run_id)
    if run is None:
        return None
    return RunReport(run.id, run.business_key, run.process, run.version, status, error)


def _call(listener: Callable[[Any], None], what: object) -> None:
    try:
        listener(what)
    except FAILURES as error:
        log.error(  # noqa: TRY400 - what it raised may be as hard to print as what it was told of
            "%r failed, which was told of a failure", listener, exc_info=presentable(error)
        )
