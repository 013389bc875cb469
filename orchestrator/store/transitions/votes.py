"""Votes on an approval that more than one person decides. What they come to is said in `core.voting`.

    hold_run          the run's lock: who votes at the same moment waits, and then sees this vote
    votes_on          those that are there
    record_vote       one more, while others are needed
    record_last_vote  the one that decides it: the approval closes, and a turn is asked for

In one transaction: what was found open under the lock is open still when the vote is written.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from orchestrator.core.approvals import Outcome
from orchestrator.core.voting import Vote
from orchestrator.store.parts import APPEND_HISTORY
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.approvals import DECISION
from orchestrator.store.transitions.outside import SETTLED_BY_FACT, from_outside

VOTES = """(SELECT coalesce(jsonb_agg(jsonb_build_object('person', v.person, 'outcome', v.outcome, 'reason', v.comment,
    'at', v.at) ORDER BY v.at, v.person), '[]')
    FROM perennial.approval_vote v WHERE v.run_id = p.run_id AND v.key = p.key)"""

VOTES_OF_SEVERAL = (
    f"""CASE WHEN p.rule IS NULL THEN '{{}}' ELSE jsonb_build_object('votes', {VOTES}) END"""
)
"""What a Decision has besides, where votes are counted and none has decided."""

_HOLD = Statement(
    "hold_run_of_vote",
    "SELECT r.id FROM perennial.run r WHERE r.id = %(run_id)s FOR NO KEY UPDATE",
)

_VOTES_ON = Statement(
    "votes_on_approval",
    """
SELECT v.person, v.outcome, v.comment, to_jsonb(v.at) #>> '{}' AS at FROM perennial.approval_vote v
WHERE v.run_id = %(run_id)s AND v.key = %(key)s ORDER BY v.at, v.person
""",
)

_VOTE = Statement(
    "vote",
    f"""
WITH voted AS (
    INSERT INTO perennial.approval_vote (run_id, key, person, outcome, comment)
    SELECT r.id, p.key, %(by)s, %(outcome)s, %(comment)s
    FROM perennial.run r JOIN perennial.approval p ON p.run_id = r.id AND p.key = %(key)s
    WHERE r.id = %(run_id)s
    RETURNING run_id, key
), recorded AS (
    {APPEND_HISTORY}
    SELECT voted.run_id, %(by)s, %(event)s, voted.key, NULL, r.status, r.status,
        jsonb_build_object('comment', %(comment)s::text, 'so far', %(progress)s::text)
    FROM voted JOIN perennial.run r ON r.id = voted.run_id
)
SELECT key FROM voted
""",
)

_LAST_VOTE = Statement(
    "last_vote",
    from_outside(
        conditions="",
        fact=f"""fact AS (
    UPDATE perennial.approval p SET state = %(decided)s, is_reached = true, decided_by = %(by)s,
        decided_at = perennial.now(), comment = %(comment)s
    FROM fence WHERE p.run_id = fence.id AND p.key = %(key)s
    RETURNING p.key, {DECISION} || jsonb_build_object('votes', {VOTES} || jsonb_build_array(jsonb_build_object(
            'person', %(by)s::text, 'outcome', %(outcome)s::text, 'reason', %(comment)s::text, 'at', perennial.now())))
            AS result,
        jsonb_build_object('comment', %(comment)s::text, 'so far', %(progress)s::text) AS detail
), voted AS (
    INSERT INTO perennial.approval_vote (run_id, key, person, outcome, comment)
    SELECT fence.id, fact.key, %(by)s, %(outcome)s, %(comment)s FROM fence, fact
""",
        settled=SETTLED_BY_FACT,
        actor="%(by)s",
        event="%(decided)s",
        answer="fact.result::text AS decision",
    ),
)


def hold_run(connection: AnyConnection, run_id: UUID) -> bool:
    """Take the run's lock until the transaction ends. False: there is no such run."""
    return _HOLD.row(connection, run_id=run_id) is not None


def votes_on(connection: AnyConnection, run_id: UUID, key: str) -> tuple[Vote, ...]:
    """The votes on an asking, in their order."""
    rows = _VOTES_ON.rows(connection, run_id=run_id, key=key)
    return tuple(
        Vote(
            row.person,
            Outcome(row.outcome),
            row.comment,
            datetime.fromisoformat(row.at).astimezone(UTC),
        )
        for row in rows
    )


def record_vote(
    connection: AnyConnection, run_id: UUID, key: str, vote: Vote, *, progress: str
) -> None:
    """One more vote; the approval stays open."""
    _VOTE.rows(connection, **_of(run_id, key, vote, progress), event=f"voted: {vote.outcome}")


def record_last_vote(
    connection: AnyConnection,
    run_id: UUID,
    key: str,
    vote: Vote,
    decided: Outcome,
    *,
    progress: str,
) -> dict[str, Any]:
    """The vote that decides: the Decision as JSON."""
    row = _LAST_VOTE.row(connection, **_of(run_id, key, vote, progress), decided=decided)
    assert row is not None  # noqa: S101 - it was open under the lock
    decision: dict[str, Any] = json.loads(row.decision)
    return decision


def _of(run_id: UUID, key: str, vote: Vote, progress: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "key": key,
        "by": vote.person,
        "outcome": vote.outcome,
        "comment": vote.reason,
        "progress": progress,
    }
