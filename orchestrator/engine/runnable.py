"""What this program can run, as capabilities: of its registry, and of what is deployed."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.definition import Registry
from orchestrator.engine.context import EngineContext
from orchestrator.engine.definitions import Definitions
from orchestrator.errors import PerennialError
from orchestrator.store.transitions import processes
from orchestrator.store.transitions.capabilities import CAPABILITIES_MAX, stage_of, turn_of


def capabilities_of(registry: Registry) -> Iterator[str]:
    """Of the program alone."""
    yield from (stage_of(name) for name in registry.stages)
    yield from (turn_of(name, version) for name, version in registry.processes)


def capabilities_with(context: EngineContext) -> tuple[str, ...]:
    """With the revisions that its code is the content of, and the declarative processes whose names it can bind.

    The newest, should there be too many.
    """
    registry = context.registry
    found = dict.fromkeys(capabilities_of(registry))
    if not found:
        return ()
    definitions = Definitions(registry)  # that has read nothing yet
    with context.reading() as connection:
        declared = processes.declarative_versions(connection, limit=CAPABILITIES_MAX)
        for name, version in dict.fromkeys([*registry.processes, *declared]):
            for code_revision in definitions.revisions_at_hand(connection, name, version):
                try:
                    definitions.find(connection, name, version, code_revision)
                except PerennialError:  # it names what this program hasn't got
                    continue
                found[turn_of(name, version)] = None
                found[turn_of(name, version, code_revision)] = None
    return tuple(sorted(list(found)[:CAPABILITIES_MAX]))
