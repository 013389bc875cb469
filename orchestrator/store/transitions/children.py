"""Children: runs that a turn starts, and what becomes of them when their parent needs them no more.

    STARTED              parts of a turn's commit: the children begin with the lines that ask for them
    SEES_TO_CHILDREN     a part of it: lines of children were cancelled, and somebody is to look
    read_child_terms     what processes take, and how deep a run stands
    children_to_end      children that are open, whose parent has ended or needs them no more
    forget_children      all of them were seen to

A child is locked before its parent, never the other way round: the record tells a parent of its child's end in the
child's transaction (`store.schema.rules`), and whoever ends a parent leaves a handoff of the key `#children`, by which
its children are ended one by one. (docs/adr/0055)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from orchestrator.core.kinds.cancellation import CANCELLATION_KEY
from orchestrator.core.kinds.child import CHILD, KEY_TAKEN
from orchestrator.store.parts import (
    APPEND_HISTORY,
    CHILDREN_KEY,
    HAND_OFF,
    MAY_START,
    SEEN_TO_ANEW,
    SENT_AT_ONCE,
    THE_CURRENT_FIRST,
    hand_off_turn,
    look_at_children,
)
from orchestrator.store.rowset import RowSet
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.processes import InputOf

LOCK_TIMEOUT = "50ms"
"""So long a turn waits for a business key that somebody's open transaction has started."""

ROWS = RowSet(
    "children",
    """run_id uuid, key text, id uuid, process text, version int, checked_by text, business_key text, input text,
    expires_in_seconds float8, on_parent_end text, is_awaited boolean""",
)

# Of the turns called t. A process that was deployed anew since its input was looked at is looked at again.
ARE_AS_CHECKED = f"""NOT EXISTS (
        SELECT FROM {ROWS.called("c")} LEFT JOIN perennial.process p ON p.name = c.process AND p.version = c.version
        WHERE c.run_id = t.run_id AND (p.name IS NULL OR NOT {MAY_START}
            OR p.input_schema_digest IS DISTINCT FROM c.checked_by  /* guard: a child is checked anew */
        ))"""

# In the order of keys, as all starts (store.transitions.start). The lock timeout is the statement's: it is a
# transaction of its own.
STARTED = f"""
children AS MATERIALIZED (
    SELECT c.*, fence.depth + 1 AS depth, p.queue, p.code_revision,
        perennial.now() + coalesce(c.expires_in_seconds, p.expires_after_seconds) * interval '1 second' AS expires_at
    FROM fence JOIN {ROWS.called("c")} ON c.run_id = fence.run_id
    JOIN perennial.process p ON p.name = c.process AND p.version = c.version
    WHERE CASE WHEN c.business_key IS NULL THEN true
        ELSE set_config('lock_timeout', '{LOCK_TIMEOUT}', true) IS NOT NULL END
), started AS (
    INSERT INTO perennial.run AS r (id, process, version, business_key, status, queue, input, expires_at,
        code_revision, parent_id, parent_key, on_parent_end, depth)
    SELECT c.id, c.process, c.version, c.business_key, 'running', c.queue, c.input::jsonb, c.expires_at,
        c.code_revision, c.run_id, CASE WHEN c.is_awaited THEN c.key END, c.on_parent_end, c.depth
    FROM children c ORDER BY c.business_key
    ON CONFLICT (process, business_key) DO NOTHING
    RETURNING r.id, r.queue, r.expires_at, r.parent_id, r.process
), begun AS (
    {hand_off_turn("started.id", "started.queue", SENT_AT_ONCE)}
    FROM started  /* guard: handoff of a child */
), to_expire AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, due_at)
    SELECT started.id, started.id, '', 'expiry', started.expires_at FROM started WHERE started.expires_at IS NOT NULL
), told_of_children AS (
    {APPEND_HISTORY}
    SELECT started.id, 'run ' || c.run_id, 'started', NULL, NULL::int, NULL, 'running',
        jsonb_build_object('parent', c.run_id, 'key', c.key)
    FROM started JOIN children c USING (id)
    UNION ALL
    SELECT c.run_id, 'flow', CASE WHEN started.id IS NULL THEN 'child refused' ELSE 'child started' END, c.key, 1,
        fence.status, fence.status, CASE WHEN started.id IS NULL THEN jsonb_build_object('business_key', c.business_key)
            ELSE jsonb_build_object('child', c.id, 'process', c.process) END
    FROM children c JOIN fence ON fence.run_id = c.run_id LEFT JOIN started USING (id)
)"""

IS_REFUSED = """(o.child_id IS NOT NULL AND NOT EXISTS (SELECT FROM started WHERE started.id = o.child_id))"""
"""Of a row called o: its child's business key is another run's."""

WHY_REFUSED = f"""(SELECT jsonb_build_object('type', '{KEY_TAKEN}', 'message', 'the business key ' || c.business_key
        || ' of process ' || c.process || ' is another run''s already', 'run', (SELECT r.id FROM perennial.run r
            WHERE r.business_key = c.business_key AND r.process = c.process))
        FROM children c WHERE c.id = o.child_id)"""

SEES_TO_CHILDREN = f"""
sees_to_children AS (
    {HAND_OFF}
    SELECT {look_at_children("fence.run_id", "fence.recorded_revision", "fence.queue")}, {SENT_AT_ONCE}
    FROM fence  /* guard: handoff of children that are needed no more */
    {SEEN_TO_ANEW}
)"""

_TERMS = Statement(
    "child_terms",
    f"""
SELECT r.depth, p.name, p.version, p.queue, p.input_schema::text AS input_schema, p.input_schema_digest
FROM perennial.run r LEFT JOIN LATERAL (
    SELECT DISTINCT ON (p.name) p.* FROM perennial.process p WHERE p.name = ANY(%(names)s::text[]) AND {MAY_START}
    ORDER BY p.name, {THE_CURRENT_FIRST}
) p ON true
WHERE r.id = %(run_id)s
""",
)

_TO_END = Statement(
    "children_to_end",
    f"""
SELECT o.attempt, o.queue, p.status, p.closed_at IS NOT NULL AS is_closed, c.id
FROM perennial.outbox o JOIN perennial.run p ON p.id = o.run_id LEFT JOIN LATERAL (
    SELECT c.id FROM perennial.run c
    WHERE c.parent_id = p.id AND c.closed_at IS NULL AND NOT EXISTS (
            SELECT FROM perennial.activity e WHERE e.run_id = c.id AND e.key = '{CANCELLATION_KEY}')
        AND c.on_parent_end = 'cancel'  /* guard: a child that was abandoned goes on */
        AND (p.closed_at IS NOT NULL OR c.parent_key IS NOT NULL AND c.id::text NOT IN (
            SELECT a.policy ->> 'child' FROM perennial.activity a
            WHERE a.run_id = p.id AND a.kind = '{CHILD}' AND a.state = 'pending'
                AND a.policy ->> 'child' IS NOT NULL
        ))  /* guard: a child that is awaited is not ended */
    ORDER BY c.id LIMIT %(limit)s
) c ON true
WHERE o.run_id = %(run_id)s AND o.key = '{CHILDREN_KEY}'
""",
)

_FORGET = Statement(
    "forget_children",
    f"""
DELETE FROM perennial.outbox o WHERE o.run_id = %(run_id)s AND o.key = '{CHILDREN_KEY}'
    AND o.attempt = %(attempt)s  /* guard: children that are needed no more since are seen to */
""",
)


@dataclass(frozen=True, slots=True)
class NewChild:
    """A run that starts with the line `key` of its parent, of a version that takes this input. `input` is JSON text."""

    id: UUID
    key: str
    process: str
    version: int
    checked_by: str | None
    business_key: str | None
    input: str = field(repr=False)
    expires_in_seconds: float | None
    on_parent_end: str
    is_awaited: bool
    queue: str | None

    def as_row(self, run_id: UUID) -> dict[str, Any]:
        """For a row set."""
        return {
            "run_id": run_id,
            "key": self.key,
            "id": self.id,
            "process": self.process,
            "version": self.version,
            "checked_by": self.checked_by,
            "business_key": self.business_key,
            "input": self.input,
            "expires_in_seconds": self.expires_in_seconds,
            "on_parent_end": self.on_parent_end,
            "is_awaited": self.is_awaited,
        }


@dataclass(frozen=True, slots=True)
class ChildTerms:
    """What new runs of a process take, and where their turns are taken."""

    takes: InputOf
    queue: str | None


@dataclass(frozen=True, slots=True)
class ToEnd:
    """Children that are to be ended, of a parent that stands so. `attempt`: which handoff asks for it."""

    attempt: int
    queue: str | None
    status: str
    is_closed: bool
    ids: tuple[UUID, ...]


def read_child_terms(
    connection: AnyConnection, run_id: UUID, names: Sequence[str]
) -> tuple[int, dict[str, ChildTerms]]:
    """How many runs stand above that one, and the terms of those processes that new runs may take."""
    rows = _TERMS.rows(connection, run_id=run_id, names=list(names))
    terms = {
        row.name: ChildTerms(InputOf.of(row), row.queue) for row in rows if row.name is not None
    }
    return (rows[0].depth if rows else 0), terms


def children_to_end(connection: AnyConnection, run_id: UUID, *, limit: int) -> ToEnd | None:
    """Some of the children that are open and whose parent needs them no more. None: nobody asks to look."""
    rows = _TO_END.rows(connection, run_id=run_id, limit=limit)
    if not rows:
        return None
    ids = tuple(row.id for row in rows if row.id is not None)
    return ToEnd(rows[0].attempt, rows[0].queue, rows[0].status, rows[0].is_closed, ids)


def forget_children(connection: AnyConnection, run_id: UUID, attempt: int) -> None:
    """All children were seen to that the handoff is of."""
    _FORGET.rows(connection, run_id=run_id, attempt=attempt)
