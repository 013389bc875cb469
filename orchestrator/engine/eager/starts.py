"""Starts that the threads of a client ask for at once go in one statement (docs/adr/0023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import IntegrityError

from orchestrator.core.views import Started
from orchestrator.engine.context import EngineContext
from orchestrator.engine.database_errors import is_refused
from orchestrator.engine.eager.group_commit import GroupCommit
from orchestrator.engine.start import StartRequest, Starts, start
from orchestrator.errors import UnknownProcess
from orchestrator.store.transitions.processes import InputOf
from orchestrator.store.transitions.start import has_started

LOCK_TIMEOUT_MILLISECONDS = 50
"""So long a statement that holds several threads' starts waits for a key that somebody's transaction holds."""


class GroupedStarts(Starts):
    """A client's starts, each in the statement of several if there are several."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        self._group_commit: GroupCommit[StartRequest, Started | InputOf] = GroupCommit(
            self._start_together,
            self._start_alone,
            kind=lambda request: (
                request.process,
                request.version,
                request.again_after,
                request.checked,
            ),
            mark=lambda request: request.runs[0].business_key,
            goes_alone=_goes_alone,
        )

    def start_one(self, request: StartRequest) -> Started | InputOf:
        """In a statement of its own, or of several threads'."""
        return self._group_commit.ask(request)

    def _start_together(self, asks: Sequence[StartRequest]) -> Sequence[Started | InputOf]:
        together = asks[0]
        if len(asks) > 1:
            together = replace(together, runs=[run for request in asks for run in request.runs])
        with self._context.connection() as connection:
            answers = start(
                connection,
                together,
                lock_timeout_milliseconds=LOCK_TIMEOUT_MILLISECONDS,  # guard: lock timeout of starts of several
            )
        return [answers] * len(asks) if isinstance(answers, InputOf) else answers

    def _start_alone(self, request: StartRequest) -> Started | InputOf:
        try:
            return super().start_one(request)
        except IntegrityError:  # guard: a start that is there already
            # Among others it may have started, though whoever asked for all of them was ended before it said so.
            with self._context.connection() as connection:
                found = has_started(connection, request.runs[0])
            if found is None:  # guard: no answer is no run
                raise
            return found


def _goes_alone(failure: Exception, how_many: int) -> bool:
    """Each asks once more alone where Postgres refused the statement of several, or the lock timeout ran out."""
    if isinstance(failure, UnknownProcess):
        return how_many > 1
    has_waited = getattr(getattr(failure, "orig", None), "sqlstate", None) == (
        LockNotAvailable.sqlstate
    )
    return is_refused(failure) and (
        how_many > 1  # guard: a start that is refused among others
        or has_waited  # guard: a start that waits gives its place up
    )
