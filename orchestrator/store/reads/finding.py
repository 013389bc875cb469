"""Find a run: by its id, or by its business key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.core.checks import composed
from orchestrator.store.statement import AnyConnection, Statement

_NOW = Statement("now", "SELECT perennial.now() AS now")

_STATUS = Statement("run_status", "SELECT r.status FROM perennial.run r WHERE r.id = %(run_id)s")


_FIND = Statement(
    "find_run",
    """
(SELECT r.id, r.process, true AS by_id, r.follows FROM perennial.run r WHERE r.id = %(id)s)
UNION ALL
(SELECT r.id, r.process, false, r.follows FROM perennial.run r WHERE r.business_key = %(key)s ORDER BY r.id LIMIT 2)
""",
)


def now(connection: AnyConnection) -> datetime:
    """The moment, by the record's clock."""
    row = _NOW.row(connection)
    assert row is not None  # noqa: S101 - it is always now
    moment: datetime = row.now
    return moment


def status_of(connection: AnyConnection, run_id: UUID) -> str | None:
    """The run's status; None: no such run."""
    row = _STATUS.row(connection, run_id=run_id)
    return None if row is None else row.status


def find_runs(connection: AnyConnection, reference: str) -> Sequence[Any]:
    """The run whose id that is, or up to two with that business key: enough to know whether it is one."""
    if not reference.isprintable():
        return ()
    try:
        run_id = UUID(reference)
    except ValueError:
        run_id = None
    found = _FIND.rows(connection, id=run_id, key=composed(reference))
    if (
        not found and composed(reference) != reference
    ):  # started by a release that took keys as they came
        found = _FIND.rows(connection, id=run_id, key=reference)
    return [row for row in found if row.by_id] or found
