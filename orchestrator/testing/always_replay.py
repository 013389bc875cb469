"""Each await goes on from the record, and each turn is decided twice: what a flow keeps elsewhere is found out.

    ProcessTester(always_replay=True)

A flow must come to the same end whenever it is replayed over the same journal. On a fleet it is replayed when its
worker ends, or has forgotten it: seldom, and so a flow that is not pure is found late. Here it is always so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from orchestrator.core.branches import TurnAbandoned
from orchestrator.core.journal import Activity, BufferedSignal
from orchestrator.core.outcome import ConsumedSignal, RunContext, TurnOutcome, done_by
from orchestrator.core.replay import PerformStep, take_turn
from orchestrator.testing.errors import FlowNotPure, short
from orchestrator.testing.watching import Watch


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
        """One turn of the run."""
        return self._take_turn(
            *self._of,
            registry=self._registry,
            perform_step=self._perform_step,
            may_perform=self.may_perform,
        )


def leaving_early(on_leave: Callable[[UUID], None]) -> TakeTurn:
    """A `take_turn` with which an answer is recorded first, and its flow goes on from the record, replayed.

    - A stage's end is recorded without a turn, as by a worker that lacks the process.
    - A turn that has called an inline step is left, as by a worker that is told to go. `on_leave` hears of
      it: its message is to be delivered again.
    - A turn takes one signal, and does no more.
    - Each turn is decided twice over the same journal, to the same end: else FlowNotPure is raised; and so it is where
      the flow's own lines read a clock, roll dice or reach outside (`watching`).
    """

    def take_little(
        process: Any,
        run: RunContext,
        journal: Sequence[Activity],
        signals: Sequence[BufferedSignal],
        **options: Any,
    ) -> TurnOutcome:
        perform_step = options.pop("perform_step")
        watch = Watch()
        if not options["may_perform"]:
            raise TurnAbandoned("a stage's end is recorded first")

        def perform_and_leave(*step: Any) -> Activity:
            with watch.paused():
                perform_step(*step)
            on_leave(run.id)
            raise TurnAbandoned("its flow was thrown away after a step")

        def decide(offered: Sequence[BufferedSignal], *, may_perform: bool = True) -> TurnOutcome:
            with watch:
                return take_turn(
                    process,
                    run,
                    journal,
                    offered,
                    perform_step=perform_and_leave,
                    **{**options, "may_perform": may_perform},
                )

        outcome = decide(signals)
        watch.refuse_what_was_seen()
        again = decide(signals)
        if again != outcome:
            raise FlowNotPure(_difference(process, outcome, again))
        return (
            outcome
            if not outcome.consumed
            else _stopped_at(outcome.consumed[0], outcome, decide((), may_perform=False))
        )

    return take_little


def replaying_always(on_leave: Callable[[UUID], None]) -> Callable[..., Leaving]:
    """For `EngineContext.replay`."""
    return partial(Leaving, leaving_early(on_leave))


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


def _difference(process: Any, first: TurnOutcome, second: TurnOutcome) -> str:
    """What the author looks for."""
    where = f" ({process.where})" if getattr(process, "where", "") else ""
    told = "; ".join(
        f"{each.name}: first {short(was)}, then {short(now)}"
        for each in fields(first)
        if (was := _told(getattr(first, each.name))) != (now := _told(getattr(second, each.name)))
    )
    return (
        f"a second replay of the same journal came to another end, in process {process.name}{where}: {told}. A flow "
        "is replayed, so between two awaits it only decides: take the time from flow.now, chance from flow.random() "
        "or flow.uuid(), and what others know from a stage or a step; keep nothing outside of it"
    )


def _told(value: Any) -> Any:
    """What was opened, by its key and what was asked."""
    if isinstance(value, tuple) and value and hasattr(value[0], "request"):
        return [(each.request.key, each.input or each.request.ask) for each in value]
    return value
