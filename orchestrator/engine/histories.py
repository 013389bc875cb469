"""Histories of runs go out as lines of JSON, and are checked where there is no database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

from orchestrator.core.checking import Class, Verdict
from orchestrator.core.definition import Process, Registry
from orchestrator.core.versions.histories import (
    History,
    check_history,
    read_history,
    written_history,
)
from orchestrator.engine.check import SAMPLES_MAX, Checked, CheckedGroup
from orchestrator.engine.context import EngineContext
from orchestrator.errors import PerennialError
from orchestrator.store.reads.loading import LoadedRun, load_open_runs, load_run


def export(
    context: EngineContext,
    run_ids: Sequence[UUID] = (),
    *,
    process: str | None = None,
    with_values: bool = False,
) -> Iterator[str]:
    """A line for each of these runs; without any, for each open run, or those of one process."""
    runs = _these(context, run_ids) if run_ids else _open(context, process)
    for run in runs:
        yield written_history(
            run.context,
            run.journal,
            run.signals,
            status=run.status,
            needs_turn=run.needs_turn,
            with_values=with_values,
        )


def _these(context: EngineContext, run_ids: Sequence[UUID]) -> Iterator[LoadedRun]:
    for run_id in run_ids:
        with context.reading() as connection:
            run = load_run(connection, run_id)
        if run is not None:
            yield run


def _open(context: EngineContext, process: str | None) -> Iterator[LoadedRun]:
    after, limit = UUID(int=0), context.settings.batch_size
    while True:
        with context.reading() as connection:
            page = load_open_runs(connection, after=after, process=process, limit=limit)
        yield from page
        if len(page) < limit:
            return
        after = page[-1].context.id


def check_histories(
    lines: Iterable[str],
    *,
    registry: Registry,
    candidates: Sequence[Process] = (),
    source: str = "<histories>",
) -> Checked:
    """Check exported histories against this program's code: without a database. Raises DefinitionError."""
    given = {(each.name, each.version): each for each in candidates}
    counts: dict[tuple[str, int, Verdict], int] = {}
    samples: dict[tuple[str, int, Verdict], list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        history = read_history(line, where=f"{source}:{number}")
        run = history.context
        group = run.process, run.version, _verdict_on(history, registry, given)
        counts[group] = counts.get(group, 0) + 1
        named = samples.setdefault(group, [])
        if len(named) < SAMPLES_MAX:
            named.append(run.business_key or str(run.id))
    order = list(Class)
    groups = [
        CheckedGroup(
            name,
            version,
            verdict.found,
            verdict.reason,
            runs,
            tuple(samples[name, version, verdict]),
        )
        for (name, version, verdict), runs in counts.items()
    ]
    groups.sort(key=lambda each: (-order.index(each.found), each.process, each.version, -each.runs))
    return Checked(sum(counts.values()), tuple(groups))


def _verdict_on(
    history: History, registry: Registry, given: dict[tuple[str, int], Process]
) -> Verdict:
    run = history.context
    try:
        process = given.get((run.process, run.version)) or registry.process(
            run.process, run.version
        )
    except PerennialError as lack:
        return Verdict(Class.LACKS, str(lack))
    return check_history(history, process, registry=registry)
