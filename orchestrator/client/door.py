"""What every verb stands on: whose connection it runs on, and which run is meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core.views import RunSummary, RunView, Started
from orchestrator.engine.context import EngineContext
from orchestrator.errors import PerennialError, RunNotFound
from orchestrator.store.callers import CallersConnection, usable
from orchestrator.store.reads import finding
from orchestrator.store.statement import AnyConnection

RunReference = UUID | str | Started | RunView | RunSummary
"""A run: its id, its business key, or anything that Client returned for it."""


@dataclass(frozen=True, slots=True)
class Door:
    """One client's way to the record, which its facets share."""

    context: EngineContext
    schema: str

    @contextmanager
    def on(self, connection: CallersConnection | None) -> Iterator[AnyConnection]:
        """The caller's connection and transaction, or a statement of our own."""
        if connection is not None:
            with usable(connection, self.schema) as callers:
                yield callers
            return
        with self.context.connection() as own:
            yield own

    @contextmanager
    def in_transaction(self, connection: CallersConnection | None) -> Iterator[AnyConnection]:
        """The caller's connection and transaction, or a transaction of our own."""
        if connection is not None:
            with usable(connection, self.schema) as callers:
                yield callers
            return
        with self.context.transaction() as own:
            yield own

    def id_of(self, connection: AnyConnection | Connection, run: RunReference) -> UUID:
        return self.id_and_former_of(connection, run)[0]

    def id_and_former_of(
        self, connection: AnyConnection | Connection, run: RunReference
    ) -> tuple[UUID, UUID | None]:
        """The run's id; and of one that is named by its business key, the run that had it before."""
        if isinstance(run, UUID):
            return run, None
        if isinstance(run, Started):
            return run.run_id, None
        if isinstance(run, RunView | RunSummary):
            return run.id, None
        found = finding.find_runs(connection, run)
        if not found:
            raise RunNotFound(f"there is no run with id or business key {run!r}")
        if len(found) > 1:
            names = ", ".join(sorted(row.process for row in found))
            raise PerennialError(
                f"business key {run!r} is used by several processes ({names}, …): give the run's id"
            )
        return found[0].id, None if found[0].by_id else found[0].follows
