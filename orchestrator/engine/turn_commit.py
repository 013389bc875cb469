"""What a turn's commit makes of a run, as data: the journal before and after it, the handoffs, the lines of history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.core import codec
from orchestrator.core.failures import without_traceback
from orchestrator.core.journal import Activity, ActivityKind, ActivityState
from orchestrator.core.kinds import kind_of
from orchestrator.core.kinds.base import NewActivity
from orchestrator.core.outcome import TurnOutcome
from orchestrator.core.retries import attempts_of
from orchestrator.engine.context import EngineContext
from orchestrator.store.reads.loading import LoadedRun
from orchestrator.store.reads.views import SIGNAL_SET_ASIDE
from orchestrator.store.transitions.chapters import CONTINUED
from orchestrator.store.transitions.commit_content import Fact
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.settle import Settlement

CUT_SHORT_MAX = 20
"""So many of what was open history names."""

FLOW = "flow"
"""Who acts in history when the process itself does."""


def with_settlement(loaded: LoadedRun, settlement: Settlement | None) -> tuple[Activity, ...]:
    """The journal as the commit on this revision leaves it."""
    if settlement is None:
        return loaded.journal
    return tuple(
        [
            _settled(activity, settlement, loaded.revision + 1)
            if activity.key == settlement.key
            else activity
            for activity in loaded.journal
        ]
    )


def _settled(activity: Activity, settlement: Settlement, revision: int) -> Activity:
    return Activity(
        key=activity.key,
        scope=activity.scope,
        ordinal=activity.ordinal,
        kind=activity.kind,
        name=activity.name,
        state=settlement.state,
        attempt=activity.attempt,
        parent_key=activity.parent_key,
        input=activity.input,
        result=None if settlement.result is None else codec.parse(settlement.result),
        error=settlement.error,
        settled_at=settlement.settled_at,
        settled_revision=revision,
        asked=activity.asked,
    )


def cancelled_event(kind: ActivityKind) -> str:
    """What history says of an activity that its flow has cancelled."""
    return kind_of(kind).cancelled_event or f"{kind} cancelled"


def is_still_ours(loaded: LoadedRun, settlement: Settlement) -> bool:
    return any(
        activity.key == settlement.key
        and activity.attempt == settlement.attempt
        and activity.state is ActivityState.CLAIMED
        for activity in loaded.journal
    )


def opened_after(
    loaded: LoadedRun, outcome: TurnOutcome, taken: NewActivity | None
) -> tuple[Activity, ...]:
    """What the turn has opened, as its commit leaves it."""
    return tuple(
        Activity(
            key=each.request.key,
            scope=each.request.scope,
            ordinal=each.request.ordinal,
            kind=each.request.kind,
            name=each.request.name,
            state=ActivityState.CLAIMED if each is taken else each.state,
            attempt=attempts_of(loaded.attempts_before, each.request.key) + 1,
            result=None if each.result is None else codec.parse(each.result),
            settled_at=each.settled_at,
            settled_revision=each.settled_revision
            or (loaded.revision + 1 if each.settled_at is not None else None),
            asked=each.request.asked,
        )
        for each in outcome.opened
    )


def run_after(
    loaded: LoadedRun, outcome: TurnOutcome, journal: tuple[Activity, ...], *, is_known: bool
) -> LoadedRun:
    """The run as our commit left it: what comes later raises its revision, and will be seen.

    `is_known`: these are its open lines alone, and a kept flow has the rest.
    """
    revision = loaded.revision + 1
    gone = {each.key for each in outcome.cancelled}
    if gone:
        journal = tuple(
            replace(each, state=ActivityState.CANCELLED) if each.key in gone else each
            for each in journal
        )
    return LoadedRun(
        context=loaded.context,
        status=outcome.status,
        revision=revision,
        turn_revision=revision,
        queue=loaded.queue,
        journal=journal,
        signals=loaded.signals,
        sends=0,
        attempts_before=loaded.attempts_before,
        children=loaded.children + sum(each.child is not None for each in outcome.opened),
        is_in_hand=True,
        known_revision=revision if is_known else None,
    )


def is_handed_off(opened: NewActivity) -> bool:
    """A worker is to do it; one that was cancelled in the turn that asked for it is nobody's."""
    return opened.request.ask.is_handed_off and opened.state is not ActivityState.CANCELLED


def handoffs_of(
    loaded: LoadedRun, outcome: TurnOutcome, taken: NewActivity | None
) -> Iterator[Handoff]:
    run_id = loaded.context.id
    for opened in outcome.opened:
        if is_handed_off(opened) and opened is not taken:
            key = opened.request.key
            attempt = attempts_of(loaded.attempts_before, key) + 1
            yield Handoff(run_id, key, attempt, opened.request.name, opened.queue)


def facts_of(
    context: EngineContext,
    loaded: LoadedRun,
    outcome: TurnOutcome,
    settlement: Settlement | None,
    taken: NewActivity | None,
) -> list[Fact]:
    facts = []
    if settlement is not None:
        facts.append(
            Fact(
                f"stage {settlement.state}",
                context.identity.name,
                settlement.key,
                settlement.attempt,
                without_traceback(settlement.error),
            )
        )
    before = loaded.attempts_before
    for opened in outcome.opened:
        if opened.child is not None:  # whether it was started, the record finds out
            continue
        key, ask = opened.request.key, opened.request.ask
        event = "stage taken over" if opened is taken else ask.opened_event
        if opened.state is ActivityState.CANCELLED:
            event = cancelled_event(opened.request.kind)
        actor = context.identity.name if opened is taken else FLOW
        detail = opened.error or ask.opened_detail()
        facts.append(Fact(event, actor, key, attempts_of(before, key) + 1, detail))
    facts += [
        Fact(cancelled_event(each.kind), FLOW, each.key, detail={"why": each.why})
        for each in outcome.cancelled
        if not outcome.status.is_closed
    ]
    facts += [Fact("signal given back", FLOW, key) for key in outcome.given_back]
    facts += [Fact("signal consumed", FLOW, consumed.key) for consumed in outcome.consumed]
    facts += [
        Fact(SIGNAL_SET_ASIDE, FLOW, unfit.key, detail={"name": unfit.name, "why": unfit.why})
        for unfit in outcome.set_aside
    ]
    if outcome.next_chapter is not None:
        facts.append(_continued(outcome, actor=FLOW))
    if not outcome.status.is_moving:
        facts.append(Fact(outcome.status, FLOW, detail=without_traceback(outcome.error)))
    return facts


def _continued(outcome: TurnOutcome, *, actor: str) -> Fact:
    """What history says of it: what was open, and ends with its chapter."""
    cut_short = outcome.cut_short
    detail: dict[str, object] = {}
    if cut_short:
        detail["cancelled"] = list(cut_short[:CUT_SHORT_MAX])
    if len(cut_short) > CUT_SHORT_MAX:
        detail["and_more"] = len(cut_short) - CUT_SHORT_MAX
    return Fact(CONTINUED, actor, detail=detail)
