"""Starts of runs: one statement for one run or for many; on a caller's connection, part of its transaction.

Its text takes runs in three ways (one, many on the same terms, many each on its own), with business keys and
without. A start is the producer's wait, so none pays for what another needs. (docs/adr/0022)

Inputs were checked before, by what the starter knew of the process. Where another schema stands in the record by
now, nothing is started, and the answer is that schema. A run may follow one that has ended: that gives its
business key up in the same statement. (docs/adr/0032)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from orchestrator.core.run import RunStatus
from orchestrator.core.views import Started
from orchestrator.store.parts import (
    APPEND_HISTORY,
    FOR_A_RELAY,
    MAY_START,
    THE_CURRENT_FIRST,
    WAKE_RELAYS,
    hand_off_turn,
)
from orchestrator.store.reads.started import started_of_id
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.processes import InputOf


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
_WITH_LOCK_TIMEOUT = """
        AND CASE WHEN %(lock_timeout)s::text IS NULL THEN true
            ELSE set_config('lock_timeout', %(lock_timeout)s::text, true) IS NOT NULL END"""

# Whoever has ended gives the key up, in the order of keys as runs go in. Of two that start anew at once, the
# second waits here, finds that the key is another run's, and then that run.
_BY_KEY = """
    FROM perennial.run r JOIN asked ON asked.business_key = r.business_key, definition
    WHERE r.process = definition.name"""
_BY_ID = """
    FROM perennial.run r, definition
    WHERE r.id = %(follows)s AND r.process = definition.name AND r.followed_by IS NULL"""


def _given_up(which: str) -> str:
    return f"""held AS (
    SELECT r.id{which} AND definition.is_checked AND r.closed_at IS NOT NULL
        AND r.status = ANY(%(again_after)s::text[])
    ORDER BY r.business_key FOR UPDATE OF r
), given_up AS (
    UPDATE perennial.run r SET former_key = r.business_key, business_key = NULL, followed_by = asked.id
    FROM held, asked WHERE r.id = held.id AND r.business_key IS NOT DISTINCT FROM asked.business_key
    RETURNING r.id, r.former_key, asked.id AS next_id
), """


# A run that has the business key already is left alone, and not locked: its turns go on while a
# producer's transaction is open. Rows go in by key, so that two batches can't wait for each other.
_IN_THE_ORDER_OF_KEYS = """
    ORDER BY asked.business_key  /* guard: order of starts */
    ON CONFLICT (process, business_key) DO NOTHING  /* guard: business key uniqueness */"""

_CHECKED_BY = """definition.is_checked, definition.input_schema_digest,
    CASE WHEN NOT definition.is_checked THEN definition.input_schema::text END AS input_schema"""

_ALL_ARE_NEW = f"""
SELECT definition.name AS process, definition.version, {_CHECKED_BY},
    CASE WHEN definition.is_checked THEN (SELECT {WAKE_RELAYS} IS NULL) END AS notified
FROM definition"""

_NEW = f"""
SELECT started.id, started.process, started.version, started.business_key, 'running' AS status, true AS created,
    NULL::boolean AS is_checked, NULL AS input_schema_digest, NULL AS input_schema,
    (SELECT {WAKE_RELAYS} IS NULL) AS notified
FROM started"""

_AND_THERE = """
UNION ALL
SELECT there.id, there.process, there.version, there.business_key, there.status, false, NULL, NULL, NULL, NULL
FROM definition, asked, LATERAL (
    SELECT r.id, r.process, r.version, r.business_key, r.status FROM perennial.run r
    WHERE r.process = definition.name AND r.business_key = asked.business_key LIMIT 1
) there"""

# The last row, after all others, ends the lock timeout: the commit waits for other commits that notify, however long.
# It is there if the process is: runs that another has just started are in no row before it.
_AND_THE_PROCESS = f"""
UNION ALL
SELECT NULL, definition.name, definition.version, NULL, NULL, false, {_CHECKED_BY},
    CASE WHEN %(lock_timeout)s::text IS NOT NULL THEN
        set_config('lock_timeout', NULL, true) IS NULL  /* guard: the lock timeout ends with its statement */
        END
FROM definition"""


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """What a start's text has where it looks for business keys, and where runs follow others."""

    with_lock_timeout: str = ""
    given_up: str = ""
    follows: str = "NULL::uuid"
    of: str = "asked, definition WHERE definition.is_checked"
    order: str = ""
    answer: str = _ALL_ARE_NEW

    def told(self, way: _Way) -> str:
        """The lines of history."""
        if not self.given_up:
            return f"""{APPEND_HISTORY}
    SELECT started.id, {way.actor}, 'started', NULL, NULL, NULL, 'running', NULL FROM {way.started}"""
        return f"""{APPEND_HISTORY}
    SELECT started.id, {way.actor}, 'started', NULL, NULL::int, NULL, 'running', CASE WHEN started.follows IS NOT NULL
        THEN jsonb_build_object('follows', started.follows) END FROM started JOIN asked USING (id)
    UNION ALL
    SELECT given_up.id, {way.actor}, 'followed', NULL, NULL, NULL, NULL, jsonb_build_object('by', given_up.next_id)
    FROM given_up JOIN asked ON asked.id = given_up.next_id"""


_PLAIN = _Form()
_KEYED = _Form(
    with_lock_timeout=_WITH_LOCK_TIMEOUT,
    order=_IN_THE_ORDER_OF_KEYS,
    answer=f"{_NEW}{_AND_THERE}{_AND_THE_PROCESS}",
)
# To count what was given up is to have done it, before the first run goes in.
_AGAIN = replace(
    _KEYED,
    given_up=_given_up(_BY_KEY),
    follows="given_up.id",
    of="""definition, asked LEFT JOIN given_up ON given_up.next_id = asked.id
    WHERE definition.is_checked AND (SELECT count(*) FROM given_up) >= 0""",
)
_RESTART = replace(
    _AGAIN,
    given_up=_given_up(_BY_ID),
    of="""definition, asked JOIN given_up ON given_up.next_id = asked.id
    WHERE (SELECT count(*) FROM given_up) >= 0""",
    answer=f"{_NEW}{_AND_THE_PROCESS}",
)


def _start(way: _Way, form: _Form) -> str:
    """Starts what is `asked`. The expiry of a run, its one timer from here, has the run's own id."""
    return f"""
WITH asked AS (
    {way.asked}
), definition AS (
    SELECT p.name, p.version, p.code_revision, p.queue, p.expires_after_seconds, p.input_schema,
        p.input_schema_digest,
        (p.version = %(checked_version)s::int AND p.input_schema_digest
            IS NOT DISTINCT FROM %(checked_by)s::text)  /* guard: an input is checked by what is deployed now */
            AS is_checked
    FROM perennial.process p
    WHERE p.name = %(process)s AND (%(version)s::int IS NULL OR p.version = %(version)s::int)
        AND {MAY_START}  /* guard: a retired version gets no new run */{form.with_lock_timeout}
    ORDER BY {THE_CURRENT_FIRST} LIMIT 1
), {form.given_up}started AS (
    INSERT INTO perennial.run AS r (id, process, version, business_key, follows, status, queue, input, attributes,
        expires_at, code_revision)
    SELECT asked.id, definition.name, definition.version, asked.business_key, {form.follows}, 'running',
        definition.queue, asked.input, asked.attributes, perennial.now()
        + coalesce(asked.expires_in_seconds, definition.expires_after_seconds) * interval '1 second',
        definition.code_revision
    FROM {form.of}{form.order}
    RETURNING r.id, r.process, r.version, r.business_key, r.follows, r.queue, r.expires_at
), handed_off AS (
    {hand_off_turn("started.id", "started.queue", FOR_A_RELAY)}
    FROM started  /* guard: handoff of a start */
), armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, due_at)
    SELECT started.id, started.id, '', 'expiry', started.expires_at FROM started
    WHERE started.expires_at IS NOT NULL
), told AS (
    {form.told(way)}
){form.answer}
"""


_STARTS = {
    (way, form): Statement("start_runs", _start(way, form))
    for way in (_ONE, _MANY, _EACH)
    for form in (_PLAIN, _KEYED, _AGAIN)
}

_START_OF_ONE_AGAIN = Statement("restart_run", _start(_ONE, _RESTART))

_THERE = Statement(
    "runs_that_are_there",
    """
SELECT r.id, r.process, r.version, r.business_key, r.status, false AS created FROM perennial.run r
WHERE r.process = %(process)s AND r.business_key = ANY(%(keys)s::text[])
""",
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
    checked: InputOf,
    again_after: Sequence[str] = (),
    lock_timeout_milliseconds: int | None = None,
) -> list[Started] | InputOf | None:
    """Start runs, at least one, of the process's newest (or that) version, or find those that have their keys.

    The answers come in the order of `runs`, of which no two have one key. None: no such process is deployed.
    `checked`: the inputs fit that; when the process takes another one, nothing is started, and that is the answer.
    `again_after`: a run that has ended so gives its key up, to the new run that follows it.
    `lock_timeout_milliseconds`: wait no longer for whoever holds a key in an open transaction; then Postgres refuses
    (`lock_not_available`), and nothing is started.
    """
    keys = {run.business_key for run in runs} - {None}
    form = _PLAIN
    way, parameters = _inputs(runs)
    if keys:
        form = _KEYED
        parameters["lock_timeout"] = (
            None if lock_timeout_milliseconds is None else f"{lock_timeout_milliseconds}ms"
        )
        if again_after:
            form = _AGAIN
            parameters["again_after"] = list(again_after)
    found = _STARTS[way, form].rows(
        connection,
        process=process,
        version=version,
        checked_version=checked.version,
        checked_by=checked.digest,
        **parameters,
    )
    if not found:
        return None
    if not found[-1].is_checked:
        return InputOf.of(found[-1])
    if not keys:
        (it,) = found
        return [
            Started(run.id, it.process, it.version, created=True, status=RunStatus.RUNNING)
            for run in runs
        ]
    there = {
        row.business_key or row.id: row
        for row in found
        if row.id is not None
        # guard: who starts anew second finds the new run
        if row.created or row.status not in again_after
    }
    missing = keys - there.keys()
    # Committed by somebody else while this statement ran, so it couldn't see them.
    if missing:  # guard: a start that has lost finds the run
        rows = _THERE.rows(connection, process=process, keys=list(missing))
        there.update((row.business_key, row) for row in rows)
    return [_answer(run, there[run.business_key or run.id]) for run in runs]


def restart_run(
    connection: AnyConnection,
    process: str,
    run: NewRun,
    *,
    follows: UUID,
    version: int | None,
    checked: InputOf,
    again_after: Sequence[str],
) -> Started | InputOf | None:
    """Start a run that follows another, which gives its key up. None: that isn't so any more, or never was."""
    *started, definition = _START_OF_ONE_AGAIN.rows(
        connection,
        follows=follows,
        process=process,
        version=version,
        checked_version=checked.version,
        checked_by=checked.digest,
        again_after=list(again_after),
        lock_timeout=None,
        **_inputs([run])[1],
    )
    if not definition.is_checked:
        return InputOf.of(definition)
    return _answer(run, started[0]) if started else None


def has_started(connection: AnyConnection, run: NewRun) -> Started | None:
    """What an earlier attempt of this very start has come to: nobody else knows its id. None: to nothing."""
    found = started_of_id(connection, run.id)
    return found and replace(found, created=True)


def _answer(run: NewRun, row: Any) -> Started:
    """A run of its own id is there by an earlier attempt of this very start."""
    return Started(
        row.id,
        row.process,
        row.version,
        created=row.created or row.id == run.id,
        status=RunStatus(row.status),
    )


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
