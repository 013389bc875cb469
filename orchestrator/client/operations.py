"""`client.operations`: what an operator does, with one run or looking at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from orchestrator.client.bulk import Bulk
from orchestrator.client.door import Door, RunReference
from orchestrator.client.reentry import ReEntry
from orchestrator.core.causes import CauseSummary
from orchestrator.core.checks import check_sought
from orchestrator.core.run import RunStatus
from orchestrator.core.views import RunTree, Started
from orchestrator.engine import histories
from orchestrator.engine.operations import by_hand, causes
from orchestrator.engine.start import Starts
from orchestrator.store.callers import CallersConnection
from orchestrator.store.reads import finding, views
from orchestrator.store.reads.families import read_tree
from orchestrator.store.reads.incidents import read_causes


class Operations(ReEntry):
    """Each verb is one transaction of its own, or, with `connection=`, part of the caller's."""

    def __init__(self, door: Door, starts: Starts) -> None:
        super().__init__(door)
        self._starts = starts
        self.bulk = Bulk(door.context)
        """One verb over many runs: `client.operations.bulk.preview`."""

    def export(
        self, runs: Sequence[RunReference] = (), *, process: str | None = None, values: bool = False
    ) -> Iterator[str]:
        """Histories as lines of JSON: of these runs, or of all that are open, or of one process' open ones.

        Without values, unless `values`: keys, kinds, states, types and times alone. Raises RunNotFound.
        """
        with self._door.context.reading() as connection:
            ids = [self._door.id_of(connection, run) for run in runs]
        return histories.export(self._door.context, ids, process=process, with_values=values)

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
            by_hand.pause(own, self._door.id_of(own, run), by=by)

    def resume(
        self, run: RunReference, *, by: str = "", connection: CallersConnection | None = None
    ) -> None:
        """Move a paused run, or a mended incident, on."""
        with self._door.on(connection) as own:
            by_hand.resume(own, self._door.id_of(own, run), by=by)

    def incidents(
        self,
        *,
        process: str | None = None,
        failed: bool = True,
        since: datetime | None = None,
    ) -> Sequence[CauseSummary]:
        """What is parked and what failed, by cause: class, place and message without what differs. Newest first.

        All incidents that are open, however old; and, `failed`, what failed since `since` (None: in the last week).
        Of runs that an older release has recorded, the newest 10,000 are looked at.
        """
        check_sought(process, what="the process of incidents")
        with self._door.context.reading() as connection:
            if since is None:
                since = finding.now(connection) - causes.FAILED_SINCE
            return read_causes(connection, process=process, failed_since=since, with_failed=failed)

    def cause(self, digest: str) -> CauseSummary:
        """The runs of one cause, of all times. Raises PerennialError where no run has it."""
        with self._door.context.reading() as connection:
            return causes.find_cause(connection, digest)

    def note_cause(
        self,
        digest: str,
        note: str,
        *,
        by: str = "",
        connection: CallersConnection | None = None,
    ) -> None:
        """Keep a note beside a cause, in place of the one before."""
        with self._door.context.reading() as reads, self._door.on(connection) as own:
            causes.note(reads, own, digest, note, by=by)

    def mute_cause(
        self,
        digest: str,
        *,
        by: str = "",
        undo: bool = False,
        connection: CallersConnection | None = None,
    ) -> None:
        """Mark a cause as known, so that lists leave it out; `undo`: no more."""
        with self._door.context.reading() as reads, self._door.on(connection) as own:
            causes.mute(reads, own, digest, by=by, undo=undo)

    def mend_cause(
        self,
        digest: str,
        *,
        by: str = "",
        undo: bool = False,
        connection: CallersConnection | None = None,
    ) -> None:
        """Say that a cause is mended: what fails by it from now on is shown as returned; `undo`: it isn't."""
        with self._door.context.reading() as reads, self._door.on(connection) as own:
            causes.mend(reads, own, digest, by=by, undo=undo)

    def tree(self, run: RunReference) -> RunTree:
        """The run with its children, theirs, and so on; of more than a thousand the upper ones. Raises RunNotFound."""
        with self._door.context.reading() as connection:
            return read_tree(connection, self._door.id_of(connection, run))

    def counts(self, process: str | None = None) -> dict[RunStatus, int]:
        """How many runs stand where."""
        check_sought(process, what="the process of counts")
        with self._door.context.reading() as connection:
            return views.count_runs(connection, process)

    def timer_lateness(
        self, process: str | None = None, since: datetime | None = None
    ) -> Sequence[float]:
        """For each fired timer, the seconds it fired after it was due."""
        check_sought(process, what="the process of timer_lateness")
        with self._door.context.reading() as connection:
            return views.timer_lateness(connection, process=process, since=since)
