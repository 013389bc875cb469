"""Cancel a run: at once, or so that it cleans up first, and what it has done is undone. One door, whoever cancels."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.checks import check_delay
from orchestrator.core.durations import Duration, seconds_or_none
from orchestrator.core.ending_early import CLEAN_UP_SECONDS, EarlyEnd
from orchestrator.core.run import RunStatus
from orchestrator.engine.operations.by_hand import actor_of, why_not
from orchestrator.errors import RunCancelling
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions.close import close_run_if_open
from orchestrator.store.transitions.end_early import (
    Found,
    begin_early_end_if_open,
    read_early_end,
)

CANCELLING = "cancelling"
"""History's word for it."""

_WITHIN = "clean_up_within"


@dataclass(frozen=True, slots=True)
class Cancelling:
    """What is asked for: by whom, and why. `now`: whatever cleans up."""

    by: str
    reason: str
    compensate: bool = False
    now: bool = False
    clean_up_within: Duration | None = None


def cancel(connection: AnyConnection, run_id: UUID, asked: Cancelling) -> None:
    """End the run. Where nobody asks for clean-up, or `now`, it is closed in this transaction.

    It cleans up first where its process says so, or `clean_up_within` is given, or `compensate`: then what it has done
    is undone, too. Raises RunNotFound, RunClosed, RunCancelling.
    """
    actor, compensate = actor_of(asked.by), asked.compensate
    given = seconds_or_none(asked.clean_up_within, what=_WITHIN)
    if given is not None:
        check_delay(given, what=_WITHIN)
    why = codec.readable(asked.reason) or f"cancelled by {actor}"
    error = {"type": "Cancelled", "message": why}
    if not asked.now:
        found = read_early_end(connection, run_id)
        if found is None or RunStatus(found.status).is_closed:
            raise why_not(connection, run_id, "cancelled")
        within = _clean_up_seconds(found, given, undoes=compensate)
        if found.early_end is not None:
            raise _cancelling(run_id)
        if within is not None:
            end = EarlyEnd(RunStatus.CANCELLED, error, undoes=compensate)
            if not begin_early_end_if_open(
                connection, run_id, end, within_seconds=within, actor=actor, event=CANCELLING
            ):
                found = read_early_end(connection, run_id)
                if found is not None and not RunStatus(found.status).is_closed:
                    raise _cancelling(run_id)
                raise why_not(connection, run_id, "cancelled")
            return
    if not close_run_if_open(
        connection, run_id, status=RunStatus.CANCELLED, actor=actor, error=error
    ):
        raise why_not(connection, run_id, "cancelled")


def _clean_up_seconds(found: Found, given: float | None, *, undoes: bool) -> float | None:
    """How long it may clean up. None: nobody has asked for that."""
    if given is not None:
        return given
    if found.clean_up is not None:
        return found.clean_up.within_seconds
    return CLEAN_UP_SECONDS if undoes else None


def _cancelling(run_id: UUID) -> RunCancelling:
    return RunCancelling(
        f"run {run_id} is being ended already, and cleans up. `perennial show RUN` tells what it waits for, and"
        " `perennial cancel RUN --now` ends it at once"
    )
