"""What passes between the demo and its people, as lines of JSON.

The demo writes the plan: the runs to start, and how each person will decide. The people write what
they did: when they meant to decide, when they tried, and what the record answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from demo.log import DemoRequest, HumanDecision

MANAGER_APPROVAL = "wait-for-manager-approval"
SECURITY_REVIEW = "wait-for-security-review"

YAML_PROCESS = "access-request"
PYTHON_PROCESS = "access-request-python"
PROCESSES = (YAML_PROCESS, PYTHON_PROCESS)
"""The same process twice; the requests take turns."""

ESCALATION_HOURS = 24
TIMEOUT_HOURS = 48

LATEST_HOURS = 60
"""Whoever decides later than this is refused all the same, so the demo doesn't wait for it."""

GAVE_UP_STATUS = 3
"""How the people's process ends when time was up before every run was closed."""

Line = TypeVar("Line", bound=BaseModel)


class PlannedDecision(BaseModel, frozen=True):
    """Who will decide an approval, how, and how long after being asked."""

    by: str
    approved: bool
    delay_seconds: float


class PlannedRun(BaseModel, frozen=True):
    """A run to start, and the decisions to take on it by the name of the approval."""

    trace_id: str
    process: str
    input: dict[str, Any]
    decisions: dict[str, PlannedDecision]


class TakenDecision(BaseModel, frozen=True):
    """What a person did. `taken_at` is the record's time, None where it refused (see `refused`)."""

    trace_id: str
    approval: str
    intended_at: datetime
    attempted_at: datetime
    taken_at: datetime | None = None
    refused: str = ""

    @property
    def lateness_seconds(self) -> float:
        """How much later than meant (or, negative, earlier) the decision was."""
        return ((self.taken_at or self.attempted_at) - self.intended_at).total_seconds()


def plan_runs(requests: Iterable[DemoRequest], *, hour_seconds: float) -> list[PlannedRun]:
    """Every request as a run, the two processes in turn, with hours of `hour_seconds`."""
    return [
        _plan_run(request, process, hour_seconds)
        for request, process in zip(requests, cycle(PROCESSES), strict=False)
    ]


def write_lines(path: Path, lines: Iterable[BaseModel]) -> None:
    """Each model as a line of JSON."""
    path.write_text("".join(line.model_dump_json() + "\n" for line in lines), encoding="utf-8")


def read_lines(path: Path, kind: type[Line]) -> Iterator[Line]:
    """The inverse of `write_lines`; a file that was never written holds no lines."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield kind.model_validate_json(line)


def _plan_run(request: DemoRequest, process: str, hour_seconds: float) -> PlannedRun:
    manager = request.attributes.get("manager", "supervisor")
    requester = request.attributes.get("requester", "employee")
    decisions = {MANAGER_APPROVAL: _plan_decision(request.manager, manager, hour_seconds)}
    if request.security is not None:
        decisions[SECURITY_REVIEW] = _plan_decision(request.security, "security", hour_seconds)
    return PlannedRun(
        trace_id=request.trace_id,
        process=process,
        input={
            "id": request.trace_id,
            "requester": requester,
            "user": request.attributes.get("user", requester),
            "role": request.attributes.get("role", "traveller"),
            "manager": manager,
            "escalation_seconds": ESCALATION_HOURS * hour_seconds,
            "timeout_seconds": TIMEOUT_HOURS * hour_seconds,
        },
        decisions=decisions,
    )


def _plan_decision(decision: HumanDecision, by: str, hour_seconds: float) -> PlannedDecision:
    delay_hours = min(decision.delay.total_seconds() / 3600, LATEST_HOURS)
    return PlannedDecision(
        by=by, approved=decision.approved, delay_seconds=delay_hours * hour_seconds
    )
