"""Retry: a run that has failed, or is an incident, goes on from where it stopped.

    preview_retry(standing, Retrying(...), code)

What the flow failed by is found by replay: the activity whose error the flow ended with leaves the journal, the flow is
replayed without it, and so on, until it would wait. So of a gather all that failed is asked for anew, and what was done
is not. Without the code at hand the journal says it alone: what failed, and was followed by nothing.

What was open as the run failed (an approval that nobody awaited yet) was withdrawn, and is asked for anew, with its
times in full: the clock of a failed run stands still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

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
from orchestrator.core.reentry.standing import NOT_AT_HAND, Code, Entry, Look, Standing, listed
from orchestrator.core.rounds import was_tried_again, with_what_followed
from orchestrator.core.run import RunStatus
from orchestrator.errors import ActivityFailed, OperationRefused, WaitTimedOut

VERB = "retry"
_ENDED_BADLY = (ActivityState.FAILED, ActivityState.TIMED_OUT)


@dataclass(frozen=True, slots=True)
class Retrying:
    """What an operator asks for. `input` and `arguments` (of the one stage that failed) are JSON text."""

    input: str | None = None
    arguments: str | None = None
    version: int | None = None
    expires_in: timedelta | None = None


def preview_retry(standing: Standing, asked: Retrying, code: Code | None) -> Preview:
    """What a retry would do. Raises OperationRefused, in a sentence that names the next thing to do."""
    if standing.status is RunStatus.INCIDENT:
        return _of_incident(standing, asked, code)
    refuse_unless_reopenable(standing, VERB, {RunStatus.FAILED})
    refuse_if_undone(standing, VERB)
    failed, notes = _failed(standing, asked, code)
    withdrawn = [
        entry for entry in standing.own() if entry.activity.state is ActivityState.CANCELLED
    ]
    return _preview(standing, asked, failed, withdrawn, notes=notes, code=code)


def refuse_unless_reopenable(standing: Standing, verb: str, ended: set[RunStatus]) -> None:
    """Of a run that has ended: whether it may go on at all. Raises OperationRefused."""
    status, name = standing.status, standing.name
    if standing.followed_by is not None:
        raise OperationRefused(
            f"run {standing.former_key or name} was started anew as {standing.followed_by}, which has its key now:"
            f" {verb} would make two of one. `perennial show {standing.followed_by}` shows that one"
        )
    if status in ended:
        return
    if status.is_closed:
        remedy = (
            "`perennial restart RUN --even-if-completed` does it once more"
            if status is RunStatus.COMPLETED
            else "`perennial restart RUN` starts it once more, with the same input"
        )
        raise OperationRefused(f"run {name} is {status}: there is nothing to {verb}. {remedy}")
    if status is RunStatus.PAUSED:
        raise OperationRefused(f"run {name} is paused. `perennial resume RUN` lets it go on")
    raise OperationRefused(
        f"run {name} is {status}: it goes on by itself. `perennial show RUN` tells what it waits for"
    )


def expiry(standing: Standing, expires_in: timedelta | None, verb: str) -> datetime | None:
    """When a run that goes on again expires. Raises OperationRefused: that moment is over."""
    if expires_in is not None:
        return standing.now + expires_in
    if standing.expires_at is not None and standing.expires_at <= standing.now:
        raise OperationRefused(
            f"run {standing.name} would expire at once: its time was over at"
            f" {standing.expires_at.isoformat(timespec='seconds')}."
            f" `perennial {verb} RUN --expires-in HOURS` gives it more"
        )
    return standing.expires_at


# -- what it failed by -------------------------------------------------------------------------------


def _failed(
    standing: Standing, asked: Retrying, code: Code | None
) -> tuple[list[Entry], list[str]]:
    if code is None:
        if asked.version is not None:
            raise OperationRefused(
                f"version {asked.version} of {standing.run.process} is not at hand, so nobody can say whether run"
                f" {standing.name} would go on with it. Name the app that has it: --app module:app"
            )
        return _failed_by_journal(standing), [
            f"the flow's {NOT_AT_HAND}: what failed is read from the journal alone"
        ]
    return _failed_by_replay(standing, asked, code), []


def _failed_by_journal(standing: Standing) -> list[Entry]:
    """What ended badly and was followed by nothing, and what the run's error names."""
    own = standing.own()
    latest = max((entry.opened_at for entry in own), default=standing.now)
    message = str((standing.error or {}).get("message", ""))
    return [
        entry
        for entry in own
        if entry.activity.state in _ENDED_BADLY
        and entry.activity.settled_at is not None
        and (
            entry.activity.settled_at >= latest or message.startswith(f"{entry.key} failed after ")
        )
    ]


def _failed_by_replay(standing: Standing, asked: Retrying, code: Code) -> list[Entry]:
    run = _run_as_asked(standing, asked)
    own = {entry.key: entry for entry in standing.own()}
    gone = {key for key, each in own.items() if each.activity.state is ActivityState.CANCELLED}

    def look(more: Sequence[Entry] = ()) -> Look:
        keys = with_what_followed(standing.journal, gone | {entry.key for entry in more})
        found = code.look(run, standing.without(keys), standing.signals)
        if found.outcome is None:
            raise OperationRefused(
                f"nobody can say what a retry of run {standing.name} would do: {found.lack}."
                " Give the app that has it: --app module:app"
            )
        return found

    failed: list[Entry] = []
    found = look()
    if found.is_parked:
        # This code does not ask for what failed: does it go on without?
        failed = _failed_by_journal(standing)
        gone |= {entry.key for entry in failed}
        without = look()
        if not failed or without.is_parked:
            raise _contradicted(standing, [], found, asked)
        found = without
    while found.outcome is not None and found.outcome.status is RunStatus.FAILED:
        key = _key_in(found.outcome.raised, own)
        if key is None or key in gone:
            raise OperationRefused(
                f"the flow of run {standing.name} raises it itself, and would again: {found.why}. Mend its code and"
                " retry, or go back to where it took that way: `perennial rewind RUN --to KEY`"
            )
        gone.add(key)
        failed.append(own[key])
        found = look()
    if found.is_parked:
        raise _contradicted(standing, failed, found, asked)
    if failed:
        failed += _whose_failure_led_to_nothing(standing, gone, look)
    return sorted(failed, key=lambda entry: entry.activity.ordinal)


def _whose_failure_led_to_nothing(
    standing: Standing, gone: set[str], look: Callable[[Sequence[Entry]], Look]
) -> list[Entry]:
    """Beside them in a gather, which waits for all before it raises the first."""
    others = [
        entry
        for entry in standing.own()
        if entry.activity.state in _ENDED_BADLY
        and entry.key not in gone
        # guard: a further round that was done stays
        and not was_tried_again(standing.journal, entry.key)
    ]
    if not others or not look(others).is_parked:
        return others
    found: list[Entry] = []
    for entry in others:
        if not look([*found, entry]).is_parked:
            found.append(entry)
    return found


def _run_as_asked(standing: Standing, asked: Retrying) -> Any:
    from orchestrator.core import codec

    run = standing.run
    if asked.input is not None:
        run = replace(run, input=codec.parse(asked.input))
    if asked.version is not None:
        run = replace(run, version=asked.version)
    return run


def _contradicted(
    standing: Standing, failed: list[Entry], look: Look, asked: Retrying
) -> OperationRefused:
    if asked.version is not None or asked.input is not None:
        what = f"version {asked.version}" if asked.version is not None else "that input"
        return OperationRefused(f"run {standing.name} would not go on with {what}: {look.why}")
    if not failed:
        return OperationRefused(
            f"run {standing.name} would be parked with the code at hand: {look.why}."
            " `perennial check` tells what this code does to runs"
        )
    first = failed[0].key
    return OperationRefused(
        f"the flow of run {standing.name} went on after {first} had failed, and what it did then would not fit any"
        f" more: {look.why}. `perennial rewind RUN --to {first}` takes that back too, and says what is repeated"
    )


def _key_in(raised: BaseException | None, own: dict[str, Entry]) -> str | None:
    """The activity by whose failure the flow has ended, however it has wrapped it."""
    for error in _chain(raised):
        if isinstance(error, ActivityFailed | WaitTimedOut) and error.key in own:
            return error.key
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


# -- what follows from it ----------------------------------------------------------------------------


def _preview(
    standing: Standing,
    asked: Retrying,
    failed: list[Entry],
    withdrawn: list[Entry],
    *,
    notes: list[str],
    code: Code | None,
) -> Preview:
    replaced, told = _with_arguments(standing, asked, failed, code)
    notes += told
    taken_out = with_what_followed(standing.journal, [entry.key for entry in failed])
    followed = taken_out - {entry.key for entry in failed}
    withdrawn = [entry for entry in withdrawn if entry.key not in followed]
    keys = taken_out | {entry.key for entry in withdrawn}
    keys -= {each.key for each in replaced}
    expires_at = expiry(standing, asked.expires_in, VERB)
    steps = standing.steps_of(entry.key for entry in failed)
    if steps:
        notes.append(
            f"{len(steps)} step(s) done within what failed are remembered, and not called again"
        )
    if not failed:
        notes.append(
            "no activity failed: the flow is replayed, with the code that its workers have"
        )
    if asked.input is not None:
        notes.append("the run's input is replaced")
    if asked.version is not None:
        notes.append(f"it goes on as version {asked.version}, not {standing.run.version}")
    return Preview(
        VERB,
        standing.run.id,
        standing.name,
        standing.status,
        goes_on=tuple(_goes_on(failed, withdrawn)),
        drops=tuple(_dropped(standing, followed)),
        notes=tuple(notes),
        change=Change(
            "retried",
            RunStatus.RUNNING,
            removed=tuple(sorted(keys)),
            replaced=replaced,
            attempts_before=attempts_made(standing, keys),
            input=asked.input,
            version=asked.version,
            expires_at=expires_at,
            arms_expiry=expires_at is not None,
            notes=tuple(
                kept_in_history(entry, VERB)
                for entry in standing.own()
                if entry in failed or entry.key in followed
            ),
            detail={
                "again": [entry.key for entry in failed],
                **({"input": standing.run.input} if asked.input is not None else {}),
                **({"version": standing.run.version} if asked.version is not None else {}),
                **({"arguments": failed[0].input} if asked.arguments is not None else {}),
            },
        ),
    )


def _goes_on(failed: list[Entry], withdrawn: list[Entry]) -> Iterator[str]:
    for entry in failed:
        activity = entry.activity
        error = activity.error or {}
        why = f": {error['type']}" if "type" in error else ""
        times = (
            f" after {activity.attempt} attempt(s)" if activity.kind == ActivityKind.STAGE else ""
        )
        yield f"{activity.describe()} is asked for anew; it {activity.state}{times}{why}"
    for entry in withdrawn:
        yield f"{entry.activity.describe()} is asked for anew, with its times in full"


def _dropped(standing: Standing, keys: set[str]) -> Iterator[str]:
    """What somebody has decided of what failed."""
    for entry in standing.own():
        if entry.key in keys:
            result = entry.activity.result
            decision = result if isinstance(result, dict) else {}
            by = f" by {decision['by']}" if decision.get("by") else ""
            yield f"{entry.activity.describe()}, {decision.get('outcome', entry.activity.state)}{by}"


def _with_arguments(
    standing: Standing, asked: Retrying, failed: list[Entry], code: Code | None
) -> tuple[tuple[Replaced, ...], list[str]]:
    if asked.arguments is None:
        return (), []
    stages = [entry for entry in failed if entry.activity.kind == ActivityKind.STAGE]
    if len(stages) != 1 or len(failed) != 1:
        raise OperationRefused(
            f"arguments are for the one stage that failed; of run {standing.name} that is"
            f" {listed(entry.key for entry in failed) or 'none'}. `perennial edit RUN KEY` is for a stage that waits"
        )
    (stage,) = stages
    merged, notes = merged_arguments(stage, asked.arguments, code)
    made = stage.activity.attempt
    anew = Replaced(stage.key, ActivityState.PENDING, made + 1, arguments=merged, uncounted=made)
    return (anew,), notes


# -- an incident -------------------------------------------------------------------------------------


def _of_incident(standing: Standing, asked: Retrying, code: Code | None) -> Preview:
    """As `resume`; and the attempt that was handed back has all that its retries allow before it."""
    if asked.input is not None or asked.version is not None:
        raise OperationRefused(
            f"run {standing.name} is an incident: another input or version is for a run that has failed."
            " `perennial edit RUN KEY` changes the arguments of a stage"
        )
    if compensations := failed_compensations(standing):
        return _of_compensations(standing, asked, compensations, code)
    key = (standing.error or {}).get("activity")
    parked = [
        entry
        for entry in standing.own()
        if entry.key == key and entry.activity.state is ActivityState.PENDING
    ]
    if asked.arguments is not None and not parked:
        raise OperationRefused(
            f"no stage of run {standing.name} is parked, so there are no arguments to replace."
            " `perennial show RUN` tells why it is an incident"
        )
    notes = []
    if code is not None and not parked:
        look = code.look(standing.run, standing.journal, standing.signals)
        if look.is_parked:
            raise OperationRefused(
                f"run {standing.name} would be parked again with the code at hand: {look.why}"
            )
    elif not parked:
        notes.append(f"the flow's {NOT_AT_HAND}: whether its cause is mended shows its next turn")
    merged = None
    if asked.arguments is not None:
        merged, told = merged_arguments(parked[0], asked.arguments, code)
        notes += told
    replaced = tuple(
        Replaced(
            entry.key,
            ActivityState.PENDING,
            entry.activity.attempt,
            arguments=merged,
            uncounted=entry.activity.attempt - 1,
        )
        for entry in parked
    )
    return Preview(
        VERB,
        standing.run.id,
        standing.name,
        standing.status,
        goes_on=tuple(
            f"{entry.activity.describe()} is tried again, with all the attempts that its retries allow"
            for entry in parked
        )
        or ("the turn is taken again",),
        notes=tuple(notes),
        change=Change(
            "retried",
            RunStatus.RUNNING,
            replaced=replaced,
            detail={"again": [entry.key for entry in parked]},
        ),
    )


def _of_compensations(
    standing: Standing, asked: Retrying, failed: list[Entry], code: Code | None
) -> Preview:
    """What could not be undone is tried again, with all the attempts that its retries allow."""
    replaced, notes = _with_arguments(standing, asked, failed, code)
    if not replaced:
        replaced = tuple(
            Replaced(entry.key, ActivityState.PENDING, made + 1, uncounted=made)
            for entry in failed
            for made in [entry.activity.attempt]
        )
    return Preview(
        VERB,
        standing.run.id,
        standing.name,
        standing.status,
        goes_on=tuple(
            f"{entry.activity.describe()} is tried again, to undo {entry.undoes or 'what was done'}"
            for entry in failed
        ),
        notes=tuple(notes),
        change=Change(
            "retried",
            RunStatus.RUNNING,
            replaced=replaced,
            notes=tuple(kept_in_history(entry, VERB) for entry in failed),
            detail={"again": [entry.key for entry in failed]},
        ),
    )
