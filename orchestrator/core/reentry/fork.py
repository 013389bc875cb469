"""Fork: a copy of a run, from a point, for a try. The run itself stays as it is.

What is settled before the point is copied, and so are signals that no wait has taken; what is open in the run is asked
for anew in the copy, which has an id of its own, and a business key only if one is given.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds import kind_of
from orchestrator.core.reentry.change import Copy, Preview
from orchestrator.core.reentry.rewind import behind
from orchestrator.core.reentry.standing import Code, Entry, Standing, listed
from orchestrator.core.run import RunStatus
from orchestrator.errors import OperationRefused

VERB = "fork"


@dataclass(frozen=True, slots=True)
class Forking:
    """From where, and under which business key. `at` None: from where the run stands."""

    at: str | None = None
    key: str | None = None


def preview_fork(standing: Standing, asked: Forking, code: Code | None) -> Preview:
    """What the copy would be, and do. Raises OperationRefused."""
    if asked.at is None and standing.status.is_closed:
        raise OperationRefused(
            f"run {standing.name} is {standing.status}, and a copy of all of it would end at once."
            " `perennial fork RUN --at KEY` copies it up to a point"
        )
    gone: tuple[Entry, ...] = ()
    notes: list[str] = []
    if asked.at is not None:
        gone, notes = behind(standing, standing.entry(asked.at), code)
    left = {entry.key for entry in gone}
    kept = [
        entry for entry in standing.own() if entry.activity.is_settled and entry.key not in left
    ]
    if code is not None:
        _refuse_unfit(standing, kept, code)
    open_ones = [
        entry
        for entry in standing.own()
        if not entry.activity.is_settled
        and entry.activity.state is not ActivityState.CANCELLED
        and entry.key not in left
    ]
    again = [entry for entry in gone if entry.activity.state is ActivityState.DONE]
    steps = standing.steps_of(entry.key for entry in (*kept, *open_ones))
    if asked.key is not None:
        notes.append(f"the copy has the business key {asked.key!r}")
    return Preview(
        VERB,
        standing.run.id,
        standing.name,
        standing.status,
        goes_on=(
            f"a copy with {len(kept)} of {len(standing.own())} activities goes on by itself"
            + (f", from {asked.at}" if asked.at is not None else ""),
            *(f"{entry.activity.describe()} is asked for anew in the copy" for entry in open_ones),
        ),
        repeats=tuple(
            entry.activity.describe()
            for entry in (*again, *open_ones)
            if kind_of(entry.activity.kind).is_work
        ),
        drops=tuple(
            f"{entry.activity.describe()} is asked for anew in the copy"
            for entry in again
            if entry.activity.kind == ActivityKind.APPROVAL
        ),
        notes=tuple(notes),
        copy=Copy(
            at=asked.at,
            business_key=asked.key,
            kept=tuple(entry.key for entry in (*kept, *steps)),
            put_back=tuple(entry.key for entry in again),
            with_steps=tuple(sorted({each.activity.parent_key or "" for each in steps})),
        ),
    )


def _refuse_unfit(standing: Standing, kept: list[Entry], code: Code) -> None:
    """The copy would be parked, or end, at its first turn."""
    look = code.look(standing.run, tuple(entry.activity for entry in kept), standing.signals)
    if look.outcome is None:
        raise OperationRefused(
            f"nobody can say what a copy of run {standing.name} would do: {look.lack}"
        )
    if look.is_parked or look.outcome.status is RunStatus.FAILED:
        what = "be parked" if look.is_parked else "fail"
        raise OperationRefused(
            f"a copy of run {standing.name} with {listed(entry.key for entry in kept) or 'nothing'} would {what} at"
            f" once: {look.why}. `perennial fork RUN --at KEY` copies it up to an earlier point"
        )
