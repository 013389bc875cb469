"""How runs stand, many at a time, for those who watch the fleet: three short reads for a page of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, select

from orchestrator.core.journal import ActivityState
from orchestrator.core.kinds import TimerRule, timers_that
from orchestrator.core.run import RunStatus
from orchestrator.core.run_notice import OpenApproval, Resting, RunNotice
from orchestrator.store.schema.tables import activity, approval, run, timer

_RUNS = select(
    run.c.id,
    run.c.process,
    run.c.status,
    run.c.business_key,
    run.c.created_at,
    run.c.waiting_for,
    run.c.error,
    run.c.status_text,
)


def open_runs(
    connection: Connection, *, now: datetime, limit: int, after: UUID | None
) -> list[RunNotice]:
    """Runs that have not ended, newest first; `after` is the last id of the page before."""
    query = _RUNS.where(run.c.closed_at.is_(None)).order_by(run.c.id.desc()).limit(limit)
    return _notices(connection, query if after is None else query.where(run.c.id < after), now)


def runs_of(connection: Connection, run_ids: Sequence[UUID], *, now: datetime) -> list[RunNotice]:
    """These, however they stand."""
    return _notices(connection, _RUNS.where(run.c.id.in_(run_ids)), now) if run_ids else []


def _change_nothing(rule: TimerRule) -> bool:
    """It asks more people: neither the end of a wait nor the next attempt."""
    return rule.leads_to is None


def _notices(connection: Connection, query: Select[Any], now: datetime) -> list[RunNotice]:
    rows = connection.execute(query).all()
    ids = [row.id for row in rows]
    asked: defaultdict[UUID, list[OpenApproval]] = defaultdict(list)
    for each in connection.execute(
        select(approval.c.run_id, approval.c.name, approval.c.assignees, approval.c.deadline)
        .where(approval.c.run_id.in_(ids), approval.c.state == "open")
        .order_by(approval.c.opened_at)
    ):
        asked[each.run_id].append(OpenApproval(each.name, tuple(each.assignees), each.deadline))
    deadlines: dict[UUID, datetime] = {}
    retries: dict[tuple[UUID, str], datetime] = {}
    retrying = timers_that(lambda rule: rule.leads_to is ActivityState.PENDING)
    for each in connection.execute(
        select(timer.c.run_id, timer.c.key, timer.c.kind, timer.c.due_at)
        .where(
            timer.c.run_id.in_(ids),
            timer.c.state == "armed",
            timer.c.kind.not_in(timers_that(_change_nothing)),
        )
        .order_by(timer.c.due_at)
    ):
        if each.kind in retrying:
            retries[each.run_id, each.key] = each.due_at
        elif each.kind != "expiry":
            deadlines.setdefault(each.run_id, each.due_at)
    resting = _resting(connection, retries, now)
    return [
        RunNotice(
            row.id,
            row.process,
            RunStatus(row.status),
            row.business_key,
            row.created_at,
            row.waiting_for,
            row.error,
            asked=tuple(asked[row.id]),
            deadline=deadlines.get(row.id),
            resting=resting.get(row.id) if row.status == RunStatus.RUNNING else None,
            status_text=row.status_text or "",
        )
        for row in rows
    ]


def _resting(
    connection: Connection, retries: dict[tuple[UUID, str], datetime], now: datetime
) -> dict[UUID, Resting]:
    if not retries:
        return {}
    rows = connection.execute(
        select(activity.c.run_id, activity.c.key, activity.c.attempt, activity.c.error).where(
            activity.c.run_id.in_({run_id for run_id, _ in retries}),
            activity.c.state.in_([ActivityState.RETRYING, ActivityState.PENDING]),
            activity.c.error.is_not(None),
        )
    )
    return {
        row.run_id: Resting(
            row.key,
            row.attempt,
            (retries[row.run_id, row.key] - now).total_seconds(),
            row.error,
        )
        for row in rows
        if (row.run_id, row.key) in retries
    }
