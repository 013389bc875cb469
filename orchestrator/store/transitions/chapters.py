"""The commit of a turn whose flow continues as new: one statement, fenced as any turn's.

    definition    the version that the next chapter goes on in, if it takes the input
    fence         the run: another input, chapter and version; as a turn's commit, but for what it opens
    ended         all of the chapter's journal goes (the record's own function), and with it what is open
    emptied, handed off, armed, told
                  its handoffs; the next chapter's turn, by a message; the run's expiry, anew; history

What comes late for what is gone finds nothing: keys of one chapter are none of another's (`RunContext.root`).
(docs/adr/0056)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.store.parts import (
    APPEND_HISTORY,
    CHILDREN_KEY,
    HAND_OFF,
    MAY_START,
    NO_HOLDER,
    NO_TURN,
    RAISED,
    REPLACES,
    SENT_AT_ONCE,
    THE_CURRENT_FIRST,
    a_turn_of,
)
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.commit_content import TurnCommit
from orchestrator.store.transitions.commit_rows import HISTORY, TURNS
from orchestrator.store.transitions.commit_values import history_row, turn_row
from orchestrator.store.transitions.processes import InputOf
from orchestrator.store.transitions.settle import ATTEMPT_HOLDS
from orchestrator.store.transitions.turns import TURN_IS_FREE

CONTINUED = "continued as new"
"""What history calls it; its detail says which chapter and version, and what was open."""


def _begin_chapter(attempt_holds: str) -> str:
    return f"""
WITH turns AS MATERIALIZED (
    SELECT t.* FROM {TURNS.called("t")}
), definition AS (
    SELECT p.version, p.code_revision, p.queue,
        (p.version = %(checked_version)s::int AND p.input_schema_digest
            IS NOT DISTINCT FROM %(checked_by)s::text) AS is_checked
    FROM perennial.process p
    WHERE p.name = %(process)s AND (%(version)s::int IS NULL OR p.version = %(version)s::int) AND {MAY_START}
    ORDER BY {THE_CURRENT_FIRST} LIMIT 1
), before AS (
    SELECT coalesce(r.chapter_at, r.created_at) AS began FROM perennial.run r WHERE r.id = %(run_id)s
), fence AS (
    UPDATE perennial.run r SET
        revision = {RAISED}, status = t.status, turn_losses = 0, turn_revision = {NO_TURN},
        previous_stage = coalesce(r.stage, r.previous_stage), stage = NULL, waiting_for = NULL, output = NULL,
        error = NULL, started_at = coalesce(r.started_at, perennial.now()), last_progress_at = perennial.now(),
        active_milliseconds = r.active_milliseconds + t.active_milliseconds, {NO_HOLDER}, outstanding = NULL,
        input = %(input)s::jsonb, chapter = r.chapter + 1, chapter_at = perennial.now(), attempts_before = NULL,
        version = definition.version, code_revision = definition.code_revision, queue = definition.queue,
        expires_at = perennial.now() + (r.expires_at - before.began),
        status_text = coalesce(t.status_text, r.status_text),
        attributes = CASE WHEN t.attributes IS NULL THEN r.attributes ELSE (r.attributes || t.attributes::jsonb)
            - ARRAY(SELECT e.key FROM jsonb_each(t.attributes::jsonb) e WHERE e.value = 'null') END
    FROM turns t, definition, before
    WHERE r.id = t.run_id AND r.id = %(run_id)s
        AND r.revision = t.revision  /* guard: a chapter begins on the revision that was read */
        AND r.status IN ('running', 'waiting')
        AND {TURN_IS_FREE} AND {attempt_holds}
        AND definition.is_checked  /* guard: a chapter's input is checked by what is deployed now */
    RETURNING r.id AS run_id, r.queue, r.version, r.chapter, r.expires_at, before.began
), ended AS MATERIALIZED (
    SELECT e.id, e.state FROM fence, LATERAL perennial.end_chapter(fence.run_id, fence.began, %(taken)s::uuid[]) e
), emptied AS (
    DELETE FROM perennial.outbox o USING fence WHERE o.run_id = fence.run_id AND o.key NOT IN ('', '{CHILDREN_KEY}')
        AND (SELECT count(*) FROM ended) >= 0
), handed_off AS (
    {HAND_OFF}
    SELECT {a_turn_of("fence.run_id", "fence.queue")}, {SENT_AT_ONCE} FROM fence
    {REPLACES}
), armed AS (
    INSERT INTO perennial.timer (id, run_id, key, kind, due_at)
    SELECT %(timer_id)s, fence.run_id, '', 'expiry', fence.expires_at FROM fence
    WHERE fence.expires_at IS NOT NULL AND (SELECT count(*) FROM ended) >= 0
), told AS (
    {APPEND_HISTORY}
    SELECT h.run_id, h.actor, h.event, h.key, h.attempt, h.from_status, h.to_status,
        CASE WHEN h.event = '{CONTINUED}' THEN h.detail
            || jsonb_build_object('chapter', fence.chapter, 'version', fence.version) ELSE h.detail END
    FROM fence JOIN {HISTORY.called("h")} ON h.run_id = fence.run_id
)
SELECT fence.queue, (SELECT array_agg(ended.id) FROM ended WHERE ended.state = 'armed') AS disarmed FROM fence
"""


_BEGIN = Statement("begin_chapter", _begin_chapter("true"))
_BEGIN_WITH_ATTEMPT = Statement("begin_chapter", _begin_chapter(ATTEMPT_HOLDS))


@dataclass(frozen=True, slots=True)
class Begun:
    """The queue of the next chapter's turns, and the timers of the last one, for the index of timers."""

    queue: str | None
    disarmed: tuple[UUID, ...]


def begin_chapter_if_unchanged(
    connection: AnyConnection,
    commit: TurnCommit,
    *,
    process: str,
    version: int | None,
    written: str,
    checked: InputOf,
    taken: Sequence[UUID],
) -> Begun | None:
    """Begin the next chapter. `written`: its input, JSON that `checked` takes. `taken`: signals that this turn has.

    None: a fact came, the turn is another's, or the process takes something else by now; nothing was written.
    """
    statement = _BEGIN if commit.settlement is None else _BEGIN_WITH_ATTEMPT
    row: Any = statement.row(
        connection,
        **TURNS.of([turn_row(commit)]),
        **HISTORY.of(history_row(commit, fact) for fact in commit.facts),
        run_id=commit.run_id,
        process=process,
        version=version,
        input=written,
        checked_version=checked.version,
        checked_by=checked.digest,
        taken=list(taken),
        timer_id=uuid7(),
        relay_after=commit.relay_after,
    )
    return None if row is None else Begun(row.queue, tuple(row.disarmed or ()))
