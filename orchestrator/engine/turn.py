"""The one way forward: take the turn of a run, and commit what its flow decided.

advance            an `advance` message, a fired timer, an operator: load, then take turns
settle_and_advance a stage has ended: its result and the flow's next commands are one commit
take_turns         decide on what was read; if a fact came in between, read again and decide again
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import DataError, OperationalError

from orchestrator.core import codec
from orchestrator.core.branches import TurnAbandoned
from orchestrator.core.definition import Process
from orchestrator.core.failures import clear_frames
from orchestrator.core.journal import Activity
from orchestrator.core.kept_flow import FlowMoved, KeptFlow
from orchestrator.core.kinds.base import NewActivity, Request
from orchestrator.core.outcome import TurnOutcome, park
from orchestrator.core.replay import Replay
from orchestrator.core.requests import StageIsMissing
from orchestrator.core.run import RunStatus
from orchestrator.core.run_notice import notice_of_turn
from orchestrator.engine.begin_anew import begin_anew
from orchestrator.engine.chapters import begin_chapter
from orchestrator.engine.children import see_to_children, with_children
from orchestrator.engine.context import EngineContext
from orchestrator.engine.inline_steps import FactCame, HandedBack, TurnLease, TurnPoisoned
from orchestrator.engine.leave import Lack, leave, send_on
from orchestrator.engine.turn_commit import (
    facts_of,
    handoffs_of,
    is_handed_off,
    is_still_ours,
    opened_after,
    run_after,
    with_settlement,
)
from orchestrator.errors import (
    ChildRefused,
    CodeDiffers,
    DefinitionError,
    UnknownProcess,
    UnknownStage,
)
from orchestrator.store.reads.loading import LoadedRun, load_run
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import outbox
from orchestrator.store.transitions.children import NewChild
from orchestrator.store.transitions.claim import Claim
from orchestrator.store.transitions.commit import commit_turn_if_unchanged
from orchestrator.store.transitions.commit_content import Taking, TurnCommit
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.settle import Settlement, record_settlement_if_claimed

log = logging.getLogger(__name__)

CONFLICTS_MAX = 20
"""How often a turn decides again in vain before it leaves the run to the outbox."""

SUSPICIOUS_SENDS = 10
"""A turn asked for so often, and never committed, may kill its workers: it is taken under a hold, which counts."""


def advance(context: EngineContext, run_id: UUID) -> Claim | None:
    """Take the turn of a run, if it needs one. Safe to call at any time, any number of times.

    Returns the stage that was taken over, if one was: it is claimed, and the caller's to do.
    """
    with context.asking() as connection:
        return _advance(context, connection, run_id)


def _advance(context: EngineContext, connection: AnyConnection, run_id: UUID) -> Claim | None:
    loaded = load_run(connection, run_id, context.kept_flows.known(run_id))
    taken = None
    if loaded is None or loaded.status.is_closed:
        outbox.forget_advance(connection, run_id)
    elif loaded.needs_turn:
        progress = take_turns(context, connection, loaded)
        if progress.is_handed_back:  # guard: who is handed back is told of
            context.messenger.hand_off([Handoff.advance(run_id, loaded.queue)])
        taken = progress.taken
    if loaded is not None and loaded.children:
        see_to_children(context, run_id)
    return taken


def settle_and_advance(
    context: EngineContext,
    connection: AnyConnection,
    loaded: LoadedRun,
    settlement: Settlement,
    *,
    is_counted: bool = False,
    on_settled: Callable[[], None] = lambda: None,
) -> Claim | None:
    """Record the end of an attempt that is ours, with the turn that follows from it if we can take it.

    `is_counted`: it is one of several that the flow waits for; the last of them takes the turn. `on_settled` is called
    once it is recorded. Returns the stage that was taken over, as `advance` does.
    """
    lacks = None
    if not is_counted:
        progress = take_turns(context, connection, loaded, settlement, on_settled=on_settled)
        if progress.is_recorded:
            return progress.taken
        lacks = progress.lacks
    recorded = record_settlement_if_claimed(
        connection,
        loaded.context.id,
        settlement,
        actor=context.identity.name,
        relay_after=context.settings.relay_after_seconds,
        is_counted=is_counted,
    )
    if recorded is None:
        _log_lost(loaded.context.id, settlement)
        return None
    if is_counted:
        on_settled()
        return _advance(context, connection, loaded.context.id) if recorded.asks_turn else None
    asks = Handoff.advance(loaded.context.id, recorded.queue)
    if lacks is None or not send_on(context, connection, asks, lacks):
        context.messenger.hand_off([asks])
    on_settled()
    return None


@dataclass(frozen=True, slots=True)
class Progress:
    """What turns came to. `is_recorded` False: the settlement, if any, is still to be recorded."""

    is_recorded: bool
    taken: Claim | None = None
    is_handed_back: bool = False
    lacks: Lack | None = None


def take_turns(
    context: EngineContext,
    connection: AnyConnection,
    loaded: LoadedRun,
    settlement: Settlement | None = None,
    *,
    on_settled: Callable[[], None] = lambda: None,
) -> Progress:
    """Decide and commit until a commit holds."""
    run_id, lacks = loaded.context.id, None
    with TurnLease(context, connection, run_id) as held:
        turn = _Turn(context, connection, run_id, held)
        turn.on_settled = on_settled
        conflicts = 0
        while loaded.status.is_moving and conflicts < CONFLICTS_MAX:
            try:
                tried = turn.try_once(loaded, settlement)
            # guard: a missing process leaves the run
            except (UnknownProcess, UnknownStage, DefinitionError, StageIsMissing) as lack:
                lacks = Lack.of(loaded, lack)
                break
            except HandedBack:
                return Progress(is_recorded=True, is_handed_back=True)
            except TurnAbandoned as reason:
                log.info("run %s is left: %s", run_id, reason, extra=_extra("leave", run_id))
                break
            if tried is Tried.COMMITTED:
                return Progress(is_recorded=True, taken=turn.taken)
            if tried is Tried.GOES_ON and settlement is not None:
                # Not here: the stage's own time limits still count in its task.
                context.messenger.hand_off([Handoff.advance(run_id, loaded.queue)])
                return Progress(is_recorded=True)
            again = turn.read_again(loaded)
            if again is None or again.status.is_closed:
                return Progress(is_recorded=True)
            # guard: a conflict over a lost attempt
            if settlement is not None and not is_still_ours(again, settlement):
                _log_lost(run_id, settlement)
                return Progress(is_recorded=True)
            if tried is Tried.OVERTAKEN and again.revision == loaded.revision:
                break  # no fact came: another worker holds the turn, and will see ours
            if tried is not Tried.GOES_ON and not held.steps_recorded:
                conflicts += 1  # a try that has recorded something is no vain one
            loaded = again
    # Its turn is free again. What a stage has come to is recorded first: only then may another take the turn.
    if lacks is not None and settlement is None:
        leave(context, connection, loaded, lacks)
    return Progress(is_recorded=settlement is None, lacks=lacks)


class Tried(Enum):
    """What became of one try.

    GOES_ON: committed, and the flow wants its inline step now. FORGOTTEN: the run was read for a flow that isn't kept
    any more.
    """

    COMMITTED = auto()
    GOES_ON = auto()
    OVERTAKEN = auto()
    FORGOTTEN = auto()


class _Turn:
    """The turn of one run, over as many tries as it takes."""

    def __init__(
        self,
        context: EngineContext,
        connection: AnyConnection,
        run_id: UUID,
        held: TurnLease,
    ) -> None:
        self.context, self.connection, self.run_id = context, connection, run_id
        self.held = held
        self.on_settled: Callable[[], None] = lambda: None
        self.taken: Claim | None = None
        self.flow: KeptFlow | None = None
        """It is to be kept if its turn is committed, and else let go."""

    def try_once(self, loaded: LoadedRun, settlement: Settlement | None) -> Tried:
        """Replay the flow over what was read, and commit."""
        run = loaded.context
        try:
            process = self.context.definitions.find(
                self.connection, run.process, run.version, run.code_revision
            )
        except CodeDiffers:
            if not begin_anew(self.context, self.connection, loaded):
                raise
            return Tried.OVERTAKEN
        self.held.begin_try()
        journal = with_settlement(loaded, settlement)
        try:
            if loaded.sends >= SUSPICIOUS_SENDS:  # guard: a flow that kills its workers parks
                self.held.acquire(loaded)
            replay = self._replay(process, loaded, journal)
            replay.may_perform = settlement is None  # guard: facts before steps
            outcome, children = with_children(
                self.context, self.connection, self.run_id, replay.turn(self._keeps)
            )
            return self._commit(loaded, outcome, settlement, journal, children)
        except FactCame:
            return Tried.OVERTAKEN
        except FlowMoved:
            return Tried.FORGOTTEN
        except TurnPoisoned as poison:
            kind, message = "WorkerLost", str(poison)
        except ChildRefused as refusal:
            kind, message = type(refusal).__name__, str(refusal)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LockNotAvailable.sqlstate:
                raise
            return Tried.OVERTAKEN  # a child's business key is in somebody's open transaction
        except DataError as error:
            # Postgres can't keep what the flow asked for, and never will: no use in trying again.
            kind, message = "DataError", f"Postgres refuses what the flow asked for: {error.orig}"
        finally:
            self._let_go()
        parked = park(loaded.context, journal, kind=kind, message=message)
        return self._commit(loaded, parked, settlement, journal)

    def read_again(self, loaded: LoadedRun) -> LoadedRun | None:
        """The run as it is now; the whole of it where what is known led to nothing."""
        known = self.context.kept_flows.known(self.run_id)
        if known is not None and known.revision == loaded.known_revision:
            known = None
        return load_run(self.connection, self.run_id, known)

    def _replay(self, process: Process, loaded: LoadedRun, journal: tuple[Activity, ...]) -> Replay:
        """The flow from where it stands, if it was kept; else from its start. Raises FlowMoved."""

        def perform(request: Request, entry: Activity | None) -> Activity:
            return self.held.perform(loaded, request, entry)

        context, run = self.context, loaded.context
        if loaded.known_revision is None:
            replay = context.replay or Replay
            return replay(process, run, journal, loaded.signals, context.registry, perform)
        self.flow = context.kept_flows.take(self.run_id, loaded.known_revision, process)
        if self.flow is None:
            raise FlowMoved
        return self.flow.take_in(journal, loaded.signals, perform)

    def _keeps(self, replay: Replay) -> bool:
        if not self.context.kept_flows.wants(replay):
            self.flow = None
            return False
        self.flow = self.flow or KeptFlow(replay)
        return True

    def _let_go(self) -> None:
        flow, self.flow = self.flow, None
        if flow is not None:
            flow.close()

    def _commit(
        self,
        loaded: LoadedRun,
        outcome: TurnOutcome,
        settlement: Settlement | None,
        journal: tuple[Activity, ...],
        children: tuple[NewChild, ...] = (),
    ) -> Tried:
        context, settings = self.context, self.context.settings
        if outcome.next_chapter is not None:
            came_to = begin_chapter(
                context,
                self.connection,
                loaded,
                outcome=outcome,
                settlement=settlement,
                held=self.held,
                on_settled=self.on_settled,
            )
            if isinstance(came_to, TurnOutcome):
                return self._commit(loaded, came_to, settlement, journal)
            return Tried.COMMITTED if came_to else Tried.OVERTAKEN
        taken = self._to_take(loaded, outcome)
        handoffs = tuple(handoffs_of(loaded, outcome, taken))
        # If no answer comes, nobody knows whose the stage is: our old id falls silent, and it is handed out again.
        # guard: a commit that takes over is held
        with context.identity.lease() if taken is not None else nullcontext() as worker_id:
            commit = TurnCommit(
                run_id=self.run_id,
                revision=loaded.revision + self.held.steps_recorded,
                from_status=loaded.status,
                outcome=outcome,
                handoffs=handoffs,
                facts=tuple(facts_of(context, loaded, outcome, settlement, taken)),
                settlement=settlement,
                turn_token=self.held.token,
                queue=loaded.queue,
                taking=Taking(taken.request.key, worker_id) if taken and worker_id else None,
                attempts_before=loaded.attempts_before,
                chapter=loaded.context.chapter,
                children=children,
                is_in_hand=loaded.is_in_hand,
                relay_after=settings.relay_after_seconds,
                horizon_seconds=settings.horizon_seconds,
            )
            committed = commit_turn_if_unchanged(self.connection, commit)
        if committed is None:
            clear_frames(outcome.raised)
            return Tried.OVERTAKEN
        self.held.committed()
        flow = self._keep_flow(loaded, outcome, taken)
        if taken is not None and committed.taken_at is not None:
            lines = flow.lines if flow else (*journal, *opened_after(loaded, outcome, taken))
            # Read for a flow that is not kept any more, it is read again, and the whole of it.
            is_known = flow is not None or loaded.known_revision is not None
            after = run_after(loaded, outcome, lines, is_known=is_known)
            self.taken = Claim(
                run=after,
                key=taken.request.key,
                attempt=1,
                name=taken.request.name,
                input=codec.parse(taken.input) if taken.input else {},
                claimed_at=committed.taken_at,
                steps={},
                is_counted=taken.is_counted,
            )
        begun = [Handoff.advance(child.id, child.queue) for child in children]
        context.messenger.hand_off([*handoffs, *begun] if begun else handoffs)
        if commit.cancels_children and outcome.status.is_moving:
            see_to_children(context, self.run_id)
        context.messenger.arm(committed.armed)
        context.messenger.disarm([(timer_id, loaded.queue) for timer_id in committed.disarmed])
        has_rested = settlement is not None and settlement.attempt > 1
        if outcome.status is not loaded.status or outcome.status is RunStatus.WAITING or has_rested:
            context.messenger.announce(notice_of_turn(loaded.context, outcome))
        if settlement is not None:
            self.on_settled()
        context.reports.turn_committed(loaded, outcome)
        return Tried.GOES_ON if outcome.goes_on else Tried.COMMITTED

    def _keep_flow(
        self, loaded: LoadedRun, outcome: TurnOutcome, taken: NewActivity | None
    ) -> KeptFlow | None:
        """Its turn is committed: it waits here for its next one."""
        flow, self.flow = self.flow, None
        # Whoever counts down needs no journal before the last of many ends.
        stays = outcome.status.is_moving and outcome.outstanding is None and not outcome.has_ended
        if flow is not None and stays:
            opened = opened_after(loaded, outcome, taken)
            flow.note(outcome, opened, loaded.revision + self.held.steps_recorded + 1)
            self.context.kept_flows.put(self.run_id, flow)
            return flow
        if flow is not None:
            flow.close()
        return None

    def _to_take(self, loaded: LoadedRun, outcome: TurnOutcome) -> NewActivity | None:
        """The stage to go on with. What else this turn has recorded would be missing in the run we go on with."""
        # guard: nothing is taken over unseen
        if (
            self.held.steps_recorded
            or outcome.consumed
            or outcome.set_aside
            or outcome.given_back
            or outcome.goes_on
        ):
            return None
        before = loaded.attempts_before or {}
        for each in outcome.opened:
            if each.request.key in before:  # guard: steps of earlier attempts are read by a claim
                continue
            if is_handed_off(each) and self.context.may_take(each):
                return each
        return None


def _log_lost(run_id: UUID, settlement: Settlement) -> None:
    log.warning(
        "attempt %s of %s in run %s was handed out again or cancelled; this worker's outcome is dropped",
        settlement.attempt,
        settlement.key,
        run_id,
        extra=_extra("fenced", run_id),
    )


def _extra(action: str, run_id: UUID) -> dict[str, str]:
    return {"action": action, "run_id": str(run_id)}
