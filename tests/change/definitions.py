"""What a team has in its code at one time, and what it may do to it.

Definition     one version of a process, as code or as YAML
Release        the code at one time: some versions of some processes, and the bodies of their stages
Edits          what is done to a definition, drawn by chance
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, Literal

HEAD = """from typing import Any

from pydantic import BaseModel

from orchestrator import Flow, Registry, approval, hours, load_process, process, stage
from tests.change.effects import stamped

registry = Registry()
declared = []  # of YAML: who deploys has it, a worker makes it of what was deployed


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
    is_yaml: bool = False

    def written(self) -> str:
        """As source."""
        remarks = [f"# remark {number}" for number in range(self.remarks)]
        if self.is_yaml:
            text = "\n".join([*remarks, *self._spec()])
            return f'declared.append(load_process("""\n{text}\n""", registry=registry))\n'
        lines = [*remarks, "told: list[Any] = []"]
        lines += [node.written() for node in self.nodes]
        body = "\n    ".join([*lines, "return told"])
        return (
            f'@process(version={self.version}, registry=registry, name="{self.process}")\n'
            f"async def {self.process}_{self.version}(flow: Flow, request: Request) -> list[Any]:\n    {body}\n"
        )

    def _spec(self) -> list[str]:
        (deadline,) = {node.hours for node in self.nodes if node.kind == "approval"}
        return [
            "process:",
            f"  name: {self.process}",
            f"  version: {self.version}",
            f"  stages: [{', '.join(key_of(node) for node in self.nodes)}]",
            f"  timers: {{approval_timeout_hours: {deadline}}}",
        ]


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
        found = {
            node.name: (node, each.is_yaml)
            for each in self.definitions.values()
            for node in each.nodes
        }
        fields = "".join(f"    field_{number}: int = 0\n" for number in range(self.fields))
        entries = "".join(
            self._entry(node, is_yaml=is_yaml) for _, (node, is_yaml) in sorted(found.items())
        )
        flows = "".join("\n\n" + each.written() for _, each in sorted(self.definitions.items()))
        return HEAD + fields + entries + flows

    def _entry(self, node: Node, *, is_yaml: bool) -> str:
        """What is registered for it: a stage, or an approval that YAML names."""
        body = self.bodies.get(node.name, 0)
        if node.kind == "stage":
            level = "" if is_yaml else ", level: int"
            return (
                f"\n\n@stage(registry=registry)\ndef {node.name}(request: Request{level}) -> str:\n"
                f'    return stamped("{node.name}", {0 if is_yaml else "level"}, {body})\n'
            )
        if node.kind == "approval" and is_yaml:
            return (
                f'\n\n@approval("{node.name}", registry=registry)\n'
                f"def {node.name}(_request: Request) -> list[str]:\n"
                f'    return ["{node.person}"]\n'
            )
        return ""


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
            "joiner": ("stage", "approval", "stage", "stage", "approval", "stage"),
        }
        definitions = [
            Definition(
                process,
                1,
                tuple(self.node(kind) for kind in shape),  # type: ignore[arg-type]
                is_yaml=process == "joiner",
            )
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
            self.inserted,
            self.inserted,
            self.removed,
            self.renamed,
            self.deadline,
            self.field,
            self.swapped,
        ]
        if not of.is_yaml:  # arguments and people stand in the code of its stages and approvals
            kinds += [self.level, self.people]
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
        asked = [self._one(of, "approval")]
        if of.is_yaml:  # one for all of them
            asked = [node for node in of.nodes if node.kind == "approval"]
        changed = of
        for node in asked:
            changed = self._with(changed, replace(node, hours=node.hours + 24))
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
