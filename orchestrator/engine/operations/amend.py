"""Amend a version that runs have used: try the new content on each open run, show it, and move those that go on.

    preview   what would become of the runs, by group; nothing is written
    apply     the content is the version's next revision, and runs move to it, each as it was checked

A command that died in the middle leaves each run on one revision or the other; called again, it goes on from there:
the content is current then, and those that are on earlier revisions are what is left to do. (docs/adr/0045)
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from uuid import UUID

from orchestrator.core.checking import Class, Verdict, check_run
from orchestrator.core.checks import check_words, composed
from orchestrator.core.definition import Process
from orchestrator.core.outcome import park
from orchestrator.core.run import RunStatus
from orchestrator.core.schemas import InputSchema, input_schema_of
from orchestrator.core.versions.classes import EditClass, class_of
from orchestrator.core.versions.content import Content
from orchestrator.core.versions.differences import Difference, Standing, difference
from orchestrator.engine.check import SAMPLES_MAX
from orchestrator.engine.context import EngineContext
from orchestrator.engine.operations.staying import Staying, who_moves
from orchestrator.engine.operations.version_runs import open_runs_of, pages_of
from orchestrator.errors import StalePreview, UnknownProcess
from orchestrator.store.reads.loading import LoadedRun, load_open_runs, load_runs
from orchestrator.store.transitions import processes
from orchestrator.store.transitions.amend import (
    AsChecked,
    amend_if_current,
    move_if_unchanged,
    park_if_unchanged,
)

PASSES_MAX = 5
"""So often a run is checked again that has changed since: then it is left for a later call."""

RUNS_TRIED_MAX = 1_000
"""So many open runs are tried for the sentence of a refusal."""

REASON_MAX = 2_000
"""So many characters of why a run can't go on are kept with it."""

_REMEDIES = {
    Class.CONTRADICTS: "migrate them by a plan, or raise the version",
    Class.UNREADABLE: "let the model take the recorded data too",
    Class.LACKS: "give this program the stage that they need",
    Class.BREAKS: "mend the flow; it raises this for each of them",
    Class.RECOVERS: "`perennial resume` them once workers have this code",
}

Progress = Callable[[int], None]


class Others(StrEnum):
    """What becomes of runs that can't go on with the new content."""

    STAY = "stay"
    """They stand on the revision that they have: workers with its code move them."""
    PARK = "park"
    """They are incidents, with their reason."""


@dataclass(frozen=True, slots=True)
class AmendedGroup:
    """Runs of which the same is true. `becomes`: moves, stays or parks. `samples`: keys or ids of some of them."""

    found: Class
    reason: str
    becomes: str
    runs: int
    samples: tuple[str, ...]

    @property
    def remedy(self) -> str:
        """What to do; empty if nothing."""
        return _REMEDIES.get(self.found, "")


@dataclass(frozen=True, slots=True)
class Amendment:
    """What an amendment would do, and its `digest`: of the content, and of what becomes of whom.

    `code_revision`: the one that is current. `is_current`: the content is its already, so that runs on earlier
    revisions are all that is left to move. The digest does not count runs that go on as others do: they come and go.
    Nor does it count workers, who come and go too: `staying` names those that live now.
    """

    process: str
    version: int
    code_revision: int
    is_current: bool
    fingerprint: str
    edit: EditClass
    others: Others
    words: tuple[str, ...]
    diff: str
    runs: int
    groups: tuple[AmendedGroup, ...]
    digest: str
    staying: tuple[Staying, ...] = ()

    @property
    def does_nothing(self) -> bool:
        """Whether an application would change nothing."""
        return self.is_current and all(group.becomes == "stays" for group in self.groups)


@dataclass(frozen=True, slots=True)
class Amended:
    """What an amendment has done. `busy`: runs that changed under every try; called again, they are tried again."""

    process: str
    version: int
    code_revision: int
    moved: int
    stayed: int
    parked: int
    busy: int


def is_due(context: EngineContext, process: Process) -> bool:
    """Whether it takes an amendment: runs have used the version with other content, or are on an earlier revision."""
    with context.reading() as connection:
        found = processes.read_content(connection, process.name, process.version)
        if found is None:
            return False
        content, is_used = found
        if not content.is_that_of(process):
            return is_used
        return bool(
            load_open_runs(
                connection,
                after=UUID(int=0),
                process=process.name,
                version=process.version,
                not_on=content.code_revision,
                limit=1,
            )
        )


def in_a_sentence(context: EngineContext, definitions: Iterable[Process], where: str) -> str:
    """What an amendment would do by the one of these that stands there, for who was refused. Empty: none does."""
    for process in definitions:
        if process.where == where and is_due(context, process):
            seen = preview(context, process, runs_max=RUNS_TRIED_MAX)
            goes_on = sum(each.runs for each in seen.groups if each.becomes == "moves")
            stay = seen.runs - goes_on
            which = f"the first {seen.runs}" if seen.runs >= RUNS_TRIED_MAX else f"all {seen.runs}"
            if not seen.runs:
                told = "No run of it is open"
            elif not stay:
                told = f"It moves {which} open run(s): they go on with this content"
            else:
                told = f"Of {which} open run(s), {stay} can't go on with this content, and {goes_on} can"
            unseen = f". Not looked into: {', '.join(process.unseen)}" if process.unseen else ""
            return f"{told} (class of the edit: {seen.edit}){unseen}."
    return ""


def preview(
    context: EngineContext,
    process: Process,
    *,
    others: Others = Others.STAY,
    runs_max: int | None = None,
    progress: Progress = lambda _count: None,
) -> Amendment:
    """What an amendment by this process would do. Writes nothing. Raises UnknownProcess: the version isn't deployed.

    `runs_max`: so many runs are tried, and no more.
    """
    content = _content(context, process)
    is_current = content.is_that_of(process)
    changed = difference(content, process) if not is_current else Difference(())
    standing = Standing(changed.stages())
    groups: dict[tuple[Verdict, str], tuple[int, list[str]]] = {}
    staying: Counter[int] = Counter()
    stopped = 0
    total = 0
    runs = open_runs_of(context, process, content.code_revision if is_current else None)
    for run in islice(runs, runs_max):
        verdict = _verdict_on(context, process, run)
        becomes = _becomes(verdict, run, others)
        standing.count(run.journal)
        count, samples = groups.get((verdict, becomes), (0, []))
        if len(samples) < SAMPLES_MAX:
            samples.append(run.context.business_key or str(run.context.id))
        groups[verdict, becomes] = count + 1, samples
        if becomes == "stays":
            staying[run.context.code_revision] += 1
        if becomes != "moves":
            # A sum, so that no order and no list of them is kept.
            stopped += int(_sha256([str(run.context.id), verdict.found, verdict.reason]), 16)
        total += 1
        progress(total)
    order = list(Class)
    found = tuple(
        sorted(
            (
                AmendedGroup(verdict.found, verdict.reason, becomes, count, tuple(samples))
                for (verdict, becomes), (count, samples) in groups.items()
            ),
            key=lambda each: (-order.index(each.found), each.becomes, -each.runs, each.reason),
        )
    )
    return Amendment(
        process=process.name,
        version=process.version,
        code_revision=content.code_revision,
        is_current=is_current,
        fingerprint=process.fingerprint,
        edit=class_of((each.found for each in found), is_same=is_current),
        others=others,
        words=changed.words(standing),
        diff=changed.text,
        runs=total,
        groups=found,
        staying=who_moves(context, process, staying),
        digest=_sha256(
            [
                process.name,
                process.version,
                content.code_revision,
                process.fingerprint_by_way,
                others,
                sorted({(each.found, each.reason) for each in found if each.becomes == "moves"}),
                stopped % 2**256,
            ]
        )[:12],
    )


def apply(
    context: EngineContext,
    process: Process,
    shown: Amendment,
    *,
    by: str = "",
    reason: str = "",
    progress: Progress = lambda _count: None,
) -> Amended:
    """Do what was shown. Each run is checked as it is now; `shown.others`: what becomes of those that can't go on.

    Raises StalePreview: another revision is current than the one that was shown.
    """
    if by:
        check_words(by, what="an operator", where="by")
    actor = composed(by) or "operator"
    number = _revision_of(context, process, shown, by=actor, reason=reason)
    done = _Applying(context, process, number, shown.others)
    done.actor, done.reason = actor, reason
    again: list[UUID] = []
    checked = 0
    for page in pages_of(context, process, number):
        again += done.take(page)
        checked += len(page)
        progress(checked)
    for _ in range(PASSES_MAX):
        if not again:
            break
        with context.reading() as connection:
            runs = load_runs(connection, again)
        again = done.take(
            [
                run
                for run in runs
                if not run.status.is_closed and run.context.code_revision != number
            ]
        )
    return Amended(
        process.name, process.version, number, done.moved, done.stayed, done.parked, len(again)
    )


def _content(context: EngineContext, process: Process) -> Content:
    with context.connection() as connection:
        found = processes.read_content(connection, process.name, process.version)
    if found is None:
        raise UnknownProcess(
            f"process {process.name!r} version {process.version} is not deployed, so there is nothing to amend."
            " `perennial deploy` deploys it"
        )
    return found[0]


def _revision_of(
    context: EngineContext, process: Process, shown: Amendment, *, by: str, reason: str
) -> int:
    """The revision with this content, made now if it isn't current already."""
    takes = input_schema_of(process.input_type) if process.takes_input else InputSchema()
    number = None
    if not shown.is_current:
        diff = {"edit": shown.edit, "words": list(shown.words), "text": shown.diff}
        with context.transaction() as connection:
            number = amend_if_current(
                connection,
                process,
                takes,
                current=shown.code_revision,
                by=by,
                reason=reason,
                diff=diff,
            )
    if number is not None:
        return number
    content = _content(context, process)
    # Somebody else has made the same: what is left is to move runs, and they do it too.
    if content.is_that_of(process):
        return content.code_revision
    now = preview(context, process, others=shown.others)
    raise StalePreview(
        f"{process.name} version {process.version} has been amended since this was shown: revision"
        f" {content.code_revision} is current, where it was {shown.code_revision}. Look again, then confirm that",
        digest=now.digest,
    )


class _Applying:
    """Runs, page by page: checked, and moved or parked in one statement each."""

    def __init__(
        self, context: EngineContext, process: Process, number: int, others: Others
    ) -> None:
        self._context, self._process, self._number = context, process, number
        self._others = others
        self.actor, self.reason = "", ""
        self.moved = self.stayed = self.parked = 0

    def take(self, runs: Sequence[LoadedRun]) -> list[UUID]:
        """Those that have changed since they were read: nothing was done with them."""
        moves, parks = [], []
        for run in runs:
            verdict = _verdict_on(self._context, self._process, run)
            becomes = _becomes(verdict, run, self._others)
            if becomes == "moves":
                moves.append(self._moving(run, verdict))
            elif becomes == "parks":
                parks.append(self._parking(run, verdict))
            else:
                self.stayed += 1
        moved, parked = self._write(moves, parks)
        self.moved += len(moved)
        self.parked += len(parked)
        return [each.run_id for each in (*moves, *parks) if each.run_id not in moved | parked]

    def _write(
        self, moves: Sequence[AsChecked], parks: Sequence[AsChecked]
    ) -> tuple[set[UUID], set[UUID]]:
        moved: set[UUID] = set()
        parked: set[UUID] = set()
        with self._context.reading() as connection:
            if moves:
                moved = move_if_unchanged(
                    connection,
                    moves,
                    to=self._number,
                    queue=self._process.queue,
                    actor=self.actor,
                )
            if parks:
                parked = park_if_unchanged(connection, parks, actor=self.actor)
        return moved, parked

    def _moving(self, run: LoadedRun, verdict: Verdict) -> AsChecked:
        detail = {
            "from": run.context.code_revision,
            "to": self._number,
            "found": str(verdict.found),
            **({"differs": verdict.reason} if verdict.found is Class.DIFFERS else {}),
            **({"reason": self.reason} if self.reason else {}),
        }
        return AsChecked(
            run.context.id,
            run.revision,
            run.context.code_revision,
            needs_turn=run.needs_turn or verdict.found is Class.DIFFERS,
            detail=detail,
        )

    def _parking(self, run: LoadedRun, verdict: Verdict) -> AsChecked:
        message = (
            f"version {self._process.version} was amended to revision {self._number}, and this run can't go on with"
            f" it ({verdict.found}): {verdict.reason}"
        )
        parked = park(run.context, run.journal, kind="Amended", message=message[:REASON_MAX])
        return AsChecked(
            run.context.id,
            run.revision,
            run.context.code_revision,
            needs_turn=True,
            error=parked.error,
        )


def _verdict_on(context: EngineContext, process: Process, run: LoadedRun) -> Verdict:
    return check_run(
        process,
        run.context,
        run.journal,
        run.signals,
        registry=context.registry,
        status=run.status,
        needs_turn=run.needs_turn,
    )


def _becomes(verdict: Verdict, run: LoadedRun, others: Others) -> str:
    if verdict.found.goes_on:
        return "moves"
    # One that rests already is in sight.
    if others is Others.PARK and run.status in (RunStatus.RUNNING, RunStatus.WAITING):
        return "parks"
    return "stays"


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of(amendments: Iterable[Amendment]) -> str:
    """Of several that are confirmed together: of one, its own."""
    digests = [each.digest for each in amendments]
    return digests[0] if len(digests) == 1 else _sha256(digests)[:12]
