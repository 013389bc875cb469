"""What the record says became of each run, read through the public Client at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from demo.plan import PROCESSES
from demo.reference import DirectoryEffect
from orchestrator.client import Client
from orchestrator.core.run import RunStatus
from orchestrator.core.views import ApprovalView, RunSummary

PAGE = 500


@dataclass(frozen=True, slots=True)
class RecordedApproval:
    """An approval in the record. `state`: approved, rejected, timed_out, open or cancelled."""

    name: str
    state: str
    escalated: bool
    decided_by: str | None


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run as the record has it. `effects` counts the directory's, by their first word."""

    trace_id: str
    id: UUID
    process: str
    status: RunStatus
    output: Any
    approvals: tuple[RecordedApproval, ...]
    effects: Mapping[str, int]
    created_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Record:
    """All runs by trace, how late each timer fired, and the directory's totals."""

    runs: Mapping[str, RecordedRun]
    timer_lateness_seconds: tuple[float, ...]
    effects_total: int
    effects_absorbed: int

    @property
    def runs_per_second(self) -> float:
        """Runs closed, over the time from the first start to the last close."""
        closed = [run.closed_at for run in self.runs.values() if run.closed_at is not None]
        if not closed:
            return 0.0
        began = min(run.created_at for run in self.runs.values())
        return len(closed) / max((max(closed) - began).total_seconds(), 0.001)


def read_record(client: Client, effects: Sequence[DirectoryEffect]) -> Record:
    """Everything the verdict needs to know."""
    by_run = _effects_by_run(effects)
    approvals: dict[UUID, list[ApprovalView]] = {}
    for approval in _all_approvals(client):
        approvals.setdefault(approval.run_id, []).append(approval)
    runs = [
        _recorded(
            client, summary, approvals.get(summary.id, ()), by_run.get(str(summary.id), Counter())
        )
        for summary in _all_runs(client)
    ]
    return Record(
        runs={run.trace_id: run for run in runs},
        timer_lateness_seconds=tuple(client.operations.timer_lateness()),
        effects_total=len(effects),
        effects_absorbed=sum(effect.calls - 1 for effect in effects),
    )


def _recorded(
    client: Client,
    summary: RunSummary,
    approvals: Iterable[ApprovalView],
    effects: Mapping[str, int],
) -> RecordedRun:
    return RecordedRun(
        trace_id=summary.business_key or "",
        id=summary.id,
        process=summary.process,
        status=summary.status,
        output=client.get(summary.id).output,
        approvals=tuple(
            RecordedApproval(view.name, view.state, view.escalated, view.decided_by)
            for view in sorted(approvals, key=lambda view: view.opened_at)
        ),
        effects=effects,
        created_at=summary.created_at,
        closed_at=summary.closed_at,
    )


def _effects_by_run(effects: Iterable[DirectoryEffect]) -> dict[str, Counter[str]]:
    by_run: dict[str, Counter[str]] = {}
    for effect in effects:
        run_id, _, _ = effect.key.partition("/")
        by_run.setdefault(run_id, Counter())[effect.effect.partition(" ")[0]] += 1
    return by_run


def _all_runs(client: Client) -> Iterator[RunSummary]:
    for process in PROCESSES:
        after: UUID | None = None
        while page := client.list(process=process, limit=PAGE, after=after):
            yield from page
            after = page[-1].id


def _all_approvals(client: Client) -> Iterator[ApprovalView]:
    seen: set[tuple[UUID, str]] = set()
    after: datetime | None = None
    while True:
        page = client.approvals(state=None, limit=PAGE, opened_after=after)
        new = [view for view in page if (view.run_id, view.key) not in seen]
        seen.update((view.run_id, view.key) for view in new)
        yield from new
        if not new or len(page) < PAGE:
            return
        # One step back: others may have been opened in the same microsecond as the page's last.
        after = page[-1].opened_at - timedelta(microseconds=1)
