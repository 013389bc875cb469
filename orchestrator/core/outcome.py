"""What a turn decides, as data: the activities, timers and consumed signals to record, and how the run stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.approvals import ApprovalRequest
from orchestrator.core.failures import traceback_of
from orchestrator.core.flow import Request, SignalWait, Sleep, StageCall, StepCall
from orchestrator.core.journal import Activity, ActivityState
from orchestrator.core.run import RunStatus
from orchestrator.core.schemas import input_schema_of
from orchestrator.errors import InvalidArguments, PayloadError

TAKES_BYTES_MAX = 4 * 1024
"""A larger schema isn't kept with each wait: the flow alone looks at what comes."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a turn knows of its run. `input` is plain JSON."""

    id: UUID
    process: str
    version: int
    business_key: str | None
    input: Any
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewTimer:
    """A deadline to arm: `delay_seconds` from its recording, or `at`. `level` counts escalations."""

    kind: str
    delay_seconds: float | None = None
    at: datetime | None = None
    level: int = 0


@dataclass(frozen=True, slots=True)
class NewActivity:
    """An activity the flow asked for and the journal lacks. `input` and `result` are JSON text."""

    request: Request
    state: ActivityState
    input: str | None = None
    result: str | None = None
    settled_at: datetime | None = None
    settled_revision: int | None = None
    queue: str | None = None
    policy: dict[str, Any] | None = None
    timeout_seconds: float | None = None
    timers: tuple[NewTimer, ...] = ()
    approval: ApprovalRequest | None = None


@dataclass(frozen=True, slots=True)
class ConsumedSignal:
    """A buffered signal that answers the wait `key`; its activity is new or already in the journal."""

    key: str
    signal_id: UUID
    payload: Any
    received_at: datetime
    received_revision: int | None = None


@dataclass(frozen=True, slots=True)
class SetAsideSignal:
    """A buffered signal that does not fit the type of the wait `key`, and why; it answers nobody."""

    key: str
    signal_id: UUID
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """What a turn decided: the commands to record, and how the run stands after them."""

    status: RunStatus
    opened: tuple[NewActivity, ...] = ()
    consumed: tuple[ConsumedSignal, ...] = ()
    set_aside: tuple[SetAsideSignal, ...] = ()
    unsettled: tuple[str, ...] = ()
    stage: str | None = None
    waiting_for: str | None = None
    output: str | None = None
    error: dict[str, Any] | None = None
    raised: BaseException | None = field(default=None, compare=False, repr=False)
    """What the flow raised, where that is how it ended or was parked."""
    goes_on: bool = False
    """The flow wants an inline step, but on facts not recorded yet: commit, and take another turn."""


def park(
    run: RunContext,
    journal: Sequence[Activity],
    *,
    kind: str,
    message: str,
    raised: BaseException | None = None,
) -> TurnOutcome:
    """The outcome that makes a run an incident, as it stands: nothing more is opened.

    `raised`: by the flow, whose traceback is kept.
    """
    return TurnOutcome(
        status=RunStatus.INCIDENT,
        unsettled=tuple(activity.key for activity in journal if not activity.is_settled),
        error={
            "type": kind,
            "message": codec.readable(message),
            "process": f"{run.process} version {run.version}",
            **({} if raised is None else {"traceback": traceback_of(raised)}),
        },
        waiting_for="an operator",
        raised=raised,
    )


def open_activity(request: Request) -> NewActivity:
    """A request as it is to be recorded. Raises InvalidArguments: one can't be."""
    ask = request.ask
    match ask:
        case StageCall():
            stage = ask.stage
            what = f"argument of stage {stage.name}"
            try:
                parts = [
                    f"{codec.encode_name(name)}:{codec.encode(value, stage.parameters[name], what=what)}"
                    for name, value in ask.arguments.items()
                ]
            except PayloadError as error:
                raise InvalidArguments(str(error)) from None
            return NewActivity(
                request,
                ActivityState.PENDING,
                input="{" + ",".join(parts) + "}",
                queue=stage.queue,
                policy=stage.retry.as_policy(),
                timeout_seconds=stage.timeout_seconds,
            )
        case Sleep():
            return NewActivity(
                request,
                ActivityState.PENDING,
                timers=(NewTimer("sleep", ask.delay_seconds, ask.at),),
            )
        case SignalWait():
            timers = (
                ()
                if ask.timeout_seconds is None
                else (NewTimer("signal-timeout", ask.timeout_seconds),)
            )
            return NewActivity(
                request, ActivityState.PENDING, policy=_what_it_takes(ask), timers=timers
            )
        case ApprovalRequest():
            return NewActivity(
                request, ActivityState.PENDING, timers=_approval_timers(ask), approval=ask
            )
        case StepCall():
            raise AssertionError("steps are recorded by whoever performs them")


def _what_it_takes(wait: SignalWait) -> dict[str, Any] | None:
    """For whoever sends the signal: refused at the door, it never comes here. Not where the flow wants to be told."""
    if wait.on_unfit != "set_aside":
        return None
    takes = input_schema_of(wait.type)
    if takes.schema is None or takes.size > TAKES_BYTES_MAX:
        return None
    return {"takes": takes.schema, "digest": takes.digest}


def _approval_timers(ask: ApprovalRequest) -> tuple[NewTimer, ...]:
    escalations = tuple(
        NewTimer("escalation", escalation.after_seconds, level=level)
        for level, escalation in enumerate(ask.escalations, start=1)
    )
    if ask.timeout_seconds is None:
        return escalations
    return (*escalations, NewTimer("approval-timeout", ask.timeout_seconds))


def done_by(consumed: ConsumedSignal, activity: NewActivity) -> NewActivity:
    """A wait whose signal was there already: recorded as done."""
    payload = codec.encode(consumed.payload, what=f"signal {activity.request.name}")
    return NewActivity(
        activity.request,
        ActivityState.DONE,
        result=payload,
        settled_at=consumed.received_at,
        settled_revision=consumed.received_revision,
    )
