"""Runs that an amendment leaves on the revision that they have, and the living workers that can move them there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.core.definition import Process
from orchestrator.engine.context import EngineContext
from orchestrator.store.reads.deployments import WORKERS_NAMED_MAX
from orchestrator.store.transitions import capabilities


@dataclass(frozen=True, slots=True)
class Staying:
    """Runs that stay on a revision, and the living workers that have its code: those move them, and nobody else.

    `workers`: the names of some; `served_by`: how many there are. None: they wait until a worker comes that has it.
    """

    code_revision: int
    runs: int
    served_by: int
    workers: tuple[str, ...]


def who_moves(
    context: EngineContext, process: Process, runs: Mapping[int, int]
) -> tuple[Staying, ...]:
    """By the revision that so many runs stay on."""
    if not runs:
        return ()
    with context.reading() as connection:
        found = {
            revision: capabilities.names_of_those_who_can(
                connection, [capabilities.turn_of(process.name, process.version, revision)]
            )
            for revision in sorted(runs)
        }
    return tuple(
        Staying(revision, runs[revision], len(names), tuple(names[:WORKERS_NAMED_MAX]))
        for revision, names in found.items()
    )
