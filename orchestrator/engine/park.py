"""Park the run of an attempt that cannot be done now: the attempt is handed back, and an operator called."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core.causes import cause_of, marked
from orchestrator.core.failures import without_traceback
from orchestrator.core.run import RunStatus
from orchestrator.store.transitions import lost_attempts


def park_attempt(
    connection: Connection,
    run_id: UUID,
    key: str,
    attempt: int,
    *,
    name: str,
    from_status: str,
    error: dict[str, Any],
    actor: str,
) -> None:
    """Make the run an incident. The caller has locked the run and its claimed attempt, which is of the stage `name`.

    Whatever the retries allow, `resume` makes one attempt more: an operator asks for it.
    """
    lost_attempts.hand_out_again_if_claimed(connection, run_id, key, attempt, error=error)
    lost_attempts.park_run_if_moving(
        connection,
        run_id,
        error=marked({**error, "activity": key}, cause_of(error["type"], error["message"], name)),
    )
    lost_attempts.raise_revision(connection, run_id)
    lost_attempts.append_history(
        connection,
        run_id,
        actor=actor,
        event=RunStatus.INCIDENT.value,
        from_status=from_status,
        key=key,
        attempt=attempt,
        detail=without_traceback(error),
    )
