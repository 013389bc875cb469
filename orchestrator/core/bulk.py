"""One verb over many runs, as data: what is previewed, kept, and done line by line.

    Preview          the exact set, its digest, and what would be refused
    OperationView    an operation as the record has it: where it stands, who is at it, how many are done
    Result           what became of one run
    why_skipped      a run that has changed since the preview is left alone

Pure: the engine selects the runs and applies the verb (engine.operations.bulk).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from orchestrator.core.selection import RunFilter, Selected

DIGEST_CHARACTERS = 12
SAMPLES = 3
PER_SECOND_MAX = 10_000.0
PER_SECOND_MIN = 1 / 3600


class OperationState(StrEnum):
    """Where an operation stands. `previewed`: nobody has applied it yet."""

    PREVIEWED = "previewed"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"


class LineState(StrEnum):
    """What became of one run. `skipped`: it had changed; `refused`: the verb didn't take it; `failed`: Postgres."""

    TO_DO = "to do"
    DONE = "done"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that are alike: of one process and version, at one status, by one cause; or refused for one reason."""

    process: str
    version: int
    status: str
    cause: str | None
    runs: int
    samples: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a verb would do, and to which runs exactly: `runs`, each with the revision at which it was seen."""

    verb: str
    what: str
    arguments: Mapping[str, Any]
    asked: RunFilter
    runs: tuple[Selected, ...] = field(repr=False)
    refusals: tuple[tuple[Selected, str], ...] = field(default=(), repr=False)
    operation_id: UUID | None = None
    looks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """What it would do to one run of each group: the run's name, and sentences."""

    @property
    def digest(self) -> str:
        """Of the verb, its arguments and the exact set: who confirms it confirms these runs as they stand."""
        runs = [[str(run.id), run.revision] for run in self.runs]
        content = json.dumps([self.verb, dict(self.arguments), runs], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:DIGEST_CHARACTERS]

    @property
    def groups(self) -> list[RunGroup]:
        """The runs that it would act on, the largest group first."""
        return _grouped((run, "") for run in self.runs)

    @property
    def samples(self) -> list[Selected]:
        """A run of each group."""
        first = {_alike(run): run for run in reversed(self.runs)}
        return [first[alike] for alike in dict.fromkeys(map(_alike, self.runs))]

    @property
    def refused(self) -> list[RunGroup]:
        """The runs that it would not act on, by reason."""
        return _grouped(self.refusals)


def _alike(run: Selected) -> tuple[str, int, str, str | None]:
    return (run.process, run.version, str(run.status), run.cause)


def _grouped(runs: Iterable[tuple[Selected, str]]) -> list[RunGroup]:
    names: dict[tuple[Any, ...], list[str]] = {}
    counts: Counter[tuple[Any, ...]] = Counter()
    for run, reason in runs:
        alike = (*_alike(run), reason)
        counts[alike] += 1
        if counts[alike] <= SAMPLES:
            names.setdefault(alike, []).append(run.name)
    return [
        RunGroup(process, version, status, cause, count, tuple(names[alike]), reason)
        for alike, count in counts.most_common()
        for process, version, status, cause, reason in [alike]
    ]


@dataclass(frozen=True, slots=True)
class OperationView:
    """An operation as the record has it. `filter`, `arguments` are plain JSON; `counts` says how many lines stand how.

    `held_by` is at it, and has to say so again before `held_until`; whoever doesn't has died or lost the record.
    """

    id: UUID
    verb: str
    arguments: Mapping[str, Any]
    filter: Mapping[str, Any]
    digest: str
    by: str
    reason: str
    state: OperationState
    rate_per_second: float | None
    created_at: datetime
    finished_at: datetime | None
    runs: int
    counts: Mapping[str, int]
    held_by: str | None
    held_until: datetime | None
    is_held: bool

    @property
    def is_interrupted(self) -> bool:
        """Its command is gone, and it is not at its end: `resume` takes it up."""
        return self.state is OperationState.RUNNING and not self.is_held

    @property
    def left(self) -> int:
        """So many runs are to do."""
        return self.counts.get(LineState.TO_DO, 0)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one run of an operation. `what` says more: why it was skipped, which run follows it."""

    ordinal: int
    run_id: UUID
    business_key: str | None
    state: LineState
    what: str
    at: datetime | None


def why_skipped(seen_at: int, stands_at: int | None, status: str | None) -> str:
    """Why a run of the set is left alone. Empty: it stands as it was seen."""
    if stands_at is None:
        return "it isn't there any more"
    if stands_at != seen_at:
        return f"it has changed since the preview, and is {status} now"
    return ""
