"""Heartbeats of a stage's own code: kept with its policy, for the next attempt, for people, and for who looks for
attempts that have fallen silent.

beat_attempt_if_claimed   how far it has come, fenced by its attempt
"""

from __future__ import annotations

from uuid import UUID

from orchestrator.store.statement import AnyConnection, Statement

# No index holds what is changed, and no revision is raised: the flow has nothing to decide.
_BEAT = Statement(
    "beat_attempt",
    """
UPDATE perennial.activity a SET policy = coalesce(a.policy, '{}') || jsonb_build_object('heartbeat',
    jsonb_build_object('details', %(details)s::jsonb, 'at', extract(epoch FROM perennial.now())))
WHERE a.run_id = %(run_id)s AND a.key = %(key)s
    AND (a.attempt = %(attempt)s
        AND a.state = 'claimed')  /* guard: a heartbeat is of an attempt that is still its worker's */
RETURNING a.key
""",
)

FELL_SILENT = """coalesce(greatest(extract(epoch FROM a.claimed_at), (a.policy #>> '{heartbeat,at}')::float8)
        + (a.policy ->> 'heartbeat_seconds')::float8 <= extract(epoch FROM perennial.now()), false)"""
"""Whether a claimed stage has said nothing for longer than it may. Of one that may be silent: no."""


def beat_attempt_if_claimed(
    connection: AnyConnection, run_id: UUID, key: str, attempt: int, *, details: str
) -> bool:
    """Note the details, JSON text. False: the attempt isn't ours any more."""
    row = _BEAT.row(connection, run_id=run_id, key=key, attempt=attempt, details=details)
    return row is not None
