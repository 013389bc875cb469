"""A plan of migration is drawn from two versions, and from how the open runs of the former stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.definition import Process
from orchestrator.core.versions.plans import Plan, written
from orchestrator.core.versions.proposing import propose as draw
from orchestrator.core.versions.proposing import stages_in_words, stages_of
from orchestrator.engine.context import EngineContext
from orchestrator.engine.operations.migrate import Progress, open_runs, silent
from orchestrator.errors import PerennialError
from orchestrator.store.reads.migrations import ReadRun

SHAPES_MAX = 500
"""So many runs that stand differently are tried."""


@dataclass(frozen=True, slots=True)
class MigrationProposal:
    """A plan to read and edit. `text`: as YAML, with the `notes` in comments above it."""

    plan: Plan
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """To be kept in a file."""
        lines = (line for note in self.notes for line in note.splitlines())
        return "".join(f"# {line}\n" for line in lines) + written(self.plan)


def propose(
    context: EngineContext,
    process: str,
    *,
    from_version: int,
    to: int,
    candidates: Sequence[Process] = (),
    progress: Progress = silent,
) -> MigrationProposal:
    """Draw a plan from two versions, and from how the open runs of the former stand. Writes nothing.

    `candidates`: definitions that stand in for what is registered or deployed. Raises UnknownProcess.
    """
    given = {(each.name, each.version): each for each in candidates}
    with context.connection() as connection:
        new = given.get((process, to)) or context.definitions.find(connection, process, to)
        try:
            old = context.definitions.find(connection, process, from_version)
        except PerennialError:
            old = None  # its code may be gone
    shapes: dict[tuple[tuple[str, str], ...], ReadRun] = {}
    done: dict[str, int] = {}
    plan = Plan.model_validate({"process": process, "from": from_version, "to": to})
    total = 0
    for total, run in enumerate(open_runs(context, plan), 1):
        shape = tuple(sorted((each.key, str(each.state)) for each in run.standing.journal))
        if len(shapes) < SHAPES_MAX:
            shapes.setdefault(shape, run)
        for each in run.standing.journal:
            if each.is_settled:
                done[each.name] = done.get(each.name, 0) + 1
        progress(total)
    drawn = draw(
        new, from_version, [run.standing for run in shapes.values()], registry=context.registry
    )
    words = stages_in_words(stages_of(old), stages_of(new)) if old and stages_of(new) else []
    told = [_with_counts(line, done, total) for line in words]
    return MigrationProposal(drawn.plan, (*told, *drawn.notes))


def _with_counts(line: str, done: dict[str, int], total: int) -> str:
    """`security-review now after provision-access; 41 runs stand before it, 3 have passed it`."""
    passed = done.get(line.partition(" ")[0], 0)
    return f"{line}; {total - passed} runs stand before it, {passed} have passed it"
