"""What code at hand would make of an open run: its flow is replayed over its history, and nothing is done.

    verdict = check_run(process, run, journal, signals, ...)

No inline step is called and nothing is written. Where facts have come that no turn has seen, what follows from
them is no difference of the code's, so only what keeps the run from going on is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from orchestrator.core.branches import TurnAbandoned
from orchestrator.core.definition import Process, Registry
from orchestrator.core.journal import Activity, BufferedSignal
from orchestrator.core.kinds.base import Request
from orchestrator.core.outcome import RunContext, TurnOutcome
from orchestrator.core.replay import take_turn
from orchestrator.core.run import RunStatus


class Class(StrEnum):
    """What would become of a run, from harmless to worst."""

    UNCHANGED = "unchanged"
    """It goes on as before."""
    RECOVERS = "recovers"
    """It is an incident, and its flow goes on with this code."""
    DIFFERS = "differs"
    """It goes on, and not as the deployed code would from here on."""
    MASKED = "hangs on left-out values"
    """Of an exported history without values: what becomes of it hangs on them."""
    LACKS = "lacks code"
    """It needs a process or a stage that this program has not."""
    UNREADABLE = "unreadable data"
    """What is recorded doesn't fit the types of this code."""
    CONTRADICTS = "contradiction"
    """This code would not have asked for what is recorded."""
    BREAKS = "breaks"
    """The flow raises what no process should."""

    @property
    def goes_on(self) -> bool:
        """Whether a worker with this code can move the run."""
        return self in (Class.UNCHANGED, Class.RECOVERS, Class.DIFFERS)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason`: what makes it so, in words. The text of a flow's own exception is among them, and may name values."""

    found: Class
    reason: str = ""
    patches: tuple[tuple[str, bool], ...] = field(default=(), compare=False)
    """What `Flow.patched` answers in this run, by keys."""


def check_run(
    process: Process,
    run: RunContext,
    journal: Sequence[Activity],
    signals: Sequence[BufferedSignal],
    *,
    registry: Registry,
    status: RunStatus,
    needs_turn: bool,
) -> Verdict:
    """What this code would make of the run. `needs_turn`: facts have come since its last turn."""
    try:
        outcome = take_turn(
            process,
            run,
            journal,
            signals,
            registry=registry,
            perform_step=_perform_nothing,
            may_perform=False,
        )
    except TurnAbandoned as lack:
        return Verdict(Class.LACKS, str(lack))
    verdict = _verdict_by(outcome, status, needs_turn=needs_turn)
    return replace(verdict, patches=outcome.patches) if outcome.patches else verdict


def _verdict_by(outcome: TurnOutcome, status: RunStatus, *, needs_turn: bool) -> Verdict:
    if outcome.status is RunStatus.INCIDENT:
        return _broken(outcome)
    if status is RunStatus.INCIDENT:
        return Verdict(Class.RECOVERS, "its flow goes on with this code")
    if not needs_turn and (differences := _differences(outcome)):
        return Verdict(Class.DIFFERS, "; ".join(differences))
    return Verdict(Class.UNCHANGED)


def _perform_nothing(request: Request, _entry: Activity | None) -> Activity:
    raise TurnAbandoned(f"step {request.key} is not performed in a check")


def _broken(outcome: TurnOutcome) -> Verdict:
    error = outcome.error or {}
    kind, message = error.get("type", ""), error.get("message", "")
    if kind == "contradiction":
        return Verdict(Class.CONTRADICTS, message)
    if kind in ("PayloadMismatch", "PayloadError", "InvalidInput"):
        return Verdict(Class.UNREADABLE, message)
    return Verdict(Class.BREAKS, f"{kind}: {message}")


def _differences(outcome: TurnOutcome) -> list[str]:
    """What this code would do now that the last turn did not, in words."""
    if outcome.status.is_closed:
        return [f"it ends here: {outcome.status}"]
    opened = {each.request.key for each in outcome.opened}
    found = [f"it asks for {each.request.describe()}" for each in outcome.opened]
    found += [
        f"{each.key} takes a signal that is there"
        for each in outcome.consumed
        if each.key not in opened
    ]
    if outcome.goes_on:
        found.append("it calls a step")
    found += [f"a signal {unfit.name} no longer fits {unfit.key}" for unfit in outcome.set_aside]
    return found
