"""`client.processes`: what may be started."""

from __future__ import annotations

from orchestrator.core.definition import Process
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
