"""The verbs that may be said of many runs: on which they act, what they do, and how each is done to one run.

A verb is done to one run in the transaction that also records what became of it, by the same function that does it to
a run alone: so its fences are the same.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core.run import MOVES, RunStatus
from orchestrator.core.selection import OPEN, WITHOUT_RESULT
from orchestrator.engine.context import EngineContext
from orchestrator.engine.operations import by_hand
from orchestrator.engine.operations.bulk_reentry import RE_ENTRY
from orchestrator.engine.operations.bulk_verb import BulkVerb, VerbCall
from orchestrator.engine.operations.cancel import Cancelling, cancel
from orchestrator.engine.start import Starts
from orchestrator.errors import PerennialError


def _resume(_context: EngineContext, connection: Connection, run_id: UUID, asked: VerbCall) -> str:
    by_hand.resume(connection, run_id, by=asked.actor)
    return ""


def _pause(_context: EngineContext, connection: Connection, run_id: UUID, asked: VerbCall) -> str:
    by_hand.pause(connection, run_id, by=asked.actor)
    return ""


def _cancel(_context: EngineContext, connection: Connection, run_id: UUID, asked: VerbCall) -> str:
    cancel(connection, run_id, Cancelling(asked.actor, asked.reason))
    return ""


def _restart(context: EngineContext, connection: Connection, run_id: UUID, asked: VerbCall) -> str:
    started = Starts(context).restart(
        run_id,
        connection,
        version=asked.arguments.get("version"),
        even_if_completed=False,
        by=asked.actor,
    )
    return f"{'' if started.created else 'restarted before: '}{started.run_id}"


_PAUSABLE = frozenset(status for status, moves in MOVES.items() if RunStatus.PAUSED in moves)
_RESUMABLE = frozenset({RunStatus.PAUSED, RunStatus.INCIDENT})
_FAILED = frozenset({RunStatus.FAILED})

VERBS = {
    verb.name: verb
    for verb in (
        BulkVerb("resume", "go on from where they stand", _RESUMABLE, _RESUMABLE, _resume),
        BulkVerb("pause", "rest until they are resumed", _PAUSABLE, _PAUSABLE, _pause),
        BulkVerb("cancel", "end for good", OPEN, OPEN, _cancel),
        BulkVerb(
            "restart",
            "start once more, from the beginning, as new runs",
            WITHOUT_RESULT,
            _FAILED,
            _restart,
            frozenset({"version"}),
        ),
        *RE_ENTRY,
    )
}


def verb_of(name: str) -> BulkVerb:
    """The verb of that name. Raises PerennialError."""
    try:
        return VERBS[name]
    except KeyError:
        known = ", ".join(sorted(VERBS))
        raise PerennialError(f"{name!r} is no verb for many runs; there are {known}") from None


def statuses_meant(
    verb: BulkVerb, asked: frozenset[RunStatus], *, of_errors: bool
) -> frozenset[RunStatus]:
    """Which runs to look at: of the statuses that the filter names, else of those that the verb is mostly for."""
    meant = asked or verb.by_default
    if of_errors and not asked:
        meant = frozenset({RunStatus.FAILED, RunStatus.INCIDENT}) & verb.by_default
    return meant
