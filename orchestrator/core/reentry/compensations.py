"""What compensations mean to an operator's verbs: which are to be gone on with, and which forbid to go on.

A run that could not undo all that it has done is an incident: what failed is tried again, or left out. One that has
undone what it did, and has failed, does not go on from there: what it would build on is not there any more.
"""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.core.journal import ActivityState
from orchestrator.core.reentry.standing import Entry, Standing
from orchestrator.core.run import RunStatus
from orchestrator.core.undoing import COMPENSATION_FAILED
from orchestrator.errors import OperationRefused


def failed_compensations(standing: Standing) -> list[Entry]:
    """What a run stands still for, as it could not be undone."""
    if standing.status is not RunStatus.INCIDENT:
        return []
    if (standing.error or {}).get("type") != COMPENSATION_FAILED:
        return []
    return [
        entry
        for entry in standing.own()
        if entry.undoes is not None and entry.activity.state is ActivityState.FAILED
    ]


def refuse_if_undone(standing: Standing, verb: str, gone: Collection[str] = ()) -> None:
    """Of a run that has failed: `gone` are keys that leave its journal. Raises OperationRefused."""
    if standing.status is not RunStatus.FAILED:
        return
    undone = [
        entry
        for entry in standing.own()
        if entry.is_last_undoing and entry.activity.state is ActivityState.DONE
    ]
    stays = [entry for entry in undone if not entry.undoes or entry.undoes not in gone]
    if stays:  # guard: what was undone is not built on
        first = stays[-1]
        remedy = (
            f"`perennial rewind RUN --to {first.undoes}` goes back to before it was done"
            if first.undoes
            else "`perennial restart RUN` starts it once more, with the same input"
        )
        raise OperationRefused(
            f"run {standing.name} has failed and undone what it had done, {first.undoes or 'some of it'} by"
            f" {first.key}: {verb} would go on as if it were there. {remedy}"
        )
