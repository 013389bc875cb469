"""`client.processes`: what may be started."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.core.definition import Process
from orchestrator.engine.check import Checked, check
from orchestrator.engine.context import EngineContext
from orchestrator.engine.deploy import Deployed
from orchestrator.engine.deploy import deploy as deploy_definitions
from orchestrator.engine.start import Starts


class Processes:
    """The definitions in the record."""

    def __init__(self, context: EngineContext, starts: Starts) -> None:
        self._context, self._starts = context, starts

    def deploy(self, *processes: Process, by: str = "") -> list[Deployed]:
        """Record definitions, all or none. Raises ProcessChanged where a version has other content."""
        with self._context.transaction() as connection:
            deployed = deploy_definitions(connection, processes, by=by)
        self._starts.learn(processes)
        return deployed

    def check(
        self,
        *candidates: Process,
        process: str | None = None,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> Checked:
        """Replay all open runs against the code of this program, and say what would become of each. Writes nothing.

        `candidates`: definitions to check in place of those that are registered or deployed. `process`: runs of
        this process alone. `progress` is called with how many runs have been checked so far.
        """
        return check(self._context, candidates, process=process, progress=progress)
