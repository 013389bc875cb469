"""Reading the record for people: lists, one run with its waits, inboxes, history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Uuid, and_, case, cast, exists, func, select, text

from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds import kind_of
from orchestrator.core.kinds.child import CHILD
from orchestrator.core.run import RunStatus
from orchestrator.core.selection import RunFilter
from orchestrator.core.views import (
    FailedActivity,
    HistoryEntry,
    RunSummary,
    RunView,
    Upcoming,
    Wait,
)
from orchestrator.store.reads.approvals import VOTES, progress_of
from orchestrator.store.reads.families import children_of
from orchestrator.store.reads.selecting import conditions
from orchestrator.store.schema.tables import (
    activity,
    approval,
    columns_in_use,
    history,
    outbox,
    process,
    run,
    timer,
    worker,
)

_RUN = columns_in_use(run)

_OPEN_STATES = [ActivityState.PENDING, ActivityState.CLAIMED, ActivityState.RETRYING]

_NEXT_TIMER = (
    select(func.min(timer.c.due_at))
    .where(timer.c.run_id == run.c.id, timer.c.state == "armed")
    .scalar_subquery()
).label("next_timer_at")

_TURN_SENDS = (
    select(outbox.c.publishes)
    .where(outbox.c.run_id == run.c.id, outbox.c.key == "")
    .scalar_subquery()
).label("turn_sends")

_IS_UNSERVED = (
    exists()
    .where(
        run.c.closed_at.is_(None),
        process.c.name == run.c.process,
        process.c.version == run.c.version,
        process.c.code_revision == run.c.code_revision,
        process.c.unserved_since.isnot(None),
    )
    .correlate(run)
).label("is_unserved")
"""As workers see it (store.transitions.serving): of runs that stand on an older revision nothing is known."""

FAILURES_MAX = 5
"""So many of a run's failed activities are read with it."""

AT_WORK = "at work"
"""The detail of a wait for what a worker has claimed."""

SIGNAL_SET_ASIDE = "signal set aside"
"""The event of a signal that did not fit the type of its wait."""

_SET_ASIDE = case(
    (
        activity.c.kind == ActivityKind.SIGNAL,
        select(history.c.detail)
        .where(
            history.c.run_id == activity.c.run_id,
            history.c.key == activity.c.key,
            history.c.event == SIGNAL_SET_ASIDE,
        )
        .order_by(history.c.id.desc())
        .limit(1)
        .scalar_subquery(),
    )
).label("set_aside")

_CHILD = run.alias()
_CHILD_STANDS = case(
    (
        activity.c.kind == CHILD,
        select(
            func.json_build_object("status", _CHILD.c.status, "waiting_for", _CHILD.c.waiting_for)
        )
        .where(_CHILD.c.id == cast(activity.c.policy.op("->>")("child"), Uuid))
        .scalar_subquery(),
    )
).label("child")

UNTAKEN_SENDS = 3
"""A handoff sent so often, over 15 s or more, is waited for by itself: no worker took it."""


def get_run(connection: Connection, run_id: UUID) -> RunView | None:
    """The run and everything it waits for. None: no such run."""
    query = select(*_RUN, _NEXT_TIMER, _TURN_SENDS, _IS_UNSERVED).where(run.c.id == run_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return RunView(
        id=row.id,
        process=row.process,
        version=row.version,
        business_key=row.business_key,
        status=RunStatus(row.status),
        stage=row.stage,
        previous_stage=row.previous_stage,
        revision=row.revision,
        input=row.input,
        output=row.output,
        error=_object(row.error) or None,
        attributes=row.attributes,
        created_at=row.created_at,
        started_at=row.started_at,
        last_progress_at=row.last_progress_at,
        expires_at=row.expires_at,
        closed_at=row.closed_at,
        next_timer_at=row.next_timer_at,
        waiting_for=row.waiting_for,
        active_milliseconds=row.active_milliseconds,
        waits=_waits(connection, row),
        queue=row.queue,
        untaken_turn=_untaken_turn(row),
        failures=_failures(connection, row),
        former_key=row.former_key,
        follows=row.follows,
        followed_by=row.followed_by,
        code_revision=row.code_revision,
        is_unserved=row.is_unserved,
        parent_id=row.parent_id,
        parent_key=row.parent_key,
        on_parent_end=row.on_parent_end,
        children_started=row.children,
        children=children_of(connection, row.id) if row.children else (),
        status_text=row.status_text or "",
        chapter=row.chapter,
        chapter_at=row.chapter_at,
    )


def list_runs(
    connection: Connection, asked: RunFilter, *, limit: int, after: UUID | None
) -> list[RunSummary]:
    """Runs, newest first; `after` is the last id of the page before."""
    query = (
        select(
            run.c.id,
            run.c.process,
            run.c.version,
            run.c.business_key,
            run.c.status,
            run.c.stage,
            run.c.waiting_for,
            run.c.created_at,
            run.c.last_progress_at,
            run.c.closed_at,
            run.c.status_text,
            _NEXT_TIMER,
            _IS_UNSERVED,
        )
        .where(*conditions(asked))
        .order_by(run.c.id.desc())
    )
    if after is not None:
        query = query.where(run.c.id < after)
    return [
        RunSummary(
            row.id,
            row.process,
            row.version,
            row.business_key,
            RunStatus(row.status),
            row.stage,
            row.waiting_for,
            row.created_at,
            row.last_progress_at,
            row.closed_at,
            row.next_timer_at,
            row.is_unserved,
            row.status_text or "",
        )
        for row in connection.execute(query.limit(limit))
    ]


def count_runs(connection: Connection, process: str | None) -> dict[RunStatus, int]:
    """How many runs stand where."""
    query = select(run.c.status, func.count().label("runs")).group_by(run.c.status)
    if process is not None:
        query = query.where(run.c.process == process)
    return {RunStatus(row.status): row.runs for row in connection.execute(query)}


def run_history(connection: Connection, run_id: UUID) -> list[HistoryEntry]:
    """Every fact of the run, in order."""
    rows = connection.execute(
        select(history).where(history.c.run_id == run_id).order_by(history.c.id)
    )
    return [
        HistoryEntry(
            row.at,
            row.actor,
            row.event,
            row.key,
            row.attempt,
            row.from_status,
            row.to_status,
            _object(row.detail),
        )
        for row in rows
    ]


def timer_lateness(
    connection: Connection, *, process: str | None, since: datetime | None
) -> list[float]:
    """Seconds between each fired timer's due moment and its firing."""
    query = select(func.extract("epoch", timer.c.fired_at - timer.c.due_at).label("late")).where(
        timer.c.state == "fired", func.isfinite(timer.c.due_at)
    )
    if process is not None:
        query = query.join(run, run.c.id == timer.c.run_id).where(run.c.process == process)
    if since is not None:
        query = query.where(timer.c.fired_at >= since)
    return [float(row.late) for row in connection.execute(query)]


def _failures(connection: Connection, run_row: Any) -> tuple[FailedActivity, ...]:
    """The newest few. Of a run that completed nobody asks for them; its history has them."""
    if run_row.status == RunStatus.COMPLETED:
        return ()
    rows = connection.execute(
        select(activity.c.key, activity.c.state, activity.c.attempt, activity.c.error)
        .where(
            activity.c.run_id == run_row.id,
            activity.c.error.is_not(None),
            activity.c.state != ActivityState.DONE,
        )
        .order_by(activity.c.opened_at.desc(), activity.c.ordinal.desc())
        .limit(FAILURES_MAX)
    )
    return tuple(
        FailedActivity(
            row.key,
            row.attempt - (row.state != ActivityState.FAILED),
            str(row.error.get("type")),
            str(row.error.get("message")),
            str(row.error.get("traceback", "")),
            str(row.error.get("at", "")),
            str(row.error.get("why", "")),
        )
        for row in rows
    )


# -- what a run waits for ------------------------------------------------------------------------


def _waits(connection: Connection, run_row: Any) -> tuple[Wait, ...]:
    rows = connection.execute(
        select(
            activity.c.key,
            activity.c.kind,
            activity.c.name,
            activity.c.state,
            activity.c.attempt,
            activity.c.queue,
            activity.c.opened_at,
            activity.c.claimed_at,
            activity.c.timeout_seconds,
            activity.c.policy,
            activity.c.error,
            worker.c.name.label("worker_name"),
            outbox.c.publishes.label("sends"),
            approval.c.assignees,
            approval.c.escalations,
            approval.c.escalation_level,
            approval.c.edition,
            approval.c.changed,
            approval.c.rule,
            VOTES,
            _SET_ASIDE,
            _CHILD_STANDS,
        )
        .outerjoin(
            approval, and_(approval.c.run_id == activity.c.run_id, approval.c.key == activity.c.key)
        )
        .outerjoin(worker, worker.c.id == activity.c.worker_id)
        .outerjoin(
            outbox, and_(outbox.c.run_id == activity.c.run_id, outbox.c.key == activity.c.key)
        )
        .where(
            activity.c.run_id == run_row.id,
            activity.c.state.in_(_OPEN_STATES),
            activity.c.parent_key.is_(None),
        )
        .order_by(activity.c.opened_at, activity.c.scope, activity.c.ordinal)
    ).all()
    deadlines = connection.execute(
        select(timer.c.key, timer.c.kind, timer.c.level, timer.c.due_at)
        .where(timer.c.run_id == run_row.id, timer.c.state == "armed")
        .order_by(timer.c.due_at, text("level"))
    ).all()
    return tuple(
        _wait(row, [deadline for deadline in deadlines if deadline.key == row.key]) for row in rows
    )


def _wait(row: Any, deadlines: list[Any]) -> Wait:
    kind = kind_of(row.kind)
    return Wait(
        kind=kind.kind,
        key=row.key,
        name=row.name,
        who=kind.who(row),
        since=row.claimed_at if row.state == ActivityState.CLAIMED else row.opened_at,
        next=(
            *_silence(row),
            *(
                Upcoming(kind.what_happens(row, deadline), deadline.due_at)
                for deadline in deadlines
            ),
        ),
        attempt=row.attempt,
        detail=_detail(row),
        edition=row.edition or 0,
        changed=row.changed or "",
        **_heartbeat(row),
    )


def _silence(row: Any) -> tuple[Upcoming, ...]:
    """When a stage at work has said nothing for too long, if it may not be silent."""
    seconds = _object(row.policy).get("heartbeat_seconds")
    if row.state != ActivityState.CLAIMED or not isinstance(seconds, int | float):
        return ()
    since = max(row.claimed_at, _heartbeat(row).get("heartbeat_at", row.claimed_at))
    try:
        at = since + timedelta(seconds=seconds)
    except OverflowError:
        return ()
    return (Upcoming("this attempt has failed, unless a heartbeat comes", at),)


def _heartbeat(row: Any) -> dict[str, Any]:
    beat = _object(row.policy).get("heartbeat")
    if not isinstance(beat, dict) or not isinstance(beat.get("at"), int | float):
        return {}
    at = datetime.fromtimestamp(beat["at"], UTC)
    return {"heartbeat": beat.get("details"), "heartbeat_at": at}


def _object(value: Any) -> dict[str, Any]:
    """An error or a detail is an object; what other hands have written is shown all the same."""
    if value is None or isinstance(value, dict):
        return value or {}
    return {"message": value if isinstance(value, str) else repr(value)}


def _detail(row: Any) -> str:
    if row.rule is not None or row.child is not None:
        return progress_of(row) if row.child is None else _of_child(row.child)
    why = kind_of(row.kind).why(row)
    if why or row.set_aside is not None:
        return why or f"a signal was set aside: {_object(row.set_aside).get('why')}"
    untaken = _untaken(row.sends, f"that has stage {row.name}")
    if row.state == ActivityState.PENDING and untaken:
        return untaken
    if row.error is not None:
        error = _object(row.error)
        return f"attempt {row.attempt - 1} failed: {error.get('type')}: {error.get('message')}"
    if row.state == ActivityState.CLAIMED:
        return AT_WORK
    return ""


def _of_child(child: dict[str, Any]) -> str:
    """How it stands, which its parent waits for."""
    if child["status"] == RunStatus.INCIDENT:
        return "it has an incident, and waits for an operator"
    waits = f", waits for {child['waiting_for']}" if child["waiting_for"] else ""
    return f"it is {child['status']}{waits}"


def _untaken(sends: int | None, which: str) -> str:
    if sends is None or sends < UNTAKEN_SENDS:
        return ""
    return f"handed off {sends} times, and no worker took it: is there one on this queue {which}?"


def _untaken_turn(run_row: Any) -> str:
    """Not of a run at rest, nor while a worker is in the turn: it has taken it."""
    if run_row.turn_token is not None or not RunStatus(run_row.status).is_moving:
        return ""
    return _untaken(run_row.turn_sends, "that has this process")
