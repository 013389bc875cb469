"""The end of a claimed attempt: with the turn that it leads to, as a part of a commit, or without one.

record_settlement_if_claimed  a fact without a turn: this worker can't take it, or another is taking one
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.core.journal import ActivityState
from orchestrator.store.parts import (
    APPEND_HISTORY,
    RAISED,
    SENT_AT_ONCE,
    SOONEST_WINS,
    hand_off_turn,
)
from orchestrator.store.rowset import RowSet
from orchestrator.store.statement import AnyConnection, Statement

# The attempt that earned a result must still be claimed.
ATTEMPT_HOLDS = """EXISTS (SELECT FROM perennial.activity a WHERE a.run_id = t.run_id
    AND a.key = t.settled_key AND a.attempt = t.settled_attempt AND a.state = 'claimed')"""


SETTLED = """
settled AS (
    UPDATE perennial.activity a SET state = fence.settled_state, result = fence.settled_result::jsonb,
        error = fence.settled_error, settled_at = fence.settled_at, settled_revision = fence.recorded_revision
    FROM fence WHERE a.run_id = fence.run_id AND a.key = fence.settled_key
        AND (a.attempt = fence.settled_attempt
            AND a.state = 'claimed')  /* guard: attempt fence of a result without a turn */
    RETURNING a.key
)"""


_SETTLEMENT = RowSet(
    "settlement",
    """run_id uuid, active_milliseconds bigint, settled_key text, settled_attempt int,
    settled_state text, settled_result text, settled_error jsonb, settled_at timestamptz""",
)


def _record(counts_down: str = "", is_due: str = "true") -> str:
    return f"""
WITH turns AS (
    SELECT * FROM {_SETTLEMENT.one_called("t")}
), fence AS (
    UPDATE perennial.run r SET revision = {RAISED}, last_progress_at = perennial.now(),
        active_milliseconds = r.active_milliseconds + t.active_milliseconds{counts_down}
    FROM turns t WHERE r.id = t.run_id AND r.closed_at IS NULL
        AND {ATTEMPT_HOLDS}  /* guard: attempt fence of the fact of a result */
    RETURNING t.*, r.queue, r.status, r.revision AS recorded_revision, r.outstanding
), {SETTLED.strip()}, handed_off AS (
    {hand_off_turn("fence.run_id", "fence.queue", SENT_AT_ONCE)}
    FROM fence, settled WHERE {is_due}  /* guard: handoff of a result without a turn */
    {SOONEST_WINS}
), told AS (
    {APPEND_HISTORY}
    SELECT fence.run_id, %(actor)s, %(event)s, settled.key, fence.settled_attempt, fence.status, fence.status, NULL
    FROM fence, settled
)
SELECT fence.queue, fence.outstanding FROM fence, settled
"""


_RECORD_SETTLEMENT = Statement("record_settlement", _record())

# The count is the row's, which is locked: whoever ends last finds it at zero, however many end at once. One that an
# earlier turn has left says nothing. What people read of it goes along.
_COUNTED_DOWN = Statement(
    "count_settlement",
    _record(
        """, outstanding = CASE WHEN
            r.outstanding_revision = r.turn_revision  /* guard: a count of an earlier turn */
            THEN r.outstanding - 1 END,
        waiting_for = CASE WHEN r.outstanding_revision = r.turn_revision THEN regexp_replace(r.waiting_for,
            ' and [0-9]+ more$',
            CASE WHEN r.outstanding > 2 THEN format(' and %%s more', r.outstanding - 2) ELSE '' END)
            ELSE r.waiting_for END""",
        "coalesce(fence.outstanding, 0) <= 0",
    ),
)


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a claimed attempt: done with a result, or failed with an error, for good."""

    key: str
    attempt: int
    name: str
    state: ActivityState
    settled_at: datetime
    result: str | None = None
    error: dict[str, Any] | None = None
    active_milliseconds: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """The end of an attempt that was ours. `asks_turn` False: the flow waits for others too, and has nothing to do."""

    queue: str | None
    asks_turn: bool


def record_settlement_if_claimed(
    connection: AnyConnection,
    run_id: UUID,
    settlement: Settlement,
    *,
    actor: str,
    relay_after: float,
    is_counted: bool = False,
) -> Recorded | None:
    """Write the end of an attempt and ask for a turn. None: the attempt isn't ours any more.

    `is_counted`: count it down, and ask only where it is the last that the flow waits for.
    """
    statement = _COUNTED_DOWN if is_counted else _RECORD_SETTLEMENT
    row = statement.row(
        connection,
        **_SETTLEMENT.of_one({"run_id": run_id, **settled_row(settlement)}),
        actor=actor,
        event=f"stage {settlement.state}",
        relay_after=relay_after,
    )
    if row is None:
        return None
    return Recorded(row.queue, asks_turn=not is_counted or (row.outstanding or 0) <= 0)


def settled_row(settlement: Settlement) -> dict[str, Any]:
    """What it writes, for a row set."""
    return {
        "settled_key": settlement.key,
        "settled_attempt": settlement.attempt,
        "settled_state": settlement.state,
        "settled_result": settlement.result,
        "settled_error": settlement.error,
        "settled_at": settlement.settled_at,
        "active_milliseconds": settlement.active_milliseconds,
    }
