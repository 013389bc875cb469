"""What the demo found out: for people as tables, for programs as one document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from demo.log import ReadLog
from demo.oracle import Expectation
from demo.plan import MANAGER_APPROVAL, SECURITY_REVIEW, TakenDecision
from demo.record import Record
from demo.verdict import TOO_LATE, Difference, TooClose, Verdict

PLACES: Mapping[str, str] = {MANAGER_APPROVAL: "manager", SECURITY_REVIEW: "security"}

ROWS_MAX = 200
"""How many rows a list shows; the report's document holds them all."""

MANY_TOO_CLOSE = 0.05
"""The share of requests above which the demo says that its hours were too short for this machine."""

Asked = tuple[str, str, bool]
"""An approval that was asked: its name, its outcome, whether it escalated."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 99th percentile and worst of some seconds."""

    count: int
    median_seconds: float
    p99_seconds: float
    worst_seconds: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """The spread of any number of values, none included."""
        if not seconds:
            return cls(0, 0.0, 0.0, 0.0)
        two_at_least = seconds if len(seconds) > 1 else [*seconds, *seconds]
        hundredths = quantiles(two_at_least, n=100, method="inclusive")
        return cls(len(seconds), hundredths[49], hundredths[98], max(seconds))


@dataclass(frozen=True, slots=True)
class Report:
    """`expected` and `recorded` count what came of the requests, under the same names."""

    source: str
    traces: int
    requests: int
    unused: Mapping[str, int]
    hour_seconds: float
    faults: tuple[str, ...]
    expected: Mapping[str, int]
    recorded: Mapping[str, int]
    timers: Spread
    people: Spread
    runs_per_second: float
    effects_total: int
    effects_absorbed: int
    verdict: Verdict

    @classmethod
    def of(
        cls,
        log: ReadLog,
        expectations: Sequence[Expectation],
        record: Record,
        taken: Sequence[TakenDecision],
        verdict: Verdict,
        *,
        hour_seconds: float,
        faults: tuple[str, ...] = (),
    ) -> Report:
        """Count and measure it all."""
        late = sum(
            approval.answered and approval.result.outcome == "timed_out"
            for expectation in expectations
            for approval in expectation.approvals
        )
        refused = sum(one.refused == TOO_LATE for one in taken)
        return cls(
            source=log.source,
            traces=log.traces,
            requests=len(log.requests),
            unused=log.unused,
            hour_seconds=hour_seconds,
            faults=faults,
            expected=_counts(map(_asked_by_oracle, expectations), late),
            recorded=_counts(
                (
                    [(one.name, one.state, one.escalated) for one in run.approvals]
                    for run in record.runs.values()
                ),
                refused,
            ),
            timers=Spread.of(record.timer_lateness_seconds),
            people=Spread.of([one.lateness_seconds for one in taken if one.taken_at]),
            runs_per_second=record.runs_per_second,
            effects_total=record.effects_total,
            effects_absorbed=record.effects_absorbed,
            verdict=verdict,
        )

    def document(self) -> dict[str, Any]:
        """The report as plain data."""
        return {**asdict(self), "agrees": self.verdict.agrees}

    def pages(self) -> RenderableType:
        """The report as tables and lines, the conclusion last."""
        parts: list[RenderableType] = [self._outcomes(), self._lateness()]
        if self.verdict.too_close:
            parts.append(_too_close_table(self.verdict.too_close))
        if self.verdict.differences:
            parts.append(_differences_table(self.verdict.differences))
        return Group(*parts, *self._remarks(), self._conclusion())

    def _outcomes(self) -> Table:
        table = _table("Outcomes", "", ">by the delays", ">in the record")
        for name, expected in self.expected.items():
            recorded = self.recorded[name]
            style = "" if expected == recorded else "yellow"
            table.add_row(name, f"{expected:,}", Text(f"{recorded:,}", style))
        return table

    def _lateness(self) -> Table:
        table = _table("Lateness", "", ">count", ">median", ">p99", ">worst")
        for name, spread in (("timers fired", self.timers), ("decisions taken", self.people)):
            table.add_row(
                name,
                f"{spread.count:,}",
                _milliseconds(spread.median_seconds),
                _milliseconds(spread.p99_seconds),
                _milliseconds(spread.worst_seconds),
            )
        return table

    def _remarks(self) -> Iterator[Text]:
        for fault in self.faults:
            yield Text(f"On the way: {fault}", "yellow")
        yield Text(
            f"{self.runs_per_second:.1f} runs per second from the first start to the last end"
        )
        yield Text(
            f"{self.effects_total:,} effects in the directory service; "
            f"{self.effects_absorbed:,} repeated calls absorbed by their idempotency keys"
        )
        if self.verdict.too_close:
            number = len(self.verdict.too_close)
            yield Text(f"{number:,} too close to a boundary to judge: either side is right")
            if number > self.requests * MANY_TOO_CLOSE:
                yield Text(
                    "That is much: slower hours (--hour-seconds) judge more sharply", "yellow"
                )

    def _conclusion(self) -> Text:
        compared = self.verdict.compared
        if self.verdict.agrees:
            words = f"All {compared:,} runs ended as their delays say they must, each effect once."
            return Text(words, "bold green")
        differing = len({difference.trace_id for difference in self.verdict.differences})
        words = f"{differing:,} of {compared:,} runs did not end as their delays say they must."
        return Text(words, "bold red")


def log_line(log: ReadLog) -> str:
    """How many traces there were, how many are used, and why the others are not."""
    unused = "".join(f"; {count:,} not used: {reason}" for reason, count in log.unused.items())
    return f"{log.source}: {log.traces:,} traces, {len(log.requests):,} used{unused}"


def _asked_by_oracle(expectation: Expectation) -> list[Asked]:
    return [(one.name, one.result.outcome, one.result.escalated) for one in expectation.approvals]


def _counts(runs: Iterable[Sequence[Asked]], late_decisions: int) -> dict[str, int]:
    ended: Counter[tuple[str, str]] = Counter()
    escalated: Counter[str] = Counter()
    for asked in runs:
        escalated.update(name for name, _, is_escalated in asked if is_escalated)
        ended.update((name, outcome) for name, outcome, _ in asked[-1:])
    return {
        "approved": ended[SECURITY_REVIEW, "approved"],
        **{f"rejected by {who}": ended[name, "rejected"] for name, who in PLACES.items()},
        **{f"timed out at {who}": ended[name, "timed_out"] for name, who in PLACES.items()},
        **{f"escalated at {who}": escalated[name] for name, who in PLACES.items()},
        "late decisions refused": late_decisions,
    }


def _too_close_table(too_close: Sequence[TooClose]) -> Table:
    table = _table(
        "Too close to a boundary to judge: the lateness reaches as far as the boundary",
        *("trace", "approval", ">to the boundary", ">lateness", "by the delays", "in the record"),
    )
    for one in too_close[:ROWS_MAX]:
        table.add_row(
            one.trace_id,
            PLACES[one.approval],
            _milliseconds(one.boundary_distance_seconds),
            _milliseconds(one.lateness_seconds),
            one.expected,
            Text(one.recorded, "" if one.recorded == one.expected else "yellow"),
        )
    return table


def _differences_table(differences: Sequence[Difference]) -> Table:
    table = _table("Differences", "trace", "process", "what", "by the delays", "in the record")
    for one in differences[:ROWS_MAX]:
        what = PLACES.get(one.what, one.what)
        table.add_row(one.trace_id, one.process, what, one.expected, Text(one.recorded, "red"))
    return table


def _table(title: str, *columns: str) -> Table:
    """A table; the columns whose header begins with > are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        table.add_column(column.removeprefix(">"), justify=justify)
    return table


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"
