"""What a turn decides, as data: the activities, timers and consumed signals to record, and how the run stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.causes import cause_of, cause_of_end, in_flow, marked
from orchestrator.core.failures import message_of, traceback_of, type_of
from orchestrator.core.journal import Activity, ActivityKind, ActivityState
from orchestrator.core.kinds.base import NewActivity, Request
from orchestrator.core.run import RunStatus


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a turn knows of its run. `input` is plain JSON. `code_revision`: which content of its version moves it.
    `chapter`: how often its flow has continued as new, and one; `chapter_at`: when it did last.
    """

    id: UUID
    process: str
    version: int
    business_key: str | None
    input: Any
    created_at: datetime
    code_revision: int = 1
    chapter: int = 1
    chapter_at: datetime | None = None

    @property
    def root(self) -> str:
        """The scope of all that the flow asks for in this chapter: keys of one chapter are none of another's."""
        return "" if self.chapter == 1 else f"{self.chapter}#"


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
class CancelledActivity:
    """An open activity that the flow has cancelled, and why: a race or a block is over without it."""

    key: str
    kind: ActivityKind
    why: str


@dataclass(frozen=True, slots=True)
class Said:
    """What a flow has said of its run: attributes as a JSON object, and a sentence; None: it has said none."""

    attributes: str | None
    status_text: str | None


@dataclass(frozen=True, slots=True)
class NextChapter:
    """The flow begins anew, with this input. `version`: None for the one that new runs take."""

    input: Any
    version: int | None = None


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """What a turn decided: the commands to record, and how the run stands after them."""

    status: RunStatus
    opened: tuple[NewActivity, ...] = ()
    consumed: tuple[ConsumedSignal, ...] = ()
    set_aside: tuple[SetAsideSignal, ...] = ()
    cancelled: tuple[CancelledActivity, ...] = ()
    given_back: tuple[str, ...] = ()
    """Keys of cancelled waits that a deadline has given a signal since: it is waited for again, and they are cancelled.
    """
    unsettled: tuple[str, ...] = ()
    stage: str | None = None
    waiting_for: str | None = None
    output: str | None = None
    error: dict[str, Any] | None = None
    raised: BaseException | None = field(default=None, compare=False, repr=False)
    """What the flow raised, where that is how it ended or was parked."""
    patches: tuple[tuple[str, bool], ...] = ()
    """What `Flow.patched` has answered, by keys."""
    said: Said | None = None
    next_chapter: NextChapter | None = None
    cut_short: tuple[str, ...] = ()
    """What was open as the chapter ended, in words."""
    outstanding: int | None = None
    """How many stages and children must end before the flow has anything to do. None: each end may be enough."""
    has_ended: bool = False
    """The flow has come to its end, and its run waits for children first."""
    goes_on: bool = False
    """The flow wants an inline step, or the end of a scope, but on facts not recorded yet: commit, and take another
    turn.
    """


def park(
    run: RunContext,
    journal: Sequence[Activity],
    *,
    kind: str,
    message: str,
    raised: BaseException | None = None,
    advice: str = "",
) -> TurnOutcome:
    """The outcome that makes a run an incident, as it stands: nothing more is opened.

    `raised`: by the flow, whose traceback is kept. `advice`: what is said beside the message, which names its cause.
    """
    return TurnOutcome(
        status=RunStatus.INCIDENT,
        unsettled=tuple(activity.key for activity in journal if activity.is_open),
        error=marked(
            {
                "type": kind,
                "message": codec.readable(message),
                "process": f"{run.process} version {run.version}",
                **({"advice": advice} if advice else {}),
                **({} if raised is None else {"traceback": traceback_of(raised)}),
            },
            cause_of(kind, message, in_flow(run.process)),
        ),
        waiting_for="an operator",
        raised=raised,
    )


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


def cancelled_at(activity: NewActivity, at: datetime, why: str) -> NewActivity:
    """What was cancelled before it was ever recorded: nobody is handed it, asked, or given a deadline."""
    return replace(
        activity,
        state=ActivityState.CANCELLED,
        settled_at=at,
        timers=(),
        approval=None,
        claims=False,
        child=None,
        result=None,
        error=error_of_cancelled(why),
    )


def error_of_cancelled(why: str) -> dict[str, Any]:
    """What the record says of an activity that its flow has cancelled."""
    return {"type": "Cancelled", "message": why}


def error_of_end(
    error: BaseException, *, process: str, names: Callable[[str], str | None], at: str = ""
) -> dict[str, Any]:
    """What is recorded of an error that has ended its run. `names`: of an activity by its key. `at`: its line."""
    kept = {"type": type_of(error), "message": message_of(error)}
    cause = cause_of_end(error, kept, process=process, names=names)
    kept = {**kept, "at": codec.readable(at)} if at else kept
    return marked({**kept, "traceback": traceback_of(error)}, cause)


def waiting_for(
    unsettled: Sequence[Request],
    undone: tuple[int, int] | None = None,
    *,
    is_ending: bool = False,
) -> str | None:
    """`approval manager`, or the first of several and how many more. `undone`: how many are undone, of how many.

    `is_ending`: the run is cancelled, or has expired, and cleans up.
    """
    if not unsettled:
        return None
    people_first = sorted(
        unsettled, key=lambda request: (request.ask.bounds_others, not request.ask.asks_people)
    )
    first = people_first[0]
    text = first.ask.in_words(first.name)
    if undone is not None:
        return f"{text}, compensating: {undone[0]} of {undone[1]} done"
    if len(unsettled) > 1:
        text = f"{text} and {len(unsettled) - 1} more"
    return f"{text}, cleaning up" if is_ending else text


def are_counted(unsettled: Sequence[Request], together: Mapping[str, Request]) -> bool:
    """Whether the flow waits for several stages or children, for nothing else, and for all of them."""
    return (
        len(unsettled) > 1
        and len(together) == len(unsettled)
        and all(request.key in together and request.ask.is_counted_down for request in unsettled)
    )
