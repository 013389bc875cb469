"""A run is cancelled, or expires, and cleans up first: that is a fact, as any other.

read_early_end              what was asked for already, and what its process says of its clean-up
begin_early_end_if_open     ask for it: its flow comes to it in its place, and a deadline is armed

Where what was done is to stay, the deadline is the run's own expiry, which closes it at once, whatever becomes of its
flow. Else it is an activity's, and lets the flow's own code go; what is undone then has its stages' own limits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.core.ending_early import IN_SPEC, CleanUp, EarlyEnd
from orchestrator.core.kinds.cancellation import (
    CANCELLATION,
    CANCELLATION_KEY,
    CLEAN_UP,
    CLEAN_UP_KEY,
)
from orchestrator.errors import PerennialError
from orchestrator.store.parts import (
    APPEND_HISTORY,
    FOR_A_RELAY,
    HAND_OFF,
    NO_TURN,
    RAISED,
    REPLACES,
    WAKE_RELAYS,
    a_turn_of,
    run_has_changed,
)
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.close import CLOSE_TRIES_MAX

_READ = Statement(
    "read_early_end",
    f"""
SELECT r.status, (SELECT a.result FROM perennial.activity a WHERE a.run_id = r.id AND a.key = '{CANCELLATION_KEY}'),
    p.spec -> '{IN_SPEC}' AS clean_up
FROM perennial.run r LEFT JOIN perennial.process p ON p.name = r.process AND p.version = r.version
WHERE r.id = %(run_id)s
""",
)

# Fenced as a close is, by the revision that the statement itself has read. What a paused run, or an incident, has
# waiting to be claimed is handed off anew, as when it is resumed: a cancelled run goes on until it has cleaned up.
_BEGIN = Statement(
    "begin_early_end",
    f"""
WITH before AS (
    SELECT r.id, r.status, r.revision FROM perennial.run r WHERE r.id = %(run_id)s AND r.closed_at IS NULL
        AND NOT EXISTS (SELECT FROM perennial.activity a WHERE a.run_id = r.id
            AND a.key = '{CANCELLATION_KEY}')  /* guard: a run is cancelled once */
        AND (%(timer_id)s::uuid IS NULL OR EXISTS (SELECT FROM perennial.timer t WHERE t.id = %(timer_id)s
            AND t.run_id = r.id AND t.due_at <= perennial.now()))
), fence AS (
    UPDATE perennial.run r SET revision = {RAISED}, turn_revision = {NO_TURN}, status = 'running', error = NULL,
        waiting_for = %(event)s, last_progress_at = perennial.now(),
        expires_at = CASE WHEN NOT %(undoes)s THEN perennial.now() + %(within)s * interval '1 second' END
    FROM before
    WHERE r.id = %(run_id)s AND r.id = before.id AND r.closed_at IS NULL
        AND r.revision = before.revision  /* guard: a run is cancelled on the revision it had */
    RETURNING r.id AS run_id, r.revision, r.queue, before.status AS from_status
), said AS (
    INSERT INTO perennial.activity (run_id, key, scope, ordinal, kind, name, state, attempt, result, settled_at,
        settled_revision)
    SELECT fence.run_id, '{CANCELLATION_KEY}', '', 0, '{CANCELLATION}', %(event)s, 'done', 1, %(result)s::jsonb,
        perennial.now(), fence.revision FROM fence
), bounded AS (
    INSERT INTO perennial.activity (run_id, key, scope, ordinal, kind, name, state, attempt)
    SELECT fence.run_id, '{CLEAN_UP_KEY}', '', 0, '{CLEAN_UP}', '{CLEAN_UP}', 'pending', 1 FROM fence
    WHERE %(undoes)s
), disarmed AS (
    UPDATE perennial.timer t SET state = CASE WHEN t.id = %(timer_id)s THEN 'fired' ELSE 'cancelled' END,
        fired_at = CASE WHEN t.id = %(timer_id)s THEN perennial.now() END
    WHERE t.run_id = ANY(ARRAY(SELECT run_id FROM fence)) AND t.state = 'armed' AND t.kind = 'expiry'
), armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, due_at)
    SELECT %(new_timer_id)s, fence.run_id, CASE WHEN %(undoes)s THEN '{CLEAN_UP_KEY}' ELSE '' END,
        CASE WHEN %(undoes)s THEN '{CLEAN_UP}' ELSE 'expiry' END,
        perennial.now() + %(within)s * interval '1 second' FROM fence
), handed_off AS (
    {HAND_OFF}
    SELECT {a_turn_of("fence.run_id", "fence.queue")}, {FOR_A_RELAY}
    FROM fence  /* guard: handoff of a run that is cancelled */
    UNION ALL
    SELECT a.run_id, a.key, a.attempt, a.name, a.queue, {FOR_A_RELAY} FROM fence JOIN perennial.activity a
        ON a.run_id = fence.run_id AND a.kind = 'stage' AND a.state = 'pending'
    WHERE fence.from_status IN ('paused', 'incident')
    {REPLACES}
), told AS (
    {APPEND_HISTORY}
    SELECT fence.run_id, %(actor)s, %(event)s, NULL, NULL, fence.from_status, 'running', %(result)s::jsonb FROM fence
)
SELECT fence.run_id IS NOT NULL AS is_begun, {WAKE_RELAYS},
    CASE WHEN fence.run_id IS NOT NULL THEN {run_has_changed("fence.run_id")} END
FROM before LEFT JOIN fence ON true
""",
)


@dataclass(frozen=True, slots=True)
class Found:
    """Of a run: where it stands, how it is to end already, and what its process says of its clean-up."""

    status: str
    early_end: EarlyEnd | None
    clean_up: CleanUp | None


def read_early_end(connection: AnyConnection, run_id: UUID) -> Found | None:
    """None: there is no such run."""
    row = _READ.row(connection, run_id=run_id)
    if row is None:
        return None
    asked = None if row.result is None else EarlyEnd.of_result(row.result)
    return Found(row.status, asked, CleanUp.of_spec(row.clean_up))


def begin_early_end_if_open(
    connection: AnyConnection,
    run_id: UUID,
    end: EarlyEnd,
    *,
    within_seconds: float,
    actor: str,
    event: str,
    timer_id: UUID | None = None,
) -> bool:
    """Let it clean up, and then end so. False: it has ended, is ended so already, or there is none.

    `timer_id`: of the run's expiry, which must be due, and has fired then. Raises PerennialError: the run changed under
    every try.
    """
    values: dict[str, Any] = {
        "run_id": run_id,
        "timer_id": timer_id,
        "new_timer_id": uuid7(),
        "undoes": end.undoes,
        "within": within_seconds,
        "result": json.dumps(end.as_result()),
        "event": event,
        "actor": actor,
    }
    for _ in range(CLOSE_TRIES_MAX):
        row = _BEGIN.row(connection, **values)
        if row is None:
            return False
        if row.is_begun:
            return True
    raise PerennialError(
        f"run {run_id} changed {CLOSE_TRIES_MAX} times while it was to be cancelled; try again"
    )
