"""A version that runs have used gets other content: one revision more, which is current from then on.

amend_if_current   fenced by the revision that was current when people were shown what would become of its runs
"""

from __future__ import annotations

import json
from typing import Any

from orchestrator.core.definition import Process
from orchestrator.core.schemas import InputSchema
from orchestrator.store.parts import SOMETHING_IS_DEPLOYED
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.processes import columns_of, keep_revision

_AMEND = Statement(
    "amend_process",
    f"""
WITH amended AS (
    UPDATE perennial.process p SET fingerprint = %(fingerprint)s, kind = %(kind)s, spec = %(spec)s::jsonb,
        queue = %(queue)s, expires_after_seconds = %(expires_after_seconds)s,
        input_schema = %(input_schema)s::jsonb, input_schema_digest = %(input_schema_digest)s,
        deployed_at = perennial.now(), deployed_by = %(by)s, code_revision = p.code_revision + 1
    WHERE p.name = %(name)s AND p.version = %(version)s
        AND p.code_revision = %(current)s  /* guard: an amendment of the revision that was shown */
    RETURNING p.*
), kept AS (
    {keep_revision("amended", reason="%(reason)s::text", diff="%(diff)s::jsonb")}
)
SELECT amended.code_revision, {SOMETHING_IS_DEPLOYED} IS NULL AS notified FROM amended
""",
)


def amend_if_current(
    connection: AnyConnection,
    process: Process,
    takes: InputSchema,
    *,
    current: int,
    by: str,
    reason: str,
    diff: dict[str, Any],
) -> int | None:
    """Make this content the version's next revision: its number. None: `current` isn't the current one any more."""
    row = _AMEND.row(
        connection,
        current=current,
        reason=reason,
        diff=json.dumps(diff),
        **columns_of(process, takes, by),
    )
    return None if row is None else row.code_revision
