"""An approval: people are asked, and decide. What a decision on it means is said in `core.approvals`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from orchestrator.core.approval_requests import ApprovalRequest, request_approval
from orchestrator.core.approvals import Decision
from orchestrator.core.calendars import BusinessTime
from orchestrator.core.definition import Approval, Registry
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds.base import (
    Ask,
    AwaitedRow,
    DeadlineRow,
    NewActivity,
    NewTimer,
    Request,
    RunNames,
    SoFar,
    Then,
    TimerRule,
)
from orchestrator.core.voting import VotedDecision

WHY = "why"
"""In the policy of an approval: why people are asked, in words."""


@dataclass(frozen=True, slots=True)
class AskPeople(Ask):
    """An approval as a flow asks for it."""

    approval: ApprovalRequest

    kind: ClassVar = ActivityKind.APPROVAL
    opened_event: ClassVar = "approval asked"
    cancelled_event: ClassVar = "approval withdrawn"
    asks_people: ClassVar = True
    timers: ClassVar = (
        TimerRule("escalation", "approval escalated", leads_to=None, then=Then.NOTHING),
        TimerRule("approval-timeout", "approval timed out"),
    )

    timed_by: ClassVar = frozenset({"escalate", "timeout"})

    def compared(self) -> dict[str, Any]:
        """Who is asked, and when it goes further."""
        approval = self.approval
        rule = {} if approval.rule is None else {"rule": approval.rule.as_json()}
        return rule | {
            "assign": sorted(approval.assignees),
            "escalate": [
                [each.said or each.after_seconds, sorted(each.assignees)]
                for each in approval.escalations
            ],
            "timeout": approval.timeout_said or approval.timeout_seconds,
        }

    @property
    def result_type(self) -> Any:
        """What came of it."""
        return Decision if self.approval.rule is None else VotedDecision

    def open(self, request: Request) -> NewActivity:
        """With a timer for each escalation, and its deadline."""
        approval = self.approval
        timers = [
            armed("escalation", escalation.after_seconds, escalation.at, level=level)
            for level, escalation in enumerate(approval.escalations, start=1)
        ]
        if approval.timeout_seconds is not None:
            timers.append(
                armed("approval-timeout", approval.timeout_seconds, approval.times_out_at)
            )
        policy = {WHY: approval.why} if approval.why else None
        return NewActivity(
            request, ActivityState.PENDING, policy=policy, timers=tuple(timers), approval=approval
        )

    @classmethod
    def entries_in(cls, registry: Registry) -> Mapping[str, Any]:
        """Those that are registered with @approval."""
        return registry.approvals

    @classmethod
    def of_entry(cls, entry: Approval, so_far: SoFar) -> AskPeople:
        """Its people are named by the run's input; its times are the process's."""
        escalate: dict[timedelta | BusinessTime, Sequence[str]] = {}
        if so_far.escalation_after is not None and entry.escalate_to:
            escalate[so_far.escalation_after] = entry.escalate_to
        asked = request_approval(
            entry.name,
            assign=entry(so_far.value),
            escalate=escalate,
            timeout=so_far.approval_timeout,
            clock=so_far.clock,
        )
        return cls(asked)

    @classmethod
    def who(cls, row: AwaitedRow) -> tuple[str, ...]:
        """Those who are asked by now, and have not voted."""
        voted = {vote["person"] for vote in row.votes or ()}
        return tuple(person for person in row.assignees or () if person not in voted)

    @classmethod
    def why(cls, row: AwaitedRow) -> str:
        """As it was asked."""
        why = row.policy.get(WHY) if isinstance(row.policy, dict) else None
        return why if isinstance(why, str) else ""

    @classmethod
    def what_happens(cls, row: AwaitedRow, deadline: DeadlineRow) -> str:
        """It escalates, or is over."""
        if deadline.kind != "escalation":
            return "times out"
        return f"escalates to {_people_of(row.escalations, deadline.level)}"

    @classmethod
    def typed(cls, names: RunNames, key: str, _name: str, who: tuple[str, ...]) -> str:
        """Say yes, to this asking and to no later one."""
        return f"perennial approve {names.surely} {key} --by {who[0] if who else 'WHO'}"


def armed(kind: str, seconds: float, at: datetime | None, *, level: int = 0) -> NewTimer:
    """So many seconds after it is recorded; of working time at that moment, whenever it is recorded."""
    return NewTimer(kind, seconds if at is None else None, at, level)


def _people_of(escalations: Any, level: int) -> str:
    """The people of that level, however the row came about."""
    try:
        return ", ".join(escalations[level - 1]["assignees"])
    except (TypeError, LookupError):
        return "others"
