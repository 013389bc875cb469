"""A decision of an approval. The policy is in `core.approvals`."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from orchestrator.store.parts import CLOSED_APPROVAL
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.outside import SETTLED_BY_FACT, from_outside

# The Decision as its flow will read it.
DECISION = """jsonb_build_object('approval', p.name, 'outcome', p.state, 'by', p.decided_by, 'reason', p.comment,
    'at', p.decided_at, 'escalated', p.escalation_level > 0)"""

# The asking that `by` means: a key is one asking, open or closed, also by the keys that it had before its run was
# migrated; a name is the only asking of that name that this person was ever asked. A yes to what is closed never falls
# through to what was asked since. (docs/adr/0031, 0049)
_MEANT = """(SELECT CASE WHEN bool_or(c.key = %(approval)s) THEN %(approval)s
        WHEN bool_or(%(approval)s = ANY(c.former_keys)) THEN min(c.key) FILTER (WHERE %(approval)s = ANY(c.former_keys))
        WHEN count(*) = 1 THEN min(c.key) END
    FROM perennial.approval c WHERE c.run_id = %(run_id)s AND (
        c.key = %(approval)s OR  /* guard: a closed key is no name */
        %(approval)s = ANY(c.former_keys) OR  /* guard: a link of before a migration */
        c.name = %(approval)s AND %(by)s = ANY(c.assignees)))"""

# Open, in time, asked of this person, and as it was shown; as it was first asked, where nobody says what was shown.
_MAY_BE_DECIDED = f"""
        p.state NOT IN {CLOSED_APPROVAL}  /* guard: an approval is decided once */
        AND (p.deadline IS NULL OR perennial.now() < p.deadline)  /* guard: an approval is decided in time */
        AND %(by)s = ANY(p.assignees)  /* guard: an approval is decided by whom it asks */
        AND p.rule IS NULL  /* guard: one vote does not stand for several */
        AND p.edition = coalesce(%(edition)s::int, 0)  /* guard: an approval is decided as it was shown */
        """

# A second decision at the same moment waits on the run's row, finds the approval closed, and writes
# nothing.
_DECIDE = Statement(
    "decide_approval",
    from_outside(
        conditions=f"""
        AND EXISTS (SELECT FROM perennial.approval p WHERE p.run_id = r.id
            AND p.key = {_MEANT} AND {_MAY_BE_DECIDED})  /* guard: a refused decision is no fact */
""",
        fact=f"""fact AS (
    UPDATE perennial.approval p SET state = %(outcome)s, decided_by = %(by)s, decided_at = perennial.now(),
        comment = %(comment)s
    FROM fence WHERE p.run_id = fence.id AND p.key = {_MEANT} AND {_MAY_BE_DECIDED}
    RETURNING p.key, {DECISION} AS result, jsonb_build_object('comment', %(comment)s::text) AS detail
), voted AS (
    INSERT INTO perennial.approval_vote (run_id, key, person, outcome, comment)
    SELECT fence.id, fact.key, %(by)s, %(outcome)s, %(comment)s FROM fence, fact
""",
        settled=SETTLED_BY_FACT,
        actor="%(by)s",
        event="%(outcome)s",
        answer="fact.result::text AS decision",
    ),
)


def decide_if_allowed(
    connection: AnyConnection,
    run_id: UUID,
    approval: str,
    *,
    outcome: str,
    by: str,
    comment: str,
    edition: int | None = None,
) -> dict[str, Any] | None:
    """Take a decision: the Decision as JSON. None: refused, and nothing was written.

    `edition`: of the approval as it was shown; None where nobody says, which is taken for the first.
    """
    row = _DECIDE.row(
        connection,
        run_id=run_id,
        approval=approval,
        outcome=outcome,
        by=by,
        comment=comment,
        edition=edition,
    )
    return None if row is None else json.loads(row.decision)
