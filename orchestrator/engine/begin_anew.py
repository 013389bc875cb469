"""A run without a past begins on the current content of its version."""

from __future__ import annotations

from orchestrator.engine.context import EngineContext
from orchestrator.store.reads.loading import LoadedRun
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions.amend import AsChecked, move_if_unchanged


def begin_anew(context: EngineContext, connection: AnyConnection, loaded: LoadedRun) -> bool:
    """A run that has had no turn stands on nothing yet: it takes the current content, if that is this worker's.

    A producer may have started it as the version was amended, or be of a release that knows of no revisions.
    """
    run = loaded.context
    is_new = loaded.turn_revision < 0 or run.chapter > 1
    if loaded.journal or not is_new:  # guard: only a run without a past begins anew
        return False
    current = context.definitions.current_at_hand(connection, run.process, run.version)
    if current is None:
        return False
    as_read = AsChecked(
        run.id,
        loaded.revision,
        run.code_revision,
        needs_turn=True,
        detail={"from": run.code_revision, "to": current, "found": "no turn was taken yet"},
    )
    moved = move_if_unchanged(
        connection, [as_read], to=current, queue=loaded.queue, actor=context.identity.name
    )
    return bool(moved)
