"""A flow that stays where its last turn has left it: a worker's memory of a run, in place of a whole replay.

    flow = KeptFlow(replay)
    flow.note(outcome, opened, revision)    its turn is committed
    flow.take_in(lines, signals, …)         what has come since, for its next turn

What it knows is the journal as the turn of `revision` has left it. Since then only the lines that were open then may
have changed (`lines` holds all of them) and signals may have come: it goes on past these facts as a replay would
come to them. Where anything else is found it says FlowMoved, and the flow is replayed from the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from orchestrator.core.journal import Activity, ActivityState, BufferedSignal
from orchestrator.core.outcome import TurnOutcome
from orchestrator.core.replay import PerformStep, Replay


class FlowMoved(Exception):
    """The record is not as the flow knows it: it is to be replayed."""


def can_be_kept(replay: Replay) -> bool:
    """Whether all that may come to it comes by an open line or by a signal.

    A step that is to be tried again comes by its timer, and what a migration has left ahead is nowhere yet. What the
    turn has cancelled, a scope that has ended in it, and what was kept for a correlation key are read with the rest. A
    flow that undoes what it has done is replayed.
    """
    return not (
        replay.requests.ahead
        or replay.dropped
        or replay.scopes_ended
        or replay.let_go
        or replay.requests.undoing.scopes
        or replay.has_claimed()
        or replay.resting_steps
        or any(signal.received_revision is None for signal in replay.signals)
    )


class Known(NamedTuple):
    """What a worker knows of a run: whoever reads the run for it needs no more than the lines that were open."""

    revision: int
    open_keys: list[str]


class KeptFlow:
    """Of one run, for one thread at a time. Whoever has no more use for it closes it."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._signals: set[UUID] = {signal.id for signal in replay.signals}
        self._open: dict[str, Activity] | None = None
        self.revision = -1
        """The run's, as its last turn was committed."""

    @property
    def process(self) -> object:
        """Whose flow it is: the definition itself, which another deploy makes anew."""
        return self._replay.process

    @property
    def size(self) -> int:
        """Lines of the journal that it holds."""
        return len(self._replay.entries)

    @property
    def known(self) -> Known:
        """For whoever reads its run."""
        return Known(self.revision, list(self._open or ()))

    @property
    def lines(self) -> tuple[Activity, ...]:
        """The lines that are open, as its last turn has left them."""
        return tuple((self._open or {}).values())

    def note(self, outcome: TurnOutcome, opened: Sequence[Activity], revision: int) -> None:
        """Its turn is in the record. `opened`: what the turn has opened, as it stands there."""
        replay = self._replay
        for line in opened:
            self._enter(line)
        for taken in outcome.consumed:
            waited = replay.entries[taken.key]
            self._enter(
                replace(
                    waited,
                    state=ActivityState.DONE,
                    result=taken.payload,
                    settled_at=taken.received_at,
                    settled_revision=taken.received_revision or revision,
                )
            )
        replay.requests.opened.clear()
        replay.consumed.clear()
        replay.unfit.clear()
        keys = (
            replay.entries if self._open is None else (*self._open, *(line.key for line in opened))
        )
        self._open = {key: replay.entries[key] for key in keys if replay.entries[key].is_open}
        self.revision = revision

    def take_in(
        self,
        lines: Sequence[Activity],
        signals: Sequence[BufferedSignal],
        perform_step: PerformStep,
    ) -> Replay:
        """What has come since, for its next turn. Raises FlowMoved."""
        replay = self._replay
        replay.facts += sorted(
            (*self._ends_among(lines), *self._new_among(signals)), key=lambda fact: fact.place
        )
        replay.signals, replay.perform_step = signals, perform_step
        replay.postponed_step = None
        return replay

    def close(self) -> None:
        """Let go of the flow; what its clean-up asks for is nobody's."""
        self._replay.branches.close()

    def __del__(self) -> None:
        """A process that ends forgets its flows too."""
        self.close()

    def _ends_among(self, lines: Sequence[Activity]) -> list[Activity]:
        were = self._open or {}
        if {line.key for line in lines} != were.keys():
            raise FlowMoved
        ended = []
        for line in lines:
            was = were[line.key]
            if (line.ordinal, line.kind, line.name) != (was.ordinal, was.kind, was.name):
                raise FlowMoved
            if line.is_open:
                self._replay.requests.enter(line)
            elif line.is_settled and (line.settled_revision or 0) > self.revision:
                self._replay.requests.enter(line)
                ended.append(line)
            else:  # an older release has settled it, and its place among the facts is not known
                raise FlowMoved
        return ended

    def _new_among(self, signals: Sequence[BufferedSignal]) -> list[BufferedSignal]:
        new = [signal for signal in signals if signal.id not in self._signals]
        if any((signal.received_revision or 0) <= self.revision for signal in new):
            raise FlowMoved
        self._signals.update(signal.id for signal in new)
        return new

    def _enter(self, line: Activity) -> None:
        self._replay.requests.enter(line)
        if line.is_settled:  # by its own turn: the flow has seen it
            self._replay.arrived[line.key] = None
