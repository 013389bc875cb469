"""What the delays alone say must happen. Pure, and not a line of it is the engine's.

Asked at hour 0, an approval escalates at hour 24 and times out at hour 48. A decision at exactly
24 h finds it escalated; one at exactly 48 h comes too late. Security is asked only after the
manager said yes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from demo.log import DemoRequest, HumanDecision
from demo.plan import MANAGER_APPROVAL, SECURITY_REVIEW

ESCALATES_AFTER = timedelta(hours=24)
TIMES_OUT_AFTER = timedelta(hours=48)

Outcome = Literal["approved", "rejected", "timed_out"]


@dataclass(frozen=True, slots=True)
class Result:
    """What comes of an approval."""

    outcome: Outcome
    escalated: bool


TIMED_OUT = Result("timed_out", escalated=True)


@dataclass(frozen=True, slots=True)
class Boundary:
    """An escalation or a timeout, seen from a decision: how far, and what would come of it beyond."""

    distance_hours: float
    other_side: Result


@dataclass(frozen=True, slots=True)
class ExpectedApproval:
    """One approval that must be asked, and what must come of it.

    `boundaries` are those that its decision might have crossed; none where nobody ever answers.
    """

    name: str
    result: Result
    boundaries: tuple[Boundary, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether anybody decides at all, be it too late."""
        return bool(self.boundaries)

    @property
    def boundary_distance_hours(self) -> float:
        """From the decision to the nearest boundary; infinite where nobody ever answers."""
        return min((boundary.distance_hours for boundary in self.boundaries), default=math.inf)

    def results_within(self, hours: float) -> set[Result]:
        """What may come of it when a decision or a timer is up to so many hours off."""
        reached = (one.other_side for one in self.boundaries if one.distance_hours <= hours)
        results = {self.result, *reached}
        if TIMED_OUT in results and timedelta(hours=hours) >= TIMES_OUT_AFTER - ESCALATES_AFTER:
            results.add(Result("timed_out", escalated=False))  # its escalation came after its end
        return results


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must become of one request. `approvals` are those that are asked, in their order."""

    trace_id: str
    approvals: tuple[ExpectedApproval, ...]

    @property
    def outcome(self) -> Outcome:
        """The last approval that was asked decides."""
        return self.approvals[-1].result.outcome


def expect(request: DemoRequest) -> Expectation:
    """What must become of `request`, by arithmetic on its delays."""
    manager = _expect_approval(MANAGER_APPROVAL, request.manager)
    if manager.result.outcome != "approved":
        return Expectation(request.trace_id, (manager,))
    security = _expect_approval(SECURITY_REVIEW, request.security)
    return Expectation(request.trace_id, (manager, security))


def _expect_approval(name: str, decision: HumanDecision | None) -> ExpectedApproval:
    if decision is None:
        return ExpectedApproval(name, TIMED_OUT)
    answer: Outcome = "approved" if decision.approved else "rejected"
    at_once, escalated = Result(answer, escalated=False), Result(answer, escalated=True)
    if decision.delay < ESCALATES_AFTER:
        result, beyond_escalation, beyond_timeout = at_once, escalated, TIMED_OUT
    elif decision.delay < TIMES_OUT_AFTER:
        result, beyond_escalation, beyond_timeout = escalated, at_once, TIMED_OUT
    else:
        result, beyond_escalation, beyond_timeout = TIMED_OUT, at_once, escalated
    boundaries = (
        Boundary(_hours_between(decision.delay, ESCALATES_AFTER), beyond_escalation),
        Boundary(_hours_between(decision.delay, TIMES_OUT_AFTER), beyond_timeout),
    )
    return ExpectedApproval(name, result, boundaries)


def _hours_between(one: timedelta, other: timedelta) -> float:
    return abs(one - other) / timedelta(hours=1)
