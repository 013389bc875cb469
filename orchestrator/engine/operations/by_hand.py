"""The operator's verbs: each is a fenced move of the run's status, told in its history."""

from __future__ import annotations

from uuid import UUID

from orchestrator.core.checks import check_words, composed
from orchestrator.core.run import MOVES, RunStatus
from orchestrator.errors import PerennialError, RunClosed, RunNotFound
from orchestrator.store.reads import finding
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions.close import move_run_if_in


def pause(connection: AnyConnection, run_id: UUID, *, by: str) -> None:
    """Let the run rest: no stage is claimed and no turn taken; facts and deadlines are still recorded."""
    _move(connection, run_id, RunStatus.PAUSED, by=by, event="paused")


def resume(connection: AnyConnection, run_id: UUID, *, by: str) -> None:
    """Move a paused run or a mended incident on, through the same turn as ever."""
    origins = [RunStatus.PAUSED, RunStatus.INCIDENT]
    if not move_run_if_in(
        connection,
        run_id,
        status=RunStatus.RUNNING,
        from_statuses=origins,
        actor=actor_of(by),
        event="resumed",
    ):
        raise why_not(connection, run_id, "resumed")


def _move(
    connection: AnyConnection, run_id: UUID, status: RunStatus, *, by: str, event: str
) -> None:
    origins = [origin for origin, targets in MOVES.items() if status in targets]
    if not move_run_if_in(
        connection,
        run_id,
        status=status,
        from_statuses=origins,
        actor=actor_of(by),
        event=event,
    ):
        raise why_not(connection, run_id, event)


def actor_of(by: str) -> str:
    """As history names them."""
    if by:
        check_words(by, what="an operator", where="by")
    return composed(by) or "operator"


def why_not(connection: AnyConnection, run_id: UUID, what: str) -> PerennialError:
    """Why nothing was written."""
    status = finding.status_of(connection, run_id)
    if status is None:
        return RunNotFound(f"there is no run {run_id}")
    if RunStatus(status).is_closed:
        return RunClosed(f"run {run_id} is {status} already; it can't be {what}")
    return PerennialError(f"run {run_id} is {status}; it can't be {what} from there")
