"""What other content changes of a version, in words; of a flow in Python, also as a diff of its text.

difference(former, process)   what was deployed, and the process that is to take its place
Standing                      where open runs stand by a stage that it changes
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.core.declarative_grammar import DeclarativeSpec, Timers
from orchestrator.core.definition import Process
from orchestrator.core.journal import Activity
from orchestrator.core.versions.content import Content

TEXT_LINES_MAX = 400
"""So many lines of a diff are kept."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference, in words. `stage`: whose place it is about, if it is about one."""

    says: str
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """All that a content changes. `text`: a unified diff of the flow's source, empty where there is none."""

    changes: tuple[Change, ...]
    text: str = ""

    def stages(self) -> tuple[str, ...]:
        """Those whose places changed: where runs stand by them is of interest."""
        return tuple(dict.fromkeys(each.stage for each in self.changes if each.stage))

    def words(self, standing: Standing) -> tuple[str, ...]:
        """Each change, and how many open runs stand where."""
        return tuple(
            "; ".join(filter(None, (each.says, standing.of(each.stage)))) for each in self.changes
        )


@dataclass(slots=True)
class Standing:
    """How many runs stand before a stage, at it and after it: counted from their journals, run by run."""

    stages: Sequence[str]
    _counts: dict[str, list[int]] = field(default_factory=dict)

    def count(self, journal: Iterable[Activity]) -> None:
        """One run more."""
        if not self.stages:
            return
        settled = {each.name: each.is_settled for each in journal if each.parent_key is None}
        for stage in self.stages:
            where = 0 if stage not in settled else 2 if settled[stage] else 1
            self._counts.setdefault(stage, [0, 0, 0])[where] += 1

    def of(self, stage: str) -> str:
        """In words; empty where no run is open, or no stage is meant."""
        before, at, after = self._counts.get(stage, (0, 0, 0))
        said = [
            f"{count} {verb if count != 1 else one} {where}"
            for count, verb, one, where in (
                (before, "runs stand", "run stands", "before it"),
                (at, "stand", "stands", "at it"),
                (after, "have", "has", "passed it"),
            )
            if count
        ]
        return ", ".join(said)


def difference(former: Content, process: Process) -> Difference:
    """What the process changes of what was deployed."""
    changes: list[Change] = []
    text = ""
    if former.kind != process.kind:
        changes.append(Change(f"it was {_kind(former.kind)}, and is {_kind(process.kind)}"))
    elif process.kind == "declarative":
        changes += _of_specs(former.spec, process.spec)
    elif former.source is None or process.source is None:
        changes.append(Change("the text of one of the two was not kept, so no diff can be shown"))
    else:
        text = _text_diff(former, process)
        if not text:
            changes.append(Change("the flow's own text is the same"))
    changes += _of_terms(former, process)
    return Difference(tuple(changes), text)


def _kind(kind: str) -> str:
    return "YAML" if kind == "declarative" else "a flow in Python"


def _text_diff(former: Content, process: Process) -> str:
    lines = list(
        difflib.unified_diff(
            (former.source or "").splitlines(),
            (process.source or "").splitlines(),
            f"{process.name} version {process.version} revision {former.code_revision}",
            "the code at hand",
            lineterm="",
        )
    )
    if len(lines) > TEXT_LINES_MAX:
        more = len(lines) - TEXT_LINES_MAX
        lines = [*lines[:TEXT_LINES_MAX], f"… and {more} lines more"]
    return "\n".join(lines)


def _of_terms(former: Content, process: Process) -> Iterator[Change]:
    if former.queue != process.queue:
        yield Change(
            f"its turns are taken on {_queue(process.queue)}, where it was {_queue(former.queue)}"
        )
    if former.expires_after_seconds != process.expires_after_seconds:
        yield Change(
            f"a run {_expiry(process.expires_after_seconds)}, where it {_expiry(former.expires_after_seconds)};"
            " runs that are open keep the moment they have"
        )


def _queue(name: str | None) -> str:
    return "the default queue" if name is None else f"queue {name}"


def _expiry(seconds: float | None) -> str:
    return "never expires" if seconds is None else f"expires after {_hours(seconds / 3600)}"


def _hours(hours: float | None) -> str:
    return "never" if hours is None else f"{hours:g} hour{'' if hours == 1 else 's'}"


def _of_specs(former: Mapping[str, object], now: Mapping[str, object]) -> Iterator[Change]:
    before, after = _stages(former), _stages(now)
    kept = _kept_in_order(before, after)
    for name in before:
        if name not in after:
            yield Change(f"{name} is gone", name)
    for place, name in enumerate(after):
        if name not in before:
            yield Change(f"{name} is new, {_where(after, place)}", name)
        elif name not in kept:
            yield Change(f"{name} now {_where(after, place)}", name)
    yield from _of_timers(_timers(former), _timers(now))


def _stages(spec: Mapping[str, object]) -> list[str]:
    found = spec.get("stages", [])
    return [str(each) for each in found] if isinstance(found, list | tuple) else []


def _timers(spec: Mapping[str, object]) -> Timers:
    return DeclarativeSpec.model_validate(
        {"stages": ["x"], "timers": spec.get("timers", {})}
    ).timers


def _kept_in_order(before: Sequence[str], after: Sequence[str]) -> frozenset[str]:
    """Those that stand among each other as they did: the longest such row."""
    lengths = [[0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for i, one in reversed(list(enumerate(before))):
        for j, other in reversed(list(enumerate(after))):
            lengths[i][j] = (
                lengths[i + 1][j + 1] + 1
                if one == other
                else max(lengths[i + 1][j], lengths[i][j + 1])
            )
    kept, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        if before[i] == after[j]:
            kept.append(before[i])
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return frozenset(kept)


def _where(stages: Sequence[str], place: int) -> str:
    if place:
        return f"after {stages[place - 1]}"
    return f"first, before {stages[1]}" if len(stages) > 1 else "alone"


def _of_timers(before: Timers, now: Timers) -> Iterator[Change]:
    for what, was, is_now in (
        ("approvals time out after", before.approval_timeout_hours, now.approval_timeout_hours),
        ("approvals escalate after", before.escalation_after_hours, now.escalation_after_hours),
    ):
        if was != is_now:
            yield Change(
                f"{what} {_hours(is_now)}, where it was {_hours(was)}; those that are open keep theirs"
            )
