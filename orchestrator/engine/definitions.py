"""Find the definition a run is pinned to: in the code this process has, or, declarative, in the record."""

from __future__ import annotations

from orchestrator.core.declarative import process_from_spec
from orchestrator.core.definition import Process, Registry
from orchestrator.errors import UnknownProcess
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import processes


class Definitions:
    """Deployed versions never change, so what was found once is kept."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._declarative: dict[tuple[str, int], Process] = {}

    def find(self, connection: AnyConnection, name: str, version: int) -> Process:
        """The process. Raises UnknownProcess or UnknownStage: another worker may have what this one lacks."""
        known = self._registry.processes.get((name, version)) or self._declarative.get(
            (name, version)
        )
        if known is not None:
            return known
        deployed = processes.read_process(connection, name, version)
        if deployed is None or deployed.kind != "declarative":
            message = f"this worker has no process {name!r} version {version}"
            raise UnknownProcess(message)
        process = process_from_spec(
            deployed.spec, name=name, version=version, registry=self._registry
        )
        self._declarative[name, version] = process
        return process
