"""The versions that are deployed: who runs them, how many runs are open, and which one new runs take."""

from __future__ import annotations

from orchestrator.core.views import DeployedRevision, DeployedVersion, ProcessEvent
from orchestrator.store.parts import MAY_START, THE_CURRENT_FIRST
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.capabilities import is_alive

VERSIONS_MAX = 1_000
"""So many are listed, of those that are deployed last."""

WORKERS_NAMED_MAX = 20
"""So many workers of a version are named."""

_DEPLOYED = Statement(
    "deployed_versions",
    f"""
WITH living AS MATERIALIZED (
    SELECT w.name, w.can FROM perennial.worker w WHERE {is_alive("w")}
), open AS (
    SELECT r.process, r.version, r.code_revision, count(*) AS runs FROM perennial.run r
    WHERE r.closed_at IS NULL AND (%(process)s::text IS NULL OR r.process = %(process)s)
    GROUP BY r.process, r.version, r.code_revision
), versions AS (
    SELECT p.*, {MAY_START} AND p.version = (SELECT c.version FROM perennial.process c
        WHERE c.name = p.name AND c.retired_at IS NULL ORDER BY {THE_CURRENT_FIRST.replace("p.", "c.")} LIMIT 1
        ) AS is_current
    FROM perennial.process p WHERE %(process)s::text IS NULL OR p.name = %(process)s
    ORDER BY p.deployed_at DESC LIMIT {VERSIONS_MAX}
), revisions AS (
    SELECT v.name, v.version, v.code_revision FROM versions v
    UNION
    SELECT o.process, o.version, o.code_revision FROM open o JOIN versions v
        ON v.name = o.process AND v.version = o.version
)
SELECT v.name, v.version, v.kind, v.code_revision AS deployed_revision, v.deployed_at, v.deployed_by, v.is_current,
    v.current_since, v.current_by, v.retired_at, v.retired_by, s.code_revision, coalesce(o.runs, 0) AS runs,
    ARRAY(SELECT l.name FROM living l
        WHERE 'turn ' || v.name || ' ' || v.version || ' r' || s.code_revision = ANY(l.can)
        ORDER BY l.name) AS workers
FROM revisions s JOIN versions v ON v.name = s.name AND v.version = s.version
LEFT JOIN open o ON o.process = s.name AND o.version = s.version AND o.code_revision = s.code_revision
ORDER BY v.name, v.version DESC, s.code_revision DESC
""",
)


# A version that nobody has used is deployed anew in its place: then its last deployment is what is told.
_HISTORY = Statement(
    "history_of_process",
    """
SELECT h.at, h.by, h.event, h.version, h.former_version, NULL::int AS code_revision, h.reason, h.id AS place
FROM perennial.process_history h WHERE h.process = %(process)s
UNION ALL
SELECT v.deployed_at, v.deployed_by, CASE WHEN v.code_revision = 1 THEN 'deployed' ELSE 'amended' END, v.version, NULL,
    v.code_revision, v.reason, 0
FROM perennial.process_revision v WHERE v.process = %(process)s
ORDER BY at DESC, place DESC, version DESC, code_revision DESC LIMIT %(limit)s
""",
)


def history_of_process(
    connection: AnyConnection, process: str, *, limit: int
) -> list[ProcessEvent]:
    """The newest first."""
    return [
        ProcessEvent(
            row.at,
            row.by,
            row.event,
            row.version,
            row.former_version,
            row.code_revision,
            row.reason,
        )
        for row in _HISTORY.rows(connection, process=process, limit=limit)
    ]


def deployed_versions(connection: AnyConnection, process: str | None) -> list[DeployedVersion]:
    """By name, the newest version first; of one process, or of all."""
    found: dict[tuple[str, int], DeployedVersion] = {}
    for row in _DEPLOYED.rows(connection, process=process):
        revision = DeployedRevision(
            row.code_revision, row.runs, len(row.workers), tuple(row.workers[:WORKERS_NAMED_MAX])
        )
        version = found.get((row.name, row.version))
        if version is None:
            version = found[row.name, row.version] = DeployedVersion(
                row.name,
                row.version,
                row.kind,
                row.deployed_revision,
                row.deployed_at,
                row.deployed_by,
                row.is_current,
                row.current_by if row.current_since is not None else None,
                row.retired_at,
                row.retired_by,
                (),
            )
        found[row.name, row.version] = version.with_revision(revision)
    return list(found.values())
