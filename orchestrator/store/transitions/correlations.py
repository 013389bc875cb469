"""Signals by a correlation key: the sender and the wait meet on one row of `correlation`, which both lock.

    CLAIMED            a part of a turn's commit: its waits claim their keys, and get what was sent before
    meeting_of         whose wait a key is, as it stands
    keep_if_unclaimed  a signal that no run awaits is kept, for as long as its sender says
    sweep_correlations rows that are over

The row's name is that of the signal with its key, `paid[PAY-1]`, by which waits and signals of a run go too. A claim
holds while its run has an open wait of that name; so nothing has to end it. `claims` counts them: whoever writes on
what it has read names the count, since the wait of a claim that came in between isn't seen yet by its statement.
(docs/adr/0050)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.store.parts import APPEND_HISTORY
from orchestrator.store.statement import AnyConnection, Statement

KEPT_MAX = 100
"""Signals of one key that no wait has taken."""

KEPT_BYTES_MAX = 4 * 1024 * 1024
"""Of one key, as Postgres keeps them."""

CLAIM_DAYS = 1
"""So long a row stays for sure after it was claimed: by then, whoever sweeps sees the wait."""


def _is_awaited(row: str) -> str:
    return f"""EXISTS (
        SELECT FROM perennial.activity a WHERE a.run_id = {row}.run_id AND a.kind = 'signal' AND a.name = {row}.name
            AND a.state = 'pending')"""


def claimed(opened: str) -> str:
    """The parts by which waits among the rows of `opened` (called o) claim their keys.

    A kept signal is the first fact after this turn: as one of the turn's own it would stand, by the time of its
    sending, before what the turn has seen, and be there at the next replay before the flow asks.
    """
    return f"""
claiming AS MATERIALIZED (
    SELECT DISTINCT ON (o.name) o.name, o.run_id, fence.recorded_revision, fence.status
    FROM fence JOIN {opened} ON o.run_id = fence.run_id WHERE o.claims ORDER BY o.name, o.run_id
), over AS MATERIALIZED (
    SELECT k.name, k.claims FROM claiming c JOIN perennial.correlation k ON k.name = c.name
    WHERE k.run_id IS NULL OR k.run_id = c.run_id OR NOT {_is_awaited("k")}
), claimed AS (
    INSERT INTO perennial.correlation AS k (name, run_id, claims, expires_at)
    SELECT c.name, c.run_id, 1, perennial.now() + interval '{CLAIM_DAYS} day' FROM claiming c ORDER BY c.name
    ON CONFLICT (name) DO UPDATE SET run_id = excluded.run_id, claims = k.claims + 1, taken_before = k.taken,
        taken = jsonb_array_length(k.signals), expires_at = greatest(k.expires_at, excluded.expires_at)
    WHERE k.run_id IS NULL OR k.run_id = excluded.run_id
        OR (k.name, k.claims) IN (SELECT name, claims FROM over)  /* guard: one run claims a correlation key */
    RETURNING k.name, k.run_id, k.signals, k.taken_before
), handed_over AS (
    INSERT INTO perennial.signal (id, run_id, name, signal_id, payload, sender, received_at, received_revision)
    SELECT (s.each ->> 'id')::uuid, claimed.run_id, claimed.name, s.each ->> 'signal_id', s.each -> 'payload',
        s.each ->> 'sender', (s.each ->> 'received_at')::timestamptz, c.recorded_revision
        + 1  /* guard: a kept signal comes after the turn that asks for it */
    FROM claimed JOIN claiming c ON c.name = claimed.name,
        jsonb_array_elements(claimed.signals) WITH ORDINALITY s(each, place)
    WHERE (s.each ->> 'expires_at')::timestamptz > perennial.now()
        AND s.place > claimed.taken_before  /* guard: a kept signal is handed over once */
    ON CONFLICT (run_id, signal_id) DO NOTHING
    RETURNING run_id, name, sender
), told_of_kept AS (
    {APPEND_HISTORY}
    SELECT h.run_id, h.sender, 'signal received', NULL, NULL::int, c.status, c.status,
        jsonb_build_object('name', h.name, 'kept', true)
    FROM handed_over h JOIN claiming c ON c.name = h.name
)"""


IS_REFUSED = """(o.claims IS TRUE AND NOT EXISTS (
        SELECT FROM claimed WHERE claimed.name = o.name AND claimed.run_id = o.run_id))"""
"""Of a row called o: another run has its key."""

WHY_REFUSED = """jsonb_build_object('type', 'CorrelationTaken', 'message', 'signal ' || o.name || ' is awaited by run '
        || coalesce((SELECT k.run_id::text FROM perennial.correlation k WHERE k.name = o.name), 'another')
        || ' already, and one key belongs to one run at a time')"""

_MEETING = Statement(
    "correlation_meeting",
    f"""
SELECT k.run_id, k.claims, {_is_awaited("k")} AS is_awaited,
    EXISTS (SELECT FROM perennial.signal s WHERE s.run_id = k.run_id AND s.signal_id = %(signal_id)s::text)
        OR EXISTS (SELECT FROM jsonb_array_elements(k.signals) s(each)
            WHERE s.each ->> 'signal_id' = %(signal_id)s::text) AS is_known,
    jsonb_array_length(k.signals) - k.taken >= %(kept_max)s::int
        OR pg_column_size(k.signals) >= %(bytes_max)s::int AS is_full
FROM perennial.correlation k WHERE k.name = %(name)s
""",
)

# What was taken is forgotten here: the run that has it knows its id.
_KEEP = Statement(
    "keep_signal",
    """
INSERT INTO perennial.correlation AS k (name, signals, expires_at)
SELECT %(name)s, jsonb_build_array(n.signal), n.expires_at FROM (
    SELECT perennial.now() + %(keep_seconds)s * interval '1 second' AS expires_at, jsonb_build_object(
        'id', %(id)s::uuid, 'signal_id', %(signal_id)s::text, 'payload', %(payload)s::jsonb, 'sender', %(sender)s::text,
        'received_at', perennial.now(),
        'expires_at', perennial.now() + %(keep_seconds)s * interval '1 second') AS signal) n
ON CONFLICT (name) DO UPDATE SET taken = 0, expires_at = greatest(k.expires_at, excluded.expires_at),
    signals = (SELECT coalesce(jsonb_agg(s.each ORDER BY s.place), '[]')
        FROM jsonb_array_elements(k.signals) WITH ORDINALITY s(each, place)
        WHERE s.place > k.taken AND (s.each ->> 'expires_at')::timestamptz > perennial.now()) || excluded.signals
WHERE pg_column_size(k.signals) < %(bytes_max)s::int
    AND k.claims = %(claims)s  /* guard: a signal is kept on the claim that was read */
    AND (%(signal_id)s::text IS NULL OR NOT EXISTS (SELECT FROM jsonb_array_elements(k.signals) s(each)
        WHERE s.each ->> 'signal_id' = %(signal_id)s::text))  /* guard: a kept signal is kept once */
    AND jsonb_array_length(k.signals) - k.taken < %(kept_max)s::int
RETURNING k.name
""",
)

_SWEEP = Statement(
    "sweep_correlations",
    f"""
WITH expired AS (
    SELECT k.name, {_is_awaited("k")} AS is_awaited FROM perennial.correlation k
    WHERE k.expires_at <= perennial.now() ORDER BY k.expires_at LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
), stay AS (
    UPDATE perennial.correlation k SET expires_at = perennial.now() + interval '{CLAIM_DAYS} day'
    FROM expired WHERE k.name = expired.name AND expired.is_awaited
), gone AS (
    DELETE FROM perennial.correlation k USING expired WHERE k.name = expired.name AND NOT expired.is_awaited
    RETURNING k.name
)
SELECT count(*) AS gone FROM gone
""",
)


@dataclass(frozen=True, slots=True)
class Meeting:
    """How a key stands. `run_id`: whose open wait it is, if it is one. `is_known`: this very signal came before."""

    run_id: UUID | None = None
    claims: int = 0
    is_known: bool = False
    is_full: bool = False


def meeting_of(connection: AnyConnection, name: str, signal_id: str | None) -> Meeting:
    """How the key of that name stands, to whoever sends."""
    row: Any = _MEETING.row(
        connection,
        name=name,
        signal_id=signal_id,
        kept_max=KEPT_MAX,
        bytes_max=KEPT_BYTES_MAX,
    )
    if row is None:
        return Meeting()
    return Meeting(row.run_id if row.is_awaited else None, row.claims, row.is_known, row.is_full)


def keep_if_unclaimed(
    connection: AnyConnection,
    name: str,
    *,
    payload: str,
    signal_id: str | None,
    sender: str,
    keep_seconds: float,
    claims: int,
) -> bool:
    """Keep the signal (`payload` is JSON text) for whoever claims its key. False: a wait has since, or it is known.

    `claims`: as the meeting was read.
    """
    return (
        _KEEP.row(
            connection,
            id=uuid7(),
            name=name,
            payload=payload,
            signal_id=signal_id,
            sender=sender,
            keep_seconds=keep_seconds,
            claims=claims,
            kept_max=KEPT_MAX,
            bytes_max=KEPT_BYTES_MAX,
        )
        is not None
    )


def sweep_correlations(connection: AnyConnection, *, limit: int = 1000) -> int:
    """Forget keys whose time is over and that no wait has claimed; how many."""
    row: Any = _SWEEP.row(connection, limit=limit)
    return int(row.gone)
