"""Many timers that come due in the same instant: one statement, one transaction.

It does what `engine.fire` does to one timer after the other, for the kinds that come in crowds: sleeps,
approvals that time out, retries of stages. Whatever it does not take is left to that, the truth of what
firing means: other kinds, runs that somebody else has locked, activities that wait no more. (docs/adr/0021)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from orchestrator.store.approvals import DECISION
from orchestrator.store.parts import ADVANCE
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.outbox import Handoff

_KINDS = "'sleep', 'approval-timeout', 'retry'"

# Runs are locked first, as in every firing, and then their timers; never waited for, since whoever waits for
# one while it holds many makes a circle with whoever holds that one and wants another. `crowd` finds armed
# timers again when it has their locks; activities and approvals say themselves whether they still wait.
# A run that has a timer of another kind due as well gets them one after the other: an approval that escalates
# and times out has escalated.
_FIRE_TOGETHER = Statement(
    "fire_together",
    f"""
WITH asked AS MATERIALIZED (
    SELECT t.id FROM perennial.timer t WHERE t.id = ANY(%(timer_ids)s::uuid[]) AND t.state = 'armed'
        AND t.due_at <= perennial.now()
), crowd AS MATERIALIZED (
    SELECT t.id, t.run_id, t.key, t.kind, t.attempt, r.status, r.queue, r.revision + 1 AS next_revision
    FROM perennial.timer t JOIN perennial.run r ON r.id = t.run_id
    WHERE t.id = ANY(%(timer_ids)s::uuid[]) AND t.state = 'armed'
        AND t.due_at <= perennial.now()  /* guard: a crowd's timers are due by the database's clock */
        AND t.kind IN ({_KINDS}) AND r.closed_at IS NULL
        AND NOT EXISTS (SELECT FROM perennial.timer other WHERE other.run_id = t.run_id AND other.state = 'armed'
            AND other.due_at <= perennial.now() AND other.kind NOT IN ({_KINDS}))
    FOR NO KEY UPDATE OF r, t SKIP LOCKED  /* guard: a crowd's timers fire once */
), slept AS (
    UPDATE perennial.activity a SET state = 'done', settled_at = perennial.now(), settled_revision = crowd.next_revision
    FROM crowd WHERE crowd.kind = 'sleep' AND a.run_id = crowd.run_id AND a.key = crowd.key AND a.state = 'pending'
    RETURNING crowd.id, a.run_id, a.key, crowd.status, crowd.queue
), timed_out AS (
    UPDATE perennial.approval p SET state = 'timed_out'
    FROM crowd WHERE crowd.kind = 'approval-timeout' AND p.run_id = crowd.run_id AND p.key = crowd.key
        AND p.state = 'open'
    RETURNING crowd.id, p.run_id, p.key, crowd.status, crowd.queue, crowd.next_revision, {DECISION} AS decision
), answered AS (
    UPDATE perennial.activity a SET state = 'done', result = timed_out.decision, settled_at = perennial.now(),
        settled_revision = timed_out.next_revision
    FROM timed_out WHERE a.run_id = timed_out.run_id AND a.key = timed_out.key AND a.state = 'pending'
    RETURNING timed_out.id, a.run_id, a.key, timed_out.status, timed_out.queue
), retried AS (
    UPDATE perennial.activity a SET state = 'pending', worker_id = NULL, claimed_at = NULL
    FROM crowd WHERE crowd.kind = 'retry' AND a.run_id = crowd.run_id AND a.key = crowd.key
        AND a.attempt = crowd.attempt AND a.state = 'retrying' AND a.kind = 'stage'
    RETURNING crowd.id, a.run_id, a.key, a.attempt, a.name, a.queue
), fired AS (
    SELECT id, run_id, '' AS key, 1 AS attempt, '{ADVANCE}' AS task, queue FROM slept
    UNION ALL SELECT id, run_id, '', 1, '{ADVANCE}', queue FROM answered
    UNION ALL SELECT id, run_id, key, attempt, name, queue FROM retried
), ended AS (
    UPDATE perennial.timer t SET state = 'fired', fired_at = perennial.now() FROM fired WHERE t.id = fired.id
), bumped AS (
    UPDATE perennial.run r SET revision = r.revision
            + 1  /* guard: a turn sees a crowd's facts */
    FROM (SELECT DISTINCT run_id FROM fired) moved WHERE r.id = moved.run_id
), told AS (
    INSERT INTO perennial.history (run_id, actor, event, key, from_status, to_status)
    SELECT run_id, 'timer', 'sleep ended', key, status, status FROM slept
    UNION ALL SELECT run_id, 'timer', 'approval timed out', key, status, status FROM answered
), handed_off AS (
    INSERT INTO perennial.outbox AS o (run_id, key, attempt, task, queue, publishes, publish_at)
    SELECT DISTINCT run_id, key, attempt, task, queue, 1, perennial.now() + %(relay_after)s * interval '1 second'
    FROM fired  /* guard: handoffs of a crowd */
    ON CONFLICT (run_id, key) DO UPDATE SET attempt = excluded.attempt, task = excluded.task, queue = excluded.queue,
        publishes = CASE WHEN o.key = '' THEN o.publishes ELSE excluded.publishes END,
        publish_at = CASE WHEN o.key = '' THEN least(o.publish_at, excluded.publish_at) ELSE excluded.publish_at END
    RETURNING o.run_id, o.key, o.attempt, o.task, o.queue
)
SELECT NULL::uuid AS left_id, run_id, key, attempt, task, queue FROM handed_off
UNION ALL
SELECT asked.id, NULL, NULL, NULL, NULL, NULL FROM asked WHERE NOT EXISTS (SELECT FROM fired WHERE fired.id = asked.id)
""",
)


@dataclass(frozen=True, slots=True)
class FiredTogether:
    """The handoffs that the fired left in the outbox, and the due timers that are still to be fired, in their order."""

    handoffs: tuple[Handoff, ...] = ()
    left: tuple[UUID, ...] = ()


def fire_together_if_due(
    connection: AnyConnection, timer_ids: Sequence[UUID], *, relay_after: float
) -> FiredTogether:
    """Fire those that are armed and due and of a common kind, each once, with what each leads to."""
    rows = _FIRE_TOGETHER.rows(connection, timer_ids=list(timer_ids), relay_after=relay_after)
    left = {row.left_id for row in rows}
    return FiredTogether(
        handoffs=tuple(
            Handoff(row.run_id, row.key, row.attempt, row.task, row.queue)
            for row in rows
            if row.left_id is None
        ),
        left=tuple(timer_id for timer_id in timer_ids if timer_id in left),
    )
