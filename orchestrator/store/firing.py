"""What a due timer, a lost attempt or a rebuilt claim changes; the run's row is locked by the caller.

What settles an activity here is recorded by the run's next revision: the caller raises it, in the same transaction.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from orchestrator.core.kinds.signal import TAKEN_AT_THE_DEADLINE
from orchestrator.store.statement import AnyConnection, Statement

NEXT_REVISION = "(SELECT r.revision + 1 FROM perennial.run r WHERE r.id = a.run_id)"
"""For a statement that settles an activity `a` before its caller bumps the revision."""

_BUMP = Statement(
    "bump_revision",
    """
UPDATE perennial.run SET revision = revision
    + 1  /* guard: revision of a timer */
WHERE id = %(run_id)s
""",
)

_WAKE = Statement(
    "end_sleep",
    f"""
UPDATE perennial.activity a SET state = 'done', settled_at = perennial.now(), settled_revision = {NEXT_REVISION}
WHERE a.run_id = %(run_id)s AND a.key = %(key)s AND a.state = 'pending' RETURNING a.key
""",
)

_ANSWER = Statement(
    "answer_wait_from_buffer",
    f"""
WITH oldest AS (
    SELECT s.id, s.payload, s.received_at, s.received_revision FROM perennial.signal s JOIN perennial.activity a
        ON a.run_id = s.run_id AND a.key = %(key)s AND a.name = s.name AND a.state = 'pending'
    WHERE s.run_id = %(run_id)s AND s.consumed_key IS NULL ORDER BY s.received_at, s.id LIMIT 1
), answered AS (
    UPDATE perennial.activity a SET state = 'done', error = jsonb_build_object('type', %(mark)s::text),
        result = oldest.payload, settled_at = oldest.received_at,
        settled_revision = coalesce(oldest.received_revision, {NEXT_REVISION})
    FROM oldest WHERE a.run_id = %(run_id)s AND a.key = %(key)s AND a.state = 'pending'
)
UPDATE perennial.signal s SET consumed_key = %(key)s FROM oldest WHERE s.id = oldest.id RETURNING s.id
""",
)

_SIGNAL_TIMEOUT = Statement(
    "time_out_signal",
    f"""
UPDATE perennial.activity a SET state = 'timed_out', settled_at = perennial.now(), settled_revision = {NEXT_REVISION}
WHERE a.run_id = %(run_id)s AND a.key = %(key)s AND a.state = 'pending' RETURNING a.key
""",
)

_DUE_AGAIN = Statement(
    "make_attempt_due",
    """
UPDATE perennial.activity a SET state = 'pending', worker_id = NULL, claimed_at = NULL
WHERE a.run_id = %(run_id)s AND a.key = %(key)s AND a.attempt = %(attempt)s AND a.state = 'retrying'
RETURNING a.kind, a.name, a.queue
""",
)

_HAND_OUT_AGAIN = Statement(
    "hand_out_again",
    """
UPDATE perennial.activity a SET state = 'pending', attempt = a.attempt + 1, worker_id = NULL, claimed_at = NULL,
    error = %(error)s::jsonb
WHERE a.run_id = %(run_id)s AND a.key = %(key)s
    AND a.attempt = %(attempt)s AND a.state = 'claimed'  /* guard: fence of handing out again */
RETURNING a.name, a.queue, a.attempt
""",
)

_FAIL = Statement(
    "fail_attempt",
    f"""
UPDATE perennial.activity a SET state = 'failed', error = %(error)s::jsonb, settled_at = perennial.now(),
    settled_revision = {NEXT_REVISION}
WHERE a.run_id = %(run_id)s AND a.key = %(key)s AND a.attempt = %(attempt)s AND a.state = 'claimed'
RETURNING a.key
""",
)

_PARK = Statement(
    "park_run",
    """
UPDATE perennial.run r SET status = 'incident', error = %(error)s::jsonb, waiting_for = 'an operator',
    last_progress_at = perennial.now()
WHERE r.id = %(run_id)s AND r.status IN ('running', 'waiting') RETURNING r.id
""",
)

_TELL = Statement(
    "tell",
    """
INSERT INTO perennial.history (run_id, actor, event, key, attempt, from_status, to_status, detail)
SELECT r.id, %(actor)s, %(event)s, %(key)s, %(attempt)s, %(from_status)s, r.status, %(detail)s::jsonb
FROM perennial.run r WHERE r.id = %(run_id)s
""",
)


def bump_revision(connection: AnyConnection, run_id: UUID) -> None:
    """A fact has reached the run: a turn that is deciding must decide again."""
    _BUMP.rows(connection, run_id=run_id)


def end_sleep_if_pending(connection: AnyConnection, run_id: UUID, key: str) -> bool:
    """The sleep is over. False: it was already."""
    return _WAKE.row(connection, run_id=run_id, key=key) is not None


def answer_wait_from_buffer(connection: AnyConnection, run_id: UUID, key: str) -> bool:
    """Give the wait the oldest unconsumed signal of its name. False: there is none, or it waits no more."""
    row = _ANSWER.row(connection, run_id=run_id, key=key, mark=TAKEN_AT_THE_DEADLINE)
    return row is not None


def time_out_signal_if_pending(connection: AnyConnection, run_id: UUID, key: str) -> bool:
    """The wait has timed out. False: it is answered."""
    return _SIGNAL_TIMEOUT.row(connection, run_id=run_id, key=key) is not None


def make_attempt_due_if_retrying(
    connection: AnyConnection, run_id: UUID, key: str, attempt: int
) -> Any | None:
    """The retry's time has come: (kind, name, queue). None: it isn't waiting for one."""
    return _DUE_AGAIN.row(connection, run_id=run_id, key=key, attempt=attempt)


def hand_out_again_if_claimed(
    connection: AnyConnection, run_id: UUID, key: str, attempt: int, *, error: dict[str, Any]
) -> Any | None:
    """The next attempt, at once: (name, queue, attempt). None: this attempt isn't claimed any more."""
    return _HAND_OUT_AGAIN.row(
        connection, run_id=run_id, key=key, attempt=attempt, error=json.dumps(error)
    )


def fail_attempt_if_claimed(
    connection: AnyConnection, run_id: UUID, key: str, attempt: int, *, error: dict[str, Any]
) -> bool:
    """No attempt is left: the activity has failed for good."""
    row = _FAIL.row(connection, run_id=run_id, key=key, attempt=attempt, error=json.dumps(error))
    return row is not None


def park_run_if_moving(connection: AnyConnection, run_id: UUID, *, error: dict[str, Any]) -> bool:
    """Make the run an incident, explained. False: it isn't moving."""
    return _PARK.row(connection, run_id=run_id, error=json.dumps(error)) is not None


def tell(
    connection: AnyConnection,
    run_id: UUID,
    *,
    actor: str,
    event: str,
    from_status: str,
    key: str | None = None,
    attempt: int | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """One line of history; the status it leads to is the run's present one."""
    _TELL.rows(
        connection,
        run_id=run_id,
        actor=actor,
        event=event,
        key=key,
        attempt=attempt,
        from_status=from_status,
        detail=None if detail is None else json.dumps(detail),
    )
