"""Replay: drive a flow over its journal, and say what is to be recorded.

    TurnOutcome = take_turn(process, run, journal, signals, ...)

No event loop: the coroutine is sent each answer the journal holds. At the first await without one
it is let go, and what it asked for becomes new activities. The same journal gives the same outcome,
on any worker, on any day.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from orchestrator.core import codec
from orchestrator.core.approvals import ApprovalRequest, Decision
from orchestrator.core.checks import check_key, check_words, composed
from orchestrator.core.definition import Process, Registry, Stage, result_type_of
from orchestrator.core.failures import FAILURES, lines_of, message_of, traceback_of, type_of
from orchestrator.core.flow import (
    Ask,
    Flow,
    FlowCoroutine,
    Gather,
    Pending,
    Request,
    SignalWait,
    Sleep,
    StageCall,
    StepCall,
)
from orchestrator.core.journal import (
    Activity,
    ActivityKind,
    ActivityState,
    BufferedSignal,
    describe,
)
from orchestrator.core.outcome import (
    ConsumedSignal,
    NewActivity,
    RunContext,
    TurnOutcome,
    done_by,
    open_activity,
    park,
)
from orchestrator.core.run import RunStatus
from orchestrator.errors import (
    ActivityFailed,
    DefinitionError,
    Fail,
    PayloadError,
    SignalTimedOut,
    UnknownStage,
    activity_failed,
)

log = logging.getLogger(__name__)

REQUESTS_PER_TURN_MAX = 10_000
"""More activities than this in one run is a runaway loop (DESIGN rule 9)."""


_OUTCOMES = (ActivityFailed, SignalTimedOut, Fail)
"""What a flow may meet in the course of things; any other exception is a bug of its."""


class TurnAbandoned(BaseException):
    """The turn can't go on here, and nothing of it is recorded. Not for flow code to catch."""


class StageIsMissing(TurnAbandoned):
    """This worker lacks a stage that the flow asks for by name."""


class _TurnOver(BaseException):
    """Raised into a flow that asks for more while it is being let go."""


class _Parked(BaseException):
    """The flow contradicts its journal, or runs away: its run is an incident. Not for flow code to catch."""


@dataclass(slots=True)
class _Answer:
    value: Any = None
    error: BaseException | None = None


PerformStep = Callable[[Request, Activity | None], Activity]
"""Runs an inline step and records it; the answer is settled, or retrying."""


def take_turn(
    process: Process,
    run: RunContext,
    journal: Sequence[Activity],
    signals: Sequence[BufferedSignal],
    *,
    registry: Registry,
    perform_step: PerformStep,
    may_perform: bool = True,
) -> TurnOutcome:
    """One pass of the flow over its journal.

    `may_perform` False: the journal holds what isn't recorded yet, so no inline step may build on it.

    Raises TurnAbandoned when this worker lacks a stage the flow asks for (another worker may have it),
    or when `perform_step` does because the turn is no longer ours.
    """
    return _Turn(process, run, journal, signals, registry, perform_step, may_perform).take()


@dataclass(slots=True)
class _Turn:
    process: Process
    run: RunContext
    journal: Sequence[Activity]
    signals: Sequence[BufferedSignal]
    registry: Registry
    perform_step: PerformStep
    may_perform: bool
    scope: str = ""
    asked: dict[str, Request] = field(default_factory=dict)
    entries: dict[str, Activity] = field(default_factory=dict)
    places: dict[tuple[str, int], Activity] = field(default_factory=dict)
    names: Counter[str] = field(default_factory=Counter)
    ordinals: Counter[str] = field(default_factory=Counter)
    gathers: set[str] = field(default_factory=set)
    opened: dict[str, NewActivity] = field(default_factory=dict)
    consumed: dict[str, ConsumedSignal] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    is_over: bool = False
    parked: str | None = None
    postponed_step: str | None = None
    times: dict[str, datetime] = field(default_factory=dict)  # of the last fact seen, by scope

    # -- the story ---------------------------------------------------------------------------

    def take(self) -> TurnOutcome:
        self.times[""] = self.run.created_at
        for activity in self.journal:
            if activity.parent_key is None:
                self.entries[activity.key] = activity
                self.places[activity.scope, activity.ordinal] = activity
        try:
            answer = self._drive(self._start_flow(), scope="")
            self._refuse_forgotten()
        except _OUTCOMES as error:
            outcome = self._ended_by(error)
        except TurnAbandoned:
            raise
        except FAILURES as error:  # any bug of a flow parks its run, explained
            outcome = self._incident(type_of(error), self._explain(error), raised=error)
        except BaseException:
            if self.parked is None:
                raise
            outcome = self._incident("contradiction", self.parked)
        else:
            outcome = self._blocked() if answer is None else self._completed(answer.value)
        # Whatever a flow made of it: what parks a run can't be caught.
        return outcome if self.parked is None else self._incident("contradiction", self.parked)

    def _start_flow(self) -> FlowCoroutine:
        flow = Flow(
            self,
            run_id=self.run.id,
            business_key=self.run.business_key,
            process=self.run.process,
            version=self.run.version,
        )
        if not self.process.takes_input:
            return self.process.flow(flow)
        what = f"input of {self.run.process} version {self.run.version}"
        return self.process.flow(
            flow, codec.decode_recorded(self.run.input, self.process.input_type, what=what)
        )

    def _drive(self, flow: FlowCoroutine, *, scope: str) -> _Answer | None:
        """Send a coroutine its answers. None when it waits; raises what it raises."""
        answer = _Answer()
        while True:
            self.scope = scope
            try:
                awaited = (
                    flow.send(answer.value) if answer.error is None else flow.throw(answer.error)
                )
            except StopIteration as stop:
                return _Answer(stop.value)
            answered = self._answer(awaited, scope)
            if answered is None:
                self._let_go(flow)
                return None
            answer = answered

    def _answer(self, awaited: Any, scope: str) -> _Answer | None:
        if isinstance(awaited, Pending):
            return self._answer_from_journal(awaited.request, scope)
        if isinstance(awaited, Gather):
            return self._answer_gather(awaited, scope)
        return _Answer(
            error=DefinitionError(
                f"a flow awaited {awaited!r}, which is not one of flow's own",
                where=self.process.where,
                remedy="Await flow.stage, flow.step, flow.sleep, flow.signal, flow.approval or flow.gather.",
            )
        )

    def _answer_gather(self, gather: Gather[Any], scope: str) -> _Answer | None:
        started_at = self.times[scope]
        try:
            answers = [
                self._answer_branch(branch, scope, f"{gather.key}/{name}", started_at)
                for name, branch in gather.branches
            ]
        finally:
            for _, branch in gather.branches:
                if inspect.iscoroutine(branch):
                    self._let_go(branch)  # those that a contradiction kept from starting
        failed = [answer for answer in answers if answer is not None and answer.error is not None]
        bugs = [answer for answer in failed if not issubclass(type(answer.error), _OUTCOMES)]
        if bugs:
            return bugs[0]  # told at once; a failed activity waits for its siblings
        settled = [answer for answer in answers if answer is not None]
        if len(settled) < len(answers):
            return None
        return failed[0] if failed else _Answer(gather.shape([answer.value for answer in settled]))

    def _answer_branch(
        self, branch: Awaitable[Any], scope: str, branch_scope: str, started_at: datetime
    ) -> _Answer | None:
        if not inspect.iscoroutine(branch):
            return self._answer(branch, scope)
        self.times[branch_scope] = started_at
        try:
            answer = self._drive(branch, scope=branch_scope)
        except FAILURES as error:  # a branch's failure is the gather's to raise
            answer = _Answer(error=error)
        self._saw(self.times[branch_scope], scope)
        return answer

    def _let_go(self, flow: FlowCoroutine) -> None:
        """Close the coroutine; what its `finally` blocks ask for is not part of the turn."""
        was_over, self.is_over = self.is_over, True
        try:
            flow.close()
        except (Exception, _TurnOver, TurnAbandoned):
            log.debug("a flow's clean-up failed while it was let go", exc_info=True)
        finally:
            self.is_over = was_over

    # -- what flows ask (Recorder) -----------------------------------------------------------

    def request(self, kind: ActivityKind, name: str, key: str | None, ask: Ask) -> Request:
        """Give a request its key and ordinal, and hold it against the journal."""
        if self.is_over:
            raise _TurnOver
        if len(self.asked) >= REQUESTS_PER_TURN_MAX:
            self._park(
                f"the flow asked for more than {REQUESTS_PER_TURN_MAX} activities: split the work over runs"
            )
        check_words(name, what="a name", where=self.process.where)
        request = Request(
            self._free_key(key or name, named=key is not None),
            self.scope,
            self._next_ordinal(),
            kind,
            name,
            ask,
        )
        self.asked[request.key] = request
        self._hold_against_journal(request)
        if request.key not in self.entries and not isinstance(ask, StepCall):
            self.opened[request.key] = open_activity(request)
        return request

    def gather_key(self, key: str | None) -> str:
        """The key of a gather: a head for its branches' keys."""
        if self.is_over:
            raise _TurnOver
        found = self._free_key(key or "gather", named=key is not None)
        self.gathers.add(found)
        return found

    def find_stage(self, name: str) -> Stage[..., Any]:
        """The registered stage of that name. Abandons the turn where this worker lacks it."""
        try:
            return self.registry.stage(name)
        except UnknownStage as error:
            raise StageIsMissing(str(error)) from None

    def _free_key(self, wanted: str, *, named: bool) -> str:
        wanted = composed(wanted)
        if named:
            check_key(wanted, where=self.process.where)
        path = f"{self.scope}/{wanted}" if self.scope else wanted
        self.names[path] += 1
        count = self.names[path]
        if count == 1 and path not in self.asked and path not in self.gathers:
            return path
        if named:
            raise DefinitionError(
                f"key {path!r} is used twice",
                where=self.process.where,
                remedy="Keys are unique in a run.",
            )
        return f"{path}#{max(count, 2)}"

    def _next_ordinal(self) -> int:
        self.ordinals[self.scope] += 1
        return self.ordinals[self.scope]

    @property
    def now(self) -> datetime:
        """The time of the last fact that the code now running has seen."""
        return self.times[self.scope]

    def _saw(self, at: datetime, scope: str) -> None:
        self.times[scope] = max(self.times[scope], at)

    # -- the journal -------------------------------------------------------------------------

    def _answer_from_journal(self, request: Request, scope: str) -> _Answer | None:
        entry = self.entries.get(request.key)
        if isinstance(request.ask, StepCall) and _is_due(entry):
            if not self.may_perform or self.consumed:
                self.postponed_step = request.key
                return None
            entry = self.entries[request.key] = self.perform_step(request, entry)
        if isinstance(request.ask, SignalWait) and (entry is None or not entry.is_settled):
            return self._answer_from_signals(request, request.ask, scope)
        if entry is None or not entry.is_settled:
            return None
        self.answered.add(request.key)
        if entry.settled_at is not None:
            self._saw(entry.settled_at, scope)
        return _answer_of(request, entry)

    def _answer_from_signals(
        self, request: Request, wait: SignalWait, scope: str
    ) -> _Answer | None:
        consumed = self.consumed.get(request.key) or self._consume(request)
        if consumed is None:
            return None
        self.answered.add(request.key)
        self._saw(consumed.received_at, scope)
        return _decoded(
            consumed.payload, wait.type, what=f"signal {request.name}", decode=codec.decode
        )

    def _consume(self, request: Request) -> ConsumedSignal | None:
        taken = {consumed.signal_id for consumed in self.consumed.values()}
        for signal in self.signals:
            if signal.name == request.name and signal.id not in taken:
                consumed = ConsumedSignal(
                    request.key, signal.id, signal.payload, signal.received_at
                )
                self.consumed[request.key] = consumed
                return consumed
        return None

    def _hold_against_journal(self, request: Request) -> None:
        recorded = self.places.get((request.scope, request.ordinal))
        entry = self.entries.get(request.key)
        if recorded is None and entry is None:
            return
        if (
            recorded is entry
            and entry is not None
            and (entry.kind, entry.name) == (request.kind, request.name)
        ):
            return
        self._park(self._diff(request.scope))

    def _refuse_forgotten(self) -> None:
        for activity in self.entries.values():
            if activity.key not in self.asked:
                self._park(self._diff(activity.scope))

    def _park(self, why: str) -> NoReturn:
        """From here on the flow asks in vain: the first contradiction is the one to tell."""
        if self.parked is None:
            self.parked = why
        self.is_over = True
        raise _Parked(why)

    def _diff(self, scope: str) -> str:
        """Journal (`-`) and flow (`+`) of one scope, line by line."""
        recorded = {
            entry.ordinal: entry.describe()
            for entry in self.entries.values()
            if entry.scope == scope
        }
        asked = {
            request.ordinal: describe(request.kind, request.name, request.key)
            for request in self.asked.values()
            if request.scope == scope
        }
        lines = [f"in {scope}:" if scope else "in the flow:"]
        for ordinal in range(1, max((*recorded, *asked), default=0) + 1):
            before, after = recorded.get(ordinal), asked.get(ordinal)
            if before == after:
                lines.append(f"    {ordinal}. {before}")
                continue
            if before is not None:
                lines.append(f"  - {ordinal}. {before}   (in the journal)")
            if after is not None:
                lines.append(f"  + {ordinal}. {after}   (asked by the flow now)")
        return "\n".join(lines)

    # -- how turns end -----------------------------------------------------------------------

    def _blocked(self) -> TurnOutcome:
        unsettled = [request for request in self.asked.values() if self._is_awaited(request)]
        is_at_work = any(
            request.kind in (ActivityKind.STAGE, ActivityKind.STEP) for request in unsettled
        )
        return TurnOutcome(
            status=RunStatus.RUNNING if is_at_work else RunStatus.WAITING,
            opened=tuple(self._opened()),
            consumed=tuple(self.consumed.values()),
            unsettled=tuple(request.key for request in unsettled),
            stage=unsettled[0].key if unsettled else None,
            waiting_for=_waiting_for(unsettled),
            goes_on=self.postponed_step is not None,
        )

    def _is_awaited(self, request: Request) -> bool:
        """Not answered; and a step that nobody has awaited yet is not at work."""
        entry = self.entries.get(request.key)
        if request.key in self.answered or (entry is not None and entry.is_settled):
            return False
        return entry is not None or request.key in self.opened or request.key == self.postponed_step

    def _completed(self, value: Any) -> TurnOutcome:
        try:
            output = codec.encode(
                value, self.process.result_type, what=f"result of {self.run.process}"
            )
        except PayloadError as error:
            return self._incident(type(error).__name__, str(error))
        return self._closed(RunStatus.COMPLETED, output=output)

    def _ended_by(self, error: Exception) -> TurnOutcome:
        kept = {"type": type_of(error), "message": message_of(error)}
        traced = {"traceback": traceback_of(error)}
        return self._closed(RunStatus.FAILED, error={**kept, **traced}, raised=error)

    def _closed(
        self,
        status: RunStatus,
        *,
        output: str | None = None,
        error: dict[str, Any] | None = None,
        raised: Exception | None = None,
    ) -> TurnOutcome:
        """The run ends: what it had asked for and nobody needs any more is not opened."""
        answered = tuple(
            activity for activity in self._opened() if activity.state is ActivityState.DONE
        )
        return TurnOutcome(
            status=status,
            opened=answered,
            consumed=tuple(self.consumed.values()),
            output=output,
            error=error,
            raised=raised,
        )

    def _incident(
        self, kind: str, message: str, *, raised: BaseException | None = None
    ) -> TurnOutcome:
        journal = tuple(self.entries.values())
        return park(self.run, journal, kind=kind, message=message, raised=raised)

    def _explain(self, error: BaseException) -> str:
        """The error, and the flow's own line it came through."""
        lines = lines_of(error)
        own = [line for line in lines if line[0] == self.process.flow.__code__.co_filename]
        # PayloadErrors we raise ourselves, and say of what.
        elsewhere = [] if issubclass(type(error), PayloadError) else lines
        at = (own or elsewhere)[-1:]
        return message_of(error) + "".join(f" (at {file}:{line})" for file, line in at)

    def _opened(self) -> list[NewActivity]:
        """New activities; a wait whose signal was there already is recorded as done."""
        return [
            done_by(self.consumed[key], activity) if key in self.consumed else activity
            for key, activity in self.opened.items()
        ]


def _is_due(entry: Activity | None) -> bool:
    return entry is None or entry.state is ActivityState.PENDING


def _answer_of(request: Request, entry: Activity) -> _Answer:
    if entry.state is ActivityState.TIMED_OUT:
        return _Answer(error=SignalTimedOut(request.key, name=request.name))
    if entry.state is ActivityState.FAILED:
        error = activity_failed(request.key, entry.error or {}, attempts=entry.attempt)
        return _Answer(error=error)
    return _decoded(entry.result, _result_type(request.ask), what=f"result of {entry.describe()}")


def _decoded(
    value: Any,
    declared: Any,
    *,
    what: str,
    decode: Callable[..., Any] = codec.decode_recorded,
) -> _Answer:
    """The value as its type, or the flow's to catch that it isn't."""
    try:
        return _Answer(decode(value, declared, what=what))
    except PayloadError as error:
        return _Answer(error=error)


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


def _waiting_for(unsettled: Sequence[Request]) -> str | None:
    """`approval manager`, or the first of several and how many more."""
    if not unsettled:
        return None
    people_first = sorted(unsettled, key=lambda request: request.kind is not ActivityKind.APPROVAL)
    first = people_first[0]
    text = first.name if first.kind is ActivityKind.SLEEP else f"{first.kind} {first.name}"
    return text if len(unsettled) == 1 else f"{text} and {len(unsettled) - 1} more"
