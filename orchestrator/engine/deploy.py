"""Deploy definitions: from its first run on, a name and version means this content for ever."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.definition import Process
from orchestrator.core.schemas import InputSchema, input_schema_of
from orchestrator.errors import ProcessChanged
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import processes

RUNS_NAMED_MAX = 3
"""So many of the runs that hold a version are named."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """`created` is False when the version was deployed before: with the very same content, or `replaced`,
    which no run had used. `unchecked` says why the input of its runs can't be checked when they are started.
    """

    name: str
    version: int
    fingerprint: str
    created: bool
    replaced: bool = False
    unchecked: str = ""


def deploy(connection: AnyConnection, definitions: Iterable[Process], *, by: str) -> list[Deployed]:
    """Record the definitions. Raises ProcessChanged: runs have used the version, with other content."""
    # Postgres ends a transaction that is idle for seconds, so all that takes time comes before its first statement.
    looked_at = [_look_at(process) for process in definitions]
    return [_deploy_one(connection, process, takes, by) for process, takes in looked_at]


def _look_at(process: Process) -> tuple[Process, InputSchema]:
    """What it takes; and its flow's source is read, with all that it rests on, which is remembered."""
    _ = process.fingerprint_by_way
    return process, input_schema_of(process.input_type) if process.takes_input else InputSchema()


def _deploy_one(
    connection: AnyConnection, process: Process, takes: InputSchema, by: str
) -> Deployed:
    created = processes.deploy_if_same(connection, process, takes, by=by)
    if created is None and not processes.replace_if_unused(connection, process, takes, by=by):
        raise _changed(connection, process)
    return Deployed(
        process.name,
        process.version,
        process.fingerprint,
        created=bool(created),
        replaced=created is None,
        unchecked=takes.why,
    )


def _changed(connection: AnyConnection, process: Process) -> ProcessChanged:
    rows = processes.runs_of(connection, process.name, process.version, limit=RUNS_NAMED_MAX)
    named = [f"{row.business_key or row.id} ({row.status})" for row in rows if row.id is not None]
    if named:
        more = "" if rows[0].runs <= len(named) else ", …"
        holds = (
            f"it has {rows[0].runs} run(s), {rows[0].open_runs} of them open: "
            f"{', '.join(named)}{more}"
        )
    else:
        holds = "a run of it is being started"
    return ProcessChanged(
        f"process {process.name!r} version {process.version} is deployed with other content "
        f"(since {rows[0].deployed_at:%Y-%m-%d %H:%M} UTC), and {holds}",
        where=process.where,
        remedy=f"Raise its version to {process.version + 1}; or `perennial deploy --amend`, which tries it on each"
        " open run and shows first what would become of them.",
    )
