"""Starts of runs: one statement for one run or for many; on a caller's connection, part of its transaction.

Its text takes runs in three ways (one, many on the same terms, many each on its own), with business keys and
without. A start is the producer's wait, so none pays for what another needs. (docs/adr/0022)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from orchestrator.core.views import Started
from orchestrator.store.outbox import ADVANCE, NOTIFY_CHANNEL
from orchestrator.store.statement import AnyConnection, Statement


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """A way to take runs in: rows that tell what is asked, and who starts each of the runs."""

    asked: str
    actor: str = "%(actor)s"
    started: str = "started"


_SAME_TERMS = (
    "%(attributes)s::jsonb AS attributes, %(expires_in_seconds)s::float8 AS expires_in_seconds"
)

_ONE = _Way(
    f"""SELECT %(id)s::uuid AS id, %(business_key)s::text AS business_key, %(input)s::jsonb AS input,
        {_SAME_TERMS}"""
)

_MANY = _Way(
    f"""SELECT q.id, q.business_key, q.input::jsonb AS input, {_SAME_TERMS}
    FROM unnest(%(ids)s::uuid[], %(business_keys)s::text[], %(inputs)s::text[]) AS q(id, business_key, input)"""
)

_EACH = _Way(
    """SELECT q.id, q.business_key, q.input::jsonb AS input, q.attributes::jsonb AS attributes,
        q.expires_in_seconds, q.actor
    FROM unnest(%(ids)s::uuid[], %(business_keys)s::text[], %(inputs)s::text[], %(attributes)s::text[],
        %(expires_in_seconds)s::float8[], %(actors)s::text[])
        AS q(id, business_key, input, attributes, expires_in_seconds, actor)""",
    actor="asked.actor",
    started="started JOIN asked USING (id)",
)

# A run's row comes of a definition's, so this is said before the first of them can wait for a key that somebody's
# open transaction has started.
_PATIENTLY = """
        AND CASE WHEN %(patience)s::text IS NULL THEN true
            ELSE set_config('lock_timeout', %(patience)s::text, true) IS NOT NULL END"""

# A run that has the business key already is left alone, and not locked: its turns go on while a
# producer's transaction is open. Rows go in by key, so that two batches can't wait for each other.
_IN_THE_ORDER_OF_KEYS = """
    ORDER BY asked.business_key
    ON CONFLICT (process, business_key) DO NOTHING"""

_ALL_ARE_NEW = f"""
SELECT definition.name AS process, definition.version, (SELECT pg_notify('{NOTIFY_CHANNEL}', '') IS NULL) AS notified
FROM definition"""

# The last row, after all others, ends the patience: the commit waits for other commits that notify, however long.
# It is there if the process is: runs that another has started meanwhile are in no row before it.
_NEW_AND_THERE = f"""
SELECT started.id, started.process, started.version, started.business_key, true AS created,
    (SELECT pg_notify('{NOTIFY_CHANNEL}', '') IS NULL) AS notified
FROM started
UNION ALL
SELECT there.id, there.process, there.version, there.business_key, false, NULL
FROM definition, asked, LATERAL (
    SELECT r.id, r.process, r.version, r.business_key FROM perennial.run r
    WHERE r.process = definition.name AND r.business_key = asked.business_key LIMIT 1
) there
UNION ALL
SELECT NULL, definition.name, definition.version, NULL, false,
    CASE WHEN %(patience)s::text IS NOT NULL THEN set_config('lock_timeout', NULL, true) IS NULL END
FROM definition"""


def _start(way: _Way, *, is_keyed: bool) -> Statement:
    """Starts what is `asked`. The expiry of a run, its one timer from here, has the run's own id."""
    patiently, order, answer = (
        (_PATIENTLY, _IN_THE_ORDER_OF_KEYS, _NEW_AND_THERE) if is_keyed else ("", "", _ALL_ARE_NEW)
    )
    return Statement(
        "start_runs",
        f"""
WITH asked AS (
    {way.asked}
), definition AS (
    SELECT p.name, p.version, p.queue, p.expires_after_seconds FROM perennial.process p
    WHERE p.name = %(process)s AND (%(version)s::int IS NULL OR p.version = %(version)s::int){patiently}
    ORDER BY p.version DESC LIMIT 1
), started AS (
    INSERT INTO perennial.run AS r (id, process, version, business_key, status, queue, input, attributes, expires_at)
    SELECT asked.id, definition.name, definition.version, asked.business_key, 'running', definition.queue,
        asked.input, asked.attributes, perennial.now()
        + coalesce(asked.expires_in_seconds, definition.expires_after_seconds) * interval '1 second'
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
    SELECT started.id, {way.actor}, 'started', 'running' FROM {way.started}
){answer}
""",
    )


_STARTS = {
    (way, is_keyed): _start(way, is_keyed=is_keyed)
    for way in (_ONE, _MANY, _EACH)
    for is_keyed in (False, True)
}

_THERE = Statement(
    "runs_that_are_there",
    """
SELECT r.id, r.process, r.version, r.business_key, false AS created FROM perennial.run r
WHERE r.process = %(process)s AND r.business_key = ANY(%(keys)s::text[])
""",
)

_OF_ID = Statement(
    "run_of_id", "SELECT r.id, r.process, r.version FROM perennial.run r WHERE r.id = %(id)s"
)


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a run starts. `attributes` is JSON text; `expires_in_seconds` None: as its definition says."""

    attributes: str = field(repr=False)
    expires_in_seconds: float | None
    actor: str


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to start. `input` is JSON text."""

    id: UUID
    business_key: str | None
    input: str = field(repr=False)
    terms: Terms


def start_runs(
    connection: AnyConnection,
    process: str,
    runs: Sequence[NewRun],
    *,
    version: int | None,
    patience_milliseconds: int | None = None,
) -> list[Started] | None:
    """Start runs, at least one, of the process's newest (or that) version, or find those that have their keys.

    The answers come in the order of `runs`, of which no two have one key. None: no such process is deployed.
    `patience_milliseconds`: wait no longer for whoever holds a key in an open transaction; then Postgres refuses
    (`lock_not_available`), and nothing is started.
    """
    keys = {run.business_key for run in runs} - {None}
    way, parameters = _inputs(runs)
    if keys:
        parameters["patience"] = (
            None if patience_milliseconds is None else f"{patience_milliseconds}ms"
        )
    found = _STARTS[way, bool(keys)].rows(
        connection, process=process, version=version, **parameters
    )
    if not found:
        return None
    if not keys:
        (it,) = found
        return [Started(run.id, it.process, it.version, created=True) for run in runs]
    there = {row.business_key or row.id: row for row in found if row.id is not None}
    missing = keys - there.keys()
    if missing:  # committed by somebody else while this statement ran, so it couldn't see them
        rows = _THERE.rows(connection, process=process, keys=list(missing))
        there.update((row.business_key, row) for row in rows)
    return [_answer(run, there[run.business_key or run.id]) for run in runs]


def has_started(connection: AnyConnection, run: NewRun) -> Started | None:
    """What an earlier attempt of this very start has come to: nobody else knows its id. None: to nothing."""
    row = _OF_ID.row(connection, id=run.id)
    return row and Started(row.id, row.process, row.version, created=True)


def _answer(run: NewRun, row: Any) -> Started:
    """A run of its own id is there by an earlier attempt of this very start."""
    return Started(row.id, row.process, row.version, row.created or row.id == run.id)


def _inputs(runs: Sequence[NewRun]) -> tuple[_Way, dict[str, object]]:
    """How to ask for them, and its parameters."""
    own: dict[str, object]
    if len(runs) == 1:
        (run,) = runs
        own = {"id": run.id, "business_key": run.business_key, "input": run.input}
        return _ONE, own | _shared(run.terms)
    own = {
        "ids": [run.id for run in runs],
        "business_keys": [run.business_key for run in runs],
        "inputs": [run.input for run in runs],
    }
    terms = runs[0].terms
    if all(run.terms == terms for run in runs):
        return _MANY, own | _shared(terms)
    return _EACH, own | {
        "attributes": [run.terms.attributes for run in runs],
        "expires_in_seconds": [run.terms.expires_in_seconds for run in runs],
        "actors": [run.terms.actor for run in runs],
    }


def _shared(terms: Terms) -> dict[str, object]:
    return {
        "attributes": terms.attributes,
        "expires_in_seconds": terms.expires_in_seconds,
        "actor": terms.actor,
    }
