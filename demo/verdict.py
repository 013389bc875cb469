"""The record against the oracle, run by run.

The delays are the log's, but a real person and a real timer are a little late. Where a decision
lies nearer to an escalation or a timeout than that lateness (the timers' worst, plus this
decision's own), the oracle can't tell on which side it fell: it is listed as too close to judge,
whichever way it went, and either side is right. Every other difference is a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from demo.oracle import Expectation, ExpectedApproval
from demo.plan import TakenDecision
from demo.record import Record, RecordedApproval, RecordedRun
from orchestrator.core.run import RunStatus
from orchestrator.errors import DecisionTooLate

TOO_LATE = DecisionTooLate.__name__

_ALWAYS_DONE = Counter(validate=1, notify=1)
_DONE_WHEN_APPROVED = Counter(create=1, grant=1)


@dataclass(frozen=True, slots=True)
class Difference:
    """What should have been and what is, in words."""

    trace_id: str
    process: str
    what: str
    expected: str
    recorded: str


@dataclass(frozen=True, slots=True)
class TooClose:
    """A decision so near a boundary that lateness may have carried it across."""

    trace_id: str
    approval: str
    boundary_distance_seconds: float
    lateness_seconds: float
    expected: str
    recorded: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`too_close` are listed and excused; `differences` are failures."""

    compared: int
    differences: tuple[Difference, ...]
    too_close: tuple[TooClose, ...]

    @property
    def agrees(self) -> bool:
        """True when nothing differs that could be judged."""
        return not self.differences


def judge(
    expectations: Sequence[Expectation],
    record: Record,
    taken: Iterable[TakenDecision],
    *,
    hour_seconds: float,
) -> Verdict:
    """Compare every run that was expected; a run that nobody expected is a difference too."""
    decisions = {(one.trace_id, one.approval): one for one in taken}
    lateness = _Lateness(
        timers_worst_seconds=max(record.timer_lateness_seconds, default=0.0),
        decisions=decisions,
    )
    differences: list[Difference] = []
    too_close: list[TooClose] = []
    for expectation in expectations:
        run = record.runs.get(expectation.trace_id)
        if run is None:
            missing = Difference(
                expectation.trace_id, "", "the run", expectation.outcome, "missing"
            )
            differences.append(missing)
            continue
        found, close = _compare_approvals(expectation, run, lateness, hour_seconds=hour_seconds)
        differences += found or [
            *_compare_late_decisions(expectation, run, decisions),
            *_compare_what_followed(run),
        ]
        too_close += close
    expected_ids = {expectation.trace_id for expectation in expectations}
    differences += [
        Difference(trace_id, run.process, "the run", "none", str(run.id))
        for trace_id, run in record.runs.items()
        if trace_id not in expected_ids
    ]
    return Verdict(len(expectations), tuple(differences), tuple(too_close))


@dataclass(frozen=True, slots=True)
class _Lateness:
    """How far from its due time anything may have happened."""

    timers_worst_seconds: float
    decisions: Mapping[tuple[str, str], TakenDecision]

    def of_seconds(self, trace_id: str, approval: str) -> float:
        taken = self.decisions.get((trace_id, approval))
        own_seconds = abs(taken.lateness_seconds) if taken is not None else 0.0
        return max(0.0, self.timers_worst_seconds) + own_seconds


def _compare_approvals(
    expectation: Expectation, run: RecordedRun, lateness: _Lateness, *, hour_seconds: float
) -> tuple[list[Difference], list[TooClose]]:
    """The first approval that differs explains all that follows, so only that one is told."""
    too_close: list[TooClose] = []
    for expected, recorded in zip_longest(expectation.approvals, run.approvals):
        told = _expected_text(expected), _recorded_text(recorded)
        if expected is not None and recorded is not None:
            late_seconds = lateness.of_seconds(run.trace_id, expected.name)
            distance_seconds = expected.boundary_distance_hours * hour_seconds
            if distance_seconds <= late_seconds:
                too_close.append(
                    TooClose(run.trace_id, expected.name, distance_seconds, late_seconds, *told)
                )
            plausible = expected.results_within(late_seconds / hour_seconds)
            if (recorded.state, recorded.escalated) in {
                (r.outcome, r.escalated) for r in plausible
            }:
                if recorded.state == expected.result.outcome:
                    continue
                break  # with another outcome begins a story that the oracle can't tell
        name = (expected or recorded).name
        return [Difference(run.trace_id, run.process, name, *told)], too_close
    return [], too_close


def _compare_late_decisions(
    expectation: Expectation, run: RecordedRun, taken: Mapping[tuple[str, str], TakenDecision]
) -> list[Difference]:
    """Where time ran out, whoever answered after it must have been refused for that reason."""
    differences = []
    for expected, recorded in zip(expectation.approvals, run.approvals, strict=False):
        if not expected.answered or recorded.state != "timed_out":
            continue
        decision = taken.get((run.trace_id, expected.name))
        answer = "never sent" if decision is None else decision.refused or "taken"
        if answer != TOO_LATE:
            told = Difference(run.trace_id, run.process, "late decision", TOO_LATE, answer)
            differences.append(told)
    return differences


def _compare_what_followed(run: RecordedRun) -> list[Difference]:
    """Whether the end of the run, its output and its effects follow from its last approval."""
    decided = run.approvals[-1].state

    def difference(what: str, expected: str, recorded: str) -> Difference:
        return Difference(run.trace_id, run.process, what, expected, recorded)

    if run.status is not RunStatus.COMPLETED:
        return [difference("status", RunStatus.COMPLETED, run.status)]
    found = []
    if not output_tells(run, decided):
        found.append(difference("output", decided, repr(run.output)))
    due = _ALWAYS_DONE + (_DONE_WHEN_APPROVED if decided == "approved" else Counter())
    if run.effects != due:
        found.append(difference("effects", _counted(due), _counted(run.effects)))
    return found


def output_tells(run: RecordedRun, outcome: str) -> bool:
    """Whether the output tells that outcome: the YAML form names it, the Python form grants."""
    if isinstance(run.output, dict) and "outcome" in run.output:
        return bool(run.output["outcome"] == ("completed" if outcome == "approved" else outcome))
    return (run.output is not None) == (outcome == "approved")


def _expected_text(approval: ExpectedApproval | None) -> str:
    if approval is None:
        return "not asked"
    return _text(approval.result.outcome, escalated=approval.result.escalated)


def _recorded_text(approval: RecordedApproval | None) -> str:
    return _text(approval.state, escalated=approval.escalated) if approval else "not asked"


def _text(outcome: str, *, escalated: bool) -> str:
    return outcome.replace("_", " ") + (", escalated" if escalated else "")


def _counted(effects: Mapping[str, int]) -> str:
    return ", ".join(f"{effect} ×{count}" for effect, count in sorted(effects.items())) or "none"
