"""`Ask`: what a flow asks for, and all that is said of it by its kind.

How it is opened, compared and answered, what history calls it, who can move it, and what a person types: each
kind says so in its own module, and whoever needs it asks the kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Protocol

from orchestrator.core import codec
from orchestrator.core.approval_requests import ApprovalRequest
from orchestrator.core.approvals import Decision
from orchestrator.core.calendars import BusinessTime, Clock
from orchestrator.core.definition import Registry
from orchestrator.core.journal import (
    SETTLED,
    Activity,
    ActivityKind,
    ActivityState,
    BufferedSignal,
    describe,
)
from orchestrator.errors import (
    ActivityCancelled,
    ActivityFailed,
    ChildKeyTaken,
    CorrelationTaken,
    Fail,
    PayloadError,
    TooFewSucceeded,
    WaitTimedOut,
    activity_failed,
)

OUTCOMES = (
    ActivityFailed,
    WaitTimedOut,
    CorrelationTaken,
    ChildKeyTaken,
    ActivityCancelled,
    TooFewSucceeded,
    Fail,
)
"""What a flow may meet in the course of things; any other exception is a bug of its."""


@dataclass(slots=True)
class Answer:
    """What an await gives, or raises."""

    value: Any = None
    error: BaseException | None = None

    @property
    def is_bug(self) -> bool:
        """A gather raises it at once; for a failed activity it waits for the siblings."""
        return self.error is not None and not issubclass(type(self.error), OUTCOMES)


class Request(NamedTuple):
    """One thing a flow asked for, with its place in the journal."""

    key: str
    scope: str
    ordinal: int
    kind: ActivityKind
    name: str
    ask: Ask
    asked: str = ""
    """A digest of its arguments, to be compared at each replay (`core.argument_digests`)."""

    def describe(self) -> str:
        """As an activity's."""
        return describe(self.kind, self.name, self.key)


@dataclass(frozen=True, slots=True)
class NewTimer:
    """A deadline to arm: `delay_seconds` from its recording, or `at`. `level` counts escalations."""

    kind: str
    delay_seconds: float | None = None
    at: datetime | None = None
    level: int = 0


class Then(StrEnum):
    """What follows on a timer that has fired."""

    TURN = "turn"
    """A turn is asked for: the flow goes on."""
    HANDOFF = "handoff"
    """The activity is handed off, to a worker that has its task."""
    NOTHING = "nothing"
    """Its wait goes on."""


@dataclass(frozen=True, slots=True)
class TimerRule:
    """What a due timer of an activity does; the store has one statement for all of them.

    `timer` is the timer's kind, and `event` its word in history; with none, history gets no line.

    `leads_to` is the state that the activity comes to: DONE, TIMED_OUT or FAILED end its wait, and PENDING is its next
    attempt's. A signal that came in time ends the wait of a kind that takes signals, and an open approval ends with
    the wait of a kind that asks people. None: more people are asked, those of the timer's level.
    """

    timer: str
    event: str = ""
    leads_to: ActivityState | None = ActivityState.DONE
    then: Then = Then.TURN

    @property
    def ends_wait(self) -> bool:
        """Whether the flow goes on when it fires."""
        return self.leads_to in SETTLED


@dataclass(frozen=True, slots=True)
class ChildStart:
    """A run to be started with the activity that asks for it. `input` is JSON text."""

    process: str
    input: str = field(repr=False)
    business_key: str | None
    on_parent_end: str
    expires_in_seconds: float | None
    is_awaited: bool

    @property
    def is_answered_at_once(self) -> bool:
        """Its flow can go on as soon as it is recorded: it has its id; or its business key may be another run's."""
        return not self.is_awaited or self.business_key is not None


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
    claims: bool = False
    """It is a wait that claims its name, a correlation key, among all runs."""
    timers: tuple[NewTimer, ...] = ()
    approval: ApprovalRequest | None = None
    is_counted: bool = False
    """Its end asks for a turn only where it is the last that the flow waits for: its claim needs no journal."""
    error: dict[str, Any] | None = None
    child: ChildStart | None = None

    @property
    def is_done_as_made(self) -> bool:
        """Nothing waits for it: it is a mark of what its flow has seen."""
        return self.state is ActivityState.DONE and self.child is None


class SoFar(NamedTuple):
    """What a declarative process has when it comes to an entry: the run's input, what came of the entries before it,
    and the defaults of its approvals.
    """

    value: Any
    results: Mapping[str, Any]
    decisions: Mapping[str, Decision]
    approval_timeout: timedelta | BusinessTime | None = None
    escalation_after: timedelta | BusinessTime | None = None
    clock: Clock | None = None


class AwaitedRow(Protocol):
    """An open activity as the record has it (`store.reads.views`), with its approval and its worker, if it has one."""

    name: str
    state: str
    attempt: int
    queue: str | None
    worker_name: str | None
    policy: Any
    assignees: Sequence[str] | None
    escalations: Any
    """As they were recorded, or whatever other hands have made of them."""
    votes: Any
    """Of an approval that several decide: objects with each `person`."""


class DeadlineRow(Protocol):
    """An armed timer as the record has it."""

    kind: str
    level: int


class Ask(ABC):
    """One thing that a flow asks for, of one kind."""

    __slots__ = ()

    kind: ClassVar[ActivityKind]
    opened_event: ClassVar[str] = "asked for"
    """What history calls its opening."""
    cancelled_event: ClassVar[str] = ""
    """And that its flow needs it no more; "": that the kind is cancelled."""
    answered_event: ClassVar[str] = ""
    """What history calls an answer from outside (`Client.answer`); "": it takes none in this way."""
    is_work: ClassVar[bool] = False
    """A worker moves it, where others are moved by the world; so it is done by chance where nobody awaits it."""
    is_handed_off: ClassVar[bool] = False
    """It is done by a message's receiver; its name is a task's, and was looked at when it was defined."""
    is_inline: ClassVar[bool] = False
    """It is done in the turn, and recorded before the flow goes on."""
    is_performed: ClassVar[bool] = True
    """Of what is done in the turn: a function of the author's is called for it, once."""
    is_counted_down: ClassVar[bool] = False
    """Of many that are awaited together, the end of the last alone asks for a turn."""
    takes_signals: ClassVar[bool] = False
    """A signal that has come may answer it."""
    bounds_others: ClassVar[bool] = False
    """It is not waited for by itself: of several waits, it is named last."""
    asks_people: ClassVar[bool] = False
    """People answer it: of several waits, that is the one to name first."""
    timers: ClassVar[tuple[TimerRule, ...]] = ()
    """What each kind of timer does that it may have."""
    timed_by: ClassVar[frozenset[str]] = frozenset()
    """Which of its arguments say when its timers are due."""
    timed_out: ClassVar[type[WaitTimedOut]] = WaitTimedOut
    """What a flow meets where a timer has ended the wait as TIMED_OUT."""

    @abstractmethod
    def compared(self) -> dict[str, Any]:
        """Its arguments by name: what must be the same at each replay."""

    def key_of(self, name: str) -> str:
        """Its key in the journal, where the flow gives none."""
        return name

    @abstractmethod
    def open(self, request: Request) -> NewActivity:
        """As it is to be recorded. Raises InvalidArguments: it can't be."""

    def opened_detail(self) -> dict[str, Any] | None:
        """What history says of its opening, beside the event. None: no more."""
        return None

    @property
    def must_be_awaited(self) -> bool:
        """A flow that doesn't has forgotten it."""
        return self.is_work

    @property
    def is_waited_for_at_the_end(self) -> bool:
        """Its flow's run does not end before it."""
        return False

    @property
    def result_type(self) -> Any:
        """What awaiting it gives."""
        return Any

    def answer(self, request: Request, entry: Activity) -> Answer:
        """The answer of its settled activity, the same at each replay."""
        if entry.state is ActivityState.TIMED_OUT:
            return Answer(error=self.timed_out(request.key, name=request.name))
        if entry.state is ActivityState.FAILED:
            return Answer(
                error=activity_failed(request.key, entry.error or {}, attempts=entry.attempt)
            )
        return self.recorded(request, entry)

    def recorded(self, _request: Request, entry: Activity) -> Answer:
        """The recorded result, as its declared type."""
        declared = self.result_type
        try:
            return Answer(codec.decode_recorded(entry.result, declared, what=entry.key))
        except PayloadError:  # that is rare: only now is it worth its words
            what = f"result of {entry.describe()}"
            try:
                return Answer(codec.decode_recorded(entry.result, declared, what=what))
            except PayloadError as error:
                return Answer(error=error)

    def taken(self, _request: Request, payload: Any) -> Answer:
        """What a signal's payload answers, of a kind that takes signals."""
        return Answer(payload)

    def why_unfit(self, _request: Request, _signal: BufferedSignal) -> str | None:
        """Why that signal can't be its answer. None: it can, or its flow wants to be told."""
        return None

    # -- in YAML -----------------------------------------------------------------------------

    @classmethod
    def entries_in(cls, _registry: Registry) -> Mapping[str, Any]:
        """What a declarative process may name of this kind, each entry by its name. Empty: it can't name any."""
        return {}

    @classmethod
    def of_entry(cls, entry: Any, _so_far: SoFar) -> Ask:
        """What the process asks for when it comes to that entry."""
        raise AssertionError(f"{cls.kind} has no entries, and {entry!r} is none")

    # -- to a person, of its row in the record -----------------------------------------------

    @classmethod
    def in_words(cls, name: str) -> str:
        """`stage provision-access`."""
        return f"{cls.kind} {name}"

    @classmethod
    def who(cls, row: AwaitedRow) -> tuple[str, ...]:
        """Who can move it: a worker, unless the kind says otherwise."""
        if row.state == ActivityState.RETRYING:
            return ("nobody: its retry comes by itself",)
        if row.state == ActivityState.CLAIMED:
            return (f"worker {row.worker_name}" if row.worker_name else "a worker",)
        return (f"a worker on queue {row.queue}" if row.queue else "a worker on the default queue",)

    @classmethod
    def why(cls, _row: AwaitedRow) -> str:
        """Why it is awaited, where its name doesn't say."""
        return ""

    @classmethod
    def what_happens(cls, row: AwaitedRow, deadline: DeadlineRow) -> str:
        """At a deadline that comes before its answer."""
        return f"attempt {row.attempt} is made" if deadline.kind == "retry" else "times out"

    @classmethod
    def typed(cls, _names: RunNames, _key: str, _name: str, _who: tuple[str, ...]) -> str:
        """The command by which a person moves it; "" where there is none."""
        return ""


class Unregistered(Ask):
    """A kind that the record names, and this program does not have: it is shown, and no flow here asks for it."""

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Nobody here can say."""
        return (f"a program that has the kind {cls.kind}",)


class RunNames(NamedTuple):
    """How a command line names the run: `called` by its business key, `surely` by what means it alone."""

    called: str
    surely: str
