"""How worker processes ended, as those who watched them say: notes in a run's history, which move nothing.

note_exit_if_claimed   the process that had claimed an attempt has exited
note_exit_if_held      the process that had the run's turn has exited
exit_reason            what was noted, for whoever recovers the work

Who is dead is judged by heartbeats alone. A note may be missing (a whole machine is gone), and may be
about another process (a message came twice): it explains, and decides nothing.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from orchestrator.store.parts import APPEND_HISTORY
from orchestrator.store.statement import AnyConnection, Statement

WORKER_EXITED = "worker exited"
"""The event of such a note."""

_NOTE_CLAIMED = Statement(
    "note_exit_of_claim",
    f"""
{APPEND_HISTORY}
SELECT a.run_id, %(actor)s, '{WORKER_EXITED}', a.key, a.attempt, NULL, NULL,
    jsonb_build_object('reason', %(reason)s::text)
FROM perennial.activity a WHERE a.run_id = %(run_id)s AND a.key = %(key)s AND a.attempt = %(attempt)s
    AND a.state = 'claimed'
RETURNING run_id
""",
)

_NOTE_HELD = Statement(
    "note_exit_of_turn",
    f"""
{APPEND_HISTORY}
SELECT r.id, %(actor)s, '{WORKER_EXITED}', NULL, NULL, NULL, NULL, jsonb_build_object('reason', %(reason)s::text)
FROM perennial.run r WHERE r.id = %(run_id)s AND r.turn_token IS NOT NULL
RETURNING run_id
""",
)

# Within one run, by the table's primary key; read only when something was lost.
_REASON = Statement(
    "exit_reason",
    f"""
SELECT h.detail ->> 'reason' AS reason FROM perennial.history h
WHERE h.run_id = %(run_id)s AND h.event = '{WORKER_EXITED}' AND h.at >= %(since)s
    AND h.key IS NOT DISTINCT FROM %(key)s::text AND h.attempt IS NOT DISTINCT FROM %(attempt)s::int
ORDER BY h.id DESC LIMIT 1
""",
)


def note_exit_if_claimed(
    connection: AnyConnection, run_id: UUID, key: str, attempt: int, *, reason: str, actor: str
) -> bool:
    """Tell how the process at work on this attempt ended. False: the attempt is over, or was handed out again."""
    row = _NOTE_CLAIMED.row(
        connection, run_id=run_id, key=key, attempt=attempt, reason=reason, actor=actor
    )
    return row is not None


def note_exit_if_held(connection: AnyConnection, run_id: UUID, *, reason: str, actor: str) -> bool:
    """Tell how a process in this run's turn ended. False: nobody holds the turn."""
    return _NOTE_HELD.row(connection, run_id=run_id, reason=reason, actor=actor) is not None


def exit_reason(
    connection: AnyConnection,
    run_id: UUID,
    *,
    since: datetime,
    key: str | None = None,
    attempt: int | None = None,
) -> str | None:
    """What was noted last of this attempt, or, without one, of the run's turn. None: nobody saw it."""
    row = _REASON.row(connection, run_id=run_id, since=since, key=key, attempt=attempt)
    return None if row is None else row.reason
