"""Signals: buffered until a wait of the run consumes them, deduplicated by the sender's id."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.store.outbox import ADVANCE, NOTIFY_CHANNEL
from orchestrator.store.statement import AnyConnection, Statement

# The run's row is updated first: it is the lock on which a signal and a turn meet.
_SIGNAL = Statement(
    "signal_run",
    f"""
WITH fence AS (
    UPDATE perennial.run r SET revision = r.revision + 1
    WHERE r.id = %(run_id)s AND r.closed_at IS NULL AND (%(signal_id)s::text IS NULL OR NOT EXISTS (
        SELECT FROM perennial.signal s WHERE s.run_id = r.id AND s.signal_id = %(signal_id)s))
    RETURNING r.id, r.queue, r.status, r.revision
), arrived AS (
    INSERT INTO perennial.signal (id, run_id, name, signal_id, payload, sender, received_revision)
    SELECT %(id)s, fence.id, %(name)s, %(signal_id)s, %(payload)s::jsonb, %(sender)s, fence.revision FROM fence
    ON CONFLICT (run_id, signal_id) DO NOTHING
    RETURNING id
), handed_off AS (
    INSERT INTO perennial.outbox AS o (run_id, key, attempt, task, queue, publish_at)
    SELECT fence.id, '', 1, '{ADVANCE}', fence.queue, perennial.now() FROM fence, arrived
    ON CONFLICT (run_id, key) DO UPDATE SET publish_at = least(o.publish_at, excluded.publish_at)
), told AS (
    INSERT INTO perennial.history (run_id, actor, event, from_status, to_status, detail)
    SELECT fence.id, %(sender)s, 'signal received', fence.status, fence.status,
        jsonb_build_object('name', %(name)s::text)
    FROM fence, arrived
)
SELECT arrived.id, notified.done FROM arrived LEFT JOIN (SELECT pg_notify('{NOTIFY_CHANNEL}', '') AS done) notified
    ON true
""",
)


def signal_run_if_open(
    connection: AnyConnection,
    run_id: UUID,
    *,
    name: str,
    payload: str,
    signal_id: str | None,
    sender: str,
) -> bool:
    """Buffer a signal (`payload` is JSON text) and ask for a turn. False: duplicate, ended, or no such run."""
    row: Any = _SIGNAL.row(
        connection,
        id=uuid7(),
        run_id=run_id,
        name=name,
        payload=payload,
        signal_id=signal_id,
        sender=sender,
    )
    return row is not None
