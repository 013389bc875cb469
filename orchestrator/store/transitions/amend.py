"""A version that runs have used gets other content: one revision more, which is current from then on.

amend_if_current    fenced by the revision that was current when people were shown what would become of its runs
move_if_unchanged   runs that go on with it stand on it from then on
park_if_unchanged   runs that can't are incidents, and stay on the revision that they stand on

Each run is fenced by what its check has read. (docs/adr/0045)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import UUID

from orchestrator.core.definition import Process
from orchestrator.core.schemas import InputSchema
from orchestrator.store.batched import if_many
from orchestrator.store.parts import (
    APPEND_HISTORY,
    FOR_A_RELAY,
    HAND_OFF,
    RAISED,
    REPLACES,
    SOMETHING_IS_DEPLOYED,
    WAKE_RELAYS,
    a_turn_of,
    run_has_changed,
)
from orchestrator.store.rowset import RowSet
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


_RUNS = RowSet(
    "runs",
    "run_id uuid, revision bigint, code_revision int, needs_turn boolean, error jsonb, detail jsonb",
)

# As it was checked: no fact has come since, nobody has moved it to another revision, and nobody is in its turn.
_AS_CHECKED = """r.id = t.run_id
        AND r.id = ANY(ARRAY(SELECT run_id FROM asked))
        AND r.revision = t.revision  /* guard: a run is amended as it was checked */
        AND r.code_revision = t.code_revision
        AND r.turn_token IS NULL  /* guard: a run is not amended in a turn */
        AND r.closed_at IS NULL"""


# Whoever needs no turn has seen all facts: this one is of no interest to a flow.
@cache
def _move(whose_run_is_free: str) -> Statement:
    return Statement(
        "move_to_revision",
        f"""
WITH asked AS MATERIALIZED (
    SELECT t.* FROM {_RUNS.called("t")}{whose_run_is_free}
), fence AS (
    UPDATE perennial.run r SET revision = {RAISED}, code_revision = %(to)s, queue = %(queue)s,
        turn_revision = CASE WHEN t.needs_turn THEN r.turn_revision ELSE {RAISED} END
    FROM asked t WHERE {_AS_CHECKED}
    RETURNING r.id AS run_id, r.status, r.queue, t.needs_turn, t.detail
), handed_off AS (
    {HAND_OFF}
    SELECT {a_turn_of("fence.run_id", "fence.queue")}, {FOR_A_RELAY}
    FROM fence WHERE fence.needs_turn
        AND fence.status IN ('running', 'waiting')  /* guard: handoff of a run that is amended */
    {REPLACES}
), told AS (
    {APPEND_HISTORY}
    SELECT fence.run_id, %(actor)s, 'amended', NULL, NULL, fence.status, fence.status, fence.detail FROM fence
)
SELECT fence.run_id, CASE WHEN fence.needs_turn THEN {WAKE_RELAYS} END FROM fence
""",
    )


@cache
def _park(whose_run_is_free: str) -> Statement:
    return Statement(
        "park_at_revision",
        f"""
WITH asked AS MATERIALIZED (
    SELECT t.* FROM {_RUNS.called("t")}{whose_run_is_free}
), before AS (
    SELECT r.id, r.status FROM perennial.run r WHERE r.id = ANY(ARRAY(SELECT run_id FROM asked))
), fence AS (
    UPDATE perennial.run r SET revision = {RAISED}, status = 'incident', error = t.error,
        waiting_for = 'an operator', last_progress_at = perennial.now()
    FROM asked t JOIN before ON before.id = t.run_id
    WHERE {_AS_CHECKED}
        AND r.status IN ('running', 'waiting')  /* guard: only what moves is parked */
    RETURNING r.id AS run_id, before.status AS from_status, t.error
), told AS (
    {APPEND_HISTORY}
    SELECT fence.run_id, %(actor)s, 'incident', NULL, NULL, fence.from_status, 'incident', fence.error FROM fence
)
SELECT fence.run_id, {run_has_changed("fence.run_id")} FROM fence
""",
    )


@dataclass(frozen=True, slots=True)
class AsChecked:
    """A run as its check has read it, and what is written of it. `error`: of one that is parked."""

    run_id: UUID
    revision: int
    code_revision: int
    needs_turn: bool
    detail: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None

    def as_row(self) -> dict[str, Any]:
        """As a statement takes it."""
        return {
            "run_id": self.run_id,
            "revision": self.revision,
            "code_revision": self.code_revision,
            "needs_turn": self.needs_turn,
            "detail": self.detail,
            "error": self.error,
        }


def move_if_unchanged(
    connection: AnyConnection,
    runs: Sequence[AsChecked],
    *,
    to: int,
    queue: str | None,
    actor: str,
) -> set[UUID]:
    """Let the runs stand on that revision, and be moved on its queue: those that are as they were checked."""
    rows = _move(if_many(runs)).rows(
        connection, to=to, queue=queue, actor=actor, **_RUNS.of(each.as_row() for each in runs)
    )
    return {row.run_id for row in rows}


def park_if_unchanged(
    connection: AnyConnection, runs: Sequence[AsChecked], *, actor: str
) -> set[UUID]:
    """Make the runs incidents: those that are as they were checked, and move."""
    rows = _park(if_many(runs)).rows(
        connection, actor=actor, **_RUNS.of(each.as_row() for each in runs)
    )
    return {row.run_id for row in rows}


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
