"""An operation over many runs: its set is kept, one operator is at it, and each of its runs is done once.

keep_preview                     the exact set, of which nothing is done yet
hold_operation_if_free, renew    one operator at a time, for as long as she says so
take_line, settle_line           one run, in the transaction in which the verb acts on it
end_operation                    paused, stopped, or at its end

`take_line` locks the run of the line; what a verb locks comes after it, as in any transition, and the line at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from orchestrator.store.statement import AnyConnection, Statement

PREVIEW_HOURS = 24
"""So long a preview may be applied; then the next preview removes it."""

_FORGET = Statement(
    "forget_previews",
    f"""
DELETE FROM perennial.operation o WHERE o.state = 'previewed'
    AND (o.digest = %(digest)s OR o.created_at < perennial.now() - interval '{PREVIEW_HOURS} hours')
""",
)

_KEEP = Statement(
    "keep_preview",
    """
WITH kept AS (
    INSERT INTO perennial.operation (id, verb, arguments, filter, digest, by, reason, runs)
    VALUES (%(id)s, %(verb)s, %(arguments)s::jsonb, %(filter)s::jsonb, %(digest)s, %(by)s, %(reason)s,
        cardinality(%(runs)s::uuid[]))
    RETURNING id
)
INSERT INTO perennial.operation_run (operation_id, ordinal, run_id, revision)
SELECT kept.id, line.ordinal, line.run_id, line.revision
FROM kept, unnest(%(runs)s::uuid[], %(revisions)s::bigint[]) WITH ORDINALITY line (run_id, revision, ordinal)
""",
)

_HOLD = Statement(
    "hold_operation",
    f"""
UPDATE perennial.operation o SET state = 'running', holder = %(holder)s, held_by = %(name)s,
    held_until = perennial.now() + %(lease_seconds)s * interval '1 second', counts = NULL,
    by = CASE WHEN o.state = 'previewed' THEN %(by)s ELSE o.by END,
    reason = CASE WHEN o.state = 'previewed' AND %(reason)s <> '' THEN %(reason)s ELSE o.reason END,
    rate_per_second = coalesce(%(rate_per_second)s::float8, o.rate_per_second)
WHERE o.id = %(id)s AND (o.state IN ('running', 'paused')
        OR o.state = 'previewed' AND o.created_at >= perennial.now() - interval '{PREVIEW_HOURS} hours')
    AND (o.holder IS NULL OR o.held_until <= perennial.now())  /* guard: one operator is at an operation */
RETURNING o.verb, o.arguments, o.by, o.reason, o.rate_per_second, o.runs
""",
)

_RENEW = Statement(
    "renew_operation",
    """
UPDATE perennial.operation o SET held_until = perennial.now() + %(lease_seconds)s * interval '1 second'
WHERE o.id = %(id)s AND o.holder = %(holder)s
RETURNING o.id
""",
)

_TAKE = Statement(
    "take_line",
    """
WITH line AS (
    SELECT l.ordinal, l.run_id, l.revision FROM perennial.operation_run l
    WHERE l.operation_id = %(id)s AND l.ordinal > %(after)s
        AND l.state = 'to do'
        AND EXISTS (SELECT FROM perennial.operation o WHERE o.id = l.operation_id
            AND o.holder = %(holder)s)  /* guard: who has lost an operation does no more of it */
    ORDER BY l.ordinal LIMIT 1
), stands AS (
    SELECT r.id, r.status, r.revision FROM perennial.run r WHERE r.id = (SELECT line.run_id FROM line)
    FOR NO KEY UPDATE
)
SELECT line.ordinal, line.run_id, line.revision, stands.status, stands.revision AS stands_at
FROM line LEFT JOIN stands ON true
""",
)

_SETTLE = Statement(
    "settle_line",
    """
UPDATE perennial.operation_run l SET state = %(state)s, result = %(result)s, at = perennial.now()
WHERE l.operation_id = %(id)s AND l.ordinal = %(ordinal)s
    AND l.state = 'to do'  /* guard: a run of an operation is done once */
RETURNING l.ordinal
""",
)

_END = Statement(
    "end_operation",
    """
UPDATE perennial.operation o SET state = %(state)s, holder = NULL, held_until = NULL,
    finished_at = CASE WHEN %(state)s IN ('stopped', 'finished') THEN perennial.now() END,
    counts = (SELECT jsonb_object_agg(each.state, each.lines) FROM (SELECT l.state, count(*) AS lines
        FROM perennial.operation_run l WHERE l.operation_id = o.id GROUP BY l.state) each)
WHERE o.id = %(id)s AND o.state IN ('running', 'paused')
    AND (%(holder)s::uuid IS NULL OR o.holder = %(holder)s::uuid)
RETURNING o.id
""",
)


def keep_preview(
    connection: AnyConnection,
    operation_id: UUID,
    *,
    verb: str,
    arguments: Mapping[str, Any],
    filter_: Mapping[str, Any],
    digest: str,
    by: str,
    reason: str,
    runs: Sequence[tuple[UUID, int]],
) -> None:
    """Keep the exact set, in place of an older preview of the same. Two statements of one transaction."""
    _FORGET.rows(connection, digest=digest)
    _KEEP.rows(
        connection,
        id=operation_id,
        verb=verb,
        arguments=json.dumps(dict(arguments)),
        filter=json.dumps(dict(filter_)),
        digest=digest,
        by=by,
        reason=reason,
        runs=[run_id for run_id, _ in runs],
        revisions=[revision for _, revision in runs],
    )


def hold_operation_if_free(
    connection: AnyConnection,
    operation_id: UUID,
    *,
    holder: UUID,
    name: str,
    lease_seconds: float,
    by: str,
    reason: str,
    rate_per_second: float | None,
) -> Any | None:
    """Be at the operation: (verb, arguments, by, reason, rate_per_second, runs). None: it is over, or another is."""
    return _HOLD.row(
        connection,
        id=operation_id,
        holder=holder,
        name=name,
        lease_seconds=lease_seconds,
        by=by,
        reason=reason,
        rate_per_second=rate_per_second,
    )


def renew(
    connection: AnyConnection, operation_id: UUID, *, holder: UUID, lease_seconds: float
) -> bool:
    """Say that we are still at it. False: another has paused or stopped it, or taken it up."""
    row = _RENEW.row(connection, id=operation_id, holder=holder, lease_seconds=lease_seconds)
    return row is not None


def take_line(
    connection: AnyConnection, operation_id: UUID, *, holder: UUID, after: int
) -> Any | None:
    """The next line that is to do, whose run is locked. None: there is none, or the operation isn't ours any more."""
    return _TAKE.row(connection, id=operation_id, holder=holder, after=after)


def settle_line(
    connection: AnyConnection, operation_id: UUID, ordinal: int, *, state: str, result: str
) -> bool:
    """Say what became of the run of a line. False: another has said so before, and this transaction must not hold."""
    row = _SETTLE.row(connection, id=operation_id, ordinal=ordinal, state=state, result=result)
    return row is not None


def end_operation(
    connection: AnyConnection, operation_id: UUID, *, state: str, holder: UUID | None = None
) -> bool:
    """Nobody is at it any more. `holder`: who was; None: whoever. False: it is not running, or not that one's."""
    row = _END.row(connection, id=operation_id, state=state, holder=holder)
    return row is not None
