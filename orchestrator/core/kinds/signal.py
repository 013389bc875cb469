"""A wait for a signal: the next one of a name that no wait has consumed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from shlex import quote
from typing import Any, ClassVar, Literal

from orchestrator.core import codec
from orchestrator.core.checks import check_words, composed
from orchestrator.core.journal import Activity, ActivityKind, ActivityState, BufferedSignal
from orchestrator.core.kinds.base import (
    Answer,
    Ask,
    AwaitedRow,
    DeadlineRow,
    NewActivity,
    NewTimer,
    Request,
    RunNames,
    TimerRule,
)
from orchestrator.core.schemas import input_schema_of
from orchestrator.errors import CorrelationTaken, DefinitionError, PayloadError, SignalTimedOut

TAKES_BYTES_MAX = 4 * 1024
"""A larger schema isn't kept with each wait: the flow alone looks at what comes."""

HAS_DEFAULT = "has_default"
"""In the policy of a wait: that it does not fail at its end, for who looks at it."""

TAKEN_AT_THE_DEADLINE = "taken at the deadline"
"""Stands as the `type` in the error of a wait that a timer has answered, which knows no types of flows."""


def correlated(name: str, correlation: str) -> str:
    """The name by which a run knows a signal of that key: `paid[PAY-1]`. Raises DefinitionError."""
    for words, what in ((name, "a signal's name"), (correlation, "a correlation key")):
        if not isinstance(words, str):
            raise DefinitionError(f"{words!r} can't be {what}", remedy="Give text: str(…).")
        check_words(words, what=what, where="signal")
    if "[" in name:
        raise DefinitionError(
            f"signal {name!r} can't have a correlation key", remedy="Leave out `[` of its name."
        )
    return f"{composed(name)}[{composed(correlation)}]"


OnInvalid = Literal["set_aside", "raise"]
"""What becomes of a signal that does not fit the type of its wait."""


class NoDefault:
    """Where a wait has no default: None is one."""

    def __repr__(self) -> str:
        return "no default"


NO_DEFAULT = NoDefault()


@dataclass(frozen=True, slots=True)
class SignalWait(Ask):
    """A wait for the next signal of a name; `type` is what its payload must fit, and `on_invalid` what becomes of
    one that doesn't. It ends after `timeout_seconds` or at `until`, with `default` if it has one.
    """

    timeout_seconds: float | None
    type: Any
    on_invalid: OnInvalid = "set_aside"
    until: datetime | None = None
    default: Any = NO_DEFAULT
    correlation: str | None = None

    kind: ClassVar = ActivityKind.SIGNAL
    opened_event: ClassVar = "waits for signal"
    takes_signals: ClassVar = True
    timed_out: ClassVar = SignalTimedOut
    timers: ClassVar = (
        TimerRule("signal-timeout", "signal timed out", leads_to=ActivityState.TIMED_OUT),
    )

    timed_by: ClassVar = frozenset({"timeout", "until"})

    def compared(self) -> dict[str, Any]:
        """Its deadline. Another type or default is another reading of what came, or of nothing."""
        if self.until is not None:
            return {"until": self.until}
        return {"timeout": self.timeout_seconds}

    @property
    def result_type(self) -> Any:
        """As the wait declares it."""
        return self.type

    def name_of(self, name: str) -> str:
        """By which its run knows the signal. Raises DefinitionError."""
        return composed(name) if self.correlation is None else correlated(name, self.correlation)

    def key_of(self, name: str) -> str:
        """Without its correlation key."""
        return name if self.correlation is None else name.partition("[")[0]

    def open(self, request: Request) -> NewActivity:
        """With its deadline, and what it takes."""
        timeout, until = self.timeout_seconds, self.until
        has_end = timeout is not None or until is not None
        timers = (NewTimer("signal-timeout", timeout, until),) if has_end else ()
        return NewActivity(
            request,
            ActivityState.PENDING,
            policy=self._what_it_takes(),
            timers=timers,
            claims=self.correlation is not None,
        )

    def _what_it_takes(self) -> dict[str, Any] | None:
        """For whoever sends it: refused at the door, it never comes here. Not where the flow wants to be told."""
        marks = {} if isinstance(self.default, NoDefault) else {HAS_DEFAULT: True}
        if self.on_invalid == "set_aside":
            takes = input_schema_of(self.type)
            if takes.schema is not None and takes.size <= TAKES_BYTES_MAX:
                return {"takes": takes.schema, "digest": takes.digest, **marks}
        return marks or None

    def answer(self, request: Request, entry: Activity) -> Answer:
        """At its deadline, the default if there is one."""
        if (entry.error or {}).get("type") == "CorrelationTaken":
            message = str((entry.error or {}).get("message"))
            return Answer(error=CorrelationTaken(request.key, message))
        answer = Ask.answer(self, request, entry)
        if isinstance(answer.error, SignalTimedOut) and not isinstance(self.default, NoDefault):
            return Answer(self.default)
        return answer

    def recorded(self, request: Request, entry: Activity) -> Answer:
        """The recorded signal. One that a timer took, and that doesn't fit, did not come in time."""
        answer = self.taken(request, entry.result)
        is_unchecked = (entry.error or {}).get("type") == TAKEN_AT_THE_DEADLINE
        if answer.error is not None and is_unchecked and self.on_invalid == "set_aside":
            return Answer(error=SignalTimedOut(request.key, name=request.name))
        return answer

    def taken(self, request: Request, payload: Any) -> Answer:
        """What it has brought, as the wait's type: the same whether it is recorded as taken or not."""
        try:
            return Answer(codec.decode(payload, self.type, what=f"signal {request.name}"))
        except PayloadError as error:
            return Answer(error=error)

    def why_unfit(self, request: Request, signal: BufferedSignal) -> str | None:
        """By its type alone."""
        if self.on_invalid == "raise":
            return None
        error = self.taken(request, signal.payload).error
        return None if error is None else codec.readable(str(error))

    @classmethod
    def who(cls, row: AwaitedRow) -> tuple[str, ...]:
        """Nobody is asked."""
        return (f"whoever sends signal {row.name}",)

    @classmethod
    def what_happens(cls, row: AwaitedRow, _deadline: DeadlineRow) -> str:
        """At its end."""
        return "goes on with its default" if (row.policy or {}).get(HAS_DEFAULT) else "times out"

    @classmethod
    def typed(cls, names: RunNames, _key: str, name: str, _who: tuple[str, ...]) -> str:
        """Send it."""
        signal, _, correlation = name.removesuffix("]").partition("[")
        if correlation:
            return f"perennial signal --correlation {quote(correlation)} {quote(signal)} '{{...}}'"
        return f"perennial signal {names.called} {name} '{{...}}'"
