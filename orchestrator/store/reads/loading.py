"""A run as one statement saw it: its row, its journal and its unconsumed signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from orchestrator.core.journal import Activity, ActivityKind, ActivityState, BufferedSignal
from orchestrator.core.kept_flow import Known
from orchestrator.core.outcome import RunContext
from orchestrator.core.run import RunStatus
from orchestrator.store.batched import BatchVerb
from orchestrator.store.loaders import moment
from orchestrator.store.parts import (
    BUFFERED_SIGNALS,
    IS_KNOWN,
    JOURNAL_LINE,
    KNOWN_LINES,
    RUN_COLUMNS,
)
from orchestrator.store.statement import AnyConnection, Statement

_JOURNAL = f"""(SELECT coalesce(jsonb_agg({JOURNAL_LINE}), '[]') FROM perennial.activity a
        WHERE a.run_id = r.id AND a.parent_key IS NULL)"""

_AS_IT_IS = f"""{RUN_COLUMNS},
    {_JOURNAL} AS journal,
    {BUFFERED_SIGNALS} AS signals"""
"""The columns of a LoadedRun."""

_LOAD = Statement(
    "load_run",
    f"""
SELECT {_AS_IT_IS},
    (SELECT o.publishes FROM perennial.outbox o WHERE o.run_id = r.id AND o.key = '') AS sends
FROM perennial.run r WHERE r.id = ANY(%(run_ids)s::uuid[])
""",
)

_LOAD_KNOWN = Statement(
    "load_run",
    f"""
SELECT {RUN_COLUMNS}, {IS_KNOWN} AS is_known,
    CASE WHEN {IS_KNOWN} THEN {KNOWN_LINES} ELSE {_JOURNAL} END AS journal,
    {BUFFERED_SIGNALS} AS signals,
    (SELECT o.publishes FROM perennial.outbox o WHERE o.run_id = r.id AND o.key = '') AS sends
FROM perennial.run r WHERE r.id = %(run_id)s
""",
)

_OPEN = Statement(
    "load_open_runs",
    f"""
SELECT {_AS_IT_IS}
FROM perennial.run r WHERE r.closed_at IS NULL AND r.id > %(after)s
    AND (%(process)s::text IS NULL OR r.process = %(process)s)
    AND (%(version)s::int IS NULL OR r.version = %(version)s)
    AND (%(not_on)s::int IS NULL OR r.code_revision <> %(not_on)s)
ORDER BY r.id LIMIT %(limit)s
""",
)


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A run as one statement saw it: consistent with itself."""

    context: RunContext
    status: RunStatus
    revision: int
    turn_revision: int
    queue: str | None
    journal: tuple[Activity, ...]
    signals: tuple[BufferedSignal, ...]
    sends: int = 0
    """How often this turn was asked for, with no turn committed."""
    attempts_before: Mapping[str, int] | None = None
    """How many attempts were made of stages that have left the journal since: theirs go on from there."""
    children: int = 0
    """How many it has started."""
    is_in_hand: bool = False
    """It is as our own commit left it, and wasn't read again: while its revision stands, no fact has come."""

    known_revision: int | None = None
    """Its journal has the lines alone that were open at that revision: a worker's kept flow has the rest."""

    @property
    def needs_turn(self) -> bool:
        """True when a fact has come since the last turn: every fact raises the revision."""
        return self.revision != self.turn_revision


def load_run(
    connection: AnyConnection, run_id: UUID, known: Known | None = None
) -> LoadedRun | None:
    """The run, its journal and its unconsumed signals. None: no such run.

    `known`: what this worker knows of it. Where that still holds, the journal is left out but for what was open.
    """
    if known is None:
        return _LOADING(connection, run_id)
    row = _LOAD_KNOWN.row(connection, run_id=run_id, **known_as_parameters(known))
    return None if row is None else loaded_from(row, known)


def known_as_parameters(known: Known) -> dict[str, Any]:
    """For `IS_KNOWN` and `KNOWN_LINES`."""
    return {"known_revision": known.revision, "known_keys": known.open_keys}


def _load_all(connection: AnyConnection, run_ids: Sequence[UUID]) -> Sequence[LoadedRun | None]:
    found = {row.id: loaded_from(row) for row in _LOAD.rows(connection, run_ids=list(run_ids))}
    return [found.get(run_id) for run_id in run_ids]


_LOADING: BatchVerb[UUID, LoadedRun | None] = BatchVerb("load_run", _load_all, is_short=False)


def load_open_runs(
    connection: AnyConnection,
    *,
    after: UUID,
    process: str | None,
    limit: int,
    version: int | None = None,
    not_on: int | None = None,
) -> list[LoadedRun]:
    """A page of the runs that have not ended, by id. `not_on`: but those that stand on this revision of their code."""
    rows = _OPEN.rows(
        connection, after=after, process=process, limit=limit, version=version, not_on=not_on
    )
    return [loaded_from(row) for row in rows]


def load_runs(connection: AnyConnection, run_ids: Sequence[UUID]) -> list[LoadedRun]:
    """Those of the runs that are there."""
    return [loaded_from(row) for row in _LOAD.rows(connection, run_ids=list(run_ids))]


def loaded_from(row: Any, known: Known | None = None) -> LoadedRun:
    """A LoadedRun from any row that has the run's columns, `journal` and `signals`; where it is `known`, `is_known`."""
    return LoadedRun(
        context=RunContext(
            row.id,
            row.process,
            row.version,
            row.business_key,
            row.input,
            row.created_at,
            row.code_revision,
            row.chapter,
            row.chapter_at,
        ),
        status=RunStatus(row.status),
        revision=row.revision,
        turn_revision=row.turn_revision,
        queue=row.queue,
        journal=tuple(activity_from(line) for line in row.journal),
        signals=tuple(
            BufferedSignal(
                UUID(signal["id"]),
                signal["name"],
                signal["payload"],
                moment(signal["received_at"]),
                signal["received_revision"],
            )
            for signal in row.signals
        ),
        sends=getattr(row, "sends", None) or 0,
        attempts_before=row.attempts_before,
        children=row.children,
        known_revision=known.revision if known is not None and row.is_known else None,
    )


def activity_from(line: dict[str, Any]) -> Activity:
    """An Activity from its journal line."""
    settled_at = line["settled_at"]
    return Activity(
        key=line["key"],
        scope=line["scope"],
        ordinal=line["ordinal"],
        kind=ActivityKind(line["kind"]),
        name=line["name"],
        state=ActivityState(line["state"]),
        attempt=line["attempt"],
        parent_key=line["parent_key"],
        result=line["result"],
        error=line["error"],
        settled_at=moment(settled_at) if settled_at else None,
        settled_revision=line["settled_revision"],
        asked=line["asked"],
    )
