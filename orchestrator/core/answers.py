"""What an await is answered with: of a settled activity, or of a signal that a turn takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.core import codec
from orchestrator.core.approvals import ApprovalRequest, Decision
from orchestrator.core.branches import Answer
from orchestrator.core.definition import result_type_of
from orchestrator.core.flow import Ask, Request, SignalWait, Sleep, StageCall, StepCall
from orchestrator.core.journal import Activity, ActivityState, BufferedSignal
from orchestrator.errors import PayloadError, SignalTimedOut, activity_failed

TAKEN_AT_THE_DEADLINE = "taken at the deadline"
"""Stands as the `type` in the error of a wait that a timer has answered, which knows no types of flows."""


def answer_of(request: Request, entry: Activity) -> Answer:
    """The answer of a settled activity."""
    ask = request.ask
    if entry.state is ActivityState.TIMED_OUT:
        return Answer(error=SignalTimedOut(request.key, name=request.name))
    if entry.state is ActivityState.FAILED:
        error = activity_failed(request.key, entry.error or {}, attempts=entry.attempt)
        return Answer(error=error)
    if isinstance(ask, SignalWait):
        return _sent_and_recorded(request, ask, entry)
    declared = ask.stage.result_type if type(ask) is StageCall else _result_type(ask)
    try:
        return Answer(codec.decode_recorded(entry.result, declared, what=entry.key))
    except PayloadError:  # that is rare: only now is it worth its words
        return _decoded(
            codec.decode_recorded, entry.result, declared, f"result of {entry.describe()}"
        )


def _sent_and_recorded(request: Request, wait: SignalWait, entry: Activity) -> Answer:
    """The recorded signal. One that a timer took, and that doesn't fit, did not come in time."""
    answer = sent(request, wait, entry.result)
    is_unchecked = (entry.error or {}).get("type") == TAKEN_AT_THE_DEADLINE
    if answer.error is not None and is_unchecked and wait.on_unfit == "set_aside":
        return Answer(error=SignalTimedOut(request.key, name=request.name))
    return answer


def sent(request: Request, wait: SignalWait, payload: Any) -> Answer:
    """What a signal has brought, as the type that its wait names: the same whether it is recorded as taken or not."""
    return _decoded(codec.decode, payload, wait.type, f"signal {request.name}")


def _decoded(decode: Callable[..., Any], value: Any, declared: Any, what: str) -> Answer:
    """The value as its type, or the flow's to catch that it isn't."""
    try:
        return Answer(decode(value, declared, what=what))
    except PayloadError as error:
        return Answer(error=error)


def _result_type(ask: Ask) -> Any:
    match ask:
        case StageCall():
            return ask.stage.result_type
        case StepCall():
            return result_type_of(ask.function)
        case ApprovalRequest():
            return Decision
        case SignalWait():
            return ask.type
        case Sleep():
            return Any


def why_unfit(request: Request, signal: BufferedSignal) -> str | None:
    """Why the signal can't be the answer of this wait. None: it can, or its flow wants to be told."""
    ask = request.ask
    if not isinstance(ask, SignalWait) or ask.on_unfit == "raise":
        return None
    error = sent(request, ask, signal.payload).error
    return None if error is None else codec.readable(str(error))
