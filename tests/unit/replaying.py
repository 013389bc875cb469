"""An in-memory record for replay: it keeps what turns decide, and settles activities when told to.

world = World(process, registry)
world.turn()                 one pass; its commands are recorded
world.settle("key", ...)     a stage ends, a person decides, a deadline passes
world.signal("name", 1)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from orchestrator import Registry, process
from orchestrator.core import codec
from orchestrator.core.annotations import result_type_of
from orchestrator.core.branches import TurnAbandoned
from orchestrator.core.definition import Process
from orchestrator.core.journal import Activity, ActivityKind, ActivityState, BufferedSignal
from orchestrator.core.kinds import Request, StepCall
from orchestrator.core.outcome import RunContext, TurnOutcome
from orchestrator.core.replay import take_turn
from orchestrator.core.run import RunStatus

BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
RUN_ID = UUID(int=7)


def define(flow: Callable[..., Any], registry: Registry | None = None, **options: Any) -> Process:
    """A process of a registry of its own."""
    return process(version=1, registry=registry or Registry(), **options)(flow)


class FactCame(TurnAbandoned):
    """As the engine's: a fact came before a step was recorded."""


@dataclass
class World:
    process: Process
    registry: Registry = field(default_factory=Registry)
    input: Any = None
    journal: dict[str, Activity] = field(default_factory=dict)
    signals: list[BufferedSignal] = field(default_factory=list)
    now: datetime = BEGIN
    revision: int = 0
    read_revision: int = 0
    """Of the try at a turn that is on, with its own steps."""
    steps_called: list[str] = field(default_factory=list)
    before_step: Callable[[Request], None] = lambda _request: None
    after_step: Callable[[Request], None] = lambda _request: None

    # -- turns -------------------------------------------------------------------------------

    def look(self) -> TurnOutcome:
        """Take a turn and record nothing but its steps, as a turn that loses its commit."""
        while True:
            try:
                return self._look()
            except FactCame:
                continue

    def _look(self) -> TurnOutcome:
        self.read_revision = self.revision
        return take_turn(
            self.process,
            RunContext(RUN_ID, self.process.name, self.process.version, "KEY", self.input, BEGIN),
            tuple(self.journal.values()),
            tuple(self.signals),
            registry=self.registry,
            perform_step=self._perform,
        )

    def turn(self) -> TurnOutcome:
        """Turns until the flow has gone as far as it can; answers the last."""
        outcome = self.turn_once()
        while outcome.goes_on:
            outcome = self.turn_once()
        return outcome

    def turn_once(self) -> TurnOutcome:
        """One pass, recorded."""
        outcome = self.look()
        if outcome.status is RunStatus.INCIDENT:
            return outcome
        for opened in outcome.opened:
            request = opened.request
            assert request.key not in self.journal, f"{request.key} is opened twice"
            self.journal[request.key] = Activity(
                key=request.key,
                scope=request.scope,
                ordinal=request.ordinal,
                kind=request.kind,
                name=request.name,
                state=opened.state,
                result=None if opened.result is None else json.loads(opened.result),
                settled_at=opened.settled_at,
                settled_revision=opened.settled_revision,
                asked=request.asked,
            )
            if request.kind == "scope":  # the commit gives it its place
                self.tick()
                self._put(request.key, settled_revision=self.revision)
        for cancelled in outcome.cancelled:
            assert self.journal[cancelled.key].is_open, f"{cancelled.key} is cancelled twice"
            self._put(cancelled.key, state=ActivityState.CANCELLED, settled_at=self.now)
        unfit = {signal.signal_id for signal in outcome.set_aside}
        self.signals = [signal for signal in self.signals if signal.id not in unfit]
        for consumed in outcome.consumed:
            self.signals = [signal for signal in self.signals if signal.id != consumed.signal_id]
            if self.journal[consumed.key].state is ActivityState.PENDING:
                self._put(
                    consumed.key,
                    state=ActivityState.DONE,
                    result=consumed.payload,
                    settled_at=consumed.received_at,
                    settled_revision=consumed.received_revision,
                )
        return outcome

    def _perform(self, request: Request, entry: Activity | None) -> Activity:
        assert isinstance(request.ask, StepCall)
        self.before_step(request)
        self.steps_called.append(request.key)
        call = request.ask
        value = call.function(*call.args, **call.kwargs)
        text = codec.encode(value, result_type_of(call.function), what="step")
        self.journal[request.key] = Activity(
            key=request.key,
            scope=request.scope,
            ordinal=request.ordinal,
            kind=ActivityKind.STEP,
            name=request.name,
            state=ActivityState.DONE,
            result=json.loads(text),
            settled_at=self.tick(),
            settled_revision=self.revision,
            asked=request.asked,
        )
        self.after_step(request)
        self.read_revision += 1
        if self.read_revision != self.revision:
            raise FactCame
        return self.journal[request.key]

    # -- the world ---------------------------------------------------------------------------

    def tick(self) -> datetime:
        """A fact: it has a time, and a place in the run's order."""
        self.now += timedelta(seconds=1)
        self.revision += 1
        return self.now

    def open(self, *kinds: ActivityKind) -> list[Activity]:
        return [
            activity
            for activity in self.journal.values()
            if activity.is_open and (not kinds or activity.kind in kinds)
        ]

    def settle(
        self,
        key: str,
        result: Any = None,
        *,
        state: ActivityState = ActivityState.DONE,
        error: dict[str, Any] | None = None,
    ) -> None:
        assert self.journal[key].is_open
        at = self.tick()
        self._put(
            key,
            state=state,
            result=result,
            error=error,
            settled_at=at,
            settled_revision=self.revision,
        )

    def fail(self, key: str, error_type: str = "ValueError", message: str = "broken") -> None:
        self.settle(key, state=ActivityState.FAILED, error={"type": error_type, "message": message})

    def decide(self, key: str, outcome: str = "approved", by: str = "bob") -> None:
        decision = {
            "approval": self.journal[key].name,
            "outcome": outcome,
            "by": by,
            "reason": "",
            "escalated": False,
        }
        self.settle(key, {**decision, "at": self.now.isoformat()})

    def signal(self, name: str, payload: Any = None) -> None:
        identity = UUID(
            int=len(self.signals) + 1000 + int((self.now - BEGIN).total_seconds()) * 1000
        )
        at = self.tick()
        self.signals.append(BufferedSignal(identity, name, payload, at, self.revision))

    def _put(self, key: str, **changes: Any) -> None:
        self.journal[key] = replace(self.journal[key], **changes)
