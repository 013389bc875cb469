"""The modes that scenarios run in: each takes one comfort away, and no outcome may change.

    NORMAL        every message comes once, soon
    EVICT         at each await the flow is thrown away, and replayed from what is recorded
    TWICE         every message comes twice, and once more when all is done
    SWEEPS_ONLY   nothing that a worker says arrives, neither handoffs nor timers: sweeps find it all
    NOTIFY_OFF    no relay is woken by a producer: a sweep finds what producers left
    BATCH_OF_ONE  a sweep takes one row of each kind
    EAGER      whoever commits a turn goes on with the first stage that it opens, without a message, runs
                  whose turns are asked for go on together, and each flow stays where its last turn has left it

tests/harness.py makes them without Celery, tests/fleet/app.py in a real worker. Production code knows
nothing of modes: what they change is what a process can meet anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import UUID

import pytest

from orchestrator.core.branches import TurnAbandoned
from orchestrator.core.journal import Activity, BufferedSignal
from orchestrator.core.outcome import ConsumedSignal, RunContext, TurnOutcome, done_by
from orchestrator.core.replay import PerformStep, take_turn


@dataclass(frozen=True, slots=True)
class Mode:
    """One mode. `hears_workers`, `hears_producers`: whether their words come, or are found by sweeps."""

    name: str
    leaves_early: bool = False
    delivers_twice: bool = False
    hears_workers: bool = True
    hears_producers: bool = True
    batch_size: int = 500
    goes_on: bool = False


NORMAL = Mode("normal")
EVICT = Mode("evict", leaves_early=True)
TWICE = Mode("twice", delivers_twice=True)
SWEEPS_ONLY = Mode("sweeps-only", hears_workers=False, hears_producers=False)
NOTIFY_OFF = Mode("notify-off", hears_producers=False)
BATCH_OF_ONE = Mode("batch-of-one", batch_size=1)
EAGER = Mode("in-place", goes_on=True)

MODES = (NORMAL, EVICT, TWICE, SWEEPS_ONLY, NOTIFY_OFF, BATCH_OF_ONE, EAGER)


def modes_of(*modes: Mode, because: str) -> pytest.MarkDecorator:
    """For a test that is about some modes only; `because` says what makes it so."""
    return pytest.mark.modes(*modes, because=because)


def all_but(*modes: Mode) -> tuple[Mode, ...]:
    """The modes without these."""
    return tuple(mode for mode in MODES if mode not in modes)


class TakeTurn(Protocol):
    """What `take_turn` is to its callers."""

    def __call__(
        self,
        process: Any,
        run: RunContext,
        journal: Sequence[Activity],
        signals: Sequence[BufferedSignal],
        *,
        registry: Any,
        perform_step: PerformStep,
        may_perform: bool = True,
    ) -> TurnOutcome: ...


class Leaving:
    """What `Replay` is, of a worker that leaves early."""

    may_perform = True

    def __init__(self, take_turn: TakeTurn, *of: Any) -> None:
        *self._of, self._registry, self._perform_step = of
        self._take_turn = take_turn

    def turn(self, _keeps: object) -> TurnOutcome:
        return self._take_turn(
            *self._of,
            registry=self._registry,
            perform_step=self._perform_step,
            may_perform=self.may_perform,
        )


def leaving_early(on_leave: Callable[[UUID], None]) -> TakeTurn:
    """A `take_turn` for EVICT: an answer is recorded first, and its flow goes on from the record, replayed.

    - A stage's end is recorded without a turn, as by a worker that lacks the process.
    - A turn that has called an inline step is left, as by a worker that is told to go. `on_leave` hears of
      it: its message is to be delivered again.
    - A turn takes one signal, and does no more.
    - Each turn is decided twice over the same journal, to the same end.
    """

    def take_little(
        process: Any,
        run: RunContext,
        journal: Sequence[Activity],
        signals: Sequence[BufferedSignal],
        **options: Any,
    ) -> TurnOutcome:
        perform_step = options.pop("perform_step")
        if not options["may_perform"]:
            raise TurnAbandoned("a stage's end is recorded first")

        def perform_and_leave(*step: Any) -> Activity:
            perform_step(*step)
            on_leave(run.id)
            raise TurnAbandoned("its flow was thrown away after a step")

        def decide(offered: Sequence[BufferedSignal], *, may_perform: bool = True) -> TurnOutcome:
            return take_turn(
                process,
                run,
                journal,
                offered,
                perform_step=perform_and_leave,
                **{**options, "may_perform": may_perform},
            )

        outcome = decide(signals)
        assert decide(signals) == outcome, "a second replay of the same journal came to another end"
        return (
            outcome
            if not outcome.consumed
            else _stopped_at(outcome.consumed[0], outcome, decide((), may_perform=False))
        )

    return take_little


def _stopped_at(
    taken: ConsumedSignal, outcome: TurnOutcome, unanswered: TurnOutcome
) -> TurnOutcome:
    """The turn without the signals, and one of them recorded: its flow has not seen it."""
    return replace(
        unanswered,
        consumed=(taken,),
        set_aside=tuple(unfit for unfit in outcome.set_aside if unfit.key == taken.key),
        opened=tuple(
            done_by(taken, opened) if opened.request.key == taken.key else opened
            for opened in unanswered.opened
        ),
        unsettled=tuple(key for key in unanswered.unsettled if key != taken.key),
        goes_on=True,
    )
