"""A run moves back to where a plan of migration has found it, if it has made no step since.

undo_migration   of what `migration` has kept, word for word (store.transitions.migrate)
"""

from __future__ import annotations

from uuid import UUID

from orchestrator.store.parts import (
    APPEND_HISTORY,
    FOR_A_RELAY,
    HAND_OFF,
    NO_TURN,
    RAISED,
    REPLACES,
    WAKE_RELAYS,
)
from orchestrator.store.schema import tables
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.migrate import columns_of

_UNDO = Statement(
    "undo_migration",
    f"""
WITH m AS MATERIALIZED (
    SELECT k.* FROM perennial.migration k WHERE k.plan_id = %(plan_id)s AND k.run_id = %(run_id)s
        AND k.undone_at IS NULL
), fence AS (
    UPDATE perennial.run r SET revision = {RAISED}, version = m.from_version,
        code_revision = (m.before -> 'run' ->> 'code_revision')::int, queue = m.before -> 'run' ->> 'queue',
        turn_revision = CASE WHEN (m.before -> 'run' ->> 'needs_turn')::boolean THEN {NO_TURN}
            ELSE {RAISED} END, outstanding = NULL,
        input = nullif(m.before -> 'run' -> 'input', 'null'), error = nullif(m.before -> 'run' -> 'error', 'null'),
        status = CASE WHEN r.status = 'paused' THEN r.status ELSE m.before -> 'run' ->> 'status' END,
        stage = m.before -> 'run' ->> 'stage',
        waiting_for = m.before -> 'run' ->> 'waiting_for'
    FROM m, (SELECT id, status FROM perennial.run WHERE id = %(run_id)s) now_
    WHERE r.id = m.run_id AND r.id = %(run_id)s AND now_.id = r.id
        AND r.revision = m.after_revision  /* guard: a migration is undone until the next step */
        AND r.closed_at IS NULL AND r.turn_token IS NULL
    RETURNING r.id, r.queue, r.status, now_.status AS from_status
), disarmed AS (
    UPDATE perennial.timer t SET state = 'cancelled'
    FROM fence, m WHERE t.run_id = fence.id AND t.state = 'armed'
        AND NOT EXISTS (SELECT FROM jsonb_array_elements(m.before -> 'timers') b WHERE b ->> 'id' = t.id::text)
    RETURNING t.id
), followed AS (
    UPDATE perennial.timer t SET key = b.key
    FROM fence, m, jsonb_populate_recordset(NULL::perennial.timer, m.before -> 'timers') b
    WHERE t.run_id = fence.id AND t.id = b.id AND t.state = 'armed' AND t.key <> b.key
), armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, attempt, level, due_at, indexed)
    SELECT gen_random_uuid(), fence.id, b.key, b.kind, b.attempt, b.level, b.due_at, false
    FROM fence, m, jsonb_populate_recordset(NULL::perennial.timer, m.before -> 'timers') b
    WHERE EXISTS (SELECT FROM perennial.timer t WHERE t.id = b.id AND t.state <> 'armed')
), unasked AS MATERIALIZED (
    SELECT t.* FROM fence, LATERAL perennial.take_out_approvals(fence.id,
        ARRAY(SELECT p.key FROM perennial.approval p WHERE p.run_id = fence.id)) t
), asked AS (
    INSERT INTO perennial.approval ({columns_of(tables.approval)})
    SELECT {columns_of(tables.approval, "b.")}
    FROM fence, m, jsonb_populate_recordset(NULL::perennial.approval, m.before -> 'approvals') b
    WHERE (SELECT count(*) FROM unasked) >= 0
), unvoted AS MATERIALIZED (
    SELECT t.* FROM fence, LATERAL perennial.take_out_votes(fence.id,
        ARRAY(SELECT v.key FROM perennial.approval_vote v WHERE v.run_id = fence.id)) t
), voted AS (
    INSERT INTO perennial.approval_vote ({columns_of(tables.approval_vote)})
    SELECT {columns_of(tables.approval_vote, "b.")}
    FROM fence, m, jsonb_populate_recordset(NULL::perennial.approval_vote, m.before -> 'votes') b
    WHERE (SELECT count(*) FROM unvoted) >= 0
), gone AS MATERIALIZED (
    SELECT t.* FROM fence, LATERAL perennial.take_out_activities(fence.id,
        ARRAY(SELECT a.key FROM perennial.activity a WHERE a.run_id = fence.id)) t
), placed AS (
    INSERT INTO perennial.activity ({columns_of(tables.activity)})
    SELECT {columns_of(tables.activity, "b.")}
    FROM fence, m, jsonb_populate_recordset(NULL::perennial.activity, m.before -> 'activities') b
    WHERE (SELECT count(*) FROM gone) >= 0
    RETURNING run_id, key, attempt, kind, name, queue, state
), emptied AS (
    DELETE FROM perennial.outbox o USING fence WHERE o.run_id = fence.id AND o.key <> ''
        AND NOT o.key = ANY(ARRAY(SELECT placed.key FROM placed))
        AND (SELECT count(*) FROM gone) >= 0
), handed_off AS (
    {HAND_OFF}
    SELECT placed.run_id, placed.key, placed.attempt, placed.name, placed.queue, {FOR_A_RELAY}
    FROM placed WHERE placed.kind = 'stage' AND placed.state = 'pending'
    {REPLACES}
), kept AS (
    UPDATE perennial.migration k SET undone_at = perennial.now() FROM fence
    WHERE k.plan_id = %(plan_id)s AND k.run_id = fence.id
), told AS (
    {APPEND_HISTORY}
    SELECT fence.id, %(by)s, 'migration undone', NULL, NULL, fence.from_status, fence.status,
        jsonb_build_object('plan', %(plan_id)s::text, 'from', m.to_version, 'to', m.from_version,
            'reason', %(reason)s::text)
    FROM fence, m
)
SELECT fence.id, {WAKE_RELAYS} FROM fence
""",
)


def undo_migration(
    connection: AnyConnection, plan_id: str, run_id: UUID, *, by: str, reason: str
) -> bool:
    """Put the run back as it was. False: it has made a step since, or was not migrated by this plan."""
    return _UNDO.row(connection, plan_id=plan_id, run_id=run_id, by=by, reason=reason) is not None
