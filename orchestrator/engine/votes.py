"""A vote on an approval that needs several people: judged under the run's lock, by the rule that was recorded."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.approvals import ApprovalState, Outcome
from orchestrator.core.voting import Rule, Vote, VotedDecision
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import votes


def cast_vote(
    connection: AnyConnection,
    run_id: UUID,
    key: str,
    asking: ApprovalState,
    outcome: Outcome,
    *,
    by: str,
    comment: str,
) -> VotedDecision:
    """Record the vote; what it decides, or an OPEN decision where more are needed.

    `asking`: as it was read under the run's lock, with nothing speaking against this person's decision. Raises
    AlreadyVoted.
    """
    rule = rule_in(asking)
    so_far = votes.votes_on(connection, run_id, key)
    rule.refuse_second(so_far, name=asking.name, by=by)
    mine = Vote(by, outcome, codec.readable(comment))
    after = (*so_far, mine)
    decided = rule.outcome(asking.assignees, after)
    progress = rule.progress(asking.assignees, after)
    if decided is None:
        votes.record_vote(connection, run_id, key, mine, progress=progress)
        return VotedDecision(asking.name, Outcome.OPEN, by, progress, votes=after)
    taken = votes.record_last_vote(connection, run_id, key, mine, decided, progress=progress)
    decision: VotedDecision = codec.decode(taken, VotedDecision, what="decision")
    return decision


def rule_in(asking: ApprovalState) -> Rule:
    """The rule of an approval that has one."""
    recorded: dict[str, Any] | None = asking.rule
    assert recorded is not None  # noqa: S101 - its caller has looked
    return Rule.from_json(recorded)
