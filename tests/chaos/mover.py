"""A command of an operator's in a process of its own, which moves many runs to another version, or back."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

from orchestrator import Client, Flow, Process, Registry, Settings, hours, process, stage
from orchestrator.core.versions.plans import Plan
from orchestrator.errors import PerennialError

PLAN = Plan.model_validate(
    {"process": "many", "from": 1, "to": 2, "map": {"a": "x", "a-boss": "x-boss"}}
)


effects = Counter[str]()
"""How often each stage was called in this process."""


def versions(registry: Registry) -> list[Process]:
    """Two, of which the second has other names for the same."""
    for name in ("a", "x"):

        def work(name: str = name) -> str:
            effects[name] += 1
            return name

        stage(name=name, registry=registry)(work)

    async def many(flow: Flow) -> Any:
        name = "a" if flow.version == 1 else "x"
        first = await flow.stage(name)
        boss = await flow.approval(f"{name}-boss", assign=["bob"], timeout=hours(48))
        return [first, boss.outcome]

    return [process(version=number, registry=registry)(many) for number in (1, 2)]


def move(database_url: str, digest: str) -> None:
    """Be `perennial migrate … apply` with that digest; without one, `perennial migrate undo`."""
    registry = Registry()
    versions(registry)
    with Client(Settings(database_url=database_url), registry=registry) as client:
        if digest:
            client.processes.migrate(PLAN, digest, by="ann")
            return
        with suppress(PerennialError):  # none is left to move back
            client.processes.undo_migration(PLAN, by="ann")
