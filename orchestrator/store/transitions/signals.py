"""Signals: buffered until a wait of the run consumes them, deduplicated by the sender's id."""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.outside import from_outside

# The run's row is updated first: it is the lock on which a signal and a turn meet. `wait` is what this signal would
# answer, where that is known: it is the next of its name, and all who wait for one take the same form.
_SIGNAL = Statement(
    "signal_run",
    from_outside(
        before="""wait AS (
    SELECT min(a.policy->>'digest') AS digest, (array_agg(a.policy->'takes'))[1] AS takes
    FROM perennial.activity a
    WHERE a.run_id = %(run_id)s AND a.kind = 'signal' AND a.name = %(name)s AND a.state = 'pending'
    HAVING count(*) = count(a.policy->>'digest') AND min(a.policy->>'digest') = max(a.policy->>'digest')
        AND min(a.policy->>'digest') IS DISTINCT FROM %(fits)s::text AND NOT EXISTS (
            SELECT FROM perennial.signal s
            WHERE s.run_id = %(run_id)s AND s.name = %(name)s AND s.consumed_key IS NULL)
), """,
        conditions="""
        AND (%(signal_id)s::text IS NULL OR NOT EXISTS (SELECT FROM perennial.signal s
            WHERE s.run_id = r.id AND s.signal_id = %(signal_id)s))  /* guard: a known signal is no fact */
        AND (
            SELECT count(*) < %(signals_max)s AND coalesce(sum(pg_column_size(s.payload)), 0) < %(bytes_max)s
            FROM perennial.signal s WHERE s.run_id = r.id AND s.consumed_key IS NULL
        )  /* guard: a run holds so many signals */
        AND (%(unseen)s::bool OR NOT EXISTS (SELECT FROM wait))""",
        fact="""fact AS (
    INSERT INTO perennial.signal (id, run_id, name, signal_id, payload, sender, received_revision)
    SELECT %(id)s, fence.id, %(name)s, %(signal_id)s, %(payload)s::jsonb, %(sender)s, fence.revision FROM fence
    ON CONFLICT (run_id, signal_id) DO NOTHING  /* guard: signal deduplication */
    RETURNING NULL::text AS key, jsonb_build_object('name', name) AS detail
""",
        actor="%(sender)s",
        event="'signal received'",
        answer="NULL::text AS digest, NULL::text AS takes",
        unless="\nUNION ALL SELECT wait.digest, wait.takes::text, NULL FROM wait WHERE NOT %(unseen)s::bool",
    ),
)


_HELD = Statement(
    "signals_held",
    """
SELECT count(*) AS signals, coalesce(sum(pg_column_size(s.payload)), 0)::bigint AS bytes, EXISTS (
    SELECT FROM perennial.signal k WHERE k.run_id = %(run_id)s AND k.signal_id = %(signal_id)s::text) AS is_known
FROM perennial.signal s WHERE s.run_id = %(run_id)s AND s.consumed_key IS NULL
""",
)


class Takes(NamedTuple):
    """What the wait that a signal would answer takes: a JSON Schema, and its digest."""

    digest: str
    schema: dict[str, Any]


SIGNALS_HELD_MAX = 10_000
SIGNAL_BYTES_HELD_MAX = 16 * 1024 * 1024
"""So much one run holds of signals that no wait has taken, each as Postgres keeps it; each turn reads them."""


def why_no_room(connection: AnyConnection, run_id: UUID, signal_id: str | None) -> str | None:
    """Why the run takes no more signals. None: it does, or it has this one already."""
    held: Any = _HELD.row(connection, run_id=run_id, signal_id=signal_id)
    if held.is_known:
        return None
    if held.signals >= SIGNALS_HELD_MAX:
        return f"{held.signals} signals that no wait has taken, and holds no more than that"
    if held.bytes >= SIGNAL_BYTES_HELD_MAX:
        most = SIGNAL_BYTES_HELD_MAX
        return f"{held.bytes:,} bytes of signals that no wait has taken, and holds no more than {most:,}"
    return None


def signal_run_if_open(
    connection: AnyConnection,
    run_id: UUID,
    *,
    name: str,
    payload: str,
    signal_id: str | None,
    sender: str,
    fits: str | None = None,
    unseen: bool = False,
) -> bool | Takes:
    """Buffer a signal (`payload` is JSON text) and ask for a turn. False: duplicate, ended, no such run, or no room.

    `fits`: the digest of a schema that it fits. Where the wait that it would answer takes another form, that is
    the answer, and nothing was written; `unseen` buffers it all the same.
    """
    row: Any = _SIGNAL.row(
        connection,
        id=uuid7(),
        run_id=run_id,
        name=name,
        payload=payload,
        signal_id=signal_id,
        sender=sender,
        fits=fits,
        unseen=unseen,
        signals_max=SIGNALS_HELD_MAX,
        bytes_max=SIGNAL_BYTES_HELD_MAX,
    )
    if row is None or row.digest is None:
        return row is not None
    return Takes(row.digest, json.loads(row.takes))
