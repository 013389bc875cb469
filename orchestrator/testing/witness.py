"""Who has seen what the author's code raised, so that a test gets the very exception."""

from __future__ import annotations

from types import TracebackType
from uuid import UUID

from orchestrator.core.failures import frames_of, presentable
from orchestrator.core.run_report import RunReport
from orchestrator.engine.hooks import HookCalls
from orchestrator.engine.reports import FailedAttempt, Reports
from orchestrator.errors import ActivityFailed


class Witness(Reports):
    """Keeps the last exception of each run, with its traceback, beside what is logged of it."""

    def __init__(self, hooks: HookCalls | None = None) -> None:
        super().__init__(hooks)
        self._raised: dict[UUID, tuple[BaseException, TracebackType | None]] = {}

    def note(self, run_id: UUID, raised: BaseException) -> None:
        """What a run's code has raised."""
        self._raised[run_id] = raised, frames_of(raised)

    def cause_of(self, run_id: UUID) -> BaseException | None:
        """What it has raised last, where it was raised; what stands for it where nobody could print that."""
        if run_id not in self._raised:
            return None
        raised, traceback = self._raised[run_id]
        return presentable(BaseException.with_traceback(raised, traceback))

    def attempt_failed(self, failed: FailedAttempt) -> None:
        """A stage's or a step's."""
        self.note(failed.run.id, failed.raised)
        super().attempt_failed(failed)

    def run_ended(self, report: RunReport) -> None:
        """A flow's own; what it was told of an activity is that one's."""
        told = report.exception
        if told is not None and not (
            issubclass(type(told), ActivityFailed) and report.run_id in self._raised
        ):
            self.note(report.run_id, told)
        super().run_ended(report)
