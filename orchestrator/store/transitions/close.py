"""Runs from outside: close them, stop and resume them.

close_run_if_open  cancelled or expired: everything open goes with it
move_run_if_in     pause, resume
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from orchestrator.errors import PerennialError
from orchestrator.store.parts import (
    APPEND_HISTORY,
    FOR_A_RELAY,
    HAND_OFF,
    NO_HOLDER,
    RAISED,
    REPLACES,
    WAKE_RELAYS,
    a_turn_of,
    close_everything,
    run_has_changed,
)
from orchestrator.store.statement import AnyConnection, Statement

CLOSE_TRIES_MAX = 20
"""How often a run may change under who closes it. Each time somebody else's transaction went through."""

# Fenced by the revision that this statement itself has read: what another transaction opened while this one
# waited for the run's row is not in its sight, and would stay open. `ANY(ARRAY(...))`: as in a commit.
_BY_ITS_TIMER = """state = CASE WHEN t.id = %(timer_id)s THEN 'fired' ELSE 'cancelled' END,
        fired_at = CASE WHEN t.id = %(timer_id)s THEN perennial.now() END"""

# What deadlines have done since the run was paused, as history has it: whoever lets it go on reads it in that line.
_CAME_DUE = """(SELECT jsonb_build_object('came_due', jsonb_agg(h.key ORDER BY h.id)) FROM perennial.history h
            WHERE h.run_id = fence.id AND h.actor = 'timer' AND h.key IS NOT NULL
                AND h.id > (SELECT max(p.id) FROM perennial.history p WHERE p.run_id = fence.id AND p.event = 'paused')
            HAVING count(*) > 0)"""

_CLOSE = Statement(
    "close_run",
    f"""
WITH before AS (
    SELECT r.id, r.status, r.revision FROM perennial.run r WHERE r.id = %(run_id)s AND r.closed_at IS NULL
        AND (%(timer_id)s::uuid IS NULL OR EXISTS (SELECT FROM perennial.timer t WHERE t.id = %(timer_id)s
            AND t.run_id = r.id
            AND t.due_at <= perennial.now()))  /* guard: a run expires by the database's clock */
), fence AS (
    UPDATE perennial.run r SET revision = {RAISED}, status = %(status)s, waiting_for = NULL,
        error = %(error)s::jsonb, closed_at = perennial.now(), last_progress_at = perennial.now(),
        {NO_HOLDER}
    FROM before WHERE r.id = %(run_id)s AND r.id = before.id AND r.closed_at IS NULL AND r.revision = before.revision
    RETURNING r.id AS run_id, before.status AS from_status
), {close_everything(timers=_BY_ITS_TIMER).strip()}, told AS (
    {APPEND_HISTORY}
    SELECT fence.run_id, %(actor)s, %(status)s, NULL, NULL, fence.from_status, %(status)s, %(error)s::jsonb FROM fence
)
SELECT fence.run_id IS NOT NULL AS is_closed,
    CASE WHEN fence.run_id IS NOT NULL THEN {run_has_changed("fence.run_id")} END
FROM before LEFT JOIN fence ON true
""",
)

# Whatever a resumed run has waiting to be claimed is handed off anew: an incident may have kept it back.
_MOVE = Statement(
    "move_run",
    f"""
WITH fence AS (
    UPDATE perennial.run r SET revision = {RAISED}, status = %(status)s, last_progress_at = perennial.now(),
        error = CASE WHEN %(status)s = 'running' THEN NULL ELSE r.error END
    FROM (SELECT id, status FROM perennial.run WHERE id = %(run_id)s FOR NO KEY UPDATE) before
    WHERE r.id = before.id AND r.status = ANY(%(from_statuses)s::text[])
    RETURNING r.id, r.queue, before.status AS from_status
), handed_off AS (
    {HAND_OFF}
    SELECT {a_turn_of("fence.id", "fence.queue")}, {FOR_A_RELAY}
    FROM fence WHERE %(status)s = 'running'  /* guard: handoff of a resumed run */
    UNION ALL
    SELECT a.run_id, a.key, a.attempt, a.name, a.queue, {FOR_A_RELAY} FROM fence JOIN perennial.activity a
        ON a.run_id = fence.id AND a.kind = 'stage' AND a.state = 'pending' WHERE %(status)s = 'running'
    {REPLACES}
), told AS (
    {APPEND_HISTORY}
    SELECT fence.id, %(actor)s, %(event)s, NULL, NULL, fence.from_status, %(status)s,
        CASE WHEN %(status)s = 'running' AND fence.from_status = 'paused' THEN {_CAME_DUE} END
    FROM fence
)
SELECT fence.id, {run_has_changed("fence.id")},
    CASE WHEN %(status)s = 'running' THEN {WAKE_RELAYS} END
FROM fence
""",
)


def close_run_if_open(
    connection: AnyConnection,
    run_id: UUID,
    *,
    status: str,
    actor: str,
    error: dict[str, Any] | None,
    timer_id: UUID | None = None,
) -> bool:
    """Close the run as cancelled or expired. False: it had ended already, or there is none.

    `timer_id`: the timer of its run that does so, which must be armed and due, and has fired then.

    Raises PerennialError: it changed under every try.
    """
    for _ in range(CLOSE_TRIES_MAX):
        row = _CLOSE.row(
            connection,
            run_id=run_id,
            status=status,
            actor=actor,
            error=None if error is None else json.dumps(error),
            timer_id=timer_id,
        )
        if row is None:
            return False
        if row.is_closed:
            return True
    raise PerennialError(
        f"run {run_id} changed {CLOSE_TRIES_MAX} times while it was to be closed; try again"
    )


def move_run_if_in(
    connection: AnyConnection,
    run_id: UUID,
    *,
    status: str,
    from_statuses: Sequence[str],
    actor: str,
    event: str,
) -> bool:
    """Pause or resume. False: the run is in none of `from_statuses`."""
    row = _MOVE.row(
        connection,
        run_id=run_id,
        status=status,
        from_statuses=list(from_statuses),
        actor=actor,
        event=event,
    )
    return row is not None
