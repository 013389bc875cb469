"""Timers: the row is the truth; Redis holds an index of those that are due soon.

timer_rows            what a turn arms, for the commit
take_timers_to_index  those that came within the horizon, for the index
indexed_timers        those that the index should hold, to rebuild it
overdue_timers        those that the index should have delivered, and did not
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.core.kinds.base import NewActivity
from orchestrator.store.statement import AnyConnection, Statement

# Seconds that are left; a moment no interval leads to is far away, or long past.
_REMAINING = """extract(epoch FROM greatest(least(t.due_at, perennial.now() + interval '200 years'),
    perennial.now() - interval '200 years') - perennial.now())::float8"""

_TO_INDEX = Statement(
    "take_timers_to_index",
    f"""
UPDATE perennial.timer t SET indexed = true FROM (
    SELECT id FROM perennial.timer WHERE state = 'armed' AND NOT indexed
        AND due_at <= perennial.now() + %(horizon_seconds)s * interval '1 second'
    ORDER BY due_at LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
) soon, perennial.run r WHERE t.id = soon.id AND r.id = t.run_id
RETURNING t.id, {_REMAINING} AS remaining_seconds, r.queue
""",
)

_INDEXED = Statement(
    "indexed_timers",
    f"""
SELECT t.id, t.due_at::text AS due, {_REMAINING} AS remaining_seconds, r.queue
FROM perennial.timer t JOIN perennial.run r ON r.id = t.run_id
WHERE t.state = 'armed' AND t.indexed AND (t.due_at, t.id) > (%(after_due)s::timestamptz, %(after_id)s::uuid)
ORDER BY t.due_at, t.id LIMIT %(limit)s
""",
)

# One half for each of the two indexes of armed timers.
_OVERDUE = Statement(
    "overdue_timers",
    """
(SELECT t.id, t.due_at FROM perennial.timer t WHERE t.state = 'armed' AND t.indexed
    AND t.due_at <= perennial.now() - %(grace_seconds)s * interval '1 second' ORDER BY t.due_at LIMIT %(limit)s)
UNION ALL
(SELECT t.id, t.due_at FROM perennial.timer t WHERE t.state = 'armed' AND NOT t.indexed
    AND t.due_at <= perennial.now() - %(grace_seconds)s * interval '1 second' ORDER BY t.due_at LIMIT %(limit)s)
ORDER BY due_at LIMIT %(limit)s
""",
)


@dataclass(frozen=True, slots=True)
class ArmedTimer:
    """A timer for the index: which, in how many seconds by the database's clock, and for which queue.

    The time left travels, not the moment: so the clocks of Postgres, Redis and workers need not agree.
    """

    id: UUID
    remaining_seconds: float
    queue: str | None


def timer_rows(opened: Iterable[NewActivity]) -> list[dict[str, Any]]:
    """The timers of new activities, for a row set. Each gets its id here."""
    return [
        {
            "id": uuid7(),
            "key": activity.request.key,
            "kind": timer.kind,
            "level": timer.level,
            "delay_seconds": timer.delay_seconds,
            "at": timer.at,
        }
        for activity in opened
        for timer in activity.timers
    ]


def take_timers_to_index(
    connection: AnyConnection, *, horizon_seconds: float, limit: int
) -> Sequence[ArmedTimer]:
    """Timers that came within the horizon; marked as indexed, so only one worker indexes each."""
    rows = _TO_INDEX.rows(connection, horizon_seconds=horizon_seconds, limit=limit)
    return [ArmedTimer(row.id, row.remaining_seconds, row.queue) for row in rows]


def indexed_timers(
    connection: AnyConnection, *, after: tuple[str, UUID], limit: int
) -> tuple[Sequence[ArmedTimer], tuple[str, UUID]]:
    """A page of the armed timers that the index should hold, to rebuild it, and where the next begins.

    Moments as text: Postgres knows more of them than Python.
    """
    rows = _INDEXED.rows(connection, after_due=after[0], after_id=after[1], limit=limit)
    last = (rows[-1].due, rows[-1].id) if rows else after
    return [ArmedTimer(row.id, row.remaining_seconds, row.queue) for row in rows], last


def overdue_timers(
    connection: AnyConnection, *, grace_seconds: float, limit: int
) -> Sequence[UUID]:
    """Timers that are late by more than the grace: their message was lost."""
    return [row.id for row in _OVERDUE.rows(connection, grace_seconds=grace_seconds, limit=limit)]
