"""The open runs of a version, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

from orchestrator.core.definition import Process
from orchestrator.engine.context import EngineContext
from orchestrator.store.reads.loading import LoadedRun, load_open_runs


def open_runs_of(
    context: EngineContext, process: Process, not_on: int | None
) -> Iterator[LoadedRun]:
    """One by one; `not_on`: those that stand on another revision alone."""
    for page in pages_of(context, process, not_on):
        yield from page


def pages_of(
    context: EngineContext, process: Process, not_on: int | None
) -> Iterator[Sequence[LoadedRun]]:
    """Of the version's open runs, by id; those that start in between come last."""
    after = UUID(int=0)
    limit = context.settings.batch_size
    while True:
        with context.reading() as connection:
            page = load_open_runs(
                connection,
                after=after,
                process=process.name,
                version=process.version,
                not_on=not_on,
                limit=limit,
            )
        if page:
            yield page
        if len(page) < limit:
            return
        after = page[-1].context.id
