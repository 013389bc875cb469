"""Callbacks: a token is handed to a stage, and comes back with an answer.

    hand_token          the token of a callback for one stage: made at its first attempt, the same at the next ones
    forget_token        the stage has handed it on: from here on the record has its hash alone
    callback_of         which callback a token is of, and how that stands
    answer_if_pending   a result or a failure, once
    beat_if_pending     a heartbeat: its deadline is put off

A token is of the stage that has handed it on: where that was taken back since, by a rewind, the token is too.
(docs/adr/0050)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.core.kinds.callback import CALLBACK, HEARTBEAT
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.outside import from_outside

_MEANT = f"""a.run_id = c.run_id AND a.key = c.key AND a.kind = '{CALLBACK}'
        AND EXISTS (
            SELECT FROM perennial.activity s
            WHERE s.run_id = c.run_id AND s.key = c.stage_key AND s.opened_at <= c.made_at
        )  /* guard: a token is of one asking */
        """

_HAND = Statement(
    "hand_token",
    f"""
INSERT INTO perennial.callback AS c (hash, run_id, key, stage_key, token)
SELECT %(hash)s, a.run_id, a.key, %(stage_key)s, %(token)s FROM perennial.activity a
WHERE a.run_id = %(run_id)s AND a.key = %(key)s AND a.kind = '{CALLBACK}'
ON CONFLICT (run_id, key, stage_key) WHERE token IS NOT NULL DO UPDATE
    SET made_at = excluded.made_at  /* guard: each attempt hands on one token */
RETURNING c.token
""",
)

_FORGET = Statement(
    "forget_token",
    """
UPDATE perennial.callback SET token = NULL
WHERE run_id = %(run_id)s AND stage_key = %(stage_key)s AND token IS NOT NULL
""",
)

_OF = Statement(
    "callback_of_token",
    f"""
SELECT c.run_id, c.key, r.status, r.closed_at IS NOT NULL AS is_closed, a.name, a.state, a.settled_at,
    a.policy -> 'takes' AS takes
FROM perennial.callback c JOIN perennial.run r ON r.id = c.run_id
    LEFT JOIN perennial.activity a ON {_MEANT}
WHERE c.hash = %(hash)s
""",
)

_ANSWER = Statement(
    "answer_callback",
    from_outside(
        conditions=f"""AND EXISTS (SELECT FROM perennial.callback c JOIN perennial.activity a ON {_MEANT}
            WHERE c.hash = %(hash)s AND c.run_id = r.id AND a.state = 'pending')""",
        fact=f"""fact AS (
    UPDATE perennial.activity a SET state = %(state)s, result = %(result)s::jsonb, error = %(error)s::jsonb,
        settled_at = perennial.now(), settled_revision = fence.revision
    FROM fence, perennial.callback c WHERE c.hash = %(hash)s AND a.run_id = fence.id AND {_MEANT}
        AND a.state = 'pending'  /* guard: a token counts once */
    RETURNING a.key, NULL::jsonb AS detail
), forgotten AS (
    UPDATE perennial.callback c SET token = NULL FROM fact, fence
    WHERE c.run_id = fence.id AND c.key = fact.key AND c.token IS NOT NULL
""",
        actor="%(by)s",
        event="%(event)s",
        answer="fact.key",
    ),
)

# Its timer alone is changed: the flow has nothing to decide. The index of timers may hold the moment of before, at
# which nothing is due.
_BEAT = Statement(
    "beat_callback",
    f"""
WITH meant AS (
    SELECT a.run_id, a.key, (a.policy ->> 'heartbeat_seconds')::float8 AS seconds
    FROM perennial.callback c JOIN perennial.activity a ON {_MEANT}
    WHERE c.hash = %(hash)s AND a.state = 'pending'
), put_off AS (
    UPDATE perennial.timer t SET due_at = perennial.now() + meant.seconds * interval '1 second', indexed = false
    FROM meant WHERE t.run_id = meant.run_id AND t.key = meant.key AND t.kind = '{HEARTBEAT}' AND t.state = 'armed'
    RETURNING t.id
)
SELECT meant.key FROM meant WHERE meant.seconds IS NULL OR EXISTS (SELECT FROM put_off)
""",
)


@dataclass(frozen=True, slots=True)
class CallbackStanding:
    """How the callback of a token stands. `state` None: what it was of is no longer in the run's journal."""

    run_id: UUID
    key: str
    status: str
    is_closed: bool
    name: str | None
    state: str | None
    settled_at: datetime | None
    takes: Any


def hand_token(
    connection: AnyConnection, run_id: UUID, key: str, stage_key: str, *, token: str, hashed: str
) -> str | None:
    """The token of that callback for that stage: this one, or the one of an earlier attempt. None: no such callback."""
    row: Any = _HAND.row(
        connection, run_id=run_id, key=key, stage_key=stage_key, token=token, hash=hashed
    )
    return None if row is None else row.token


def forget_token(connection: AnyConnection, run_id: UUID, stage_key: str) -> None:
    """The stage has done its work: what it has handed on is needed no more."""
    _FORGET.rows(connection, run_id=run_id, stage_key=stage_key)


def callback_of(connection: AnyConnection, hashed: str) -> CallbackStanding | None:
    """Which callback the token of that hash is of. None: of none."""
    row: Any = _OF.row(connection, hash=hashed)
    if row is None:
        return None
    return CallbackStanding(
        row.run_id,
        row.key,
        row.status,
        row.is_closed,
        row.name,
        row.state,
        row.settled_at,
        row.takes,
    )


def answer_if_pending(
    connection: AnyConnection,
    run_id: UUID,
    hashed: str,
    *,
    state: str,
    result: str | None,
    error: str | None,
    event: str,
    by: str,
) -> bool:
    """Settle the callback (`result` and `error` are JSON text), and ask for a turn. False: it is settled, or gone."""
    row = _ANSWER.row(
        connection,
        run_id=run_id,
        hash=hashed,
        state=state,
        result=result,
        error=error,
        event=event,
        by=by,
    )
    return row is not None


def beat_if_pending(connection: AnyConnection, hashed: str) -> bool:
    """Put the heartbeat's deadline off. False: it is settled, or gone."""
    return _BEAT.row(connection, hash=hashed) is not None
