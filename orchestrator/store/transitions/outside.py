"""A fact from outside reaches a run: a signal, a decision, or what a kind of activity takes besides.

One statement records each, made by `from_outside`:

    fence        the run's lock; it raises the revision, if the run is open and this is a fact
    fact         what the kind writes; no row: nothing was written
    settled      the activity that the fact ends, if it ends one
    handed off   a turn is asked for, and a relay woken
    recorded     a line of history

    answer_wait_if_open  for kinds that have no table of their own: the fact is the activity's result
"""

from __future__ import annotations

import json
from functools import cache
from uuid import UUID

from orchestrator.core.kinds import KINDS, Ask
from orchestrator.store.parts import (
    APPEND_HISTORY,
    FOR_A_RELAY,
    RAISED,
    SOONEST_WINS,
    WAKE_RELAYS,
    hand_off_turn,
)
from orchestrator.store.statement import AnyConnection, Statement

SETTLED_BY_FACT = """), settled AS (
    UPDATE perennial.activity a SET state = 'done', result = fact.result, settled_at = perennial.now(),
        settled_revision = fence.revision
    FROM fence, fact WHERE a.run_id = fence.id AND a.key = fact.key AND a.state = 'pending'
"""


def from_outside(
    *,
    fact: str,
    conditions: str,
    actor: str,
    event: str,
    answer: str,
    before: str = "",
    settled: str = "",
    unless: str = "",
) -> str:
    """The text of such a statement, which is given `run_id`.

    `fact`: a part of the kind's own, that begins with `fact AS (`. It writes, so that it sees what others have
    written while the statement waited for the run's lock, and returns `key`, `detail` and what `settled` and `answer`
    need. `conditions`: SQL after the fence's WHERE, as `AND …`, by which a refused fact raises no revision.
    `before` and `unless`: a part that is read before all others, and a SELECT of what it says where there is no fact.
    """
    return f"""
WITH {before}fence AS (
    UPDATE perennial.run r SET
        revision = {RAISED}  /* guard: revision of a fact from outside */
    WHERE r.id = %(run_id)s
        AND r.closed_at IS NULL  /* guard: no fact from outside reaches a closed run */
        {conditions}
    RETURNING r.id, r.queue, r.status, r.revision
), {fact}{settled}), handed_off AS (
    {hand_off_turn("fence.id", "fence.queue", FOR_A_RELAY)}
    FROM fence, fact  /* guard: handoff of a fact from outside */
    {SOONEST_WINS}
), recorded AS (
    {APPEND_HISTORY}
    SELECT fence.id, {actor}, {event}, fact.key, NULL, fence.status, fence.status, fact.detail FROM fence, fact
)
SELECT {answer}, notified.done IS NULL AS notified
FROM fact LEFT JOIN (SELECT {WAKE_RELAYS} AS done) notified ON true{unless}
"""


# Of which kinds, and history's word for it: by `events`, each by its kind.
_ANSWER = Statement(
    "answer_wait",
    from_outside(
        conditions="""AND EXISTS (SELECT FROM perennial.activity a WHERE a.run_id = r.id AND a.key = %(key)s
            AND a.state = 'pending' AND %(events)s::jsonb ->> a.kind IS NOT NULL)""",
        fact="""fact AS (
    UPDATE perennial.activity a SET state = 'done', result = %(answer)s::jsonb, settled_at = perennial.now(),
        settled_revision = fence.revision
    FROM fence WHERE a.run_id = fence.id AND a.key = %(key)s
        AND a.state = 'pending'  /* guard: a wait is answered from outside once */
        AND %(events)s::jsonb ->> a.kind IS NOT NULL
    RETURNING a.key, %(events)s::jsonb ->> a.kind AS event, NULL::jsonb AS detail
""",
        actor="%(by)s",
        event="fact.event",
        answer="fact.key",
    ),
)


def answer_wait_if_open(
    connection: AnyConnection, run_id: UUID, key: str, *, answer: str, by: str
) -> bool:
    """Answer a wait (`answer` is JSON text), and ask for a turn. False: none of that key is open to an answer."""
    row = _ANSWER.row(
        connection,
        run_id=run_id,
        key=key,
        answer=answer,
        by=by,
        events=_events(tuple(KINDS.values())),
    )
    return row is not None


@cache
def _events(kinds: tuple[type[Ask], ...]) -> str:
    return json.dumps({kind.kind: kind.answered_event for kind in kinds if kind.answered_event})
