"""Replay all open runs against the code at hand: which go on, which differ, and which would be stranded, and why.

Read only. Runs of which the same is true make one group, with how many they are, some of them by name, and what
to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from orchestrator.core.checking import Class, Verdict, check_run
from orchestrator.core.definition import Process
from orchestrator.core.versions.classes import EditClass, class_of
from orchestrator.engine.context import EngineContext
from orchestrator.errors import PerennialError
from orchestrator.store.reads.loading import LoadedRun, load_open_runs
from orchestrator.store.transitions import processes

SAMPLES_MAX = 3
"""So many runs of a group are named."""

_REMEDIES = {
    Class.UNCHANGED: "",
    Class.RECOVERS: "`perennial resume` them once this code is deployed",
    Class.DIFFERS: "nothing, if this is meant",
    Class.MASKED: "export these runs with --values, or check them in the database",
    Class.LACKS: "keep a worker with the code that has it until these runs have ended",
    Class.UNREADABLE: "let the model take the recorded data too, or raise the version",
    Class.CONTRADICTS: "raise the version: these runs stay with the code that they began with, or `perennial migrate`"
    " them by a plan",
    Class.BREAKS: "mend the flow; it raises this for each of them",
}


@dataclass(frozen=True, slots=True)
class CheckedGroup:
    """Runs of one version of which the same is true. `samples`: business keys or ids of some of them."""

    process: str
    version: int
    found: Class
    reason: str
    runs: int
    samples: tuple[str, ...]

    @property
    def remedy(self) -> str:
        """What to do; empty if nothing."""
        return _REMEDIES[self.found]


@dataclass(frozen=True, slots=True)
class PatchUse:
    """A patch of a process: how many of its open runs are without it, and need the former code."""

    process: str
    version: int
    name: str
    runs: int
    without: int

    def __str__(self) -> str:
        said = f"patched {self.name!r}: {self.without} of {self.runs} open runs are without it"
        return said if self.without else f"{said}: the old branch can go"


@dataclass(frozen=True, slots=True)
class Edit:
    """The class of what the code at hand changes of a version, and what of it no fingerprint is of."""

    process: str
    version: int
    edit: EditClass
    unseen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a check: its groups, worst first."""

    runs: int
    groups: tuple[CheckedGroup, ...]
    patches: tuple[PatchUse, ...] = ()
    edits: tuple[Edit, ...] = ()

    @property
    def is_safe(self) -> bool:
        """Whether each open run can go on with this code."""
        return all(group.found.goes_on for group in self.groups)


def check(
    context: EngineContext,
    candidates: Sequence[Process] = (),
    *,
    process: str | None = None,
    progress: Callable[[int], None] = lambda _count: None,
) -> Checked:
    """Check all open runs, or those of one process. `candidates` stand in for what is registered or deployed.

    `progress` is called with how many runs have been checked so far.
    """
    definitions = _Definitions(context, candidates)
    groups: dict[tuple[str, int, Verdict], list[LoadedRun]] = {}
    counts: dict[tuple[str, int, Verdict], int] = {}
    patches = _Patches()
    total = 0
    for run in _open_runs(context, process):
        verdict = _verdict_on(context, definitions, run)
        patches.note(run, verdict)
        group = run.context.process, run.context.version, verdict
        counts[group] = counts.get(group, 0) + 1
        samples = groups.setdefault(group, [])
        if len(samples) < SAMPLES_MAX:
            samples.append(run)
        total += 1
        progress(total)
    order = list(Class)
    found = [
        CheckedGroup(
            name,
            version,
            verdict.found,
            verdict.reason,
            counts[name, version, verdict],
            tuple(run.context.business_key or str(run.context.id) for run in samples),
        )
        for (name, version, verdict), samples in groups.items()
    ]
    found.sort(key=lambda each: (-order.index(each.found), each.process, each.version, -each.runs))
    return Checked(total, tuple(found), patches.all(), _edits(context, definitions, found))


def _edits(
    context: EngineContext, definitions: _Definitions, groups: Sequence[CheckedGroup]
) -> tuple[Edit, ...]:
    """Of each version that has open runs, and whose code is at hand."""
    edits = []
    for name, version in sorted({(each.process, each.version) for each in groups}):
        process = definitions.at_hand.get((name, version))
        if process is None:
            continue
        with context.connection() as connection:
            deployed = processes.read_content(connection, name, version)
        if deployed is None:
            continue
        content, _ = deployed
        edit = class_of(
            (each.found for each in groups if (each.process, each.version) == (name, version)),
            is_same=content.is_that_of(process),
            text_is_same=content.source == process.source,
        )
        edits.append(Edit(name, version, edit, process.unseen))
    return tuple(edits)


class _Patches:
    """What runs have answered to `Flow.patched`, by process and name."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, int], int] = {}
        self._without: dict[tuple[str, int, str], int] = {}

    def note(self, run: LoadedRun, verdict: Verdict) -> None:
        place = run.context.process, run.context.version
        self._runs[place] = self._runs.get(place, 0) + 1
        said: dict[str, bool] = {}
        for key, is_patched in verdict.patches:
            name = key.rpartition("#")[2]
            said[name] = said.get(name, True) and is_patched
        for name, is_patched in said.items():
            self._without[*place, name] = self._without.get((*place, name), 0) + (not is_patched)

    def all(self) -> tuple[PatchUse, ...]:
        return tuple(
            PatchUse(process, version, name, self._runs[process, version], without)
            for (process, version, name), without in sorted(self._without.items())
        )


def _open_runs(context: EngineContext, process: str | None) -> Iterator[LoadedRun]:
    """Page after page, by id: a run that starts during a check may be among them, and one that ends may not."""
    after = UUID(int=0)
    while True:
        with context.reading() as connection:
            page = load_open_runs(
                connection, after=after, process=process, limit=context.settings.batch_size
            )
        yield from page
        if len(page) < context.settings.batch_size:
            return
        after = page[-1].context.id


class _Definitions:
    """What runs are checked against, each found once. A Verdict: this program has none."""

    def __init__(self, context: EngineContext, candidates: Sequence[Process]) -> None:
        self._context = context
        self.at_hand = self._context.registry.processes | {
            (each.name, each.version): each for each in candidates
        }
        self._deployed: dict[tuple[str, int, int], Process | Verdict] = {}

    def of(self, run: LoadedRun) -> Process | Verdict:
        """The code at hand, whatever the run stands on; where there is none, what it stands on."""
        name, version = run.context.process, run.context.version
        if (name, version) in self.at_hand:
            return self.at_hand[name, version]
        place = name, version, run.context.code_revision
        if place not in self._deployed:
            self._deployed[place] = self._find(*place)
        return self._deployed[place]

    def _find(self, name: str, version: int, code_revision: int) -> Process | Verdict:
        try:
            with self._context.connection() as connection:
                return self._context.definitions.find(connection, name, version, code_revision)
        except PerennialError as lack:
            return Verdict(Class.LACKS, str(lack))


def _verdict_on(context: EngineContext, definitions: _Definitions, run: LoadedRun) -> Verdict:
    definition = definitions.of(run)
    if isinstance(definition, Verdict):
        return definition
    return check_run(
        definition,
        run.context,
        run.journal,
        run.signals,
        registry=context.registry,
        status=run.status,
        needs_turn=run.needs_turn,
    )
