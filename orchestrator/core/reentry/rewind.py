"""Rewind: a run goes back to where an activity was asked for. What lies behind leaves the journal, for history.

    preview_rewind(standing, Rewinding("key"), code)
    behind(standing, "key", code)     which activities that is

What lies behind is found by replay: the activity leaves the journal, and with it whatever the flow no longer asks for.
So a branch of a gather that has nothing to do with it stays; one that has seen it by what branches share goes back to
where it did. Without the code at hand it is all that was asked for
later, whichever branch has asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from orchestrator.core.argument_digests import different_arguments
from orchestrator.core.journal import Activity, ActivityKind, ActivityState
from orchestrator.core.kinds import kind_of
from orchestrator.core.kinds.cancellation import CANCELLATION
from orchestrator.core.kinds.origin import ORIGIN
from orchestrator.core.reentry.change import Change, Preview, attempts_made, kept_in_history
from orchestrator.core.reentry.compensations import refuse_if_undone
from orchestrator.core.reentry.retry import expiry, refuse_unless_reopenable
from orchestrator.core.reentry.settle import refuse_what_is_worked_on
from orchestrator.core.reentry.standing import NOT_AT_HAND, Code, Entry, Look, Standing, listed
from orchestrator.core.run import RunStatus
from orchestrator.errors import OperationRefused

VERB = "rewind"


@dataclass(frozen=True, slots=True)
class Rewinding:
    """To where: the key of an activity, which is asked for anew."""

    to: str
    even_if_completed: bool = False
    expires_in: timedelta | None = None


def preview_rewind(standing: Standing, asked: Rewinding, code: Code | None) -> Preview:
    """What a rewind would do, and all that it would repeat. Raises OperationRefused."""
    _refuse(standing, asked)
    entry = standing.entry(asked.to)
    expires_at = expiry(standing, asked.expires_in, VERB) if standing.status.is_closed else None
    gone, notes = behind(standing, entry, code)
    for each in gone:
        refuse_what_is_worked_on(standing, each)  # guard: what is worked on is not rewound
    keys = {each.key for each in gone}
    refuse_if_undone(standing, VERB, keys)
    done = [each for each in gone if each.activity.state is ActivityState.DONE]
    signals = [each for each in done if kind_of(each.activity.kind).takes_signals]
    if signals:
        notes.append(f"signals are taken again: {listed(each.key for each in signals)}")
    return Preview(
        VERB,
        standing.run.id,
        standing.name,
        standing.status,
        goes_on=(f"{entry.activity.describe()} is asked for anew",),
        repeats=tuple(_repeated(standing, done)),
        drops=tuple(_dropped(gone)),
        notes=tuple(notes),
        change=Change(
            "rewound",
            RunStatus.PAUSED if standing.status is RunStatus.PAUSED else RunStatus.RUNNING,
            removed=tuple(sorted(keys)),
            forgets=tuple(sorted(keys)),
            key=entry.key,
            put_back=tuple(each.key for each in signals),
            attempts_before=attempts_made(standing, keys),
            expires_at=expires_at,
            arms_expiry=expires_at is not None,
            notes=tuple(
                kept_in_history(each, f"{VERB} to {entry.key}")
                for each in (*gone, *standing.steps_of(keys))
            ),
            detail={"left": [each.key for each in gone]},
        ),
    )


def _refuse(standing: Standing, asked: Rewinding) -> None:
    if any(each.kind == CANCELLATION for each in standing.journal):
        raise OperationRefused(
            f"run {standing.name} is being cancelled: it cleans up, and goes back to nothing."
            " `perennial cancel RUN --now` ends it at once"
        )
    ended = {RunStatus.FAILED}
    if asked.even_if_completed:
        ended.add(RunStatus.COMPLETED)
    elif standing.status is RunStatus.COMPLETED and standing.followed_by is None:
        raise OperationRefused(
            f"run {standing.name} has completed: to rewind it is to do a part of it twice."
            " `perennial rewind RUN --to KEY --even-if-completed` says that this is meant"
        )
    if standing.status.is_closed:
        refuse_unless_reopenable(standing, VERB, ended)
    if standing.turn_worker is not None:
        since = (
            f" since {standing.turn_since.isoformat(timespec='seconds')}"
            if standing.turn_since is not None
            else ""
        )
        raise OperationRefused(
            f"the flow of run {standing.name} is at a step on {standing.turn_worker}{since}: try again once that"
            " has ended"
        )


# -- what lies behind --------------------------------------------------------------------------------


def behind(
    standing: Standing, entry: Entry, code: Code | None
) -> tuple[tuple[Entry, ...], list[str]]:
    """All that leaves the journal with that activity, in the order in which it was asked for; and what to know.

    Raises OperationRefused: what would be left is no journal of that flow.
    """
    # What the flow had cancelled it cancels again, if it still does: it is asked for anew.
    gone = {entry.key} | {
        each.key for each in standing.own() if each.activity.state is ActivityState.CANCELLED
    }
    notes: list[str] = []
    if code is None:
        gone |= {each.key for each in standing.own() if _is_later(each, entry)}
        notes.append(
            f"the flow's {NOT_AT_HAND}: all that was asked for later leaves, in other branches too"
        )
    else:
        _with_all_that_follows(standing, entry, gone, code)
    return tuple(each for each in standing.own() if each.key in gone), notes


def _is_later(each: Entry, entry: Entry) -> bool:
    one, other = each.activity, entry.activity
    return each.opened_at > entry.opened_at or (
        one.scope == other.scope and one.ordinal > other.ordinal
    )


def _with_all_that_follows(standing: Standing, entry: Entry, gone: set[str], code: Code) -> None:
    while True:
        look = code.look(standing.run, standing.without(gone), standing.signals)
        if look.outcome is None:
            raise OperationRefused(
                f"nobody can say what a rewind of run {standing.name} would do: {look.lack}."
                " Give the app that has it: --app module:app"
            )
        follows = _asked_otherwise(look, standing.without(gone)) or (
            {each.key for each in standing.without(gone) if each.kind != ORIGIN} - look.asked.keys()
        )
        if not follows:
            break
        gone |= follows
    if look.is_parked or look.outcome.status is RunStatus.FAILED:
        what = "be parked" if look.is_parked else "fail"
        raise OperationRefused(
            f"run {standing.name} would {what} at once, rewound to {entry.key}: {look.why}. Go back further, or mend"
            " its flow first"
        )


def _asked_otherwise(look: Look, journal: Sequence[Activity]) -> set[str]:
    """What the flow, which stopped there, has asked for in another way than is recorded: by what branches share."""
    last = next(reversed([*look.asked.values()]), None)
    if not look.is_parked or last is None:
        return set()
    there = [
        each
        for each in journal
        if each.key == last.key or (each.scope, each.ordinal) == (last.scope, last.ordinal)
    ]
    is_same = len(there) == 1 and (
        (there[0].key, there[0].scope, there[0].ordinal, there[0].kind, there[0].name)
        == (last.key, last.scope, last.ordinal, last.kind, last.name)
        and not different_arguments(there[0].asked or last.asked, last.asked)
    )
    return set() if is_same else {each.key for each in there}


# -- in words ----------------------------------------------------------------------------------------


def _repeated(standing: Standing, done: Sequence[Entry]) -> Iterator[str]:
    """Work that is done, and is done once more."""
    for entry in done:
        ask = kind_of(entry.activity.kind)
        if ask.is_work:
            steps = len(standing.steps_of([entry.key]))
            within = f", with the {steps} step(s) in it" if steps else ""
            yield f"{entry.activity.describe()}{within}"
        elif entry.activity.kind == ActivityKind.SLEEP:
            yield f"{entry.activity.describe()}, in full"


def _dropped(gone: Sequence[Entry]) -> Iterator[str]:
    """Decisions that count no more, and deadlines that begin anew."""
    for entry in gone:
        activity = entry.activity
        if activity.kind == ActivityKind.APPROVAL:
            decision: dict[str, Any] = activity.result if isinstance(activity.result, dict) else {}
            by = f" by {decision['by']}" if decision.get("by") else ""
            what = f"{decision.get('outcome', activity.state)}{by}"
            yield f"{activity.describe()}, {what}: it is asked for anew, its deadlines too"
        elif activity.kind == ActivityKind.SIGNAL and not activity.is_settled:
            yield f"{activity.describe()}: its deadline begins anew"
