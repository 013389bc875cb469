"""What a person was asked in a run: for a refusal that says why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from orchestrator.core.approvals import ApprovalState
from orchestrator.store.statement import AnyConnection, Statement

# Times travel as JSON does, whatever the caller's session makes of them.
_READ = Statement(
    "read_approvals",
    """
SELECT r.status, r.waiting_for, to_jsonb(perennial.now()) #>> '{}' AS now, p.key, p.name, p.state, p.assignees,
    to_jsonb(p.deadline) #>> '{}' AS deadline, p.decided_by, to_jsonb(p.decided_at) #>> '{}' AS decided_at,
    p.former_keys, p.edition, p.changed, p.rule
FROM perennial.run r LEFT JOIN perennial.approval p
    ON p.run_id = r.id AND (p.key = %(approval)s OR p.name = %(approval)s OR %(approval)s = ANY(p.former_keys))
WHERE r.id = %(run_id)s
ORDER BY p.state = 'open' AND %(by)s = ANY(p.assignees) DESC, p.key = %(approval)s DESC, p.state = 'open' DESC,
    p.opened_at DESC
""",
)


_LATEST = Statement(
    "latest_approvals_of_run",
    """
SELECT p.key, p.name, p.state, p.assignees, to_jsonb(p.deadline) #>> '{}' AS deadline, p.decided_by,
    to_jsonb(p.decided_at) #>> '{}' AS decided_at, p.former_keys, p.edition, p.changed, p.rule
FROM perennial.approval p WHERE p.run_id = %(run_id)s
ORDER BY p.state = 'open' DESC, %(by)s = ANY(p.assignees) DESC, p.opened_at DESC LIMIT 10
""",
)


# Over the runs that gave their business key up to this one, a hundred at most.
_ASKED_BEFORE = Statement(
    "person_was_asked_before",
    """
WITH RECURSIVE former (id, follows, place) AS (
    SELECT r.id, r.follows, 1 FROM perennial.run r WHERE r.id = %(follows)s
    UNION ALL
    SELECT r.id, r.follows, former.place + 1 FROM former JOIN perennial.run r ON r.id = former.follows
    WHERE former.place < 100
)
SELECT former.id FROM former JOIN perennial.approval p ON p.run_id = former.id
WHERE %(by)s = ANY(p.assignees) LIMIT 1
""",
)


@dataclass(frozen=True, slots=True)
class ReadApprovals:
    """A run and its approvals of a name, those that this person may decide first."""

    status: str
    waiting_for: str | None
    now: datetime
    approvals: tuple[tuple[str, ApprovalState], ...]


def read_approvals(
    connection: AnyConnection, run_id: UUID, approval: str, *, by: str
) -> ReadApprovals | None:
    """The run and its approvals of that key or name, as (key, state). None: no such run."""
    rows = _READ.rows(connection, run_id=run_id, approval=approval, by=by)
    if not rows:
        return None
    found = tuple((row.key, _state_of(row)) for row in rows if row.key is not None)
    now = datetime.fromisoformat(rows[0].now).astimezone(UTC)
    return ReadApprovals(rows[0].status, rows[0].waiting_for, now, found)


def _state_of(row: Any) -> ApprovalState:
    return ApprovalState(
        row.name,
        row.state,
        tuple(row.assignees),
        _moment(row.deadline),
        row.decided_by,
        _moment(row.decided_at),
        tuple(row.former_keys),
        row.edition,
        row.changed,
        row.rule,
    )


def _moment(written: str | None) -> datetime | None:
    """A time that travelled as text, so that neither the session's zone nor its style is in it."""
    return None if written is None else datetime.fromisoformat(written).astimezone(UTC)


def latest_approvals_of(
    connection: AnyConnection, run_id: UUID, *, by: str
) -> list[tuple[str, ApprovalState]]:
    """Up to ten approvals of a run: the open ones first, then the latest of those that asked this person."""
    rows = _LATEST.rows(connection, run_id=run_id, by=by)
    return [(row.key, _state_of(row)) for row in rows]


def was_asked_before(connection: AnyConnection, follows: UUID, *, by: str) -> bool:
    """Whether the run that another follows, or one before it, asked this person for anything."""
    return _ASKED_BEFORE.row(connection, follows=follows, by=by) is not None
