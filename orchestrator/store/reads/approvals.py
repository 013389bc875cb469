"""Approvals as people see them: what waits for whom, and how far their votes have come."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, and_, case, exists, func, select

from orchestrator.core import codec
from orchestrator.core.checks import check_sought, composed
from orchestrator.core.kinds import timers_that
from orchestrator.core.kinds.approval import WHY
from orchestrator.core.views import ApprovalView
from orchestrator.core.voting import Rule, Vote
from orchestrator.store.schema.tables import (
    activity,
    approval,
    approval_vote,
    columns_in_use,
    run,
    timer,
)

_APPROVAL = columns_in_use(approval)

_OF_ITS = and_(approval_vote.c.run_id == approval.c.run_id, approval_vote.c.key == approval.c.key)

VOTES = case(
    (
        approval.c.rule.is_not(None),
        select(
            func.jsonb_agg(
                func.jsonb_build_object(
                    "person",
                    approval_vote.c.person,
                    "outcome",
                    approval_vote.c.outcome,
                    "reason",
                    approval_vote.c.comment,
                    "at",
                    approval_vote.c.at,
                )
            )
        )
        .where(_OF_ITS)
        .scalar_subquery(),
    )
).label("votes")
"""On an approval that several decide; of no other is it looked for."""

_WHY = (
    select(activity.c.policy[WHY].astext)
    .where(activity.c.run_id == approval.c.run_id, activity.c.key == approval.c.key)
    .scalar_subquery()
    .label("why")
)


def list_approvals(
    connection: Connection,
    *,
    assignee: str | None,
    process: str | None,
    state: str | None,
    run_id: UUID | None,
    opened_after: datetime | None,
    limit: int,
) -> list[ApprovalView]:
    """Approvals, oldest first: an inbox when asked by assignee. Raises PayloadError."""
    for name, words in (("assignee", assignee), ("process", process), ("state", state)):
        check_sought(words, what=f"{name} of a list of approvals")
    query = _approvals().order_by(approval.c.opened_at, approval.c.run_id).limit(limit)
    if state is not None:
        query = query.where(approval.c.state == state)
    if assignee is not None:
        person = composed(assignee)
        query = query.where(approval.c.assignees.contains([person]))
        if state == "open":
            query = query.where(~_has_voted(person))
    if process is not None:
        query = query.where(run.c.process == process)
    if run_id is not None:
        query = query.where(approval.c.run_id == run_id)
    if opened_after is not None:
        query = query.where(approval.c.opened_at > opened_after)
    return [_approval_view(row) for row in connection.execute(query)]


def _approvals() -> Select[Any]:
    escalates_at = (
        select(func.min(timer.c.due_at))
        .where(
            timer.c.run_id == approval.c.run_id,
            timer.c.key == approval.c.key,
            timer.c.kind.in_(timers_that(lambda rule: rule.leads_to is None)),
            timer.c.state == "armed",
        )
        .scalar_subquery()
    )
    return select(
        *_APPROVAL,
        VOTES,
        run.c.process,
        run.c.business_key,
        run.c.input,
        run.c.follows,
        escalates_at.label("escalates_at"),
        _WHY,
    ).join(run, run.c.id == approval.c.run_id)


def _approval_view(row: Any) -> ApprovalView:
    return ApprovalView(
        run_id=row.run_id,
        key=row.key,
        name=row.name,
        process=row.process,
        business_key=row.business_key,
        state=row.state,
        assignees=tuple(row.assignees),
        escalated=row.escalation_level > 0,
        opened_at=row.opened_at,
        escalates_at=row.escalates_at,
        deadline=row.deadline,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        comment=row.comment,
        input=row.input,
        follows=row.follows,
        edition=row.edition,
        changed=row.changed,
        votes=_votes_in(row),
        progress=progress_of(row),
        why=row.why or "",
    )


def _has_voted(person: str) -> ColumnElement[bool]:
    """Who has voted waits for the others, and nothing waits for them."""
    return and_(
        approval.c.rule.is_not(None), exists().where(_OF_ITS, approval_vote.c.person == person)
    )


def progress_of(row: Any) -> str:
    """`1 of 2 approved; bob may still decide`, of an open approval that several decide."""
    if row.rule is None:
        return ""
    return Rule.from_json(row.rule).progress(row.assignees, _votes_in(row))


def _votes_in(row: Any) -> tuple[Vote, ...]:
    votes: tuple[Vote, ...] = codec.decode(row.votes or [], tuple[Vote, ...], what="votes")
    return tuple(sorted(votes, key=lambda vote: (vote.at, vote.person)))
