"""Approvals in the record: decide, read. The policy is in `core.approvals`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from orchestrator.core.approvals import ApprovalState
from orchestrator.store.outside import SETTLED_BY_FACT, from_outside
from orchestrator.store.statement import AnyConnection, Statement

# The Decision as its flow will read it.
DECISION = """jsonb_build_object('approval', p.name, 'outcome', p.state, 'by', p.decided_by, 'reason', p.comment,
    'at', p.decided_at, 'escalated', p.escalation_level > 0)"""

# The asking that `by` means: a key is one asking, open or closed; a name is the only asking of that name that
# this person was ever asked. A yes to what is closed never falls through to what was asked since. (docs/adr/0031)
_MEANT = """(SELECT CASE WHEN bool_or(c.key = %(approval)s) THEN %(approval)s WHEN count(*) = 1 THEN min(c.key) END
    FROM perennial.approval c WHERE c.run_id = %(run_id)s AND (
        c.key = %(approval)s OR  /* guard: a closed key is no name */
        c.name = %(approval)s AND %(by)s = ANY(c.assignees)))"""

# Open, in time, and asked of this person.
_MAY_BE_DECIDED = """
        p.state = 'open'  /* guard: an approval is decided once */
        AND (p.deadline IS NULL OR perennial.now() < p.deadline)  /* guard: an approval is decided in time */
        AND %(by)s = ANY(p.assignees)  /* guard: an approval is decided by whom it asks */
        """

# A second decision at the same moment waits on the run's row, finds the approval closed, and writes
# nothing.
_DECIDE = Statement(
    "decide_approval",
    from_outside(
        conditions=f"""AND EXISTS (SELECT FROM perennial.approval p WHERE p.run_id = r.id
            AND p.key = {_MEANT} AND {_MAY_BE_DECIDED})  /* guard: a refused decision is no fact */
""",
        fact=f"""fact AS (
    UPDATE perennial.approval p SET state = %(outcome)s, decided_by = %(by)s, decided_at = perennial.now(),
        comment = %(comment)s
    FROM fence WHERE p.run_id = fence.id AND p.key = {_MEANT} AND {_MAY_BE_DECIDED}
    RETURNING p.key, {DECISION} AS result, jsonb_build_object('comment', %(comment)s::text) AS detail
), voted AS (
    INSERT INTO perennial.approval_vote (run_id, key, person, outcome, comment)
    SELECT fence.id, fact.key, %(by)s, %(outcome)s, %(comment)s FROM fence, fact
""",
        settled=SETTLED_BY_FACT,
        actor="%(by)s",
        event="%(outcome)s",
        answer="fact.result::text AS decision",
    ),
)

# Times travel as JSON does, whatever the caller's session makes of them.
_READ = Statement(
    "read_approvals",
    """
SELECT r.status, r.waiting_for, to_jsonb(perennial.now()) #>> '{}' AS now, p.key, p.name, p.state, p.assignees,
    to_jsonb(p.deadline) #>> '{}' AS deadline, p.decided_by, to_jsonb(p.decided_at) #>> '{}' AS decided_at
FROM perennial.run r LEFT JOIN perennial.approval p
    ON p.run_id = r.id AND (p.key = %(approval)s OR p.name = %(approval)s)
WHERE r.id = %(run_id)s
ORDER BY p.state = 'open' AND %(by)s = ANY(p.assignees) DESC, p.key = %(approval)s DESC, p.state = 'open' DESC,
    p.opened_at DESC
""",
)

_LATEST = Statement(
    "latest_approvals_of_run",
    """
SELECT p.key, p.name, p.state, p.assignees, to_jsonb(p.deadline) #>> '{}' AS deadline, p.decided_by,
    to_jsonb(p.decided_at) #>> '{}' AS decided_at
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


def decide_if_allowed(
    connection: AnyConnection, run_id: UUID, approval: str, *, outcome: str, by: str, comment: str
) -> dict[str, Any] | None:
    """Take a decision: the Decision as JSON. None: refused, and nothing was written."""
    row = _DECIDE.row(
        connection, run_id=run_id, approval=approval, outcome=outcome, by=by, comment=comment
    )
    return None if row is None else json.loads(row.decision)


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
