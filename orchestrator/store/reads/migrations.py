"""Runs that a plan of migration is about: those of its version that are open, and those that it has moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.core.versions.migrated import OpenApproval, Standing
from orchestrator.store.parts import BUFFERED_SIGNALS, CLOSED_APPROVAL, JOURNAL_LINE, RUN_COLUMNS
from orchestrator.store.reads.loading import loaded_from
from orchestrator.store.statement import AnyConnection, Statement

_STANDING = f"""{RUN_COLUMNS}, r.turn_token IS NOT NULL AS has_turn_held,
    (SELECT coalesce(jsonb_agg({JOURNAL_LINE}), '[]') FROM perennial.activity a
        WHERE a.run_id = r.id AND a.parent_key IS NULL) AS journal,
    {BUFFERED_SIGNALS} AS signals,
    (SELECT coalesce(jsonb_agg(jsonb_build_object('key', p.key, 'assignees', p.assignees,
            'level', p.escalation_level, 'votes', (SELECT count(*) FROM perennial.approval_vote v
                WHERE v.run_id = r.id AND v.key = p.key))), '[]')
        FROM perennial.approval p WHERE p.run_id = r.id AND p.state NOT IN {CLOSED_APPROVAL}) AS approvals"""

_OF_VERSION = Statement(
    "runs_of_version",
    f"""
SELECT {_STANDING}
FROM perennial.run r WHERE r.closed_at IS NULL AND r.id > %(after)s AND r.process = %(process)s
    AND r.version = %(version)s
ORDER BY r.id LIMIT %(limit)s
""",
)

_THESE = Statement(
    "runs_to_migrate",
    f"""
SELECT {_STANDING}
FROM perennial.run r WHERE r.id = ANY(%(run_ids)s::uuid[]) ORDER BY r.id
""",
)

_MOVED = Statement(
    "runs_migrated",
    """
SELECT m.run_id, m.from_version, m.to_version, m.after_revision, m.at, r.business_key, r.process, r.status, r.revision,
    r.version
FROM perennial.migration m JOIN perennial.run r ON r.id = m.run_id
WHERE m.plan_id = %(plan_id)s AND m.undone_at IS NULL AND m.run_id > %(after)s
ORDER BY m.run_id LIMIT %(limit)s
""",
)


@dataclass(frozen=True, slots=True)
class ReadRun:
    """A run as one statement saw it, and its revision."""

    standing: Standing
    revision: int

    @property
    def id(self) -> UUID:
        """Of the run."""
        return self.standing.context.id

    @property
    def called(self) -> str:
        """Its business key, or its id."""
        return self.standing.context.business_key or str(self.id)


@dataclass(frozen=True, slots=True)
class MovedRun:
    """A run that a plan has moved, and how it stands now."""

    run_id: UUID
    called: str
    process: str
    from_version: int
    to_version: int
    at: datetime
    after_revision: int
    revision: int
    status: str
    version: int


def runs_of_version(
    connection: AnyConnection, *, process: str, version: int, after: UUID, limit: int
) -> list[ReadRun]:
    """A page of a version's open runs, by id."""
    rows = _OF_VERSION.rows(connection, process=process, version=version, after=after, limit=limit)
    return [_read(row) for row in rows]


def runs_to_migrate(connection: AnyConnection, run_ids: Sequence[UUID]) -> list[ReadRun]:
    """These runs, by id."""
    return [_read(row) for row in _THESE.rows(connection, run_ids=list(run_ids))]


def runs_migrated(
    connection: AnyConnection, plan_id: str, *, after: UUID, limit: int
) -> list[MovedRun]:
    """A page of the runs that the plan has moved, and that were not moved back."""
    return [
        MovedRun(
            row.run_id,
            row.business_key or str(row.run_id),
            row.process,
            row.from_version,
            row.to_version,
            row.at,
            row.after_revision,
            row.revision,
            row.status,
            row.version,
        )
        for row in _MOVED.rows(connection, plan_id=plan_id, after=after, limit=limit)
    ]


def _read(row: Any) -> ReadRun:
    loaded = loaded_from(row)
    return ReadRun(
        Standing(
            context=loaded.context,
            status=loaded.status,
            journal=loaded.journal,
            signals=loaded.signals,
            needs_turn=loaded.needs_turn,
            has_turn_held=row.has_turn_held,
            approvals={
                line["key"]: OpenApproval(
                    line["key"], tuple(line["assignees"]), line["level"], line["votes"]
                )
                for line in row.approvals
            },
        ),
        loaded.revision,
    )
