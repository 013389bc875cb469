"""A run moves to another version, and back: its journal is rewritten in one statement, under the run's fence.

    hold_run_to_rewrite   the run's lock and its open activities': nothing of it is claimed until the transaction ends
    migrate_run           as the plan decided over the revision that was read
    park_unmigrated       an incident, with the reason why the plan can't move it

Rows of a journal don't change: those that have another place or name are taken out and put in again
(`store.schema.rules`). What was there before is kept in `migration`, word for word. (docs/adr/0049)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Table
from uuid_utils.compat import uuid7

from orchestrator.core.journal import AHEAD, Activity, ActivityState
from orchestrator.core.versions.migrated import Migrated, Moved, OpenApproval
from orchestrator.store.parts import (
    APPEND_HISTORY,
    FOR_A_RELAY,
    HAND_OFF,
    NO_TURN,
    RAISED,
    REPLACES,
    WAKE_RELAYS,
    a_turn_of,
)
from orchestrator.store.rowset import RowSet
from orchestrator.store.schema import tables
from orchestrator.store.statement import AnyConnection, Statement


def columns_of(table: Table, of: str = "") -> str:
    """All that a row has, whichever release has added it."""
    return ", ".join(of + column.name for column in tables.columns_in_use(table))


_OF_ACTIVITY, _OF_APPROVAL = columns_of(tables.activity), columns_of(tables.approval)

_MOVED = RowSet(
    "moved",
    "old_key text, key text, scope text, ordinal int, name text, asked text, result jsonb, is_open boolean,"
    " has_content boolean, input jsonb, policy jsonb, queue text, timeout_seconds float8, is_asked_anew boolean,"
    " assignees text[], escalations jsonb, deadline_seconds float8, restarts boolean, drops_votes boolean,"
    " changed text, asks_otherwise boolean, rule jsonb",
)
_ADDED = RowSet(
    "added", "key text, scope text, ordinal int, kind text, name text, asked text, result jsonb"
)
_RESTARTED = RowSet(
    "restarted", "id uuid, key text, kind text, level int, delay_seconds float8, at timestamptz"
)

# A claim locks no run: it is kept away by the lock of what it would claim.
_HOLD = Statement(
    "hold_run_to_rewrite",
    """
WITH fence AS (
    SELECT r.id FROM perennial.run r WHERE r.id = %(run_id)s FOR NO KEY UPDATE
), held AS (
    SELECT a.state FROM perennial.activity a WHERE a.run_id = ANY(ARRAY(SELECT id FROM fence))
        AND a.settled_at IS NULL
    FOR UPDATE  /* guard: nothing is claimed while its journal is rewritten */
)
SELECT fence.id, (SELECT count(*) FROM held WHERE held.state = 'claimed') AS claimed FROM fence
""",
)

_WAS = """was AS MATERIALIZED (
    SELECT jsonb_build_object(
        'run', jsonb_build_object('version', r.version, 'code_revision', r.code_revision, 'queue', r.queue,
            'input', r.input, 'status', r.status, 'stage', r.stage, 'waiting_for', r.waiting_for, 'error', r.error,
            'needs_turn', r.turn_revision <> r.revision),
        'activities', (SELECT coalesce(jsonb_agg(to_jsonb(a) || CASE
            WHEN a.settled_at IS NOT NULL AND a.parent_key IS NULL AND a.settled_revision IS NULL
            THEN jsonb_build_object('settled_revision', 0) ELSE '{}' END), '[]')
            FROM perennial.activity a WHERE a.run_id = r.id),
        'approvals', (SELECT coalesce(jsonb_agg(to_jsonb(p)), '[]') FROM perennial.approval p WHERE p.run_id = r.id),
        'votes', (SELECT coalesce(jsonb_agg(to_jsonb(v)), '[]') FROM perennial.approval_vote v WHERE v.run_id = r.id),
        'timers', (SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') FROM perennial.timer t
            WHERE t.run_id = r.id AND t.state = 'armed')) AS before
    FROM perennial.run r WHERE r.id = %(run_id)s
)"""

_MIGRATE = Statement(
    "migrate_run",
    f"""
WITH moved AS MATERIALIZED (
    SELECT m.* FROM {_MOVED.called("m")}
), {_WAS}, fence AS (
    UPDATE perennial.run r SET revision = {RAISED}, version = %(to_version)s, code_revision = p.code_revision,
        queue = p.queue,
        turn_revision = CASE WHEN %(asks_turn)s OR r.turn_revision <> r.revision THEN {NO_TURN}
            ELSE {RAISED} END, outstanding = NULL,
        input = CASE WHEN %(has_input)s THEN %(input)s::jsonb ELSE r.input END,
        status = CASE WHEN r.status = 'paused' THEN r.status WHEN r.status = 'incident' THEN 'running'
            WHEN %(asks_turn)s THEN r.status ELSE %(status)s END,
        error = CASE WHEN r.status = 'incident' THEN NULL ELSE r.error END,
        stage = CASE WHEN %(asks_turn)s THEN r.stage ELSE %(stage)s END,
        waiting_for = CASE WHEN r.status = 'incident' THEN NULL WHEN %(asks_turn)s THEN r.waiting_for
            ELSE %(waiting_for)s END
    FROM perennial.process p
    WHERE r.id = %(run_id)s
        AND r.revision = %(revision)s  /* guard: revision of a migration */
        AND r.process = %(process)s AND r.version = %(from_version)s
        AND r.closed_at IS NULL
        AND r.turn_token IS NULL  /* guard: a held turn is not migrated */
        AND p.name = r.process AND p.version = %(to_version)s
    RETURNING r.id, r.queue, r.status, r.revision
), disarmed AS (
    UPDATE perennial.timer t SET state = 'cancelled'
    FROM fence WHERE t.run_id = fence.id AND t.state = 'armed' AND (t.key = ANY(%(dropped)s::text[])
        OR t.key IN (SELECT m.old_key FROM moved m WHERE m.restarts))
    RETURNING t.id
), followed AS (
    UPDATE perennial.timer t SET key = m.key
    FROM fence, moved m WHERE t.run_id = fence.id AND t.state = 'armed' AND t.key = m.old_key AND NOT m.restarts
        AND m.key <> m.old_key
    RETURNING t.id
), armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, level, due_at, indexed)
    SELECT t.id, fence.id, t.key, t.kind, t.level,
        coalesce(t.at, perennial.now() + t.delay_seconds * interval '1 second'), false
    FROM fence, {_RESTARTED.called("t")}
), unasked AS MATERIALIZED (
    SELECT t AS was FROM fence, LATERAL perennial.take_out_approvals(fence.id,
        ARRAY(SELECT m.old_key FROM moved m WHERE m.key <> m.old_key OR m.is_asked_anew) || %(dropped)s::text[]) t
), asked AS (
    INSERT INTO perennial.approval ({_OF_APPROVAL})
    SELECT {columns_of(tables.approval, "p.")}
    FROM unasked u LEFT JOIN moved m ON m.old_key = (u.was).key,
        LATERAL jsonb_populate_record(u.was, jsonb_build_object(
            'key', coalesce(m.key, (u.was).key || '~' || %(plan_id)s),
            'former_keys', (u.was).former_keys
                || CASE WHEN m.key = (u.was).key THEN '{{}}' ELSE ARRAY[(u.was).key] END)
        || CASE WHEN m.key IS NULL AND (u.was).state = 'open' THEN jsonb_build_object('state', 'cancelled')
            WHEN m.is_open THEN jsonb_build_object('name', m.name,
                'assignees', coalesce(m.assignees, (u.was).assignees),
                'escalations', coalesce(m.escalations, (u.was).escalations),
                'rule', CASE WHEN m.escalations IS NULL THEN (u.was).rule ELSE m.rule END,
                'edition', (u.was).edition + m.asks_otherwise::int,
                'changed', CASE WHEN m.changed <> '' THEN m.changed ELSE (u.was).changed END)
            ELSE '{{}}' END
        || CASE WHEN m.restarts THEN jsonb_build_object('deadline',
            perennial.now() + m.deadline_seconds * interval '1 second') ELSE '{{}}' END) p
    WHERE (SELECT count(*) FROM unasked) >= 0
), unvoted AS MATERIALIZED (
    SELECT t.* FROM fence, LATERAL perennial.take_out_votes(fence.id,
        ARRAY(SELECT m.old_key FROM moved m WHERE m.key <> m.old_key OR m.drops_votes) || %(dropped)s::text[]) t
), voted AS (
    INSERT INTO perennial.approval_vote (run_id, key, person, outcome, comment, at)
    SELECT u.run_id, coalesce(m.key, u.key || '~' || %(plan_id)s), u.person, u.outcome, u.comment, u.at
    FROM unvoted u LEFT JOIN moved m ON m.old_key = u.key
    WHERE NOT coalesce(m.drops_votes, false) AND (SELECT count(*) FROM unvoted) >= 0
), gone AS MATERIALIZED (
    SELECT t AS was FROM fence, LATERAL perennial.take_out_activities(fence.id,
        ARRAY(SELECT m.old_key FROM moved m) || %(dropped)s::text[]) t
), placed AS (
    INSERT INTO perennial.activity ({_OF_ACTIVITY})
    SELECT {columns_of(tables.activity, "p.")}
    FROM gone g JOIN moved m ON m.old_key = coalesce((g.was).parent_key, (g.was).key),
        LATERAL jsonb_populate_record(g.was, CASE WHEN (g.was).parent_key IS NOT NULL
            THEN jsonb_build_object('key', m.key || substr((g.was).key, length(m.old_key) + 1), 'scope', m.key,
                'parent_key', m.key)
            ELSE jsonb_build_object('key', m.key, 'scope', m.scope, 'ordinal', m.ordinal, 'name', m.name,
                    'asked', m.asked,
                    'settled_revision', coalesce((g.was).settled_revision, CASE WHEN NOT m.is_open THEN 0 END))
                || CASE WHEN m.has_content THEN jsonb_build_object('queue', m.queue, 'policy', m.policy,
                    'timeout_seconds', m.timeout_seconds, 'input', m.input) ELSE '{{}}' END
                || CASE WHEN m.result IS NOT NULL THEN jsonb_build_object('result', m.result) ELSE '{{}}' END
            END) p
    WHERE (SELECT count(*) FROM gone) >= 0
    RETURNING run_id, key, attempt, kind, name, queue, state
), put_in AS (
    INSERT INTO perennial.activity (run_id, key, scope, ordinal, kind, name, state, asked, result, settled_at,
        settled_revision)
    SELECT fence.id, n.key, n.scope, n.ordinal, n.kind, n.name, 'done', n.asked, n.result, r.created_at, 0
    FROM fence JOIN perennial.run r ON r.id = fence.id, {_ADDED.called("n")}
    WHERE (SELECT count(*) FROM gone) >= 0
), emptied AS (
    DELETE FROM perennial.outbox o USING fence WHERE o.run_id = fence.id
        AND o.key = ANY(ARRAY(SELECT m.old_key FROM moved m) || %(dropped)s::text[])
        AND NOT o.key = ANY(ARRAY(SELECT m.key FROM moved m))
        AND (SELECT count(*) FROM gone) >= 0
), handed_off AS (
    {HAND_OFF}
    SELECT placed.run_id, placed.key, placed.attempt, placed.name, placed.queue, {FOR_A_RELAY}
    FROM placed WHERE placed.kind = 'stage' AND placed.state = 'pending'
    UNION ALL
    SELECT {a_turn_of("fence.id", "fence.queue")}, {FOR_A_RELAY}
    FROM fence WHERE %(asks_turn)s  /* guard: handoff of a migrated run */
    {REPLACES}
), kept AS (
    INSERT INTO perennial.migration AS k (plan_id, run_id, from_version, to_version, before, after_revision, by, reason)
    SELECT %(plan_id)s, fence.id, %(from_version)s, %(to_version)s, was.before, fence.revision, %(by)s, %(reason)s
    FROM fence, was
    ON CONFLICT (plan_id, run_id) DO UPDATE SET before = excluded.before, after_revision = excluded.after_revision,
        at = perennial.now(), by = excluded.by, reason = excluded.reason, undone_at = NULL
), told AS (
    {APPEND_HISTORY}
    SELECT fence.id, %(by)s, 'migrated', NULL, NULL, was.before -> 'run' ->> 'status', fence.status, %(detail)s::jsonb
    FROM fence, was
)
SELECT fence.id, {WAKE_RELAYS} FROM fence
""",
)

_PARK = Statement(
    "park_unmigrated",
    f"""
WITH fence AS (
    UPDATE perennial.run r SET revision = {RAISED}, status = 'incident', error = %(error)s::jsonb,
        waiting_for = 'an operator', last_progress_at = perennial.now()
    FROM (SELECT id, status FROM perennial.run WHERE id = %(run_id)s) before
    WHERE r.id = before.id
        AND r.revision = %(revision)s
        AND r.status IN ('running', 'waiting') AND r.turn_token IS NULL
    RETURNING r.id, before.status AS from_status, r.status
), told AS (
    {APPEND_HISTORY}
    SELECT fence.id, %(by)s, 'parked unmigrated', NULL, NULL, fence.from_status, fence.status, %(error)s::jsonb
    FROM fence
)
SELECT fence.id FROM fence
""",
)


@dataclass(frozen=True, slots=True)
class Rewriting:
    """One run that a plan moves: which, from where to where, and over which revision that was decided."""

    plan_id: str
    run_id: UUID
    process: str
    from_version: int
    to_version: int
    revision: int
    by: str
    reason: str


def hold_run_to_rewrite(connection: AnyConnection, run_id: UUID) -> int:
    """Lock the run and what is open of it; answers how much of that is claimed."""
    row = _HOLD.row(connection, run_id=run_id)
    return 0 if row is None else row.claimed


def migrate_run(
    connection: AnyConnection,
    run: Rewriting,
    found: Migrated,
    *,
    approvals: dict[str, OpenApproval],
    detail: dict[str, Any],
) -> bool:
    """Write what was decided. False: the run has changed since. In a transaction that holds the run."""
    outcome = found.outcome
    row = _MIGRATE.row(
        connection,
        run_id=run.run_id,
        revision=run.revision,
        process=run.process,
        from_version=run.from_version,
        to_version=run.to_version,
        plan_id=run.plan_id,
        by=run.by,
        reason=run.reason,
        asks_turn=found.asks_turn,
        has_input=found.has_new_input,
        input=json.dumps(found.input) if found.has_new_input else None,
        status=outcome.status,
        stage=outcome.stage,
        waiting_for=outcome.waiting_for,
        dropped=list(found.dropped),
        detail=json.dumps(detail),
        **_MOVED.of(_moved_row(each) for each in found.moved),
        **_ADDED.of(_added_row(each) for each in found.added),
        **_RESTARTED.of(
            timer for each in found.moved for timer in _timers_of(each, approvals.get(each.old_key))
        ),
    )
    return row is not None


def park_unmigrated(
    connection: AnyConnection, run_id: UUID, *, revision: int, error: dict[str, Any], by: str
) -> bool:
    """Make a run that is refused an incident. False: it has changed since, or doesn't move."""
    row = _PARK.row(connection, run_id=run_id, revision=revision, error=json.dumps(error), by=by)
    return row is not None


def _moved_row(moved: Moved) -> dict[str, Any]:
    activity, content = moved.activity, moved.content
    ask = content.approval if content is not None else None
    is_shown = activity.kind == "approval" and activity.is_open
    return {
        "old_key": moved.old_key,
        "key": activity.key,
        "scope": activity.scope,
        "ordinal": activity.ordinal,
        "name": activity.name,
        "asked": activity.asked,
        "result": activity.result
        if activity.state is ActivityState.DONE and activity.ordinal == AHEAD
        else None,
        "is_open": activity.is_open,
        "has_content": content is not None,
        "input": None if content is None or content.input is None else json.loads(content.input),
        "policy": None if content is None else content.policy,
        "queue": None if content is None else content.queue,
        "timeout_seconds": None if content is None else content.timeout_seconds,
        "is_asked_anew": is_shown,
        "assignees": None if moved.assignees is None else list(moved.assignees),
        "escalations": None
        if ask is None
        else [
            {"after_seconds": each.after_seconds, "assignees": list(each.assignees)}
            for each in ask.escalations
        ],
        "deadline_seconds": None if ask is None else ask.timeout_seconds,
        "restarts": moved.restarts_timers,
        "drops_votes": moved.drops_votes,
        "changed": moved.what_changed,
        "asks_otherwise": moved.asks_otherwise,
        "rule": None if ask is None or ask.rule is None else ask.rule.as_json(),
    }


def _added_row(added: Activity) -> dict[str, Any]:
    return {
        "key": added.key,
        "scope": added.scope,
        "ordinal": added.ordinal,
        "kind": added.kind,
        "name": added.name,
        "asked": added.asked,
        "result": added.result,
    }


def _timers_of(moved: Moved, row: OpenApproval | None) -> Sequence[dict[str, Any]]:
    """What is armed anew: of escalations those that have not been."""
    if not moved.restarts_timers or moved.content is None:
        return ()
    level = 0 if row is None else row.escalation_level
    return [
        {
            "id": uuid7(),
            "key": moved.activity.key,
            "kind": timer.kind,
            "level": timer.level,
            "delay_seconds": timer.delay_seconds,
            "at": timer.at,
        }
        for timer in moved.content.timers
        if not timer.level or timer.level > level
    ]
