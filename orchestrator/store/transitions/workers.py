"""Worker processes: who is alive, and what the dead left behind.

A process beats only while it has something claimed. A claim is a sign of life too, so a process that
was idle for an hour is not thought dead the moment it claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.heartbeats import FELL_SILENT

_BEAT = Statement(
    "beat",
    """
INSERT INTO perennial.worker AS w (id, name, pid)
SELECT own.id, own.name, own.pid
FROM unnest(%(worker_ids)s::uuid[], %(names)s::text[], %(pids)s::int[]) AS own(id, name, pid) ORDER BY own.id
ON CONFLICT (id) DO UPDATE SET heartbeat_at = perennial.now()
""",
)

# A claim is a sign of life, like a beat. Only claimed activities are looked at: as many as the fleet has
# hands, however many runs wait. `least`: a timeout that no interval holds must not stop the look at all others.
_ATTEMPTS_LOST = f"""perennial.activity a LEFT JOIN perennial.worker w ON w.id = a.worker_id
WHERE a.state = 'claimed' AND (
    greatest(
        w.heartbeat_at,  /* guard: a beating worker keeps its claim */
        a.claimed_at  /* guard: a claim is a sign of life */
        ) <= perennial.now() - %(dead_after)s * interval '1 second'
    OR (perennial.now() - (least(a.timeout_seconds, 4e9) + %(timeout_grace)s) * interval '1 second'
        >= a.claimed_at)  /* guard: a stage has a time limit */
    OR {FELL_SILENT}  /* guard: a stage that says nothing for too long is lost */
    )"""

_LOST = Statement(
    "lost_attempts",
    f"""
SELECT a.run_id, a.key, a.attempt FROM {_ATTEMPTS_LOST}
ORDER BY a.claimed_at LIMIT %(limit)s
""",
)

_LOCK_RUN = Statement(
    "lock_run", "SELECT r.id FROM perennial.run r WHERE r.id = %(run_id)s FOR NO KEY UPDATE"
)

_LOCK_LOST = Statement(
    "lock_lost_attempt",
    f"""
SELECT a.name, a.policy, a.queue, a.claimed_at, a.timeout_seconds, a.error, {FELL_SILENT} AS fell_silent,
    r.status, r.queue AS run_queue,
    coalesce(perennial.now() - least(a.timeout_seconds, 4e9) * interval '1 second' >= a.claimed_at, false)
        AS timed_out,
    extract(epoch FROM perennial.now() - least(perennial.now(), greatest(a.claimed_at,
        perennial.now() - interval '200 years')))::float8 AS claimed_seconds,
    extract(epoch FROM perennial.now() - least(perennial.now(), greatest(w.heartbeat_at, a.claimed_at,
        perennial.now() - interval '200 years')))::float8 AS silent_seconds
FROM perennial.activity a JOIN perennial.run r ON r.id = a.run_id LEFT JOIN perennial.worker w ON w.id = a.worker_id
WHERE a.run_id = %(run_id)s AND a.key = %(key)s
    AND a.attempt = %(attempt)s AND a.state = 'claimed'  /* guard: one recovery of a lost attempt */
FOR NO KEY UPDATE OF r, a
""",
)

# One look for everything that may have been left undone; all four answers come from partial indexes. The
# first entry of an index, not EXISTS with a bound: a generic plan would scan the table for the latter.
_CARE = Statement(
    "what_needs_care",
    f"""
SELECT
    coalesce((SELECT min(o.publish_at) FROM perennial.outbox o) <= perennial.now(), false) AS handoffs,
    coalesce(next.to_index <= perennial.now() + %(horizon_seconds)s * interval '1 second', false) AS timers_to_index,
    coalesce(least(next.indexed, next.to_index) <= perennial.now() - %(grace_seconds)s * interval '1 second', false)
        AS timers_overdue,
    EXISTS (SELECT FROM {_ATTEMPTS_LOST}) AS attempts_lost
FROM (SELECT
    (SELECT min(t.due_at) FROM perennial.timer t WHERE t.state = 'armed' AND t.indexed) AS indexed,
    (SELECT min(t.due_at) FROM perennial.timer t WHERE t.state = 'armed' AND NOT t.indexed) AS to_index
) next
""",
)

# A Celery worker as a whole that is dead stays as long as its broker may put what it had taken back into its queue,
# which is an hour by itself.
_FORGET = Statement(
    "forget_old_workers",
    """
WITH forgotten AS (
    DELETE FROM perennial.worker w WHERE w.heartbeat_at < perennial.now() - CASE WHEN w.can IS NULL
            THEN interval '1 day' ELSE interval '2 hours' END
        AND NOT EXISTS (SELECT FROM perennial.activity a WHERE a.state = 'claimed' AND a.worker_id = w.id)
    RETURNING w.queue
)
SELECT DISTINCT f.queue FROM forgotten f WHERE f.queue IS NOT NULL
    AND NOT EXISTS (SELECT FROM perennial.worker o WHERE o.can IS NOT NULL AND o.queue = f.queue
        AND o.heartbeat_at >= perennial.now() - interval '2 hours')
""",
)


def beat(connection: AnyConnection, worker_ids: Sequence[UUID], *, name: str, pid: int) -> None:
    """This worker process is alive, under these ids; the first beat registers each."""
    _BEAT.rows(
        connection,
        worker_ids=list(worker_ids),
        names=[name] * len(worker_ids),
        pids=[pid] * len(worker_ids),
    )


def beat_text(schema: str) -> str:
    """The statement itself, for the process that beats for others (`worker_ids`, `names`, `pids`)."""
    return _BEAT.of(schema).text


def forget_old_workers(connection: AnyConnection) -> list[str]:
    """Drop the rows of processes that have been silent for a day, and of whole workers for two hours.

    Answers the queues of codes that no worker has any more.
    """
    return [row.queue for row in _FORGET.rows(connection)]


def what_needs_care(
    connection: AnyConnection,
    *,
    horizon_seconds: float,
    grace_seconds: float,
    dead_after: float,
    timeout_grace: float,
) -> Any:
    """A row of four booleans: handoffs, timers_to_index, timers_overdue, attempts_lost."""
    return _CARE.row(
        connection,
        horizon_seconds=horizon_seconds,
        grace_seconds=grace_seconds,
        dead_after=dead_after,
        timeout_grace=timeout_grace,
    )


def lost_attempts(
    connection: AnyConnection, *, dead_after: float, timeout_grace: float, limit: int
) -> Sequence[Any]:
    """Claims (run_id, key, attempt) whose worker is silent, or that overran their timeout."""
    return _LOST.rows(connection, dead_after=dead_after, timeout_grace=timeout_grace, limit=limit)


def lock_lost_attempt(
    connection: AnyConnection, run_id: UUID, key: str, attempt: int
) -> Any | None:
    """Lock a claimed attempt and its run, run first. None: it is over."""
    if _LOCK_RUN.row(connection, run_id=run_id) is None:
        return None
    return _LOCK_LOST.row(connection, run_id=run_id, key=key, attempt=attempt)
