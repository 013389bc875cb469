"""Deployed definitions: content-fingerprinted, and immutable once a run has used them.

deploy_if_same      insert it, or find the same content there
replace_if_unused   other content for a version that no run has used
runs_of             who uses a version, when it can't be replaced
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from orchestrator.core.definition import Process
from orchestrator.core.schemas import InputSchema
from orchestrator.core.versions.content import Content
from orchestrator.store.parts import MAY_START, SOMETHING_IS_DEPLOYED, THE_CURRENT_FIRST
from orchestrator.store.statement import AnyConnection, Statement


def keep_revision(
    of: str, *, former: str = "", reason: str = "''", diff: str = "NULL::jsonb"
) -> str:
    """The revision that a row of `process` is of, as it stands now. `former`: fingerprints that are of it as well."""
    source = "coalesce(excluded.source, v.source)" if former else "excluded.source"
    return f"""INSERT INTO perennial.process_revision AS v (process, version, code_revision, fingerprint, fingerprints,
        kind, spec, source, queue, expires_after_seconds, input_schema, input_schema_digest, deployed_at, deployed_by,
        reason, diff)
    SELECT p.name, p.version, p.code_revision, p.fingerprint, %(fingerprints_by_way)s::jsonb, p.kind, p.spec,
        %(source)s::text, p.queue, p.expires_after_seconds, p.input_schema, p.input_schema_digest, p.deployed_at,
        p.deployed_by, {reason}, {diff}
    FROM {of} p
    ON CONFLICT (process, version, code_revision) DO UPDATE SET fingerprint = excluded.fingerprint,
        fingerprints = {former} excluded.fingerprints, kind = excluded.kind, spec = excluded.spec,
        source = {source}, queue = excluded.queue,
        expires_after_seconds = excluded.expires_after_seconds, input_schema = excluded.input_schema,
        input_schema_digest = excluded.input_schema_digest, deployed_at = excluded.deployed_at,
        deployed_by = excluded.deployed_by"""


# By the best way that both have been taken in: by another one they may look the same, and not be.
_IS_SAME_BY_BEST_WAY = """(SELECT v.fingerprints ->> w.way = %(fingerprints_by_way)s::jsonb ->> w.way
            FROM perennial.process_revision v, unnest(%(ways)s::text[]) WITH ORDINALITY AS w(way, place)
            WHERE v.process = p.name AND v.version = p.version AND v.code_revision = p.code_revision
                AND v.fingerprint = p.fingerprint AND v.fingerprints ->> w.way IS NOT NULL
            ORDER BY w.place LIMIT 1)"""

# What is there under a fingerprint of the release before is the same, and has today's from here on. The schema
# of the input is no part of the content: another release of pydantic may write another one.
_DEPLOY = Statement(
    "deploy_process",
    f"""
WITH deployed AS (
    INSERT INTO perennial.process AS p (name, version, fingerprint, kind, spec, queue, expires_after_seconds,
        input_schema, input_schema_digest, deployed_by)
    VALUES (%(name)s, %(version)s, %(fingerprint)s, %(kind)s, %(spec)s::jsonb, %(queue)s, %(expires_after_seconds)s,
        %(input_schema)s::jsonb, %(input_schema_digest)s, %(by)s)
    ON CONFLICT (name, version) DO UPDATE SET fingerprint = excluded.fingerprint, spec = excluded.spec,
        input_schema = excluded.input_schema, input_schema_digest = excluded.input_schema_digest
        WHERE coalesce({_IS_SAME_BY_BEST_WAY}, p.fingerprint = ANY(%(fingerprints)s::text[]))
    RETURNING p.*, p.xmax = 0 AS created
), kept AS (
    {keep_revision("deployed", former="v.fingerprints ||")}
)
SELECT deployed.created, {SOMETHING_IS_DEPLOYED} IS NULL AS notified FROM deployed
""",
)

# A run that is started holds the row by its foreign key until its transaction ends: then the version is used.
_LOCK = Statement(
    "lock_process_if_unused",
    """
SELECT p.name FROM perennial.process p
WHERE p.name = %(name)s AND p.version = %(version)s
FOR UPDATE SKIP LOCKED  /* guard: a version whose first run is being started */
""",
)

# A statement of its own: it sees what was committed before the lock.
_REPLACE = Statement(
    "replace_process",
    f"""
WITH replaced AS (
    UPDATE perennial.process p SET fingerprint = %(fingerprint)s, kind = %(kind)s, spec = %(spec)s::jsonb,
        queue = %(queue)s, expires_after_seconds = %(expires_after_seconds)s,
        input_schema = %(input_schema)s::jsonb, input_schema_digest = %(input_schema_digest)s,
        deployed_at = perennial.now(), deployed_by = %(by)s
    WHERE p.name = %(name)s AND p.version = %(version)s
        AND NOT EXISTS (SELECT FROM perennial.run r WHERE r.process = %(name)s
            AND r.version = %(version)s)  /* guard: a deployed version keeps its content */
    RETURNING p.*
), kept AS (
    {keep_revision("replaced")}
)
SELECT replaced.fingerprint, {SOMETHING_IS_DEPLOYED} IS NULL AS notified FROM replaced
""",
)

_RUNS = Statement(
    "runs_of_process",
    """
SELECT r.id, r.business_key, r.status, count(*) OVER () AS runs,
    count(*) FILTER (WHERE r.closed_at IS NULL) OVER () AS open_runs, p.deployed_at
FROM perennial.process p LEFT JOIN perennial.run r ON r.process = p.name AND r.version = p.version
WHERE p.name = %(name)s AND p.version = %(version)s
ORDER BY r.closed_at IS NOT NULL, r.id DESC LIMIT %(limit)s
""",
)

# The row of `process` is the current revision: a client of the release before changes that alone.
_REVISIONS = Statement(
    "read_revisions",
    """
SELECT p.code_revision, p.kind, p.fingerprint,
    CASE WHEN v.fingerprint = p.fingerprint THEN v.fingerprints ELSE '{}' END AS fingerprints,
    CASE WHEN p.kind = 'declarative' THEN p.spec END AS spec, true AS is_current
FROM perennial.process p LEFT JOIN perennial.process_revision v
    ON v.process = p.name AND v.version = p.version AND v.code_revision = p.code_revision
WHERE p.name = %(name)s AND p.version = %(version)s
UNION ALL
SELECT v.code_revision, v.kind, v.fingerprint, v.fingerprints,
    CASE WHEN v.kind = 'declarative' THEN v.spec END, false
FROM perennial.process_revision v JOIN perennial.process p ON p.name = v.process AND p.version = v.version
WHERE v.process = %(name)s AND v.version = %(version)s AND v.code_revision <> p.code_revision
""",
)

_CONTENT = Statement(
    "read_content",
    """
SELECT p.code_revision, p.kind, p.fingerprint, p.spec, p.queue, p.expires_after_seconds,
    CASE WHEN v.fingerprint = p.fingerprint THEN v.fingerprints ELSE '{}' END AS fingerprints,
    CASE WHEN v.fingerprint = p.fingerprint THEN v.source END AS source,
    EXISTS (SELECT FROM perennial.run r WHERE r.process = p.name AND r.version = p.version) AS is_used
FROM perennial.process p LEFT JOIN perennial.process_revision v
    ON v.process = p.name AND v.version = p.version AND v.code_revision = p.code_revision
WHERE p.name = %(name)s AND p.version = %(version)s
""",
)

_CONTRACT = Statement(
    "read_contract",
    f"""
SELECT p.version, p.input_schema_digest, p.input_schema::text AS input_schema FROM perennial.process p
WHERE p.name = %(name)s AND CASE WHEN %(version)s::int IS NULL THEN {MAY_START} ELSE p.version = %(version)s::int END
ORDER BY {THE_CURRENT_FIRST} LIMIT 1
""",
)

# As `read_revisions`, of all versions of many processes.
_FINGERPRINTS = Statement(
    "read_fingerprints",
    """
SELECT p.name, p.version, p.code_revision, p.fingerprint,
    CASE WHEN v.fingerprint = p.fingerprint THEN v.fingerprints ELSE '{}' END AS fingerprints, true AS is_current,
    p.deployed_at, p.deployed_by
FROM perennial.process p LEFT JOIN perennial.process_revision v
    ON v.process = p.name AND v.version = p.version AND v.code_revision = p.code_revision
WHERE p.name = ANY(%(names)s::text[])
UNION ALL
SELECT p.name, p.version, v.code_revision, v.fingerprint, v.fingerprints, false, v.deployed_at, v.deployed_by
FROM perennial.process p JOIN perennial.process_revision v
    ON v.process = p.name AND v.version = p.version AND v.code_revision <> p.code_revision
WHERE p.name = ANY(%(names)s::text[])
ORDER BY 1, 2, 3
""",
)

_DECLARATIVE = Statement(
    "declarative_versions",
    """
SELECT p.name, p.version FROM perennial.process p WHERE p.kind = 'declarative'
ORDER BY p.deployed_at DESC LIMIT %(limit)s
""",
)

_NAMES = Statement(
    "names_of_processes",
    "SELECT DISTINCT p.name FROM perennial.process p ORDER BY p.name LIMIT %(limit)s",
)


@dataclass(frozen=True, slots=True)
class Revision:
    """A content that a version had, or has. `spec` None: it is in Python, and its code is in programs."""

    code_revision: int
    kind: str
    fingerprint: str
    fingerprints: dict[str, str]
    spec: dict[str, Any] | None = field(repr=False)
    is_current: bool


@dataclass(frozen=True, slots=True)
class InputOf:
    """Which input the version takes. `schema` None: any, as far as the record knows."""

    version: int
    digest: str | None
    schema: dict[str, Any] | None = field(repr=False, compare=False)

    @classmethod
    def of(cls, row: Any) -> Self:
        """Of a row that has it, its schema as text: a caller's own connection may read jsonb otherwise."""
        schema = row.input_schema
        return cls(row.version, row.input_schema_digest, schema and json.loads(schema))


def deploy_if_same(
    connection: AnyConnection, process: Process, takes: InputSchema, *, by: str
) -> bool | None:
    """Insert it if new. True: it was; False: the same content was there; None: other content is."""
    row = _DEPLOY.row(
        connection,
        fingerprints=list(process.fingerprints),
        ways=list(process.fingerprint_by_way),
        **columns_of(process, takes, by),
    )
    return None if row is None else row.created


def replace_if_unused(
    connection: AnyConnection, process: Process, takes: InputSchema, *, by: str
) -> bool:
    """Other content, for a version that no run has used. False: one has, or is being started.

    In one transaction, which the caller commits.
    """
    return (
        _LOCK.row(connection, name=process.name, version=process.version) is not None
        and _REPLACE.row(connection, **columns_of(process, takes, by)) is not None
    )


def runs_of(connection: AnyConnection, name: str, version: int, *, limit: int) -> Sequence[Any]:
    """Some of a version's runs, the open ones first, and how many there are; one row of None without any."""
    return _RUNS.rows(connection, name=name, version=version, limit=limit)


def read_revisions(connection: AnyConnection, name: str, version: int) -> list[Revision]:
    """The revisions of that version; none if it isn't deployed."""
    rows = _REVISIONS.rows(connection, name=name, version=version)
    return [
        Revision(
            row.code_revision,
            row.kind,
            row.fingerprint,
            row.fingerprints,
            row.spec,
            is_current=row.is_current,
        )
        for row in rows
    ]


def read_content(connection: AnyConnection, name: str, version: int) -> tuple[Content, bool] | None:
    """What is current, and whether a run has used the version; None: it isn't deployed."""
    row = _CONTENT.row(connection, name=name, version=version)
    if row is None:
        return None
    content = Content(
        row.code_revision,
        row.fingerprint,
        row.fingerprints,
        row.kind,
        row.spec,
        row.source,
        row.queue,
        row.expires_after_seconds,
    )
    return content, row.is_used


def read_input(connection: AnyConnection, name: str, version: int | None) -> InputOf | None:
    """Which input that version takes, or the one that new runs take. None: none is deployed, or all are retired."""
    row = _CONTRACT.row(connection, name=name, version=version)
    return row and InputOf.of(row)


def read_fingerprints(connection: AnyConnection, names: Iterable[str]) -> Sequence[Any]:
    """Each revision of each version that is deployed under these names, in their order.

    Rows of name, version, code_revision, fingerprint, fingerprints, is_current, deployed_at, deployed_by.
    """
    return _FINGERPRINTS.rows(connection, names=sorted(set(names)))


def declarative_versions(connection: AnyConnection, *, limit: int) -> list[tuple[str, int]]:
    """The declarative processes that are deployed, the newest first."""
    return [(row.name, row.version) for row in _DECLARATIVE.rows(connection, limit=limit)]


def names_of(connection: AnyConnection, *, limit: int) -> list[str]:
    """The names that are deployed."""
    return [row.name for row in _NAMES.rows(connection, limit=limit)]


def columns_of(process: Process, takes: InputSchema, by: str) -> dict[str, Any]:
    """The parameters of what writes a version and its revision."""
    return {
        "name": process.name,
        "version": process.version,
        "fingerprint": process.fingerprint,
        "fingerprints_by_way": json.dumps(process.fingerprint_by_way),
        "kind": process.kind,
        "spec": json.dumps(process.spec),
        "source": process.source,
        "queue": process.queue,
        "expires_after_seconds": process.expires_after_seconds,
        "input_schema": None if takes.schema is None else json.dumps(takes.schema),
        "input_schema_digest": takes.digest,
        "by": by,
    }
