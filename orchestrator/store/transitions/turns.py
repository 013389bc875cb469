"""A run under its turn: hold it, let it go; `store.transitions.commit` ends the turn.

    hold_turn, release_turn  around inline steps: nobody else takes a turn of this run until then
    free_turn_if_lost        its holder has died

Every fact that reaches a run raises its revision, and a turn commits only on the revision it read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from orchestrator.store.batched import BatchVerb, if_many
from orchestrator.store.parts import NO_HOLDER
from orchestrator.store.rowset import RowSet
from orchestrator.store.statement import AnyConnection, Statement

# Whoever finds a turn held leaves it; only those who may judge who is dead free it (engine.sweep).
TURN_IS_FREE = "(r.turn_token IS NULL OR r.turn_token = t.turn_token)"

# Held for long by a worker that has stopped beating. (One that has just taken it may not have beaten yet.)
# How long is long, the holder has said; one of 0.1 has not.
TURN_IS_LOST = """(r.turn_token IS NOT NULL
    AND (r.turn_claimed_at <= perennial.now()
        - coalesce(r.turn_lease_seconds, %(dead_after)s) * interval '1 second')  /* guard: a hold is a sign of life */
    AND NOT EXISTS (SELECT FROM perennial.worker w WHERE w.id = r.turn_worker AND w.heartbeat_at > perennial.now()
        - coalesce(r.turn_lease_seconds, %(dead_after)s) * interval '1 second'
    )  /* guard: a beating holder keeps its turn */
    )"""


_HOLDS = RowSet(
    "holds", "run_id uuid, revision bigint, turn_token uuid, worker_id uuid, dead_after float8"
)


@cache
def _hold(whose_run_is_free: str) -> Statement:
    return Statement(
        "hold_turn",
        f"""
WITH holds AS MATERIALIZED (
    SELECT t.* FROM {_HOLDS.called("t")}{whose_run_is_free}
)
UPDATE perennial.run r SET turn_token = t.turn_token, turn_worker = t.worker_id, turn_claimed_at = perennial.now(),
    turn_lease_seconds = t.dead_after
FROM holds t
WHERE r.id = t.run_id
    AND r.id = ANY(ARRAY(SELECT run_id FROM holds))  /* guard: plans made early, of turns that are held */
    AND r.revision = t.revision  /* guard: hold of the revision that was read */
    AND r.status IN ('running', 'waiting')  /* guard: hold of a run that moves */
    AND {TURN_IS_FREE}  /* guard: one holder of a turn */
RETURNING r.id, r.turn_losses
""",
    )


# Here alone a holder is judged, by maintenance that has watched for long enough (docs/adr/0005).
_FREE = Statement(
    "free_lost_turn",
    f"""
UPDATE perennial.run r SET {NO_HOLDER}, turn_losses = r.turn_losses + 1
FROM (SELECT id, turn_claimed_at FROM perennial.run WHERE id = %(run_id)s FOR NO KEY UPDATE) before
WHERE r.id = before.id AND {TURN_IS_LOST}
RETURNING r.status, before.turn_claimed_at AS held_since
""",
)

_RELEASE = Statement(
    "release_turn",
    f"""
UPDATE perennial.run r SET {NO_HOLDER}
WHERE r.id = %(run_id)s AND r.turn_token = %(turn_token)s
""",
)


def hold_turn(
    connection: AnyConnection,
    run_id: UUID,
    *,
    revision: int,
    turn_token: UUID,
    worker_id: UUID,
    dead_after: float,
) -> int | None:
    """Hold the turn if the revision stands and no other worker holds it. None: it isn't ours.

    `dead_after`: seconds of silence after which this holder counts as lost.
    Returns how many holders in a row were lost, with no step recorded and no turn committed since.
    """
    return _HOLDING(connection, _Hold(run_id, revision, turn_token, worker_id, dead_after))


@dataclass(frozen=True, slots=True)
class _Hold:
    run_id: UUID
    revision: int
    turn_token: UUID
    worker_id: UUID
    dead_after: float

    def as_row(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "revision": self.revision,
            "turn_token": self.turn_token,
            "worker_id": self.worker_id,
            "dead_after": self.dead_after,
        }


def _hold_all(connection: AnyConnection, holds: Sequence[_Hold]) -> Sequence[int | None]:
    rows = _hold(if_many(holds)).rows(connection, **_HOLDS.of(hold.as_row() for hold in holds))
    losses = {row.id: row.turn_losses for row in rows}
    return [losses.get(hold.run_id) for hold in holds]


_HOLDING: BatchVerb[_Hold, int | None] = BatchVerb(
    "hold_turn", _hold_all, is_left_out=lambda losses: losses is None
)


def free_turn_if_lost(connection: AnyConnection, run_id: UUID, *, dead_after: float) -> Any | None:
    """Take the turn from a holder that has been silent for long, and count it: (status, held_since).

    None: nobody holds it, or the holder lives.
    """
    return _FREE.row(connection, run_id=run_id, dead_after=dead_after)


def release_turn(connection: AnyConnection, run_id: UUID, *, turn_token: UUID) -> None:
    """Let go of a held turn without a commit."""
    _RELEASE.rows(connection, run_id=run_id, turn_token=turn_token)
