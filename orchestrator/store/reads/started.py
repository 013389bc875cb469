"""What became of a start, and what a run was started with."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from orchestrator.core.run import RunStatus
from orchestrator.core.views import Started
from orchestrator.store.statement import AnyConnection, Statement

_OF_ID = Statement(
    "run_of_id",
    "SELECT r.id, r.process, r.version, r.status FROM perennial.run r WHERE r.id = %(id)s",
)


# A run's own expiry is started anew with it; what its definition said then is said anew by the one of now.
_TO_RESTART = Statement(
    "run_to_restart",
    """
SELECT r.process, r.business_key, r.status, r.input::text AS input, r.attributes::text AS attributes, r.followed_by,
    CASE WHEN expiry.after IS DISTINCT FROM p.expires_after_seconds * interval '1 second'
        THEN extract(epoch FROM expiry.after)::float8 END AS expires_in_seconds
FROM perennial.run r
    CROSS JOIN LATERAL (SELECT r.expires_at - coalesce(r.chapter_at, r.created_at) AS after) expiry
    JOIN perennial.process p ON p.name = r.process AND p.version = r.version
WHERE r.id = %(run_id)s
""",
)


def read_to_restart(connection: AnyConnection, run_id: UUID) -> Any | None:
    """What a run was started with, how it stands, and which run follows it; None: no such run."""
    return _TO_RESTART.row(connection, run_id=run_id)


def started_of_id(connection: AnyConnection, run_id: UUID) -> Started | None:
    """The run of that id, as who finds it by its key is told of it; None: no such run."""
    row = _OF_ID.row(connection, id=run_id)
    return row and Started(
        row.id, row.process, row.version, created=False, status=RunStatus(row.status)
    )
