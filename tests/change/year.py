"""A year of a team that edits its processes while runs are open, and takes the advice that it is given each time.

    Release        the code at one time: some versions of some processes, and the bodies of their stages
    edits          what a team may do to a definition, drawn by chance
    Year           starts runs, deploys edits, lets people answer as slowly as they do, and knows what must come out

Only the workers of the two newest releases are alive. A definition stays in the code as long as runs are open on it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from orchestrator import RunStatus
from orchestrator.core.versions.classes import EditClass
from orchestrator.core.versions.plans import Plan
from orchestrator.engine.operations import migrate
from orchestrator.errors import DecisionRefused
from tests.change import effects
from tests.change.world import Generation, World

HEAD = """from typing import Any

from pydantic import BaseModel

from orchestrator import Flow, Registry, hours, process, stage
from tests.change.effects import stamped

registry = Registry()


class Request(BaseModel):
    number: int
"""


@dataclass(frozen=True)
class Node:
    """What a process waits for at one place. `id`: what it is, whatever it is called in the meantime."""

    id: int
    kind: Literal["stage", "sleep", "approval"]
    name: str
    level: int = 0
    """Of a stage: what it is called with."""
    hours: int = 0
    """Of a sleep, and of an approval's deadline."""
    person: str = ""

    def written(self) -> str:
        """As a line of the flow."""
        match self.kind:
            case "stage":
                return f"told.append(await flow.stage({self.name}, request, {self.level}))"
            case "sleep":
                return f'await flow.sleep(hours({self.hours}), key="{self.name}")'
            case "approval":
                return (
                    f'told.append((await flow.approval("{self.name}", assign=["{self.person}"], '
                    f"timeout=hours({self.hours}))).outcome)"
                )


@dataclass(frozen=True)
class Definition:
    """One version of a process. `remarks`: how many comments its source has."""

    process: str
    version: int
    nodes: tuple[Node, ...]
    remarks: int = 0

    def written(self) -> str:
        """As source."""
        lines = [*(f"# remark {number}" for number in range(self.remarks)), "told: list[Any] = []"]
        lines += [node.written() for node in self.nodes]
        body = "\n    ".join([*lines, "return told"])
        return (
            f'@process(version={self.version}, registry=registry, name="{self.process}")\n'
            f"async def {self.process}_{self.version}(flow: Flow, request: Request) -> list[Any]:\n    {body}\n"
        )


@dataclass(frozen=True)
class Release:
    """All code of a time. `bodies`: which release of its body each stage has; `fields`: of the input, with defaults."""

    definitions: dict[tuple[str, int], Definition]
    bodies: dict[str, int]
    fields: int = 0

    def newest(self, process: str) -> Definition:
        """The version that new runs take."""
        return max(
            (each for each in self.definitions.values() if each.process == process),
            key=lambda each: each.version,
        )

    def with_(self, definition: Definition) -> Release:
        """With that version in it, in place of what it was."""
        place = definition.process, definition.version
        return replace(self, definitions={**self.definitions, place: definition})

    def text(self) -> str:
        """As the source of a module."""
        names = {
            node.name
            for each in self.definitions.values()
            for node in each.nodes
            if node.kind == "stage"
        }
        fields = "".join(f"    field_{number}: int = 0\n" for number in range(self.fields))
        stages = "".join(
            f"\n\n@stage(registry=registry)\ndef {name}(request: Request, level: int) -> str:\n"
            f'    return stamped("{name}", level, {self.bodies.get(name, 0)})\n'
            for name in sorted(names)
        )
        flows = "".join("\n\n" + each.written() for _, each in sorted(self.definitions.items()))
        return HEAD + fields + stages + flows


@dataclass(frozen=True)
class Edit:
    """What a team does. `plan`: how runs of the version before come to it, if it takes another version."""

    name: str
    release: Release
    process: str
    definition: Definition | None = None
    plan: dict[str, Any] | None = None
    skipped: int | None = None
    """The node that a migration may skip."""


class Edits:
    """Edits by chance. Each is of one kind of those that the issue of change knows."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.ids = 0
        self.of_name: dict[str, int] = {}
        """By every name that a node has ever had."""

    def node(self, kind: Literal["stage", "sleep", "approval"]) -> Node:
        """A new one."""
        self.ids += 1
        chance = self.chance
        name = f"{kind}_{self.ids}"
        self.of_name[name] = self.ids
        match kind:
            case "stage":
                return Node(self.ids, kind, name, level=chance.randrange(100))
            case "sleep":
                return Node(self.ids, kind, name, hours=chance.choice([1, 12, 48, 240]))
            case "approval":
                return Node(self.ids, kind, name, hours=24 * 60, person=chance.choice(PEOPLE))

    def first(self) -> Release:
        """What the year begins with."""
        shapes = {
            "access": ("stage", "approval", "stage", "sleep", "approval", "stage"),
            "purchase": ("stage", "sleep", "stage", "approval", "stage", "stage"),
            "leave": ("approval", "stage", "approval", "sleep", "stage"),
        }
        definitions = [
            Definition(process, 1, tuple(self.node(kind) for kind in shape))  # type: ignore[arg-type]
            for process, shape in shapes.items()
        ]
        return Release({(each.process, each.version): each for each in definitions}, {})

    def edit(self, release: Release) -> Edit:
        """The next."""
        process = self.chance.choice(sorted({name for name, _ in release.definitions}))
        of = release.newest(process)
        kinds = [
            self.formatted,
            self.body,
            self.level,
            self.inserted,
            self.inserted,
            self.removed,
            self.renamed,
            self.people,
            self.deadline,
            self.field,
            self.swapped,
        ]
        return self.chance.choice(kinds)(release, of)

    def formatted(self, release: Release, of: Definition) -> Edit:
        changed = replace(of, remarks=of.remarks % 5 + 1)
        return Edit("formatted", release, of.process, changed)

    def body(self, release: Release, of: Definition) -> Edit:
        stage = self._one(of, "stage")
        bodies = {**release.bodies, stage.name: release.bodies.get(stage.name, 0) + 1}
        return Edit("a stage's body", replace(release, bodies=bodies), of.process)

    def level(self, release: Release, of: Definition) -> Edit:
        stage = self._one(of, "stage")
        changed = self._with(of, replace(stage, level=stage.level + 100))
        return Edit("another argument", release, of.process, changed)

    def inserted(self, release: Release, of: Definition) -> Edit:
        new = self.node("stage")
        at = self.chance.randint(0, len(of.nodes))
        nodes = (*of.nodes[:at], new, *of.nodes[at:])
        plan = {"insert": {key_of(new): {"skip": SKIPPED}}}
        return Edit("a stage inserted", release, of.process, replace(of, nodes=nodes), plan, new.id)

    def removed(self, release: Release, of: Definition) -> Edit:
        stages = [node for node in of.nodes if node.kind == "stage"]
        if len(stages) < 3:
            return self.inserted(release, of)
        gone = self.chance.choice(stages)
        nodes = tuple(node for node in of.nodes if node is not gone)
        plan = {"remove": [key_of(gone)]}
        return Edit("a stage removed", release, of.process, replace(of, nodes=nodes), plan)

    def renamed(self, release: Release, of: Definition) -> Edit:
        stage = self._one(of, "stage")
        name = f"{stage.name.partition('_again_')[0]}_again_{len(self.of_name)}"
        self.of_name[name] = stage.id
        new = replace(stage, name=name)
        bodies = {**release.bodies, name: release.bodies.get(stage.name, 0)}
        plan = {"map": {key_of(stage): key_of(new)}}
        return Edit(
            "a stage renamed",
            replace(release, bodies=bodies),
            of.process,
            self._with(of, new),
            plan,
        )

    def people(self, release: Release, of: Definition) -> Edit:
        asked = self._one(of, "approval")
        others = [person for person in PEOPLE if person != asked.person]
        changed = self._with(of, replace(asked, person=self.chance.choice(others)))
        return Edit("other people", release, of.process, changed, {"timers": "keep"})

    def deadline(self, release: Release, of: Definition) -> Edit:
        asked = self._one(of, "approval")
        changed = self._with(of, replace(asked, hours=asked.hours + 24))
        return Edit("another deadline", release, of.process, changed, {"timers": "keep"})

    def field(self, release: Release, of: Definition) -> Edit:
        return Edit("a field added", replace(release, fields=release.fields + 1), of.process)

    def swapped(self, release: Release, of: Definition) -> Edit:
        at = self.chance.randrange(len(of.nodes) - 1)
        before, first, second, after = (
            of.nodes[:at],
            of.nodes[at],
            of.nodes[at + 1],
            of.nodes[at + 2 :],
        )
        changed = replace(of, nodes=(*before, second, first, *after))
        return Edit("two swapped", release, of.process, changed)

    def _one(self, of: Definition, kind: str) -> Node:
        return self.chance.choice([node for node in of.nodes if node.kind == kind])

    @staticmethod
    def _with(of: Definition, changed: Node) -> Definition:
        nodes = tuple(changed if node.id == changed.id else node for node in of.nodes)
        return replace(of, nodes=nodes)


PEOPLE = ("ann", "bob", "cleo")
SKIPPED = "skipped"
"""What a migration says of a stage that was inserted behind where a run stands."""


def key_of(node: Node) -> str:
    """The key that it has in a journal."""
    return node.name.replace("_", "-") if node.kind == "stage" else node.name


@dataclass
class Year:
    """See the module. `delays`: how long people take to answer, and whether they say yes."""

    world: World
    chance: random.Random
    delays: list[tuple[timedelta, bool]]
    doors: Counter[str] = field(default_factory=Counter)
    """By edit and by what was done with it, how often."""
    moved: Counter[str] = field(default_factory=Counter)
    """What became of open runs at the doors."""
    runs: dict[UUID, str] = field(default_factory=dict)
    due: dict[tuple[UUID, str], tuple[datetime, bool]] = field(default_factory=dict)
    decided: dict[tuple[UUID, int], str] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    stood_on: dict[tuple[str, int, int], Definition] = field(default_factory=dict)

    def live(self, *, deploys: int, starts: int, ticks: int = 5) -> None:
        """Go through the year."""
        self.edits = Edits(self.chance)
        effects.stamps.clear()
        self.world.harness.freeze()
        self.release = self.edits.first()
        self.workers = [self.world.release(self.release.text())]
        self._deploy(self.workers[-1], self.release)
        for _ in range(deploys):
            self._start(starts)
            self._pass(ticks)
            self._edit()
            self._forget_what_has_no_runs()
            self._pass(1)
        for _ in range(400):
            if not self._open():
                break
            self._pass(1, hours=24)

    # -- runs ------------------------------------------------------------------------------------

    def _start(self, starts: int) -> None:
        client = self.workers[-1].client
        for process in sorted({name for name, _ in self.release.definitions}):
            for _ in range(starts):
                run = client.start(process, {"number": len(self.runs)})
                self.runs[run.run_id] = process

    def _pass(self, ticks: int, *, hours: float | None = None) -> None:
        """Time passes, people answer what is due, and messages are delivered to all that are alive."""
        for _ in range(ticks):
            self.world.drain(*self.workers)
            self._answer()
            self.world.drain(*self.workers)
            self.world.harness.move(hours=hours or self.chance.choice([1, 6, 12]))

    def _answer(self) -> None:
        now = self.world.harness.now
        client = self.workers[-1].client
        rows = self.world.harness.database.rows(
            "SELECT run_id, key, name, assignees, edition FROM perennial.approval WHERE state = 'open'"
        )
        for row in rows:
            place = row.run_id, row.key
            if place not in self.due:
                delay, is_approved = self.chance.choice(self.delays)
                self.due[place] = (now + delay, is_approved)
            at, is_approved = self.due[place]
            if at <= now:
                decide = client.approve if is_approved else client.reject
                try:
                    decide(row.run_id, row.key, by=row.assignees[0], edition=row.edition)
                except DecisionRefused:
                    continue
                node = self.edits.of_name[row.name]
                self.decided[row.run_id, node] = "approved" if is_approved else "rejected"

    def _open(self) -> int:
        return int(
            self.world.harness.database.value(
                "SELECT count(*) FROM perennial.run WHERE status IN ('running', 'waiting')"
            )
        )

    # -- edits -----------------------------------------------------------------------------------

    def _deploy(self, generation: Generation, release: Release) -> None:
        processes = list(generation.registry.processes.values())
        for deployed in generation.client.processes.deploy(*processes):
            of = release.definitions[deployed.name, deployed.version]
            self.stood_on[deployed.name, deployed.version, self._revision(of)] = of

    def _revision(self, of: Definition) -> int:
        return int(
            self.world.harness.database.value(
                "SELECT code_revision FROM perennial.process WHERE name = :name AND version = :version",
                name=of.process,
                version=of.version,
            )
        )

    def _edit(self) -> None:
        """Make an edit, see what the tool says of it, and do that."""
        edit = self.edits.edit(self.release)
        release = edit.release if edit.definition is None else edit.release.with_(edit.definition)
        tried = self.world.release(release.text())
        changed = [
            each
            for each in tried.registry.processes.values()
            if tried.client.processes.needs_amendment(each)
        ]
        shown = [tried.client.processes.preview_amendment(each) for each in changed]
        if all(each.edit in HARMLESS for each in shown):
            for each, seen in zip(changed, shown, strict=True):
                done = tried.client.processes.amend(each, shown=seen, reason=edit.name)
                self.moved["amended"] += done.moved
                assert not done.stayed, (edit.name, done)
                of = release.definitions[each.name, each.version]
                self.stood_on[each.name, each.version, done.code_revision] = of
            self.doors[f"{edit.name}: {'amended' if changed else 'deployed'}"] += 1
            self._take(tried, release)
            return
        tried.end()
        assert edit.definition is not None, (edit.name, shown)
        new = replace(edit.definition, version=edit.definition.version + 1)
        release = edit.release.with_(new)
        self._take(self.world.release(release.text()), release)
        if edit.plan is None:
            self.doors[f"{edit.name}: another version"] += 1
            return
        self.doors[f"{edit.name}: another version, migrated"] += 1
        self._migrate(edit, new)

    def _migrate(self, edit: Edit, new: Definition) -> None:
        context = self.workers[-1].worker
        plan = Plan.model_validate(
            {
                "process": edit.process,
                "from": new.version - 1,
                "to": new.version,
                **(edit.plan or {}),
            }
        )
        preview = migrate.preview(context, plan)
        done = migrate.apply(context, plan, preview, by="ann", reason=edit.name)
        self.moved["migrated"] += done.migrated
        for group in done.refused:
            self.moved[f"stayed: {group.reason}"] += group.runs
        if edit.skipped is not None:
            self.skipped.add(edit.skipped)

    def _take(self, generation: Generation, release: Release) -> None:
        """From here on this release runs, beside the one before."""
        self.release = release
        self._deploy(generation, release)
        for ended in self.workers[:-1]:
            ended.end()
        self.workers = [*self.workers[-1:], generation]

    def _forget_what_has_no_runs(self) -> None:
        rows = self.world.harness.database.rows(
            "SELECT DISTINCT process, version FROM perennial.run WHERE closed_at IS NULL"
        )
        used = {(row.process, row.version) for row in rows}
        kept = {
            place: each
            for place, each in self.release.definitions.items()
            if place in used or each is self.release.newest(each.process)
        }
        self.release = replace(self.release, definitions=kept)

    # -- what must come out ----------------------------------------------------------------------

    def wrong(self) -> Iterator[str]:
        """Everything that isn't as the edits say."""
        client = self.world.harness.client
        stamps = self._stamps()
        rows = self.world.harness.database.rows(
            "SELECT id, process, version, code_revision FROM perennial.run"
        )
        for row in rows:
            view = client.get(row.id)
            if view.status is not RunStatus.COMPLETED:
                yield f"{row.process} {row.version}.{row.code_revision} {row.id} is {view.status}: {view.error}"
                continue
            of = self.stood_on[row.process, row.version, row.code_revision]
            told = iter(view.output)
            for node in of.nodes:
                if node.kind == "sleep":
                    continue
                found, expected = next(told, "nothing"), self._expected(row.id, node, stamps)
                if found not in expected:
                    yield f"{row.process} {row.id}: {node.name} is {found}, not {expected}"
        for (run_id, node), values in stamps.items():
            if len(values) > 1:
                yield f"{run_id}: node {node} had its effect {len(values)} times: {values}"

    def _expected(
        self, run_id: UUID, node: Node, stamps: dict[tuple[str, int], list[str]]
    ) -> list[Any]:
        if node.kind == "approval":
            return [self.decided.get((run_id, node.id), "timed_out")]
        stamped = stamps.get((str(run_id), node.id), [])
        return stamped or ([SKIPPED] if node.id in self.skipped else [])

    def _stamps(self) -> dict[tuple[str, int], list[str]]:
        found: dict[tuple[str, int], list[str]] = {}
        for run_id, name, value in effects.stamps:
            found.setdefault((run_id, self.edits.of_name[name]), []).append(value)
        return found


HARMLESS = (EditClass.NONE, EditClass.COSMETIC, EditClass.COMPATIBLE)
