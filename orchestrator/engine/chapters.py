"""A flow continues as new: the next chapter of its run begins, in the version that new runs take."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.core.outcome import TurnOutcome, park
from orchestrator.core.run_notice import notice_of_turn
from orchestrator.engine.context import EngineContext
from orchestrator.engine.inline_steps import TurnLease
from orchestrator.engine.inputs import Contract
from orchestrator.engine.turn_commit import facts_of
from orchestrator.errors import InvalidInput, PayloadError
from orchestrator.store.reads.loading import LoadedRun
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import processes
from orchestrator.store.transitions.chapters import begin_chapter_if_unchanged
from orchestrator.store.transitions.commit_content import TurnCommit
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.settle import Settlement


def begin_chapter(
    context: EngineContext,
    connection: AnyConnection,
    loaded: LoadedRun,
    *,
    outcome: TurnOutcome,
    settlement: Settlement | None,
    held: TurnLease,
    on_settled: Callable[[], None],
) -> TurnOutcome | bool:
    """Begin it; its first turn comes by a message, so that no run holds up this worker.

    False: the turn was overtaken. A TurnOutcome: it can't begin, and its run is to be parked, in words.
    """
    run, settings, asked = loaded.context, context.settings, outcome.next_chapter
    assert asked is not None  # noqa: S101 - it is what this turn came to
    takes = processes.read_input(connection, run.process, asked.version)
    if takes is None:
        which = "" if asked.version is None else f" version {asked.version}"
        why = f"flow.continue_as_new: {run.process}{which} is not deployed, or was retired: no chapter begins in it"
        return park(run, loaded.journal, kind="UnknownProcess", message=why)
    definition = context.registry.processes.get((run.process, takes.version))
    try:
        written = Contract(run.process, takes).written(asked.input, definition)
    except (InvalidInput, PayloadError) as error:
        why = f"flow.continue_as_new: {error}"
        return park(run, loaded.journal, kind=type(error).__name__, message=why)
    begun = begin_chapter_if_unchanged(
        connection,
        TurnCommit(
            run_id=run.id,
            revision=loaded.revision + held.steps_recorded,
            from_status=loaded.status,
            outcome=outcome,
            facts=tuple(facts_of(context, loaded, outcome, settlement, None)),
            settlement=settlement,
            turn_token=held.token,
            relay_after=settings.relay_after_seconds,
            horizon_seconds=settings.horizon_seconds,
        ),
        process=run.process,
        version=asked.version,
        written=written,
        checked=takes,
        taken=[
            *(each.signal_id for each in outcome.consumed),
            *(each.signal_id for each in outcome.set_aside),
        ],
    )
    if begun is None:
        return False
    held.committed()
    context.messenger.hand_off([Handoff.advance(run.id, begun.queue)])
    context.messenger.disarm([(timer_id, loaded.queue) for timer_id in begun.disarmed])
    context.messenger.announce(notice_of_turn(run, outcome))
    if settlement is not None:
        on_settled()
    return True
