"""A plan of migration over all open runs of a version: what it would do, done, and undone.

preview   each run is decided purely, and grouped; its digest names exactly that set
apply     one transaction for each run, which holds over the revision that was read; again, it goes on where it was
undo      of each run that has made no step since
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.checks import check_words, composed
from orchestrator.core.versions.migrated import Migrated
from orchestrator.core.versions.migrating import MakeInput, plan_for
from orchestrator.core.versions.plans import ID_LETTERS, Plan
from orchestrator.core.versions.proposing import unknown_keys
from orchestrator.core.versions.refusals import Refusal
from orchestrator.engine.context import EngineContext
from orchestrator.errors import DefinitionError, PerennialError, StalePreview, UnknownProcess
from orchestrator.store.reads.migrations import (
    MovedRun,
    ReadRun,
    runs_migrated,
    runs_of_version,
    runs_to_migrate,
)
from orchestrator.store.transitions import processes
from orchestrator.store.transitions.migrate import (
    Rewriting,
    hold_run_to_rewrite,
    migrate_run,
    park_unmigrated,
)

SAMPLES_MAX = 3
"""So many runs of a group are named."""

TRIES_MAX = 3
"""How often a run is decided anew that changes under the command."""

FIRST = UUID(int=0)

Progress = Callable[[int], None]


def silent(_count: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class MigrationGroup:
    """Runs of which the same is true. `reason`: the class of a refusal, "" for those that go on."""

    reason: str
    says: tuple[str, ...]
    remedy: str
    runs: int
    samples: tuple[str, ...]

    @property
    def goes_on(self) -> bool:
        """Whether these runs come to the new version."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class MigrationPreview:
    """What a plan would do. `migrated`: runs that it has moved already; `digest`: of exactly this set."""

    plan_id: str
    process: str
    from_version: int
    to_version: int
    runs: int
    migrated: int
    groups: tuple[MigrationGroup, ...]
    digest: str
    going: tuple[UUID, ...] = field(default=(), repr=False)
    refused: tuple[UUID, ...] = field(default=(), repr=False)

    @property
    def goes_on(self) -> int:
        """How many runs would be moved now."""
        return len(self.going)


@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """What became of an application. `already`: moved by this plan before; `refused`: those that stay, by reason."""

    plan_id: str
    migrated: int
    already: int
    parked: int
    refused: tuple[MigrationGroup, ...]


class _Groups:
    def __init__(self) -> None:
        self._runs: dict[tuple[str, tuple[str, ...], str], int] = {}
        self._samples: dict[tuple[str, tuple[str, ...], str], list[str]] = {}

    def add(self, run: str, found: Migrated | Refusal) -> str:
        key = _key_of(found)
        self._runs[key] = self._runs.get(key, 0) + 1
        samples = self._samples.setdefault(key, [])
        if len(samples) < SAMPLES_MAX:
            samples.append(run)
        return "|".join((key[0], *key[1]))

    def all(self) -> tuple[MigrationGroup, ...]:
        """Those that go on first, and then by how many they are."""
        found = [
            MigrationGroup(reason, says, remedy, runs, tuple(self._samples[reason, says, remedy]))
            for (reason, says, remedy), runs in self._runs.items()
        ]
        return tuple(sorted(found, key=lambda each: (bool(each.reason), -each.runs, each.says)))


def _key_of(found: Migrated | Refusal) -> tuple[str, tuple[str, ...], str]:
    if isinstance(found, Refusal):
        return found.title, (found.says,), found.remedy
    ends = (f"the run ends at once: {found.ends}",) if found.ends else ()
    return "", (*found.changes, *ends), ""


# -- preview -------------------------------------------------------------------------------------


def preview(context: EngineContext, plan: Plan, *, progress: Progress = silent) -> MigrationPreview:
    """What the plan would do with each open run of its version. Writes nothing.

    Raises UnknownProcess, UnknownStage, DefinitionError.
    """
    _refuse_unknown_keys(context, plan)
    decide = _Decision(context, plan)
    groups, members = _Groups(), []
    going: list[UUID] = []
    refused: list[UUID] = []
    for count, run in enumerate(open_runs(context, plan), 1):
        found = decide.on(run)
        said = groups.add(run.called, found)
        members.append((str(run.id), said if isinstance(found, Refusal) else ""))
        (refused if isinstance(found, Refusal) else going).append(run.id)
        progress(count)
    before = [str(each.run_id) for each in moved_runs(context, plan.id)]
    content = json.dumps([plan.digest, sorted([*members, *((run, "") for run in before)])])
    return MigrationPreview(
        plan_id=plan.id,
        process=plan.process,
        from_version=plan.from_version,
        to_version=plan.to,
        runs=len(members),
        migrated=len(before),
        groups=groups.all(),
        digest=hashlib.sha256(content.encode()).hexdigest()[:ID_LETTERS],
        going=tuple(going),
        refused=tuple(refused),
    )


def _refuse_unknown_keys(context: EngineContext, plan: Plan) -> None:
    """Raises DefinitionError: of two versions in YAML, neither has what the plan names."""
    with context.connection() as connection:
        try:
            old, new = (
                context.definitions.find(connection, plan.process, version)
                for version in (plan.from_version, plan.to)
            )
        except PerennialError:
            return  # the decision says what is missing, if it misses it
    wrong = unknown_keys(plan, old, new)
    if wrong is not None:
        raise DefinitionError(wrong.says, where=f"plan {plan.id}", remedy=f"{wrong.remedy}.")


class _Decision:
    """What the plan makes of a run, with the definition and the function that it needs, found once."""

    def __init__(
        self, context: EngineContext, plan: Plan, code_revision: int | None = None
    ) -> None:
        self._context, self._plan = context, plan
        with context.connection() as connection:
            self._process = context.definitions.find(
                connection, plan.process, plan.to, code_revision
            )
        self._make_input = _function_of(plan)

    def on(self, run: ReadRun) -> Migrated | Refusal:
        return plan_for(
            self._plan,
            run.standing,
            self._process,
            registry=self._context.registry,
            make_input=self._make_input,
        )


def _function_of(plan: Plan) -> MakeInput | None:
    """What `data: {function: module:name}` names. Raises DefinitionError."""
    named = (plan.data or {}).get("function")
    if named is None or len(plan.data or {}) > 1:
        return None
    module, _, name = str(named).partition(":")
    try:
        found = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise DefinitionError(
            f"the plan's function {named!r} can't be found: {error}",
            where="data.function",
            remedy="Name it as module:function, of a module that can be imported here.",
        ) from None
    make: MakeInput = found  # type: ignore[assignment]
    return make


def open_runs(context: EngineContext, plan: Plan) -> Iterator[ReadRun]:
    """The open runs of the version that the plan begins with, page after page."""
    after, limit = FIRST, context.settings.batch_size
    while True:
        with context.reading() as connection:
            page = runs_of_version(
                connection,
                process=plan.process,
                version=plan.from_version,
                after=after,
                limit=limit,
            )
        yield from page
        if len(page) < limit:
            return
        after = page[-1].id


def moved_runs(context: EngineContext, plan_id: str) -> Iterator[MovedRun]:
    """The runs that the plan has moved, page after page."""
    after, limit = FIRST, context.settings.batch_size
    while True:
        with context.reading() as connection:
            page = runs_migrated(connection, plan_id, after=after, limit=limit)
        yield from page
        if len(page) < limit:
            return
        after = page[-1].run_id


# -- apply ---------------------------------------------------------------------------------------


def apply(
    context: EngineContext,
    plan: Plan,
    seen: MigrationPreview | str,
    *,
    by: str,
    reason: str = "",
    progress: Progress = silent,
) -> AppliedMigration:
    """Move the runs of a preview to the plan's version: `seen` is that preview, or its digest.

    Each run is a transaction of its own: whoever is stopped in between applies the plan again, with the same digest,
    and it goes on with those that are there still. `progress` is called with how many were looked at.

    Raises StalePreview: what the digest names is no longer so. UnknownProcess: the version isn't deployed, or
    (CodeDiffers) with other code than this program has.
    """
    by = actor_of(by)
    now = preview(context, plan)
    digest = seen if isinstance(seen, str) else seen.digest
    if not digest or not now.digest.startswith(digest) or len(digest) < min(ID_LETTERS, 8):
        raise StalePreview(
            f"the preview {digest!r} of plan {plan.id} is out of date: it is {now.digest} now, with "
            f"{now.goes_on} run(s) that go on. Look at `perennial migrate preview` again",
            digest=now.digest,
        )
    with context.connection() as connection:
        deployed = processes.read_revisions(connection, plan.process, plan.to)
    current = next((each.code_revision for each in deployed if each.is_current), None)
    if current is None:
        raise UnknownProcess(
            f"process {plan.process!r} version {plan.to} is not deployed. `perennial deploy` it first"
        )
    decide = _Decision(context, plan, current)  # what workers have, and nothing else
    return _Application(context, plan, decide, by, codec.readable(reason), progress).of(now)


@dataclass(slots=True)
class _Application:
    context: EngineContext
    plan: Plan
    decide: _Decision
    by: str
    reason: str
    progress: Progress
    groups: _Groups = field(default_factory=_Groups)
    counts: dict[str, int] = field(default_factory=lambda: {"migrated": 0, "parked": 0})

    def of(self, now: MigrationPreview) -> AppliedMigration:
        ids, size = sorted((*now.going, *now.refused)), self.context.settings.batch_size
        looked_at = 0
        for start in range(0, len(ids), size):
            with self.context.reading() as connection:
                page = runs_to_migrate(connection, ids[start : start + size])
            for run in page:
                self._do(run)
                looked_at += 1
                self.progress(looked_at)
        return AppliedMigration(
            self.plan.id,
            self.counts["migrated"],
            now.migrated,
            self.counts["parked"],
            self.groups.all(),
        )

    def _do(self, run: ReadRun) -> None:
        found = self.decide.on(run)
        for _ in range(TRIES_MAX):
            if isinstance(found, Refusal):
                break
            written = self._write(run, found)
            if written is True:
                self.counts["migrated"] += 1
                return
            with self.context.connection() as connection:
                (run,) = runs_to_migrate(connection, [run.id])
            found = self.decide.on(run)
        self._refuse(run, found)

    def _write(self, run: ReadRun, found: Migrated) -> bool:
        plan = self.plan
        one = Rewriting(
            plan.id,
            run.id,
            plan.process,
            plan.from_version,
            plan.to,
            run.revision,
            self.by,
            self.reason,
        )
        detail = {
            "plan": plan.id,
            "from": plan.from_version,
            "to": plan.to,
            "changes": list(found.changes),
            "reason": self.reason,
        }
        with self.context.transaction() as connection:
            # guard: what was claimed since is not migrated
            if hold_run_to_rewrite(connection, run.id):
                return False
            return migrate_run(
                connection, one, found, approvals=dict(run.standing.approvals), detail=detail
            )

    def _refuse(self, run: ReadRun, found: Migrated | Refusal) -> None:
        if isinstance(found, Migrated):
            found = Refusal("the run changes all the time")
        self.groups.add(run.called, found)
        if self.plan.on_error != "park" or found.passes or not run.standing.status.is_moving:
            return
        error = {
            "type": "MigrationRefused",
            "message": f"{found} (plan {self.plan.id}, to version {self.plan.to})",
        }
        with self.context.connection() as connection:
            self.counts["parked"] += park_unmigrated(
                connection, run.id, revision=run.revision, error=error, by=self.by
            )


def actor_of(by: str) -> str:
    """Who says so. Raises DefinitionError."""
    if by:
        check_words(by, what="an operator", where="by")
    return composed(by) or "operator"


def as_document(found: Any) -> dict[str, object]:
    """A preview, or what became of a plan, as JSON shows it."""
    names = [name for name in found.__dataclass_fields__ if name not in ("going", "refused")]
    return {name: getattr(found, name) for name in names}
