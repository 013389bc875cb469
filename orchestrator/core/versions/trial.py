"""A flow is driven over a journal that another definition has made: what it asks for is found by its key alone.

    trial = try_on(process, run, journal, signals, registry=..., skips=..., renames=...)

Nothing is performed. Where the flow asks for what the journal lacks and the plan skips, the answer is put in, as if it
had been there from the start, and the flow is driven anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core import codec
from orchestrator.core.approvals import Outcome
from orchestrator.core.branches import TurnAbandoned
from orchestrator.core.definition import Process, Registry
from orchestrator.core.journal import Activity, ActivityKind, ActivityState, BufferedSignal
from orchestrator.core.kinds.base import Ask, Request
from orchestrator.core.outcome import RunContext, TurnOutcome
from orchestrator.core.replay import take_turn
from orchestrator.core.requests import Requests
from orchestrator.core.versions.plans import Skip
from orchestrator.core.versions.refusals import (
    DataUnfit,
    FlowBreaks,
    KindChange,
    LacksCode,
    NameChange,
    Refusal,
)

FROM_THE_START = 0
"""The revision of what is put into a journal: it is the first of the run's facts."""

_OF_DATA = ("PayloadMismatch", "PayloadError", "InvalidInput")

SkipOf = Callable[[str], Skip | None]
"""What the plan gives as the answer of a key that the journal lacks. None: it doesn't skip it."""


@dataclass(slots=True)
class Trial:
    """What a flow makes of a journal. `asked`: each request by its key; `added`: the answers that were put in."""

    outcome: TurnOutcome | None
    asked: dict[str, Request]
    added: dict[str, Activity] = field(default_factory=dict)
    refusal: Refusal | None = None


class _ByKey(Requests):
    """Holds what is asked against the journal by its key, whatever stands where."""

    __slots__ = ("may_be_renamed", "refusal", "skip_of", "skipped")

    may_be_renamed: Callable[[str], bool]
    skip_of: SkipOf
    skipped: tuple[Request, Skip] | None
    refusal: Refusal | None

    def _hold_against_journal(self, request: Request) -> None:
        entry = self.entries.get(request.key)
        if entry is None:
            skip = self.skip_of(request.key)
            if skip is not None:
                self.skipped = request, skip
                self._park("an answer is put in")
            return
        if entry.kind != request.kind:
            self.refusal = KindChange(
                f"{entry.describe()} is {request.describe()} in the new version", request.key
            )
        elif entry.name != request.name and not self.may_be_renamed(request.key):
            self.refusal = NameChange(
                f"{entry.describe()} is {request.describe()} in the new version", request.key
            )
        if self.refusal is not None:
            self._park(str(self.refusal))

    def refuse_forgotten(self) -> None:
        """What isn't asked for is the plan's to say."""


def try_on(
    process: Process,
    run: RunContext,
    journal: Sequence[Activity],
    signals: Sequence[BufferedSignal],
    *,
    registry: Registry,
    may_be_renamed: Callable[[str], bool] = lambda _key: False,
    skip_of: SkipOf = lambda _key: None,
) -> Trial:
    """Drive the flow over that journal, as far as it goes."""
    added: dict[str, Activity] = {}
    while True:
        made: list[_ByKey] = []

        def recorder(*given: Any, made: list[_ByKey] = made, **named: Any) -> Requests:
            requests = _ByKey(*given, **named)
            requests.may_be_renamed, requests.skip_of = may_be_renamed, skip_of
            requests.skipped = requests.refusal = None
            made.append(requests)
            return requests

        try:
            outcome = take_turn(
                process,
                run,
                [*journal, *added.values()],
                signals,
                registry=registry,
                perform_step=perform_nothing,
                may_perform=False,
                requests_of=recorder,
            )
        except TurnAbandoned as lack:
            return Trial(None, made[0].asked, added, LacksCode(str(lack)))
        requests = made[0]
        if requests.skipped is not None:
            request, skip = requests.skipped
            entry = _answered(request, skip, run)
            unfit = why_unfit(request, entry)
            if unfit is not None:
                return Trial(outcome, requests.asked, added, unfit)
            added[request.key] = entry
            continue
        return Trial(outcome, requests.asked, added, requests.refusal or _why_broken(outcome))


def perform_nothing(request: Request, _entry: Activity | None) -> Activity:
    """For a turn that is only looked at."""
    raise TurnAbandoned(f"step {request.key} is not performed here")


def why_unfit(request: Request, entry: Activity) -> DataUnfit | None:
    """Why a recorded answer doesn't fit what the new version takes. None: it does."""
    ask: Ask = request.ask
    error = ask.answer(request, entry).error
    if error is None or type(error).__name__ not in _OF_DATA:
        return None
    return DataUnfit(codec.readable(str(error)), request.key)


def _answered(request: Request, skip: Skip, run: RunContext) -> Activity:
    return Activity(
        key=request.key,
        scope=request.scope,
        ordinal=request.ordinal,
        kind=request.kind,
        name=request.name,
        state=ActivityState.DONE,
        result=_as_decision(request, skip.skip),
        settled_at=run.created_at,
        settled_revision=FROM_THE_START,
        asked=request.asked,
    )


def _as_decision(request: Request, given: Any) -> Any:
    """An approval that is skipped: what was decided, in short or in full."""
    if request.kind != ActivityKind.APPROVAL:
        return given
    outcomes = (Outcome.APPROVED, Outcome.REJECTED, Outcome.TIMED_OUT)
    decided = given if isinstance(given, dict) else {"outcome": given or Outcome.APPROVED}
    if decided.get("outcome") not in tuple(map(str, outcomes)):
        return decided
    return {"approval": request.name, **decided}


def _why_broken(outcome: TurnOutcome) -> Refusal | None:
    """What the flow raised, in a class of refusals."""
    error = outcome.error or {}
    if not error or outcome.status != "incident":
        return None
    kind, message = str(error.get("type", "")), str(error.get("message", ""))
    if kind in _OF_DATA:
        return DataUnfit(message)
    return FlowBreaks(f"{kind}: {message}")
