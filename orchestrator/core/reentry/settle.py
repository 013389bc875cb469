"""An activity gets its end by hand, or other arguments, while nobody is at work on it.

    preview_skip      it was not done, and a result stands in for it
    preview_complete  it was done elsewhere, and that is its result
    preview_fail      it will not be done
    preview_edit      a stage that waits gets other arguments

A result is held against what the flow asked for, where its code is at hand. Approvals are decided by the people who are
asked, through the doors that they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from orchestrator.core import codec
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.reentry.arguments import merged_arguments
from orchestrator.core.reentry.change import (
    Change,
    Preview,
    Replaced,
    attempts_made,
    kept_in_history,
)
from orchestrator.core.reentry.compensations import failed_compensations, refuse_if_undone
from orchestrator.core.reentry.retry import expiry, refuse_unless_reopenable
from orchestrator.core.reentry.standing import NOT_AT_HAND, Code, Entry, Look, Standing
from orchestrator.core.rounds import was_tried_again, with_what_followed
from orchestrator.core.run import RunStatus
from orchestrator.core.undoing import COMPENSATION_FAILED
from orchestrator.errors import OperationRefused, PayloadError

EVENTS = {"skip": "skipped", "complete": "completed by hand", "fail": "failed by hand"}


@dataclass(frozen=True, slots=True)
class ByHand:
    """The end of one activity. `result` is JSON text; `error` stands in its place where it is to fail."""

    key: str
    result: str = "null"
    error: Mapping[str, Any] | None = None
    expires_in: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Editing:
    """Other arguments of a stage, each by its name, as JSON text; those that are not named stay."""

    key: str
    arguments: str


def preview_skip(standing: Standing, asked: ByHand, code: Code | None) -> Preview:
    """What a skip would do. Raises OperationRefused."""
    return _preview("skip", standing, asked, code)


def preview_complete(standing: Standing, asked: ByHand, code: Code | None) -> Preview:
    """What a completion by hand would do. Raises OperationRefused."""
    return _preview("complete", standing, asked, code)


def preview_fail(standing: Standing, asked: ByHand, code: Code | None) -> Preview:
    """What a failure by hand would do. Raises OperationRefused."""
    return _preview("fail", standing, asked, code)


def _preview(verb: str, standing: Standing, asked: ByHand, code: Code | None) -> Preview:
    entry = standing.entry(asked.key)
    _refuse(verb, standing, entry)
    expires_at = None
    withdrawn: list[Entry] = []
    followed: set[str] = set()
    if standing.status.is_closed:
        refuse_unless_reopenable(standing, verb, {RunStatus.FAILED})
        refuse_if_undone(standing, verb)
        expires_at = expiry(standing, asked.expires_in, verb)
        withdrawn = [
            each
            for each in standing.own()
            if each.activity.state is ActivityState.CANCELLED and each.key != entry.key
        ]
        if not was_tried_again(standing.journal, entry.key):
            followed = with_what_followed(standing.journal, [entry.key]) - {entry.key}
    keys = {each.key for each in withdrawn} | followed
    end = _end(verb, entry, asked)
    notes = _looked_at(verb, standing, entry, end, gone=keys, code=code)
    was = entry.activity
    return Preview(
        verb,
        standing.run.id,
        standing.name,
        standing.status,
        goes_on=(
            f"{was.describe()}, which is {was.state}, {_IS[verb]}",
            *(
                f"{each.activity.describe()} is asked for anew"
                for each in withdrawn
                if each.key not in followed
            ),
        ),
        notes=tuple(notes),
        change=Change(
            EVENTS[verb],
            status_after(standing),
            removed=tuple(sorted(keys)),
            key=entry.key,
            replaced=(end,),
            attempts_before=attempts_made(standing, keys),
            expires_at=expires_at,
            arms_expiry=expires_at is not None,
            notes=(kept_in_history(entry, verb),) if was.is_settled else (),
            detail={"was": str(was.state)},
        ),
    )


_IS = {
    "skip": "is left out; the given result stands in for its own",
    "complete": "is done, with the given result",
    "fail": "has failed, with the given error",
}


def status_after(standing: Standing) -> RunStatus:
    """A run that an operator has moved goes on; one that rests goes on resting."""
    if standing.status in (RunStatus.WAITING, RunStatus.PAUSED):
        return standing.status
    return RunStatus.RUNNING


def _end(verb: str, entry: Entry, asked: ByHand) -> Replaced:
    attempt = entry.activity.attempt
    if verb == "fail":
        return Replaced(entry.key, ActivityState.FAILED, attempt, error=asked.error or {})
    return Replaced(entry.key, ActivityState.DONE, attempt, result=asked.result)


# -- whether it may be -------------------------------------------------------------------------------


def _refuse(verb: str, standing: Standing, entry: Entry) -> None:
    activity, run = entry.activity, standing.name
    if activity.kind == ActivityKind.APPROVAL:
        raise OperationRefused(
            f"{entry.key} of run {run} is an approval, which people decide: `perennial approve RUN {entry.key}`"
            f" or `perennial reject RUN {entry.key}`, by one who is asked"
        )
    refuse_what_is_worked_on(standing, entry)  # guard: what is worked on gets no end by hand
    if activity.state is ActivityState.DONE:
        raise OperationRefused(
            f"{entry.key} of run {run} is done already. `perennial rewind RUN --to {entry.key}` does it again"
        )
    if activity.state is ActivityState.CANCELLED and not standing.status.is_closed:
        raise OperationRefused(
            f"{entry.key} of run {run} was cancelled by its flow, which has gone on without it."
            " `perennial rewind RUN --to KEY` goes back to before that"
        )
    could_not_be_undone = verb != "fail" and entry in failed_compensations(standing)
    if activity.is_settled and not standing.status.is_closed and not could_not_be_undone:
        raise OperationRefused(
            f"{entry.key} of run {run} {activity.state}, and its flow has gone on from there."
            f" `perennial rewind RUN --to {entry.key}` goes back to it"
        )
    if verb == "fail" and standing.status is RunStatus.FAILED:
        raise OperationRefused(f"run {run} has failed already. `perennial retry RUN` lets it go on")


def refuse_what_is_worked_on(standing: Standing, entry: Entry) -> None:
    """Whoever is at work on it would lose its result. Raises OperationRefused."""
    is_step = entry.activity.kind == ActivityKind.STEP and not entry.activity.is_settled
    worker, since = entry.worker or "a worker", entry.claimed_at
    if is_step and standing.turn_worker is not None:
        worker, since = standing.turn_worker, standing.turn_since
    elif not entry.is_worked_on:
        return
    when = f" since {since.isoformat(timespec='seconds')}" if since is not None else ""
    raise OperationRefused(
        f"{entry.key} of run {standing.name} is being worked on by {worker}{when}: wait for its end, or stop that"
        " worker, whose attempt is then handed out again"
    )


# -- what the code says ------------------------------------------------------------------------------


def _looked_at(
    verb: str,
    standing: Standing,
    entry: Entry,
    end: Replaced,
    *,
    gone: set[str],
    code: Code | None,
) -> list[str]:
    """What replay says of that end, in words. Raises OperationRefused: the result doesn't fit, or contradicts."""
    result = codec.parse(end.result) if end.result is not None else None
    if entry.activity.kind == ActivityKind.SLEEP and result is not None:
        raise OperationRefused(
            f"{entry.key} of run {standing.name} is a sleep, which has no result"
        )
    if code is None:
        unchecked = [] if verb == "fail" else [": the result is taken as it is, as JSON"]
        return [f"the flow's {NOT_AT_HAND}{''.join(unchecked)}"]
    journal = tuple(
        each
        for each in standing.with_end(
            entry.key, state=end.state, result=result, error=dict(end.error or {})
        )
        if each.key not in gone
    )
    look = code.look(standing.run, journal, standing.signals)
    if look.outcome is None:
        return [f"what follows is not known here: {look.lack}"]
    _refuse_unfit(standing, entry, result, look, is_failure=verb == "fail")
    # What else could not be undone is still to be seen to.
    if look.is_parked and look.type == COMPENSATION_FAILED:
        return [f"the run stays an incident: {look.why}"]
    if look.is_parked:
        raise OperationRefused(
            f"run {standing.name} would be parked: {look.why}."
            f" `perennial rewind RUN --to {entry.key}` goes back to before it"
        )
    if look.outcome.status is RunStatus.FAILED:
        return [f"the run would end as failed then, by {look.why}"]
    return []


def _refuse_unfit(
    standing: Standing, entry: Entry, result: Any, look: Look, *, is_failure: bool
) -> None:
    request = look.asked.get(entry.key)
    if request is None or is_failure or entry.activity.kind == ActivityKind.SLEEP:
        return
    what = f"result of {entry.activity.describe()} in run {standing.name}"
    try:
        codec.decode_recorded(result, request.ask.result_type, what=what)
    except PayloadError as error:
        raise OperationRefused(f"{error}. It must be as the flow takes it") from None


# -- other arguments ---------------------------------------------------------------------------------


def preview_edit(standing: Standing, asked: Editing, code: Code | None) -> Preview:
    """What an edit would do. Raises OperationRefused."""
    entry = standing.entry(asked.key)
    activity = entry.activity
    if activity.kind != ActivityKind.STAGE:
        raise OperationRefused(
            f"{entry.key} of run {standing.name} is of kind {activity.kind}, no stage: its arguments are its flow's"
        )
    refuse_what_is_worked_on(standing, entry)
    if standing.status.is_closed:
        raise OperationRefused(
            f"run {standing.name} is {standing.status}. `perennial retry RUN --arguments JSON` is for what failed"
        )
    if activity.is_settled:
        raise OperationRefused(
            f"{entry.key} of run {standing.name} is {activity.state} already."
            f" `perennial rewind RUN --to {entry.key}` does it again"
        )
    merged, notes = merged_arguments(entry, asked.arguments, code)
    if standing.status is RunStatus.INCIDENT:
        notes.append("the run stays an incident; `perennial retry RUN` lets it go on")
    return Preview(
        "edit",
        standing.run.id,
        standing.name,
        standing.status,
        goes_on=(f"{activity.describe()} is done with other arguments at its next attempt",),
        notes=tuple(notes),
        change=Change(
            "arguments replaced",
            standing.status,
            key=entry.key,
            replaced=(
                Replaced(
                    entry.key,
                    activity.state,
                    activity.attempt,
                    error=activity.error,
                    arguments=merged,
                    keeps_timers=True,
                ),
            ),
            detail={"before": entry.input, "after": codec.parse(merged)},
        ),
    )
