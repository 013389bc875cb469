"""A copy of a run, by a caller that has locked the run: one statement, of which the run itself gets a line of history.

Digests of arguments are mixed with a run's id, so the copy has none for what it has copied. Its revision goes on from
the run's, so that its facts come after those that it has copied. It has the run's moment of creation, by which its flow
goes until its first fact.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.core.kinds.origin import ORIGIN, ORIGIN_KEY
from orchestrator.core.reentry.change import Copy
from orchestrator.core.reentry.standing import Standing
from orchestrator.store.parts import (
    APPEND_HISTORY,
    FOR_A_RELAY,
    RAISED,
    WAKE_RELAYS,
    hand_off_turn,
)
from orchestrator.store.statement import AnyConnection, Statement

_FORK = Statement(
    "fork_run",
    f"""
WITH forked AS (
    INSERT INTO perennial.run AS n (id, process, version, code_revision, business_key, status, revision, queue, input,
        attributes, created_at, expires_at, attempts_before, chapter, chapter_at)
    SELECT %(new_id)s::uuid, r.process, r.version, r.code_revision, %(business_key)s::text, 'running', {RAISED},
        r.queue, r.input, r.attributes, r.created_at,
        perennial.now() + (r.expires_at - coalesce(r.chapter_at, r.created_at)),
        nullif(%(attempts_before)s::jsonb, '{{}}'), r.chapter, r.chapter_at
    FROM perennial.run r WHERE r.id = %(run_id)s
        AND r.revision = %(revision)s  /* guard: a copy is of the run that was read */
    ON CONFLICT (process, business_key) DO NOTHING
    RETURNING n.id, n.queue, n.expires_at
), copied AS (
    INSERT INTO perennial.activity (run_id, key, scope, ordinal, parent_key, kind, name, state, attempt, queue, policy,
        timeout_seconds, opened_at, claimed_at, input, result, error, settled_at, settled_revision)
    SELECT forked.id, a.key, a.scope, a.ordinal, a.parent_key, a.kind, a.name, a.state, a.attempt, a.queue, a.policy,
        a.timeout_seconds, a.opened_at, a.claimed_at, a.input, a.result, a.error, a.settled_at, a.settled_revision
    FROM forked, perennial.activity a WHERE a.run_id = %(run_id)s AND a.key = ANY(%(kept)s::text[])
        AND a.settled_at IS NOT NULL
), marked AS (
    INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state, opened_at, result, settled_at,
        settled_revision)
    SELECT forked.id, %(origin_key)s, 0, %(origin_kind)s, 'origin', 'done', r.created_at, to_jsonb(r.id),
        r.created_at, 0
    FROM forked, perennial.run r WHERE r.id = %(run_id)s AND NOT %(origin_key)s = ANY(%(kept)s::text[])
), decided AS (
    INSERT INTO perennial.approval (run_id, key, name, state, assignees, escalations, escalation_level, opened_at,
        deadline, decided_by, decided_at, comment, rule, is_reached)
    SELECT forked.id, p.key, p.name, p.state, p.assignees, p.escalations, p.escalation_level, p.opened_at, p.deadline,
        p.decided_by, p.decided_at, p.comment, p.rule, p.is_reached
    FROM forked, perennial.approval p WHERE p.run_id = %(run_id)s AND p.key = ANY(%(kept)s::text[])
        AND p.state <> 'open'
), buffered AS (
    INSERT INTO perennial.signal (id, run_id, name, signal_id, payload, sender, received_at, received_revision,
        consumed_key)
    SELECT gen_random_uuid(), forked.id, s.name, s.signal_id, s.payload, s.sender, s.received_at, s.received_revision,
        CASE WHEN s.consumed_key = ANY(%(kept)s::text[]) THEN s.consumed_key END
    FROM forked, perennial.signal s WHERE s.run_id = %(run_id)s
        AND (s.consumed_key IS NULL OR s.consumed_key = ANY(%(put_back)s::text[] || %(kept)s::text[]))
), armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, due_at)
    SELECT forked.id, forked.id, '', 'expiry', forked.expires_at FROM forked WHERE forked.expires_at IS NOT NULL
), handed_off AS (
    {hand_off_turn("forked.id", "forked.queue", FOR_A_RELAY)}
    FROM forked  /* guard: handoff of a copy */
), recorded AS (
    {APPEND_HISTORY}
    SELECT forked.id, %(actor)s, 'forked', NULL, NULL::int, NULL, 'running', %(detail)s::jsonb
        || jsonb_build_object('of', %(run_id)s::uuid, 'at', %(at)s::text) FROM forked
    UNION ALL
    SELECT %(run_id)s::uuid, %(actor)s, 'forked', NULL, NULL, %(status)s, %(status)s, %(detail)s::jsonb
        || jsonb_build_object('as', forked.id, 'at', %(at)s::text) FROM forked
)
SELECT forked.id, {WAKE_RELAYS} AS woken FROM forked
""",
)

_FORKED_BEFORE = Statement(
    "fork_of_operation",
    """
SELECT (h.detail ->> 'as')::uuid AS id FROM perennial.history h
WHERE h.run_id = %(run_id)s AND h.event = 'forked' AND h.detail ->> 'operation' = %(operation)s LIMIT 1
""",
)


def fork_if_unchanged(
    connection: AnyConnection, standing: Standing, copy: Copy, *, actor: str, detail: dict[str, Any]
) -> UUID | None:
    """Make the copy; its id. None: the run has changed since, or another run of its process has the business key."""
    row = _FORK.row(
        connection,
        new_id=uuid7(),
        run_id=standing.run.id,
        revision=standing.revision,
        status=standing.status.value,
        business_key=copy.business_key,
        kept=list(copy.kept),
        put_back=list(copy.put_back),
        origin_key=ORIGIN_KEY,
        origin_kind=ORIGIN,
        attempts_before=json.dumps(dict.fromkeys(copy.with_steps, 0)),
        at=copy.at,
        actor=actor,
        detail=json.dumps(detail),
    )
    return None if row is None else row.id


def fork_of_operation(connection: AnyConnection, run_id: UUID, operation: str) -> UUID | None:
    """The copy that this operation has made of the run."""
    row = _FORKED_BEFORE.row(connection, run_id=run_id, operation=operation)
    return None if row is None else row.id
