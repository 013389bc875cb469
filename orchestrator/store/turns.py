"""A run under its turn: read it whole, hold it, let it go; `store.commit` ends the turn.

    load_run                      one read: the run, its journal, its unconsumed signals
    hold_turn, release_turn       around inline steps: nobody else takes a turn of this run meanwhile
    free_turn_if_lost             its holder has died
    note_left_if_unchanged        this worker lacks what the run needs
    record_settlement_if_claimed  a fact without a turn: this worker can't take it, or another is taking one

Every fact that reaches a run raises its revision, and a turn commits only on the revision it read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from orchestrator.core.journal import Activity, ActivityKind, ActivityState, BufferedSignal
from orchestrator.core.outcome import RunContext
from orchestrator.core.run import RunStatus
from orchestrator.store.loaders import moment
from orchestrator.store.parts import (
    APPEND_HISTORY,
    BUFFERED_SIGNALS,
    JOURNAL_LINE,
    NO_HOLDER,
    RAISED,
    RUN_COLUMNS,
    SENT_AT_ONCE,
    SOONEST_WINS,
    hand_off_turn,
)
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.together import Together, if_many

# Whoever finds a turn held leaves it; only those who may judge who is dead free it (engine.recover).
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

_LOAD = Statement(
    "load_run",
    f"""
SELECT {RUN_COLUMNS},
    (SELECT coalesce(jsonb_agg({JOURNAL_LINE}), '[]') FROM perennial.activity a
        WHERE a.run_id = r.id AND a.parent_key IS NULL) AS journal,
    {BUFFERED_SIGNALS} AS signals,
    (SELECT o.publishes FROM perennial.outbox o WHERE o.run_id = r.id AND o.key = '') AS sends
FROM perennial.run r WHERE r.id = ANY(%(run_ids)s::uuid[])
""",
)


@cache
def _hold(whose_run_is_free: str) -> Statement:
    return Statement(
        "hold_turn",
        f"""
WITH holds AS MATERIALIZED (
    SELECT t.* FROM jsonb_to_recordset(%(holds)s::jsonb) AS t(run_id uuid, revision bigint, turn_token uuid,
        worker_id uuid, dead_after float8){whose_run_is_free}
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

# Told once, not at every delivery.
_NOTE_LEFT = Statement(
    "note_left",
    f"""
WITH noted AS (
    UPDATE perennial.run r SET waiting_for = %(waiting_for)s
    WHERE r.id = %(run_id)s AND r.revision = %(revision)s AND r.waiting_for IS DISTINCT FROM %(waiting_for)s
    RETURNING r.id, r.status
)
{APPEND_HISTORY}
SELECT noted.id, %(actor)s, 'left for another worker', NULL, NULL, noted.status, noted.status,
    jsonb_build_object('why', %(why)s::text)
FROM noted
""",
)

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

_RECORD_SETTLEMENT = Statement(
    "record_settlement",
    f"""
WITH turns AS (
    SELECT * FROM jsonb_to_record(%(settlement)s::jsonb) AS t(run_id uuid, active_milliseconds bigint,
        settled_key text, settled_attempt int, settled_state text, settled_result text, settled_error jsonb,
        settled_at timestamptz)
), fence AS (
    UPDATE perennial.run r SET revision = {RAISED}, last_progress_at = perennial.now(),
        active_milliseconds = r.active_milliseconds + t.active_milliseconds
    FROM turns t WHERE r.id = t.run_id AND r.closed_at IS NULL
        AND {ATTEMPT_HOLDS}  /* guard: attempt fence of the fact of a result */
    RETURNING t.*, r.queue, r.status, r.revision AS recorded_revision
), {SETTLED.strip()}, handed_off AS (
    {hand_off_turn("fence.run_id", "fence.queue", SENT_AT_ONCE)}
    FROM fence, settled  /* guard: handoff of a result without a turn */
    {SOONEST_WINS}
), told AS (
    {APPEND_HISTORY}
    SELECT fence.run_id, %(actor)s, %(event)s, settled.key, fence.settled_attempt, fence.status, fence.status, NULL
    FROM fence, settled
)
SELECT fence.queue FROM fence, settled
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
    is_in_hand: bool = False
    """It is as our own commit left it, and wasn't read again: while its revision stands, no fact has come."""

    @property
    def needs_turn(self) -> bool:
        """True when a fact has come since the last turn: every fact raises the revision."""
        return self.revision != self.turn_revision


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


def load_run(connection: AnyConnection, run_id: UUID) -> LoadedRun | None:
    """The run, its journal and its unconsumed signals. None: no such run."""
    return _LOADING(connection, run_id)


def _load_all(connection: AnyConnection, run_ids: Sequence[UUID]) -> Sequence[LoadedRun | None]:
    found = {row.id: loaded_from(row) for row in _LOAD.rows(connection, run_ids=list(run_ids))}
    return [found.get(run_id) for run_id in run_ids]


_LOADING: Together[UUID, LoadedRun | None] = Together("load_run", _load_all, is_short=False)


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
            "run_id": str(self.run_id),
            "revision": self.revision,
            "turn_token": str(self.turn_token),
            "worker_id": str(self.worker_id),
            "dead_after": self.dead_after,
        }


def _hold_all(connection: AnyConnection, holds: Sequence[_Hold]) -> Sequence[int | None]:
    rows = _hold(if_many(holds)).rows(
        connection, holds=json.dumps([hold.as_row() for hold in holds])
    )
    losses = {row.id: row.turn_losses for row in rows}
    return [losses.get(hold.run_id) for hold in holds]


_HOLDING: Together[_Hold, int | None] = Together(
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


def note_left_if_unchanged(
    connection: AnyConnection, loaded: LoadedRun, *, waiting_for: str, why: str, actor: str
) -> None:
    """Say in the record that this worker lacks what the run needs; it waits for one that has it."""
    _NOTE_LEFT.rows(
        connection,
        run_id=loaded.context.id,
        revision=loaded.revision,
        waiting_for=waiting_for,
        why=why,
        actor=actor,
    )


def record_settlement_if_claimed(
    connection: AnyConnection,
    run_id: UUID,
    settlement: Settlement,
    *,
    actor: str,
    relay_after: float,
) -> tuple[bool, str | None]:
    """Write the end of an attempt and ask for a turn. (False, None): the attempt isn't ours any more."""
    row = _RECORD_SETTLEMENT.row(
        connection,
        settlement=json.dumps({"run_id": str(run_id), **settled_row(settlement)}),
        actor=actor,
        event=f"stage {settlement.state}",
        relay_after=relay_after,
    )
    return (row is not None, row.queue if row is not None else None)


def settled_row(settlement: Settlement) -> dict[str, Any]:
    """What it writes, for a recordset."""
    return {
        "settled_key": settlement.key,
        "settled_attempt": settlement.attempt,
        "settled_state": settlement.state,
        "settled_result": settlement.result,
        "settled_error": settlement.error,
        "settled_at": settlement.settled_at.isoformat(),
        "active_milliseconds": settlement.active_milliseconds,
    }


def loaded_from(row: Any) -> LoadedRun:
    """A LoadedRun from any row that has the run's columns, `journal` and `signals`."""
    return LoadedRun(
        context=RunContext(
            row.id, row.process, row.version, row.business_key, row.input, row.created_at
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
