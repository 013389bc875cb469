"""`client.operations`: what an operator does, with one run or looking at all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from orchestrator.client.door import Door, RunReference
from orchestrator.core.run import RunStatus
from orchestrator.core.views import Started
from orchestrator.engine import operate
from orchestrator.engine.start import Starts
from orchestrator.store.callers import CallersConnection
from orchestrator.store.reads import views


class Operations:
    """Each verb is one transaction of its own, or, with `connection=`, part of the caller's."""

    def __init__(self, door: Door, starts: Starts) -> None:
        self._door, self._starts = door, starts

    def restart(
        self,
        run: RunReference,
        *,
        version: int | None = None,
        even_if_completed: bool = False,
        by: str = "",
        connection: CallersConnection | None = None,
    ) -> Started:
        """Start a run that has ended once more: same input, attributes and business key, a new run.

        It is of the newest deployed version, or of `version`. The run that ended gives its key up, and the
        history of both says so. A run that was restarted before answers with the run that follows it, `created`
        False. Raises RunNotFound, RunNotClosed, RunCompleted, InvalidInput.
        """
        with self._door.on(connection) as own:
            return self._starts.restart(
                self._door.id_of(own, run),
                own,
                version=version,
                even_if_completed=even_if_completed,
                by=by,
            )

    def pause(
        self, run: RunReference, *, by: str = "", connection: CallersConnection | None = None
    ) -> None:
        """Let a run rest; facts and deadlines are still recorded."""
        with self._door.on(connection) as own:
            operate.pause(own, self._door.id_of(own, run), by=by)

    def resume(
        self, run: RunReference, *, by: str = "", connection: CallersConnection | None = None
    ) -> None:
        """Move a paused run, or a mended incident, on."""
        with self._door.on(connection) as own:
            operate.resume(own, self._door.id_of(own, run), by=by)

    def counts(self, process: str | None = None) -> dict[RunStatus, int]:
        """How many runs stand where."""
        with self._door.context.reading() as connection:
            return views.count_runs(connection, process)

    def timer_lateness(
        self, process: str | None = None, since: datetime | None = None
    ) -> Sequence[float]:
        """For each fired timer, the seconds it fired after it was due."""
        with self._door.context.reading() as connection:
            return views.timer_lateness(connection, process=process, since=since)
