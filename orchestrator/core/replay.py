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
from dataclasses import dataclass, field, replace
from itertools import islice

from orchestrator.core import codec
from orchestrator.core.branches import Branches, TurnAbandoned
from orchestrator.core.cancellations import took_signal
from orchestrator.core.definition import Process, Registry
from orchestrator.core.driving import driven_by
from orchestrator.core.ending_early import EarlyEnd
from orchestrator.core.endings import Endings
from orchestrator.core.failures import FAILURES
from orchestrator.core.flow import Flow
from orchestrator.core.journal import AHEAD, Activity, ActivityKind, ActivityState, BufferedSignal
from orchestrator.core.kinds.base import OUTCOMES, Answer, Request
from orchestrator.core.kinds.cancellation import CANCELLATION, CLEAN_UP
from orchestrator.core.outcome import (
    ConsumedSignal,
    RunContext,
    SetAsideSignal,
    TurnOutcome,
    are_counted,
    waiting_for,
)
from orchestrator.core.pending import FlowCoroutine
from orchestrator.core.requests import ContinuedAsNew, Requests
from orchestrator.core.run import RunStatus
from orchestrator.errors import ActivityCancelled, RunCancelled

PerformStep = Callable[[Request, Activity | None], Activity]
"""Runs an inline step and records it; the answer is settled, or retrying."""

Keep = Callable[["Replay"], bool]
"""Whether a flow that waits stays where it is."""

RUN_IS_CANCELLED = "its run was cancelled"

MakeRequests = Callable[..., Requests]
"""Makes the recorder of one pass: `Requests`, or one that holds what is asked against the journal in its own way."""


def take_turn(
    process: Process,
    run: RunContext,
    journal: Sequence[Activity],
    signals: Sequence[BufferedSignal],
    *,
    registry: Registry,
    perform_step: PerformStep,
    may_perform: bool = True,
    requests_of: MakeRequests = Requests,
    asked: dict[str, Request] | None = None,
) -> TurnOutcome:
    """One pass of the flow over its journal.

    `may_perform` False: the journal holds what isn't recorded yet, so no inline step may build on it.
    `asked` is filled with all that the flow has asked for in this pass, by key.

    Raises TurnAbandoned when this worker lacks a stage the flow asks for, or when `perform_step` does because the
    turn is no longer ours.
    """
    one = Replay(process, run, journal, signals, registry, perform_step, may_perform, requests_of)
    outcome = one.turn()
    if asked is not None:
        asked.update(one.requests.asked)
    return outcome


@dataclass(slots=True)
class Replay(Endings):
    """A flow, and how far it has come in its run's story."""

    process: Process
    run: RunContext
    journal: Sequence[Activity]
    signals: Sequence[BufferedSignal]
    registry: Registry
    perform_step: PerformStep
    may_perform: bool = True
    requests_of: MakeRequests = Requests
    branches: Branches = field(init=False)
    requests: Requests = field(init=False)
    entries: dict[str, Activity] = field(init=False)
    """The journal by key, and the steps that this turn has performed."""
    consumed: dict[str, ConsumedSignal] = field(default_factory=dict)
    unfit: list[SetAsideSignal] = field(default_factory=list)
    facts: list[Activity | BufferedSignal] = field(default_factory=list)
    """What the record holds, in the run's order; the flow has come past the first `facts_past` of them."""
    facts_past: int = 0
    arrived: dict[str, None] = field(default_factory=dict)
    """Keys of the settled activities that the flow has come past, in the run's order."""
    buffered: dict[str, deque[BufferedSignal]] = field(default_factory=dict)
    """Signals that the flow has come past, and no wait has consumed, by name."""
    waits: dict[str, dict[str, Request]] = field(default_factory=dict)
    """Awaited waits for a signal that hasn't come: by its name, and then by their keys."""
    due_steps: dict[str, Request] = field(default_factory=dict)
    """Awaited inline steps that are to be performed."""
    answered: set[str] = field(default_factory=set)
    together: dict[str, Request] = field(default_factory=dict)
    """What must all be answered before the flow goes on."""
    postponed_step: str | None = None
    dropped: dict[str, str] = field(default_factory=dict)
    """Keys of what this pass has cancelled before it had its answer, and why: the same at each pass."""
    let_go: dict[str, str] = field(init=False)
    early_end: EarlyEnd | None = None
    """How the run is to end, if it was cancelled, and the flow has come to that."""
    given_back: list[str] = field(default_factory=list)
    """Waits that a signal has answered since they were cancelled: it is somebody else's."""
    scopes_ended: list[str] = field(default_factory=list)
    resting_steps: bool = False  # any that are to be tried again, by their timers
    undecided: list[Request] = field(default_factory=list)
    asked_before: int = 0
    """What had no answer as the last turn ended, and how much had been asked for by then."""

    def __post_init__(self) -> None:
        requests = self.requests = self.requests_of(
            self.process, self.registry, self.journal, run_id=self.run.id
        )
        self.entries = requests.entries
        self.branches = requests.branches = Branches(
            self,
            requests,
            requests.unawaited,
            where=self.process.where,
            began_at=self.run.chapter_at or self.run.created_at,
            root=self.run.root,
        )
        requests.is_buffered = self._is_buffered
        requests.fails_by, undoing = self.fails_by, requests.undoing
        undoing.arrived, undoing.entries, self.let_go = self.arrived, self.entries, undoing.let_go

    # -- the flow ----------------------------------------------------------------------------

    def _start_flow(self) -> FlowCoroutine:
        flow = Flow(
            self.requests,
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

    def turn(self, keeps: Keep | None = None) -> TurnOutcome:
        """Drive the flow, from its start or from where it stands, and say what comes of it."""
        requests, is_kept = self.requests, False
        try:
            answer = self.drive()
            if answer is not None and self.early_end is None:  # guard: a forgotten await at the end
                requests.refuse_unawaited()
        except (*OUTCOMES, RunCancelled) as error:
            outcome = self.ended_by(error)
        except ContinuedAsNew:
            outcome = self.continued()
        except TurnAbandoned:
            raise
        except FAILURES as error:  # any bug of a flow parks its run, explained
            outcome = self.ended_by_bug(error)
        except BaseException:
            if requests.parked is None:
                raise
            outcome = self.incident(requests.parked_as, requests.parked)
        else:
            outcome = self.blocked() if answer is None else self.completed(answer.value)
            waits = answer is None and requests.parked is None
            is_kept = waits and keeps is not None and keeps(self)
        if not is_kept:
            self.branches.close()
        if requests.parked is not None:  # guard: a contradiction can't be caught
            outcome = self.incident(requests.parked_as, requests.parked)
        said = None if outcome.status is RunStatus.INCIDENT else requests.said()
        if requests.patches or said is not None:
            return replace(outcome, patches=tuple(requests.patches.items()), said=said)
        return outcome

    def drive(self) -> Answer | None:
        """Fact by fact, then step by step, until nothing more can be answered. None: the flow waits.

        Between two facts whatever is ready runs until it waits. So what has happened before a fact hangs on
        earlier facts alone: it is the same whether the later ones are recorded yet or not.
        """
        waits, is_new = False, not self.requests.asked
        try:
            if is_new:
                self._begin()
            self.branches.run()
            while self.branches.answer_of_flow is None and (
                self._come_to_next_fact() or self._perform_next_step()
            ):
                self.branches.run()
            if is_new:
                self.requests.refuse_forgotten()  # guard: what the flow forgot parks
            self.together = self.branches.awaited_together()
            waits = self.branches.answer_of_flow is None
        finally:
            if not waits:
                self.branches.close()
        return self.branches.answer_of_flow

    def _begin(self) -> None:
        self.facts += self.signals
        self.facts += (entry for entry in self.entries.values() if entry.is_settled)
        self.facts.sort(key=lambda fact: fact.place)
        steps = (entry for entry in self.entries.values() if entry.kind == ActivityKind.STEP)
        self.resting_steps = any(step.is_open for step in steps)
        self.branches.start(self._start_flow())

    def _come_to_next_fact(self) -> bool:
        """Go on to the next fact that somebody awaits. False: there is none."""
        while self.facts_past < len(self.facts) and not self.given_back:
            fact = self.facts[self.facts_past]
            self.facts_past += 1
            if isinstance(fact, BufferedSignal):
                key = self._arrive(fact)
            else:
                key = fact.key
                self.arrived[fact.key] = None
                if fact.ordinal == AHEAD and self._is_ended_by(fact):
                    return True
                # guard: a signal for a cancelled wait stays
                if key in self.dropped and took_signal(fact):
                    self.given_back.append(key)
            if key is not None and self.branches.is_awaited(key):
                self.branches.answer(key)
                return True
        return False

    def _is_ended_by(self, fact: Activity) -> bool:
        """Whether that is the end of the run from outside, or of the time that its clean-up had."""
        if fact.kind is CLEAN_UP and self.early_end is not None:
            return self.branches.let_flow_go(self.early_end.raised())
        if fact.kind is not CANCELLATION or self.early_end is not None:
            return False
        self.early_end = EarlyEnd.of_result(fact.result)
        if fact.settled_at is not None:
            self.branches.saw(fact.settled_at, self.run.root)
        if not self.early_end.undoes:
            self.dropped.update(self.requests.undoing.give_up())
        self.branches.cancel_flow(self.early_end.raised(), RUN_IS_CANCELLED)
        return True

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

    def _is_buffered(self, name: str) -> bool:
        return bool(self.buffered.get(name))

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
            or self.given_back
            or self.requests.opened  # guard: asked before performed
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
            self.arrived[key] = None
        else:
            self.resting_steps = True
        return entry.is_settled

    def _is_next(self, request: Request, entry: Activity | None) -> bool:
        """Come to what is awaited, where that is the next thing to happen: the short way round.

        Whoever awaits it is the only one that is ready, so it would be the next to run anyway.
        """
        if self.facts_past < len(self.facts) and not self.given_back:
            if entry is not self.facts[self.facts_past] or self.branches.is_awaited(request.key):
                return False
            self.facts_past += 1
            self.arrived[request.key] = None
            return True
        return (
            request.ask.is_inline
            and request.ask.is_performed
            and _is_due(entry)
            and not self.due_steps
            and self._may_perform(request.key)
            and self._perform(request)
        )

    # -- the journal -------------------------------------------------------------------------

    def look(self, request: Request, scope: str, is_alone: bool) -> Answer | None:  # noqa: FBT001 - on the main path
        """The answer that the flow has come past. None: it has to wait."""
        if request.key in self.dropped or request.key in self.let_go:
            return Answer(error=ActivityCancelled(request.key))
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
        if ask.is_inline and ask.is_performed and _is_due(entry):
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

    # -- how turns end -----------------------------------------------------------------------

    def blocked(self) -> TurnOutcome:
        asked = self.requests.asked
        since = islice(asked.values(), self.asked_before, None)
        self.undecided = [each for each in (*self.undecided, *since) if not self._is_decided(each)]
        self.asked_before = len(asked)
        unsettled = [request for request in self.undecided if self._is_there(request)]
        if unsettled and unsettled[0].ask.bounds_others:
            unsettled.sort(key=lambda request: request.ask.bounds_others)
        is_at_work = any(request.ask.is_work for request in unsettled)
        is_counted = (
            self.postponed_step is None
            and not self.requests.open_ahead()
            and are_counted(unsettled, self.together)
        )
        opened = self.newly_opened()
        if is_counted:
            opened = [
                replace(each, is_counted=each.request.key in self.together) for each in opened
            ]
        return TurnOutcome(
            status=RunStatus.RUNNING if is_at_work else RunStatus.WAITING,
            opened=tuple(opened),
            consumed=tuple(self.consumed.values()),
            set_aside=tuple(self.unfit),
            cancelled=self.cancelled(),
            given_back=tuple(self.given_back),
            unsettled=(*(request.key for request in unsettled), *self.requests.open_ahead()),
            stage=unsettled[0].key if unsettled else None,
            waiting_for=waiting_for(
                unsettled, self.requests.undoing.progress, is_ending=self.early_end is not None
            ),
            outstanding=len(unsettled) if is_counted else None,
            goes_on=(
                self.postponed_step is not None
                or bool(self.scopes_ended)
                or bool(self.given_back)
                or self.has_claimed()  # guard: what was kept is read
            ),
        )

    def _is_decided(self, request: Request) -> bool:
        key = request.key
        entry, opened = self.entries.get(key), self.requests.opened.get(key)
        return (
            key in self.answered
            or key in self.dropped
            or (entry is not None and entry.is_settled)
            or (opened is not None and opened.is_done_as_made)
        )

    def _is_there(self, request: Request) -> bool:
        """A step that nobody has awaited yet is not at work."""
        key = request.key
        return key in self.entries or key in self.requests.opened or key == self.postponed_step


def _is_due(entry: Activity | None) -> bool:
    return entry is None or entry.state is ActivityState.PENDING
