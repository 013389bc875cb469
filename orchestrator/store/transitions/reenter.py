"""What an operator's verb writes to one run: it is locked and read, and then changed by one statement.

    lock_standing            the run as it is; nobody else changes it until the transaction ends
    re_enter_if_unchanged    the change, in these parts:

    fence       the run: its revision as it was read, its status as it shall be
    removed     activities that leave the journal, and those that are written anew in their place
    disarmed, withdrawn, unvoted, emptied
                what goes with them: timers, approvals, votes, handoffs
    rewritten   those that are written anew: settled by hand, tried again, given other arguments
    unconsumed, buffered
                signals that are to be waited for again
    armed       the run's expiry
    handed off  a turn, and each stage that is pending
    recorded    history: the verb, and each activity that has left the journal, with what it came to

An activity that is settled never changes, nor does a closed approval or a consumed signal: they are taken out, and
written anew (store.schema.rules). Steps are taken out with their stage, and put in again where they are remembered.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.core.reentry.change import Change
from orchestrator.core.reentry.standing import Standing
from orchestrator.core.run import RunStatus
from orchestrator.store.parts import (
    APPEND_HISTORY,
    CLOSED_APPROVAL,
    FOR_A_RELAY,
    HAND_OFF,
    NO_TURN,
    RAISED,
    REPLACES,
    WAKE_RELAYS,
    a_turn_of,
    look_at_children,
    run_has_changed,
)
from orchestrator.store.reads.standing import read_standing
from orchestrator.store.schema.tables import activity, columns_in_use
from orchestrator.store.statement import AnyConnection, Statement

_LOCK_RUN = Statement(
    "lock_run_to_re_enter",
    "SELECT r.id FROM perennial.run r WHERE r.id = %(run_id)s FOR NO KEY UPDATE",
)

# A second statement, so that it sees what the transaction that it has waited for has opened. A claim and a step's
# memory lock no run: they wait here for the activity, and find it changed.
_LOCK_OPEN = Statement(
    "lock_open_to_re_enter",
    f"""
WITH run AS (
    SELECT r.id FROM perennial.run r WHERE r.id = %(run_id)s FOR NO KEY UPDATE
), timers AS (
    SELECT t.id FROM perennial.timer t
    WHERE t.run_id = ANY(ARRAY(SELECT id FROM run)) AND t.state = 'armed' FOR NO KEY UPDATE
), approvals AS (
    SELECT p.key FROM perennial.approval p
    WHERE p.run_id = ANY(ARRAY(SELECT id FROM run)) AND p.state NOT IN {CLOSED_APPROVAL}
        AND (SELECT count(*) FROM timers) >= 0 FOR NO KEY UPDATE
)
SELECT a.key FROM perennial.activity a
WHERE a.run_id = ANY(ARRAY(SELECT id FROM run)) AND a.settled_at IS NULL
    AND (SELECT count(*) FROM approvals) >= 0
FOR NO KEY UPDATE  /* guard: a claim waits for an operator's verb */
""",
)


_OF_STEP = ", ".join(column.name for column in columns_in_use(activity))

_REENTER = Statement(
    "re_enter_run",
    f"""
WITH entries AS (
    SELECT * FROM jsonb_to_recordset(%(entries)s::jsonb) AS e(key text, state text, attempt int, result text,
        error jsonb, arguments text, uncounted int, keeps_timers boolean)
), fence AS (
    UPDATE perennial.run r SET revision = {RAISED}, status = %(status)s, last_progress_at = perennial.now(),
        error = CASE WHEN %(status)s IN ('running', 'waiting') THEN NULL ELSE r.error END,
        output = NULL, closed_at = NULL, waiting_for = CASE WHEN %(status)s = r.status THEN r.waiting_for END,
        turn_revision = {NO_TURN},  /* guard: a journal that an operator has rewritten is read again */
        outstanding = NULL, reentries = r.reentries + CASE WHEN r.closed_at IS NULL THEN 0 ELSE 1 END,
        input = CASE WHEN %(input)s::text IS NULL THEN r.input ELSE %(input)s::jsonb END,
        version = coalesce(%(version)s::int, r.version),
        code_revision = coalesce(%(code_revision)s::int, r.code_revision),
        queue = CASE WHEN %(version)s::int IS NULL THEN r.queue ELSE (SELECT p.queue FROM perennial.process p
            WHERE p.name = r.process AND p.version = %(version)s::int) END,
        expires_at = %(expires_at)s::timestamptz,
        attempts_before = CASE WHEN %(attempts_before)s::jsonb = '{{}}' THEN r.attempts_before
            ELSE coalesce(r.attempts_before, '{{}}') || %(attempts_before)s::jsonb END
    FROM (SELECT status FROM perennial.run WHERE id = %(run_id)s) before
    WHERE r.id = %(run_id)s
        AND r.revision = %(revision)s  /* guard: an operator's verb changes the run that it has read */
    RETURNING r.id, r.queue, r.revision, r.status, r.children, before.status AS from_status
), disarmed AS (
    UPDATE perennial.timer t SET state = 'cancelled'
    FROM fence WHERE t.run_id = fence.id AND t.state = 'armed' AND (
        t.key = ANY(%(removed)s::text[])
        OR t.key IN (SELECT e.key FROM entries e WHERE NOT e.keeps_timers)
        OR t.kind = 'expiry' AND %(arms_expiry)s)
    RETURNING t.id
), withdrawn AS MATERIALIZED (
    SELECT t.key FROM fence, LATERAL perennial.take_out_approvals(fence.id, %(removed)s::text[]) t
), unvoted AS MATERIALIZED (
    SELECT t.key FROM fence, LATERAL perennial.take_out_votes(fence.id, %(removed)s::text[]) t
), removed AS MATERIALIZED (
    SELECT t.* FROM fence, LATERAL perennial.take_out_activities(fence.id,
        %(removed)s::text[] || ARRAY(SELECT e.key FROM entries e)) t
), emptied AS (
    DELETE FROM perennial.outbox o USING fence WHERE o.run_id = fence.id AND o.key <> ''
        AND (o.key = ANY(%(removed)s::text[]) OR o.key IN (SELECT e.key FROM entries e WHERE e.state <> 'pending'))
        AND (SELECT count(*) FROM removed) >= 0
), rewritten AS (
    INSERT INTO perennial.activity (run_id, key, scope, ordinal, parent_key, kind, name, state, attempt, queue, policy,
        timeout_seconds, asked, opened_at, input, result, error, settled_at, settled_revision)
    SELECT a.run_id, a.key, a.scope, a.ordinal, a.parent_key, a.kind, a.name, e.state, e.attempt, a.queue,
        CASE WHEN e.uncounted IS NULL THEN a.policy
            ELSE coalesce(a.policy, '{{}}') || jsonb_build_object('attempts_before', e.uncounted) END,
        a.timeout_seconds, a.asked, a.opened_at, coalesce(e.arguments::jsonb, a.input), e.result::jsonb, e.error,
        CASE WHEN e.state IN ('done', 'failed') THEN perennial.now() END,
        CASE WHEN e.state IN ('done', 'failed') THEN fence.revision END
    FROM removed a JOIN entries e USING (key), fence
    RETURNING run_id, key, attempt, name, queue, kind, state
), remembered AS (
    INSERT INTO perennial.activity ({_OF_STEP}) SELECT {_OF_STEP} FROM removed a
    WHERE a.parent_key IS NOT NULL AND NOT a.parent_key = ANY(%(forgets)s::text[])
), unconsumed AS MATERIALIZED (
    SELECT t.* FROM fence, LATERAL perennial.take_out_signals(fence.id, %(put_back)s::text[]) t
), buffered AS (
    INSERT INTO perennial.signal (id, run_id, name, signal_id, payload, sender, received_at, received_revision)
    SELECT u.id, u.run_id, u.name, u.signal_id, u.payload, u.sender, u.received_at, u.received_revision
    FROM unconsumed u
), armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, due_at)
    SELECT %(timer_id)s, fence.id, '', 'expiry', %(expires_at)s::timestamptz FROM fence WHERE %(arms_expiry)s
), handed_off AS (
    {HAND_OFF}
    SELECT {a_turn_of("fence.id", "fence.queue")}, {FOR_A_RELAY}
    FROM fence  /* guard: handoff of a run that is re-entered */
    UNION ALL
    SELECT {look_at_children("fence.id", "fence.revision", "fence.queue")}, {FOR_A_RELAY}
    FROM fence WHERE fence.children > 0  /* guard: children of what is asked anew are ended */
    UNION ALL
    SELECT w.run_id, w.key, w.attempt, w.name, w.queue, {FOR_A_RELAY} FROM rewritten w
    WHERE w.kind = 'stage' AND w.state = 'pending'
    UNION ALL
    SELECT a.run_id, a.key, a.attempt, a.name, a.queue, {FOR_A_RELAY} FROM fence JOIN perennial.activity a
        ON a.run_id = fence.id AND a.kind = 'stage' AND a.state = 'pending'
    WHERE fence.from_status = 'incident' AND fence.status = 'running' AND NOT a.key = ANY(%(removed)s::text[])
        AND a.key NOT IN (SELECT e.key FROM entries e)
    {REPLACES}
), recorded AS (
    {APPEND_HISTORY}
    SELECT fence.id, %(actor)s, h.event, h.key, h.attempt, fence.from_status, fence.status, h.detail
    FROM fence, jsonb_to_recordset(%(history)s::jsonb)
        AS h(place int, event text, key text, attempt int, detail jsonb)
    ORDER BY h.place
)
SELECT fence.revision, {run_has_changed("fence.id")} AS noticed, {WAKE_RELAYS} AS woken,
    (SELECT count(*) FROM withdrawn) + (SELECT count(*) FROM unvoted) AS taken_out
FROM fence
""",
)


def lock_standing(
    connection: AnyConnection, run_id: UUID, *, operation: str | None = None
) -> Standing | None:
    """The run as it is and stays until the transaction ends. None: no such run."""
    if _LOCK_RUN.row(connection, run_id=run_id) is None:
        return None
    _LOCK_OPEN.rows(connection, run_id=run_id)
    return read_standing(connection, run_id, operation=operation)


def re_enter_if_unchanged(
    connection: AnyConnection,
    standing: Standing,
    change: Change,
    *,
    actor: str,
    detail: dict[str, Any],
) -> int | None:
    """Write the change to the run that was read as `standing`; its new revision. None: it has changed since."""
    lines: list[dict[str, Any]] = [
        {
            "event": change.event,
            "key": change.key,
            "attempt": None,
            "detail": {**detail, **change.detail},
        },
        *(
            {
                "event": note.event,
                "key": note.key,
                "attempt": note.attempt,
                "detail": dict(note.detail),
            }
            for note in change.notes
        ),
    ]
    row = _REENTER.row(
        connection,
        run_id=standing.run.id,
        revision=standing.revision,
        status=RunStatus(change.status).value,
        removed=list(change.removed),
        forgets=list(change.forgets),
        put_back=list(change.put_back),
        entries=json.dumps(
            [
                {
                    "key": each.key,
                    "state": each.state,
                    "attempt": each.attempt,
                    "result": each.result,
                    "error": each.error,
                    "arguments": each.arguments,
                    "uncounted": each.uncounted,
                    "keeps_timers": each.keeps_timers,
                }
                for each in change.replaced
            ]
        ),
        input=change.input,
        version=change.version,
        code_revision=change.code_revision,
        expires_at=change.expires_at if change.arms_expiry else standing.expires_at,
        arms_expiry=change.arms_expiry,
        timer_id=uuid7(),
        attempts_before=json.dumps(dict(change.attempts_before)),
        actor=actor,
        history=json.dumps([{"place": place, **line} for place, line in enumerate(lines)]),
    )
    return None if row is None else row.revision
