"""The verbs that may be said of many runs: on which they act, what they do, and how each is done to one run.

A verb is done to one run in the transaction that also records what became of it, by the same function that does it to
a run alone: so its fences are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core.reentry.retry import Retrying
from orchestrator.core.run import MOVES, RunStatus
from orchestrator.core.selection import OPEN, WITHOUT_RESULT, Selected
from orchestrator.engine.context import EngineContext
from orchestrator.engine.operations import by_hand
from orchestrator.engine.operations.retry import RETRY
from orchestrator.engine.start import Starts
from orchestrator.errors import PerennialError


@dataclass(frozen=True, slots=True)
class Asked:
    """What an operator has asked for, of each run of a set."""

    by: str
    reason: str
    arguments: Mapping[str, Any]
    operation: UUID

    @property
    def actor(self) -> str:
        """As history names who, where a line of it has no place for the operation."""
        return f"{self.by} ({self.operation})"


Perform = Callable[[EngineContext, Connection, UUID, Asked], str]
"""Does it to one run, in the transaction of that connection; says what came of it. Raises PerennialError to refuse."""

Look = Callable[[EngineContext, Connection, UUID, Asked], tuple[str, ...]]
"""What it would do to one run. Writes nothing. Raises PerennialError where it would be refused."""


@dataclass(frozen=True, slots=True)
class BulkVerb:
    """`acts_on`: runs of these statuses; `by_default`: of these, where the filter names none."""

    name: str
    what: str
    acts_on: frozenset[RunStatus]
    by_default: frozenset[RunStatus]
    perform: Perform
    arguments: frozenset[str] = frozenset()
    look: Look | None = None
    """What it would do to one run, in sentences: a preview asks that of one run of each group."""

    def refusal(self, run: Selected) -> str:
        """Why it would not act on that run; empty if it would."""
        if run.status in self.acts_on:
            return ""
        return f"it is {run.status}, and {self.name} acts on {' or '.join(sorted(self.acts_on))}"


def _resume(_context: EngineContext, connection: Connection, run_id: UUID, asked: Asked) -> str:
    by_hand.resume(connection, run_id, by=asked.actor)
    return ""


def _pause(_context: EngineContext, connection: Connection, run_id: UUID, asked: Asked) -> str:
    by_hand.pause(connection, run_id, by=asked.actor)
    return ""


def _cancel(_context: EngineContext, connection: Connection, run_id: UUID, asked: Asked) -> str:
    by_hand.cancel(connection, run_id, by=asked.actor, reason=asked.reason)
    return ""


def _restart(context: EngineContext, connection: Connection, run_id: UUID, asked: Asked) -> str:
    started = Starts(context).restart(
        run_id,
        connection,
        version=asked.arguments.get("version"),
        even_if_completed=False,
        by=asked.actor,
    )
    return f"{'' if started.created else 'restarted before: '}{started.run_id}"


def _retrying(asked: Asked) -> Retrying:
    seconds = asked.arguments.get("expires_in_seconds")
    return Retrying(
        version=asked.arguments.get("version"),
        expires_in=None if seconds is None else timedelta(seconds=seconds),
    )


def _retry(context: EngineContext, connection: Connection, run_id: UUID, asked: Asked) -> str:
    result = RETRY.apply(
        context,
        connection,
        run_id,
        _retrying(asked),
        by=asked.by,
        reason=asked.reason,
        operation=str(asked.operation),
    )
    return "" if result.preview is None else ", ".join(result.preview.goes_on)


def _look_at_retry(
    context: EngineContext, connection: Connection, run_id: UUID, asked: Asked
) -> tuple[str, ...]:
    shown = RETRY.preview(context, connection, run_id, _retrying(asked))
    again = (f"done again: {what}" for what in shown.repeats)
    gone = (f"counts no more: {what}" for what in shown.drops)
    return (*shown.goes_on, *again, *gone, *shown.notes)


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
        BulkVerb(
            "retry",
            "go on from where they failed; what is done is not done again",
            _FAILED | {RunStatus.INCIDENT},
            _FAILED,
            _retry,
            frozenset({"version", "expires_in_seconds"}),
            _look_at_retry,
        ),
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
