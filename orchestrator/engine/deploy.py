"""Deploy definitions: after this, a name and version means this content for ever."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.definition import Process
from orchestrator.errors import ProcessChanged
from orchestrator.store import processes
from orchestrator.store.statement import AnyConnection


@dataclass(frozen=True, slots=True)
class Deployed:
    """`created` is False when the very same content was deployed before."""

    name: str
    version: int
    fingerprint: str
    created: bool


def deploy(connection: AnyConnection, definitions: Iterable[Process], *, by: str) -> list[Deployed]:
    """Record the definitions. Raises ProcessChanged: the version is taken by other content."""
    return [_deploy_one(connection, process, by) for process in definitions]


def _deploy_one(connection: AnyConnection, process: Process, by: str) -> Deployed:
    row = processes.deploy(connection, process, by=by)
    if row.fingerprint != process.fingerprint:
        raise ProcessChanged(
            f"process {process.name!r} version {process.version} is deployed with other content "
            f"(since {row.deployed_at:%Y-%m-%d %H:%M} UTC), and runs depend on it",
            where=process.where,
            remedy=f"Raise its version to {process.version + 1}.",
        )
    return Deployed(process.name, process.version, row.fingerprint, row.created)
