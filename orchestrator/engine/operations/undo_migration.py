"""The runs that a plan has moved are moved back: each that has made no step since."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core import codec
from orchestrator.core.run import RunStatus
from orchestrator.engine.context import EngineContext
from orchestrator.engine.operations.migrate import Progress, actor_of, moved_runs, silent
from orchestrator.errors import PerennialError
from orchestrator.store.reads.migrations import MovedRun
from orchestrator.store.transitions.migrate import hold_run_to_rewrite
from orchestrator.store.transitions.undo_migration import undo_migration


@dataclass(frozen=True, slots=True)
class UndoneMigration:
    """What became of an undoing. `stay`: runs that can't be moved back, each with its reason."""

    plan_id: str
    undone: int
    stay: tuple[tuple[str, str], ...]


def undo(
    context: EngineContext,
    plan_id: str,
    *,
    by: str,
    reason: str = "",
    progress: Progress = silent,
) -> UndoneMigration:
    """Move back the runs that this plan has moved, and that have made no step since.

    Raises PerennialError: no run was moved by it.
    """
    by, reason = actor_of(by), codec.readable(reason)
    moved = list(moved_runs(context, plan_id))
    if not moved:
        raise PerennialError(
            f"no run stands where plan {plan_id!r} has moved it. `perennial migrate preview` tells a plan's id"
        )
    undone, stay = 0, []
    for count, run in enumerate(moved, 1):
        why = _why_it_stays(run) or _undo_one(context, plan_id, run, by=by, reason=reason)
        if why:
            stay.append((run.called, why))
        else:
            undone += 1
        progress(count)
    return UndoneMigration(plan_id, undone, tuple(stay))


def _why_it_stays(run: MovedRun) -> str:
    if RunStatus(run.status).is_closed:
        return f"it is {run.status}"
    if run.revision != run.after_revision:
        return "it has made a step since"
    return ""


def _undo_one(context: EngineContext, plan_id: str, run: MovedRun, *, by: str, reason: str) -> str:
    with context.transaction() as connection:
        if hold_run_to_rewrite(connection, run.run_id):
            return "a worker is at a stage of it"
        if undo_migration(connection, plan_id, run.run_id, by=by, reason=reason):
            return ""
    return "it has made a step since"
