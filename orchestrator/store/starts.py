"""Starts of runs: one statement for one run or for many; on a caller's connection, part of its transaction.

Its text has two ways to take runs in (plain parameters, arrays), each with business keys and without. A start
is the producer's wait, so none pays for what another needs. (docs/adr/0022)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from orchestrator.store.outbox import ADVANCE, NOTIFY_CHANNEL
from orchestrator.store.statement import AnyConnection, Statement

_ONE = "SELECT %(id)s::uuid AS id, %(business_key)s::text AS business_key, %(input)s::text AS input"

_MANY = """SELECT * FROM unnest(%(ids)s::uuid[], %(business_keys)s::text[], %(inputs)s::text[])
        AS q(id, business_key, input)"""

# A run that has the business key already is left alone, and not locked: its turns go on while a
# producer's transaction is open. Rows go in by key, so that two batches can't wait for each other.
_IN_THE_ORDER_OF_KEYS = """
    ORDER BY asked.business_key
    ON CONFLICT (process, business_key) DO NOTHING"""

# The last row is there if the process is: runs that another has started meanwhile are in no row before it.
_AND_THOSE_THAT_WERE_THERE = """
UNION ALL
SELECT there.id, there.process, there.version, there.business_key, false, NULL
FROM definition, asked, LATERAL (
    SELECT r.id, r.process, r.version, r.business_key FROM perennial.run r
    WHERE r.process = definition.name AND r.business_key = asked.business_key LIMIT 1
) there
UNION ALL
SELECT NULL, definition.name, definition.version, NULL, false, NULL FROM definition"""


def _start(asked: str, *, is_keyed: bool) -> Statement:
    """Starts what is `asked`. The expiry of a run, its one timer from here, has the run's own id."""
    order, there = (_IN_THE_ORDER_OF_KEYS, _AND_THOSE_THAT_WERE_THERE) if is_keyed else ("", "")
    return Statement(
        "start_runs",
        f"""
WITH asked AS (
    {asked}
), definition AS (
    SELECT p.name, p.version, p.queue, p.expires_after_seconds FROM perennial.process p
    WHERE p.name = %(process)s AND (%(version)s::int IS NULL OR p.version = %(version)s::int)
    ORDER BY p.version DESC LIMIT 1
), started AS (
    INSERT INTO perennial.run AS r (id, process, version, business_key, status, queue, input, attributes, expires_at)
    SELECT asked.id, definition.name, definition.version, asked.business_key, 'running', definition.queue,
        asked.input::jsonb, %(attributes)s::jsonb, perennial.now()
        + coalesce(%(expires_in_seconds)s::float8, definition.expires_after_seconds) * interval '1 second'
    FROM asked, definition{order}
    RETURNING r.id, r.process, r.version, r.business_key, r.queue, r.expires_at
), handed_off AS (
    INSERT INTO perennial.outbox (run_id, key, attempt, task, queue, publish_at)
    SELECT started.id, '', 1, '{ADVANCE}', started.queue, perennial.now() FROM started
), armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, due_at)
    SELECT started.id, started.id, '', 'expiry', started.expires_at FROM started
    WHERE started.expires_at IS NOT NULL
), told AS (
    INSERT INTO perennial.history (run_id, actor, event, to_status)
    SELECT started.id, %(actor)s, 'started', 'running' FROM started
)
SELECT started.id, started.process, started.version, started.business_key, true AS created,
    (SELECT pg_notify('{NOTIFY_CHANNEL}', '') IS NULL) AS notified
FROM started{there}
""",
    )


_START_ONE, _START_ONE_KEYED = _start(_ONE, is_keyed=False), _start(_ONE, is_keyed=True)
_START_MANY, _START_MANY_KEYED = _start(_MANY, is_keyed=False), _start(_MANY, is_keyed=True)

_THERE = Statement(
    "runs_that_are_there",
    """
SELECT r.id, r.process, r.version, r.business_key, false AS created FROM perennial.run r
WHERE r.process = %(process)s AND r.business_key = ANY(%(keys)s::text[])
""",
)


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to start. `input` is JSON text."""

    id: UUID
    business_key: str | None
    input: str


def start_runs(
    connection: AnyConnection,
    process: str,
    runs: Sequence[NewRun],
    *,
    version: int | None,
    attributes: str,
    expires_in_seconds: float | None,
    actor: str,
) -> Sequence[Any] | None:
    """Start runs, at least one, of the process's newest (or that) version, or find those that have their keys.

    `attributes`: JSON text; it and `expires_in_seconds` are all the runs'. None: no such process is deployed.
    """
    keys = {run.business_key for run in runs} - {None}
    shared = {
        "process": process,
        "version": version,
        "attributes": attributes,
        "expires_in_seconds": expires_in_seconds,
        "actor": actor,
    }
    if len(runs) == 1:
        (run,) = runs
        statement = _START_ONE_KEYED if keys else _START_ONE
        found = statement.rows(
            connection, id=run.id, business_key=run.business_key, input=run.input, **shared
        )
    else:
        statement = _START_MANY_KEYED if keys else _START_MANY
        found = statement.rows(
            connection,
            ids=[run.id for run in runs],
            business_keys=[run.business_key for run in runs],
            inputs=[run.input for run in runs],
            **shared,
        )
    if not found:
        return None
    there = [row for row in found if row.id is not None]
    missing = keys - {row.business_key for row in there}
    if missing:  # committed by somebody else while this statement ran, so it couldn't see them
        there += _THERE.rows(connection, process=process, keys=list(missing))
    return there
