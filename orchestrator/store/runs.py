"""Runs from outside: start them, close them, stop and resume them.

start_runs         one statement; on a caller's connection, part of its transaction
close_run_if_open  cancelled or expired: everything open goes with it
move_run_if_in     pause, resume
find_runs          by id or business key
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from orchestrator.errors import PerennialError
from orchestrator.store.outbox import ADVANCE, NOTIFY_CHANNEL
from orchestrator.store.statement import AnyConnection, Statement

CLOSE_TRIES_MAX = 20
"""How often a run may change under who closes it. Each time somebody else's transaction went through."""

# A run that has the business key already is left alone, and not locked: its turns go on while a
# producer's transaction is open. Rows go in by key, so that two batches can't wait for each other.
_START = Statement(
    "start_runs",
    f"""
WITH asked AS (
    SELECT * FROM jsonb_to_recordset(%(runs)s::jsonb)
        AS q(id uuid, business_key text, input text, attributes text, expires_in_seconds float8, timer_id uuid)
), definition AS (
    SELECT p.name, p.version, p.queue, p.expires_after_seconds FROM perennial.process p
    WHERE p.name = %(process)s AND (%(version)s::int IS NULL OR p.version = %(version)s::int)
    ORDER BY p.version DESC LIMIT 1
), started AS (
    INSERT INTO perennial.run AS r (id, process, version, business_key, status, queue, input, attributes, expires_at)
    SELECT asked.id, definition.name, definition.version, asked.business_key, 'running', definition.queue,
        asked.input::jsonb, asked.attributes::jsonb,
        perennial.now() + coalesce(asked.expires_in_seconds, definition.expires_after_seconds) * interval '1 second'
    FROM asked, definition ORDER BY asked.business_key
    ON CONFLICT (process, business_key) DO NOTHING
    RETURNING r.id, r.process, r.version, r.business_key, r.queue, r.expires_at
), handed_off AS (
    INSERT INTO perennial.outbox (run_id, key, attempt, task, queue, publish_at)
    SELECT started.id, '', 1, '{ADVANCE}', started.queue, perennial.now() FROM started
), armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, due_at)
    SELECT asked.timer_id, started.id, '', 'expiry', started.expires_at
    FROM started JOIN asked ON asked.id = started.id WHERE started.expires_at IS NOT NULL
), told AS (
    INSERT INTO perennial.history (run_id, actor, event, to_status)
    SELECT started.id, %(actor)s, 'started', 'running' FROM started
)
SELECT started.id, started.process, started.version, started.business_key, true AS created,
    (SELECT pg_notify('{NOTIFY_CHANNEL}', '') IS NULL) AS notified
FROM started
UNION ALL
SELECT there.id, there.process, there.version, there.business_key, false, NULL
FROM definition, asked, LATERAL (
    SELECT r.id, r.process, r.version, r.business_key FROM perennial.run r
    WHERE r.process = definition.name AND r.business_key = asked.business_key LIMIT 1
) there
UNION ALL
SELECT NULL, definition.name, definition.version, NULL, false, NULL FROM definition
""",
)

_THERE = Statement(
    "runs_that_are_there",
    """
SELECT r.id, r.process, r.version, r.business_key, false AS created FROM perennial.run r
WHERE r.process = %(process)s AND r.business_key = ANY(%(keys)s::text[])
""",
)

# Fenced by the revision that this statement itself has read: what another transaction opened while this one
# waited for the run's row is not in its sight, and would stay open.
_CLOSE = Statement(
    "close_run",
    """
WITH before AS (
    SELECT r.id, r.status, r.revision FROM perennial.run r WHERE r.id = %(run_id)s AND r.closed_at IS NULL
), fence AS (
    UPDATE perennial.run r SET revision = r.revision + 1, status = %(status)s, waiting_for = NULL,
        error = %(error)s::jsonb, closed_at = perennial.now(), last_progress_at = perennial.now(),
        turn_token = NULL, turn_worker = NULL, turn_claimed_at = NULL, turn_lease_seconds = NULL
    FROM before WHERE r.id = before.id AND r.closed_at IS NULL AND r.revision = before.revision
    RETURNING r.id, before.status AS from_status
), dropped AS (
    UPDATE perennial.activity a SET state = 'cancelled', settled_at = perennial.now()
    FROM fence WHERE a.run_id = fence.id AND a.state IN ('pending', 'claimed', 'retrying')
    RETURNING a.key
), disarmed AS (
    UPDATE perennial.timer t SET state = 'cancelled' FROM fence WHERE t.run_id = fence.id AND t.state = 'armed'
), withdrawn AS (
    UPDATE perennial.approval p SET state = 'cancelled' FROM fence WHERE p.run_id = fence.id AND p.state = 'open'
), emptied AS (
    DELETE FROM perennial.outbox o USING fence
    WHERE o.run_id = fence.id AND (SELECT count(*) FROM dropped) >= 0
), told AS (
    INSERT INTO perennial.history (run_id, actor, event, from_status, to_status, detail)
    SELECT fence.id, %(actor)s, %(status)s, fence.from_status, %(status)s, %(error)s::jsonb FROM fence
)
SELECT fence.id IS NOT NULL AS is_closed FROM before LEFT JOIN fence ON true
""",
)

# Whatever a resumed run has waiting to be claimed is handed off anew: an incident may have kept it back.
_MOVE = Statement(
    "move_run",
    f"""
WITH fence AS (
    UPDATE perennial.run r SET revision = r.revision + 1, status = %(status)s, last_progress_at = perennial.now(),
        error = CASE WHEN %(status)s = 'running' THEN NULL ELSE r.error END
    FROM (SELECT id, status FROM perennial.run WHERE id = %(run_id)s FOR NO KEY UPDATE) before
    WHERE r.id = before.id AND r.status = ANY(%(from_statuses)s::text[])
    RETURNING r.id, r.queue, before.status AS from_status
), handed_off AS (
    INSERT INTO perennial.outbox (run_id, key, attempt, task, queue, publish_at)
    SELECT fence.id, '', 1, '{ADVANCE}', fence.queue, perennial.now() FROM fence WHERE %(status)s = 'running'
    UNION ALL
    SELECT a.run_id, a.key, a.attempt, a.name, a.queue, perennial.now() FROM fence JOIN perennial.activity a
        ON a.run_id = fence.id AND a.kind = 'stage' AND a.state = 'pending' WHERE %(status)s = 'running'
    ON CONFLICT (run_id, key) DO UPDATE SET publish_at = excluded.publish_at, publishes = 0
), told AS (
    INSERT INTO perennial.history (run_id, actor, event, from_status, to_status)
    SELECT fence.id, %(actor)s, %(event)s, fence.from_status, %(status)s FROM fence
)
SELECT fence.id, pg_notify('{NOTIFY_CHANNEL}', '') FROM fence
""",
)

_STATUS = Statement("run_status", "SELECT r.status FROM perennial.run r WHERE r.id = %(run_id)s")

_FIND = Statement(
    "find_run",
    """
(SELECT r.id, r.process, true AS by_id FROM perennial.run r WHERE r.id = %(id)s)
UNION ALL
(SELECT r.id, r.process, false FROM perennial.run r WHERE r.business_key = %(key)s ORDER BY r.id LIMIT 2)
""",
)


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to start. `input` and `attributes` are JSON text; `timer_id` is for its expiry, if it gets one."""

    id: UUID
    timer_id: UUID
    business_key: str | None
    input: str
    attributes: str = "{}"
    expires_in_seconds: float | None = None


def start_runs(
    connection: AnyConnection,
    process: str,
    runs: Sequence[NewRun],
    *,
    version: int | None,
    actor: str,
) -> Sequence[Any] | None:
    """Start runs of the process's newest (or that) version, or find those that have their keys.

    None: no such process is deployed.
    """
    rows = [
        {
            "id": str(run.id),
            "business_key": run.business_key,
            "input": run.input,
            "attributes": run.attributes,
            "expires_in_seconds": run.expires_in_seconds,
            "timer_id": str(run.timer_id),
        }
        for run in runs
    ]
    found = _START.rows(
        connection, runs=json.dumps(rows), process=process, version=version, actor=actor
    )
    if not found:
        return None
    there = [row for row in found if row.id is not None]
    missing = {run.business_key for run in runs} - {row.business_key for row in there} - {None}
    if missing:  # committed by somebody else while this statement ran, so it couldn't see them
        there += _THERE.rows(connection, process=process, keys=list(missing))
    return there


def close_run_if_open(
    connection: AnyConnection,
    run_id: UUID,
    *,
    status: str,
    actor: str,
    error: dict[str, Any] | None,
) -> bool:
    """Close the run as cancelled or expired. False: it had ended already, or there is none.

    Raises PerennialError: it changed under every try.
    """
    for _ in range(CLOSE_TRIES_MAX):
        row = _CLOSE.row(
            connection,
            run_id=run_id,
            status=status,
            actor=actor,
            error=None if error is None else json.dumps(error),
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


def status_of(connection: AnyConnection, run_id: UUID) -> str | None:
    """The run's status; None: no such run."""
    row = _STATUS.row(connection, run_id=run_id)
    return None if row is None else row.status


def find_runs(connection: AnyConnection, reference: str) -> Sequence[Any]:
    """The run whose id that is, or up to two with that business key: enough to know whether it is one."""
    if not reference.isprintable():
        return ()
    try:
        run_id = UUID(reference)
    except ValueError:
        run_id = None
    found = _FIND.rows(connection, id=run_id, key=reference)
    return [row for row in found if row.by_id] or found
