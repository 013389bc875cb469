"""Deployed definitions: immutable, content-fingerprinted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from orchestrator.core.definition import Process
from orchestrator.store.statement import AnyConnection, Statement

_DEPLOY = Statement(
    "deploy_process",
    """
INSERT INTO perennial.process AS p (name, version, fingerprint, kind, spec, queue, expires_after_seconds, deployed_by)
VALUES (%(name)s, %(version)s, %(fingerprint)s, %(kind)s, %(spec)s::jsonb, %(queue)s, %(expires_after_seconds)s, %(by)s)
ON CONFLICT (name, version) DO UPDATE SET name = excluded.name
RETURNING p.fingerprint, p.deployed_at, p.xmax = 0 AS created
""",
)

_READ = Statement(
    "read_process",
    """
SELECT p.kind, p.spec FROM perennial.process p WHERE p.name = %(name)s AND p.version = %(version)s
""",
)


@dataclass(frozen=True, slots=True)
class DeployedSpec:
    """What is deployed under a name and version."""

    kind: str
    spec: dict[str, Any]


def deploy(connection: AnyConnection, process: Process, *, by: str) -> Any:
    """Insert if new. The row tells the fingerprint that stands, and whether this call created it."""
    return _DEPLOY.row(
        connection,
        name=process.name,
        version=process.version,
        fingerprint=process.fingerprint,
        kind=process.kind,
        spec=json.dumps(process.spec),
        queue=process.queue,
        expires_after_seconds=process.expires_after_seconds,
        by=by,
    )


def read_process(connection: AnyConnection, name: str, version: int) -> DeployedSpec | None:
    """The deployed definition; None: not deployed."""
    row = _READ.row(connection, name=name, version=version)
    return None if row is None else DeployedSpec(row.kind, row.spec)
