"""Replay: drive a flow over its journal, and say what is to be recorded.

    TurnOutcome = take_turn(process, run, journal, signals, ...)

No event loop: the coroutine is sent each answer the journal holds, in the order in which the facts came
to the run. When nothing is left to answer it is let go, and what it asked for becomes new activities. The
same journal gives the same outcome, on any worker, on any day; and what a flow did at its first pass it
does again at each later one, whatever its branches share. (docs/adr/0001, 0030)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn
from zlib import crc32

from orchestrator.core import codec
from orchestrator.core.asked import different_arguments, digest_of
from orchestrator.core.branches import Branches, TurnAbandoned, TurnOver
from orchestrator.core.bugs import explain
from orchestrator.core.checks import check_key, check_words, composed
from orchestrator.core.contradictions import explain_contradiction
from orchestrator.core.definition import Process, Registry, Stage
from orchestrator.core.driving import driven_by
from orchestrator.core.failures import FAILURES, message_of, traceback_of, type_of
from orchestrator.core.flow import Flow, FlowCoroutine
from orchestrator.core.journal import Activity, ActivityState, BufferedSignal
from orchestrator.core.kinds.base import OUTCOMES, Answer, Ask, NewActivity, Request
from orchestrator.core.outcome import (
    ConsumedSignal,
    RunContext,
    SetAsideSignal,
    TurnOutcome,
    done_by,
    park,
)
from orchestrator.core.run import RunStatus
from orchestrator.core.unawaited import NEVER_AWAITED, Unawaited
from orchestrator.errors import (
    DefinitionError,
    PayloadError,
    UnknownStage,
)

REQUESTS_PER_TURN_MAX = 10_000
"""More activities than this in one run is a runaway loop (DESIGN rule 9)."""


class StageIsMissing(TurnAbandoned):
    """This worker lacks a stage that the flow asks for by name."""


class _Parked(TurnOver):
    """The flow contradicts its journal, or runs away: its run is an incident. Not for flow code to catch."""


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
    branches: Branches = field(init=False)
    salt: int = field(init=False)
    """Of the run's digests."""
    asked: dict[str, Request] = field(default_factory=dict)
    entries: dict[str, Activity] = field(default_factory=dict)
    places: dict[tuple[str, int], Activity] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    ordinals: dict[str, int] = field(default_factory=dict)
    gathers: set[str] = field(default_factory=set)
    opened: dict[str, NewActivity] = field(default_factory=dict)
    consumed: dict[str, ConsumedSignal] = field(default_factory=dict)
    unfit: list[SetAsideSignal] = field(default_factory=list)
    facts: list[Activity | BufferedSignal] = field(default_factory=list)
    """What the record holds, in the run's order; the flow has come past the first `facts_past` of them."""
    facts_past: int = 0
    arrived: set[str] = field(default_factory=set)
    """Keys of the settled activities that the flow has come past, in the run's order."""
    buffered: dict[str, deque[BufferedSignal]] = field(default_factory=dict)
    """Signals that the flow has come past, and no wait has consumed, by name."""
    waits: dict[str, dict[str, Request]] = field(default_factory=dict)
    """Awaited waits for a signal that hasn't come: by its name, and then by their keys."""
    due_steps: dict[str, Request] = field(default_factory=dict)
    """Awaited inline steps that are to be performed."""
    answered: set[str] = field(default_factory=set)
    parked: str | None = None
    parked_as: str = "contradiction"
    unawaited: Unawaited = field(default_factory=Unawaited)
    postponed_step: str | None = None

    # -- the story ---------------------------------------------------------------------------

    def take(self) -> TurnOutcome:
        self.branches = Branches(
            self._look,
            self,
            self.unawaited,
            where=self.process.where,
            began_at=self.run.created_at,
        )
        self.salt = crc32(self.run.id.bytes)
        for activity in self.journal:
            if activity.parent_key is None:
                self.entries[activity.key] = activity
                self.places[activity.scope, activity.ordinal] = activity
        try:
            answer = self._drive()
            self._refuse_forgotten()  # guard: what the flow forgot parks
            if answer is not None:  # guard: a forgotten await at the end
                self._refuse_unawaited()
        except OUTCOMES as error:
            outcome = self._ended_by(error)
        except TurnAbandoned:
            raise
        except FAILURES as error:  # any bug of a flow parks its run, explained
            why = explain(error, file=self.process.flow.__code__.co_filename)
            outcome = self._incident(type_of(error), why, raised=error)
        except BaseException:
            if self.parked is None:
                raise
            outcome = self._incident(self.parked_as, self.parked)
        else:
            outcome = self._blocked() if answer is None else self._completed(answer.value)
        # Whatever a flow made of it: what parks a run can't be caught.
        if self.parked is not None:  # guard: a contradiction can't be caught
            outcome = self._incident(self.parked_as, self.parked)
        return outcome

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

    def _drive(self) -> Answer | None:
        """Fact by fact, then step by step, until nothing more can be answered. None: the flow waits.

        Between two facts whatever is ready runs until it waits. So what has happened before a fact hangs on
        earlier facts alone: it is the same whether the later ones are recorded yet or not.
        """
        self.facts += self.signals
        self.facts += (entry for entry in self.entries.values() if entry.is_settled)
        self.facts.sort(key=lambda fact: fact.place)
        try:
            self.branches.start(self._start_flow())
            self.branches.run()
            while self.branches.answer_of_flow is None and (
                self._come_to_next_fact() or self._perform_next_step()
            ):
                self.branches.run()
        finally:
            self.branches.let_go()
        return self.branches.answer_of_flow

    def _come_to_next_fact(self) -> bool:
        """Go on to the next fact that somebody awaits. False: there is none."""
        while self.facts_past < len(self.facts):
            fact = self.facts[self.facts_past]
            self.facts_past += 1
            if isinstance(fact, BufferedSignal):
                key = self._arrive(fact)
            else:
                key = fact.key
                self.arrived.add(fact.key)
            if key is not None and self.branches.is_awaited(key):
                self.branches.answer(key)
                return True
        return False

    def _arrive(self, signal: BufferedSignal) -> str | None:
        """A signal goes to whoever came first to wait for one of its name. None: it is kept for who comes."""
        waits = self.waits.get(signal.name, {})
        while waits:
            request = waits[next(iter(waits))]
            if self.branches.is_awaited(request.key):
                if self._take(request, signal) is None:
                    return None
                del waits[request.key]
                return request.key
            del waits[request.key]
        self.buffered.setdefault(signal.name, deque()).append(signal)
        return None

    def _perform_next_step(self) -> bool:
        """Call an inline step: all else waits by now. False: there is none, or it must not be called yet.

        What the flow has asked for, and what it stands on, is recorded before anything is done for it.
        """
        while self.due_steps:
            key = next(iter(self.due_steps))
            if not self.branches.is_awaited(key):
                del self.due_steps[key]
            elif not self._may_perform(key):
                return False
            elif self._perform(self.due_steps.pop(key)):
                self.branches.answer(key)
                return True
        return False

    def _may_perform(self, key: str) -> bool:
        if (
            not self.may_perform
            or self.consumed  # guard: signals before steps
            or self.unfit
            or self.opened  # guard: asked before performed
        ):
            self.postponed_step = key
            return False
        return True

    def _perform(self, request: Request) -> bool:
        """Call the step. False: it is to be tried again later."""
        key = request.key
        driver = driven_by.get()
        driven_by.set(None)  # guard: what a step calls is no flow's code
        try:
            entry = self.entries[key] = self.perform_step(request, self.entries.get(key))
        finally:
            driven_by.set(driver)
        if entry.is_settled:
            self.arrived.add(key)
        return entry.is_settled

    def _is_next(self, request: Request, entry: Activity | None) -> bool:
        """Come to what is awaited, where that is the next thing to happen: the short way round.

        Whoever awaits it is the only one that is ready, so it would be the next to run anyway.
        """
        if self.facts_past < len(self.facts):
            if entry is not self.facts[self.facts_past] or self.branches.is_awaited(request.key):
                return False
            self.facts_past += 1
            self.arrived.add(request.key)
            return True
        return (
            request.ask.is_inline
            and _is_due(entry)
            and not self.due_steps
            and self._may_perform(request.key)
            and self._perform(request)
        )

    # -- what flows ask (Recorder) -----------------------------------------------------------

    def request(self, name: str, key: str | None, ask: Ask) -> Request:
        """Give a request its key and ordinal, and hold it against the journal."""
        if self.branches.is_over:
            raise TurnOver
        if len(self.asked) >= REQUESTS_PER_TURN_MAX:
            self._park(
                f"the flow asked for more than {REQUESTS_PER_TURN_MAX} activities: split the work over runs"
            )
        if not ask.is_handed_off:  # else its name was looked at when it was defined
            check_words(name, what="a name", where=self.process.where)
        request = Request(
            self._free_key(key or name, named=key is not None),
            self.branches.scope,
            self._next_ordinal(),
            ask.kind,
            name,
            ask,
            digest_of(ask, self.salt),
        )
        self.asked[request.key] = request
        self._hold_against_journal(request)
        if request.key not in self.entries and not ask.is_inline:
            self.opened[request.key] = ask.open(request)
        return request

    def gather_key(self, key: str | None) -> str:
        """The key of a gather: a head for its branches' keys."""
        if self.branches.is_over:
            raise TurnOver
        found = self._free_key(key or "gather", named=key is not None)
        self.gathers.add(found)
        return found

    def find_stage(self, name: str) -> Stage[..., Any]:
        """The registered stage of that name. Abandons the turn where this worker lacks it."""
        try:
            return self.registry.stage(name)
        except UnknownStage as error:  # guard: a missing stage leaves the run
            raise StageIsMissing(str(error)) from None

    def _free_key(self, wanted: str, *, named: bool) -> str:
        wanted = composed(wanted)
        if named:
            check_key(wanted, where=self.process.where)
        scope = self.branches.scope
        path = f"{scope}/{wanted}" if scope else wanted
        count = self.names[path] = self.names.get(path, 0) + 1
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
        scope = self.branches.scope
        ordinal = self.ordinals[scope] = self.ordinals.get(scope, 0) + 1
        return ordinal

    @property
    def now(self) -> datetime:
        """The time of the last fact that the code now running has seen."""
        return self.branches.times[self.branches.scope]

    # -- the journal -------------------------------------------------------------------------

    def _look(self, request: Request, scope: str, is_alone: bool) -> Answer | None:  # noqa: FBT001 - a callback
        """The answer that the flow has come past. None: it has to wait."""
        entry, ask = self.entries.get(request.key), request.ask
        if request.key in self.arrived or (is_alone and self._is_next(request, entry)):
            entry = self.entries[request.key]
            self.answered.add(request.key)
            if entry.settled_at is not None:
                self.branches.saw(entry.settled_at, scope)
            return ask.answer(request, entry)
        entry = self.entries.get(request.key)
        if entry is not None and entry.is_settled:
            return None
        if ask.takes_signals:
            return self._look_among_signals(request, scope)
        if ask.is_inline and _is_due(entry):
            self.due_steps[request.key] = request
        return None

    def _look_among_signals(self, request: Request, scope: str) -> Answer | None:
        consumed = self.consumed.get(request.key)
        while consumed is None:
            buffered = self.buffered.get(request.name)
            if not buffered:
                self.waits.setdefault(request.name, {})[request.key] = request
                return None
            consumed = self._take(request, buffered.popleft())
        self.answered.add(request.key)
        self.branches.saw(consumed.received_at, scope)
        return request.ask.taken(request, consumed.payload)

    def _take(self, request: Request, signal: BufferedSignal) -> ConsumedSignal | None:
        """The signal answers this wait. None: it doesn't fit, and is set aside."""
        why = request.ask.why_unfit(request, signal)
        if why is not None:  # guard: unfit signals answer nobody
            self.unfit.append(SetAsideSignal(request.key, signal.id, signal.name, why))
            return None
        consumed = self.consumed[request.key] = ConsumedSignal(
            request.key, signal.id, signal.payload, signal.received_at, signal.received_revision
        )
        return consumed

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
            if entry.asked is None or entry.asked == request.asked:
                return
            if not different_arguments(entry.asked, request.asked):
                return
        self._park(self._diff(request.scope))  # guard: a contradiction parks

    def _refuse_forgotten(self) -> None:
        for activity in self.entries.values():
            if activity.key not in self.asked:
                self._park(self._diff(activity.scope))

    def _refuse_unawaited(self) -> None:
        if (forgotten := self.unawaited.forgotten(self.branches.abandoned)) is not None:
            self.refuse(NEVER_AWAITED, forgotten)

    def refuse(self, kind: str, why: str) -> NoReturn:
        """Park the run for what its flow does wrong, whatever the flow makes of that."""
        if self.parked is None:
            self.parked_as = kind
        self._park(why)

    def _park(self, why: str) -> NoReturn:
        """From here on the flow asks in vain: the first contradiction is the one to tell."""
        if self.parked is None:
            self.parked = why
        self.branches.is_over = True
        raise _Parked(why)

    def _diff(self, scope: str) -> str:
        return explain_contradiction(scope, self.entries.values(), self.asked.values())

    # -- how turns end -----------------------------------------------------------------------

    def _blocked(self) -> TurnOutcome:
        unsettled = [request for request in self.asked.values() if self._is_awaited(request)]
        is_at_work = any(request.ask.is_work for request in unsettled)
        return TurnOutcome(
            status=RunStatus.RUNNING if is_at_work else RunStatus.WAITING,
            opened=tuple(self._opened()),
            consumed=tuple(self.consumed.values()),
            set_aside=tuple(self.unfit),
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
            set_aside=tuple(self.unfit),
            output=output,
            error=error,
            raised=raised,
        )

    def _incident(
        self, kind: str, message: str, *, raised: BaseException | None = None
    ) -> TurnOutcome:
        journal = tuple(self.entries.values())
        return park(self.run, journal, kind=kind, message=message, raised=raised)

    def _opened(self) -> list[NewActivity]:
        """New activities; a wait whose signal was there already is recorded as done."""
        return [
            done_by(self.consumed[key], activity) if key in self.consumed else activity
            for key, activity in self.opened.items()
        ]


def _is_due(entry: Activity | None) -> bool:
    return entry is None or entry.state is ActivityState.PENDING


def _waiting_for(unsettled: Sequence[Request]) -> str | None:
    """`approval manager`, or the first of several and how many more."""
    if not unsettled:
        return None
    people_first = sorted(unsettled, key=lambda request: not request.ask.asks_people)
    first = people_first[0]
    text = first.ask.in_words(first.name)
    return text if len(unsettled) == 1 else f"{text} and {len(unsettled) - 1} more"
