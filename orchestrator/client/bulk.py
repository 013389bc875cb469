"""`client.operations.bulk`: one verb over many runs, found by a filter.

shown = client.operations.bulk.preview("resume", RunFilter(process="trip", cause="3f2a91c04b7d"), by="ann")
client.operations.bulk.apply(shown.digest, by="ann", rate_per_second=50)
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from orchestrator.core.bulk import LineState, OperationState, OperationView, Preview, Result
from orchestrator.core.selection import RunFilter
from orchestrator.engine.context import EngineContext
from orchestrator.engine.operations import bulk
from orchestrator.engine.operations.bulk import Applying, Progress
from orchestrator.store.reads import operations as reads


class Bulk:
    """Previewed, confirmed by digest, done run by run, each in a transaction of its own; resumable."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context

    def preview(
        self, /, verb: str, asked: RunFilter, *, by: str = "", reason: str = "", **arguments: Any
    ) -> Preview:
        """What `verb` would do, and to which runs exactly. No run is touched.

        `verb`: `retry`, `resume`, `pause`, `cancel`, `restart`; or `skip`, `complete` (`key`, `result`), `fail` (`key`,
        `error`), `edit` (`key`, `arguments`), `rewind` (`to`), with what each takes of one run, in JSON values.
        The set is kept for a day, to be applied by its digest. Raises PerennialError for a filter that means all runs,
        more than 100,000, or completed ones, which no index holds.
        """
        return bulk.preview(self._context, verb, asked, by=by, reason=reason, arguments=arguments)

    def apply(
        self,
        digest: str,
        *,
        verb: str | None = None,
        asked: RunFilter | None = None,
        by: str = "",
        reason: str = "",
        rate_per_second: float | None = None,
        progress: Progress | None = None,
    ) -> OperationView:
        """Do it to the exact set that was previewed with that digest, one run after the other, in this thread.

        A run that has changed since is skipped. `verb`, `asked`: what the preview must have been of, if given. Raises
        PerennialError where no preview has the digest, or another command is at it.
        """
        kept = bulk.kept_preview(self._context, digest, verb=verb, asked=asked)
        if kept is None:
            raise bulk.stale(digest, verb or "any verb")
        return self._applying(kept.id, progress).go_on(
            by=by, reason=reason, rate_per_second=rate_per_second
        )

    def resume(
        self,
        operation: UUID | str,
        *,
        by: str = "",
        rate_per_second: float | None = None,
        progress: Progress | None = None,
    ) -> OperationView:
        """Go on with an operation that was paused, or whose command has died: do what is left of it.

        Raises PerennialError: it is over, or another command is at it.
        """
        found = bulk.operation_of(self._context, operation)
        if found.state is OperationState.PREVIEWED:
            raise bulk.stale(found.digest, found.verb)
        return self._applying(found.id, progress).go_on(by=by, rate_per_second=rate_per_second)

    def pause(self, operation: UUID | str) -> OperationView:
        """Let it rest, whoever is at it, until it is resumed. What is done stays done."""
        found = bulk.operation_of(self._context, operation)
        return bulk.set_down(self._context, found.id, OperationState.PAUSED)

    def stop(self, operation: UUID | str) -> OperationView:
        """End it, whoever is at it: what is left of it is never done."""
        found = bulk.operation_of(self._context, operation)
        return bulk.set_down(self._context, found.id, OperationState.STOPPED)

    def list(self, *, limit: int = 20) -> Sequence[OperationView]:
        """Operations that were applied, the newest first."""
        with self._context.reading() as connection:
            return reads.read_operations(connection, limit=limit)

    def get(self, operation: UUID | str) -> OperationView:
        """One operation, by its id or how that begins. Raises PerennialError."""
        return bulk.operation_of(self._context, operation)

    def results(
        self,
        operation: UUID | str,
        *,
        state: LineState | None = None,
        after: int = 0,
        limit: int = 1_000,
    ) -> Sequence[Result]:
        """What became of its runs, in their order; `after`: the last ordinal of the page before."""
        found = bulk.operation_of(self._context, operation)
        with self._context.reading() as connection:
            return reads.read_results(connection, found.id, state=state, after=after, limit=limit)

    def _applying(self, operation_id: UUID, progress: Progress | None) -> Applying:
        name = f"{socket.gethostname()}, process {os.getpid()}"
        applying = Applying(self._context, operation_id, name, _let_time_pass)
        if progress is not None:
            applying.progress = progress
        return applying


def _let_time_pass(seconds: float) -> None:
    """The caller has asked for a rate: this thread is theirs, and no worker's."""
    time.sleep(seconds)
