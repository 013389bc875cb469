"""A run as an operator's verb needs it: all of its journal, whoever is at work, and the database's clock.

read_standing   one look
lock_standing   the same, and from there on nobody else changes it until the transaction ends
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from orchestrator.core.outcome import RunContext
from orchestrator.core.reentry.standing import Entry, Standing
from orchestrator.core.run import RunStatus
from orchestrator.store.loaders import moment
from orchestrator.store.parts import BUFFERED_SIGNALS, JOURNAL_LINE, RUN_COLUMNS
from orchestrator.store.reads.loading import activity_from, loaded_from
from orchestrator.store.statement import AnyConnection, Statement

_STANDING = Statement(
    "read_standing",
    f"""
SELECT {RUN_COLUMNS}, r.error, r.closed_at, r.expires_at, r.former_key, r.followed_by, perennial.now() AS now,
    (SELECT p.code_revision FROM perennial.process p WHERE p.name = r.process AND p.version = r.version) AS current,
    (SELECT coalesce(jsonb_agg({JOURNAL_LINE} || jsonb_build_object('input', a.input, 'policy', a.policy,
            'opened_at', a.opened_at, 'edition', CASE WHEN a.kind = 'approval' THEN (SELECT p.edition
                FROM perennial.approval p WHERE p.run_id = a.run_id AND p.key = a.key) END,
            'claimed_at', a.claimed_at, 'worker', (SELECT w.name FROM perennial.worker w
                WHERE w.id = a.worker_id))), '[]')
        FROM perennial.activity a WHERE a.run_id = r.id) AS journal,
    {BUFFERED_SIGNALS} AS signals,
    r.turn_claimed_at AS turn_since, CASE WHEN r.turn_token IS NOT NULL THEN coalesce((SELECT w.name
        FROM perennial.worker w WHERE w.id = r.turn_worker), 'a worker') END AS turn_worker,
    %(operation)s::text IS NOT NULL AND EXISTS (SELECT FROM perennial.history h
        WHERE h.run_id = r.id AND h.detail ->> 'operation' = %(operation)s) AS is_done
FROM perennial.run r WHERE r.id = %(run_id)s
""",
)


def read_standing(
    connection: AnyConnection, run_id: UUID, *, operation: str | None = None
) -> Standing | None:
    """The run as it is. None: no such run. `operation`: whether that has been applied to it is asked."""
    row = _STANDING.row(connection, run_id=run_id, operation=operation)
    return None if row is None else _standing_from(row)


def _standing_from(row: Any) -> Standing:
    loaded = loaded_from(row)
    context: RunContext = loaded.context
    return Standing(
        run=context,
        status=RunStatus(row.status),
        revision=row.revision,
        now=row.now,
        entries=tuple(_entry_from(line) for line in row.journal),
        signals=loaded.signals,
        error=row.error,
        expires_at=row.expires_at,
        closed_at=row.closed_at,
        former_key=row.former_key,
        followed_by=row.followed_by,
        attempts_before=row.attempts_before or {},
        turn_worker=row.turn_worker,
        turn_since=row.turn_since,
        is_done=row.is_done,
        current_revision=row.current or context.code_revision,
    )


def _entry_from(line: dict[str, Any]) -> Entry:
    claimed_at = line["claimed_at"]
    return Entry(
        activity_from(line),
        input=line["input"],
        opened_at=moment(line["opened_at"]),
        claimed_at=moment(claimed_at) if claimed_at else None,
        worker=line["worker"],
        policy=line["policy"],
        edition=line["edition"] or 0,
    )
