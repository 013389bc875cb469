"""A year of a team that edits its processes while runs are open, and takes the advice that it is given each time.

    Year           starts runs, deploys edits, lets people answer as slowly as they do, and knows what must come out

Only the workers of the two newest releases are alive. A definition stays in the code as long as runs are open on it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from orchestrator import RunStatus
from orchestrator.core.definition import Process
from orchestrator.core.versions.classes import EditClass
from orchestrator.core.versions.plans import Plan
from orchestrator.engine.operations import migrate
from orchestrator.errors import DecisionRefused
from tests.change import effects
from tests.change.definitions import (
    SKIPPED,
    Definition,
    Edit,
    Edits,
    Node,
    Release,
    key_of,
)
from tests.change.world import Generation, World


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
        for deployed in generation.client.processes.deploy(*processes_of(generation)):
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
            each for each in processes_of(tried) if tried.client.processes.needs_amendment(each)
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
            told = self._told(of, view.output)
            for node in of.nodes:
                if node.kind == "sleep":
                    continue
                found, expected = next(told, "nothing"), self._expected(row.id, node, stamps)
                if found not in expected:
                    yield f"{row.process} {row.id}: {node.name} is {found}, not {expected}"
                if of.is_yaml and node.kind == "approval" and found != "approved":
                    yield from (f"{row.process} {row.id}: {more} after a refusal" for more in told)
                    break
        for (run_id, node), values in stamps.items():
            if len(values) > 1:
                yield f"{run_id}: node {node} had its effect {len(values)} times: {values}"

    @staticmethod
    def _told(of: Definition, output: Any) -> Iterator[Any]:
        """What the run says of each of its stages and approvals, in their order."""
        if not of.is_yaml:
            return iter(output)
        keys = [key_of(node) for node in of.nodes]
        found = {key: output["results"].get(key) for key in output["results"]}
        found |= {key: made["outcome"] for key, made in output["decisions"].items()}
        return iter([found[key] for key in keys if key in found])

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


def processes_of(generation: Generation) -> list[Process]:
    """Of its code and of its YAML."""
    return [*generation.registry.processes.values(), *generation.module.declared]
