"""What a stage has remembered in former rounds of its attempts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from orchestrator.core.steps import AGAIN
from orchestrator.store.statement import AnyConnection, Statement

_STEPS = Statement(
    "steps_of_rounds",
    """
SELECT a.key, a.result FROM perennial.activity a
WHERE a.run_id = %(run_id)s AND (a.parent_key = %(key)s OR starts_with(a.parent_key, %(rounds)s))
""",
)


def steps_of_rounds(connection: AnyConnection, run_id: UUID, key: str) -> dict[str, Any]:
    """Results of the steps of that stage, by their keys, whichever round has done them. `key`: of the first one."""
    rows = _STEPS.rows(connection, run_id=run_id, key=key, rounds=f"{key}{AGAIN}/")
    return {row.key: row.result for row in rows}
