"""An approval: people are asked, and decide. What a decision on it means is said in `core.approvals`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.core.approvals import ApprovalRequest, Decision
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds.base import (
    Ask,
    NewActivity,
    NewTimer,
    Request,
    RunNames,
    Then,
    TimerRule,
)


@dataclass(frozen=True, slots=True)
class AskPeople(Ask):
    """An approval as a flow asks for it."""

    approval: ApprovalRequest

    kind: ClassVar = ActivityKind.APPROVAL
    opened_event: ClassVar = "approval asked"
    asks_people: ClassVar = True
    timers: ClassVar = (
        TimerRule("escalation", "approval escalated", leads_to=None, then=Then.NOTHING),
        TimerRule("approval-timeout", "approval timed out"),
    )

    def compared(self) -> dict[str, Any]:
        """Who is asked, and when it goes further."""
        approval = self.approval
        return {
            "assign": sorted(approval.assignees),
            "escalate": [
                [each.after_seconds, sorted(each.assignees)] for each in approval.escalations
            ],
            "timeout": approval.timeout_seconds,
        }

    @property
    def result_type(self) -> Any:
        """What came of it."""
        return Decision

    def open(self, request: Request) -> NewActivity:
        """With a timer for each escalation, and its deadline."""
        approval = self.approval
        timers = [
            NewTimer("escalation", escalation.after_seconds, level=level)
            for level, escalation in enumerate(approval.escalations, start=1)
        ]
        if approval.timeout_seconds is not None:
            timers.append(NewTimer("approval-timeout", approval.timeout_seconds))
        return NewActivity(request, ActivityState.PENDING, timers=tuple(timers), approval=approval)

    @classmethod
    def who(cls, row: Any) -> tuple[str, ...]:
        """Those who are asked by now."""
        return tuple(row.assignees or ())

    @classmethod
    def what_happens(cls, row: Any, deadline: Any) -> str:
        """It escalates, or is over."""
        if deadline.kind != "escalation":
            return "times out"
        return f"escalates to {_people_of(row.escalations, deadline.level)}"

    @classmethod
    def typed(cls, names: RunNames, key: str, _name: str, who: tuple[str, ...]) -> str:
        """Say yes, to this asking and to no later one."""
        return f"perennial approve {names.surely} {key} --by {who[0] if who else 'WHO'}"


def _people_of(escalations: Any, level: int) -> str:
    """The people of that level, however the row came about."""
    try:
        return ", ".join(escalations[level - 1]["assignees"])
    except (TypeError, LookupError):
        return "others"
