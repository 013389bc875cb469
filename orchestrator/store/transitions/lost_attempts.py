"""What a lost attempt or a lost turn changes: by a caller that has locked the run, and raises its revision.

hand_out_again_if_claimed, fail_attempt_if_claimed  the end of an attempt whose worker is gone
park_run_if_moving                                  the run is an incident
raise_revision, append_history                      what each of these comes with
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from orchestrator.store.parts import (
    APPEND_HISTORY,
    RAISED,
)
from orchestrator.store.statement import AnyConnection, Statement

NEXT_REVISION = f"(SELECT {RAISED} FROM perennial.run r WHERE r.id = a.run_id)"
"""For a statement that settles an activity `a` before its caller raises the revision."""


_RAISE = Statement(
    "raise_revision",
    f"""
UPDATE perennial.run r SET revision = {RAISED}
WHERE r.id = %(run_id)s
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


_APPEND = Statement(
    "append_history",
    f"""
{APPEND_HISTORY}
SELECT r.id, %(actor)s, %(event)s, %(key)s, %(attempt)s, %(from_status)s, r.status, %(detail)s::jsonb
FROM perennial.run r WHERE r.id = %(run_id)s
""",
)


def raise_revision(connection: AnyConnection, run_id: UUID) -> None:
    """A fact has reached the run: a turn that is deciding must decide again."""
    _RAISE.rows(connection, run_id=run_id)


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


def append_history(
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
    _APPEND.rows(
        connection,
        run_id=run_id,
        actor=actor,
        event=event,
        key=key,
        attempt=attempt,
        from_status=from_status,
        detail=None if detail is None else json.dumps(detail),
    )
