"""A plan of migration, drawn by trial: the new version is tried on runs, and what it stumbles at is put into the plan.

    proposed = propose(process, from_version, to, runs, ...)     for flows in Python and in YAML alike
    stages_in_words(old, new)                                    what differs between two lists of stages

What is done or open under a key that the new version doesn't ask for, and what it asks for that a run lacks, are one
thing if they are of one kind and alike in name, or have the same arguments at the same place. It is a proposal: a
person reads it, and edits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import Any

from orchestrator.core.definition import Process, Registry
from orchestrator.core.journal import AHEAD, Activity
from orchestrator.core.kinds.base import Request
from orchestrator.core.versions import refusals as no
from orchestrator.core.versions.migrated import Migrated, Standing
from orchestrator.core.versions.migrating import plan_for
from orchestrator.core.versions.plans import Plan
from orchestrator.core.versions.trial import try_on

TRIES_MAX = 50
"""So many changes of a plan are tried for one run."""

ALIKE = 0.5
"""From here on a former and a new activity count as one."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """`notes`: what the plan can't say, or a person should look at, in words."""

    plan: Plan
    notes: tuple[str, ...]


def propose(
    process: Process, from_version: int, runs: Sequence[Standing], *, registry: Registry
) -> Proposal:
    """A plan that moves these runs of `from_version` to that definition, as far as it can be drawn."""
    drawing = _Drawing(process, registry)
    drawing.says |= {"process": process.name, "from": from_version, "to": process.version}
    for run in runs:
        drawing.draw_for(run)
    return Proposal(drawing.plan, tuple(dict.fromkeys(drawing.notes)))


@dataclass(slots=True)
class _Drawing:
    process: Process
    registry: Registry
    says: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        return Plan.model_validate(self.says)

    def draw_for(self, run: Standing) -> None:
        """Change the plan until that run goes on by it, or a person has to look."""
        for _ in range(TRIES_MAX):
            found = plan_for(self.plan, run, self.process, registry=self.registry)
            if isinstance(found, Migrated):
                self._note_what_stays_open(found)
                return
            if not self._amend(found, run):
                self.notes.append(f"{found.title}: {found}")
                return

    def _note_what_stays_open(self, found: Migrated) -> None:
        self.notes += [
            f"{each.activity.describe()} stays open until the new flow comes to it: if it has another key there, "
            "put that under `map`"
            for each in found.moved
            if each.activity.ordinal == AHEAD and not each.activity.is_settled
        ]

    def _amend(self, refusal: no.Refusal, run: Standing) -> bool:
        """Put into the plan what that refusal asks for. False: there is nothing to put."""
        key = refusal.key
        if isinstance(refusal, no.NameChange):
            self._add("map", key, key)
        elif isinstance(refusal, no.TimerUndecided):
            self.says["timers"] = "keep"
        elif isinstance(refusal, no.VotesUndecided):
            self.says["votes"] = "discard"
        elif isinstance(refusal, no.OtherArguments):
            self.says["keep"] = [*self.says.get("keep", []), key]
        elif isinstance(refusal, no.KindChange | no.ScopeChange):
            self._remove(key)
        elif isinstance(refusal, no.InsertedBehind | no.MovedAhead | no.NotAsked):
            self._match(refusal, run)
        else:
            return False
        return True

    def _match(self, refusal: no.Refusal, run: Standing) -> None:
        """A rename, if there is one; else the new one is run, and the former one kept for later, or removed."""
        renamed = self._likeliest(run)
        if renamed is not None:
            self._add("map", *renamed)
        elif isinstance(refusal, no.InsertedBehind):
            self._add("insert", refusal.key, "run")
        elif isinstance(refusal, no.MovedAhead) and refusal.key in stages_of(self.process):
            self._add("insert", refusal.key, "skip")
        else:
            self._remove(refusal.key)

    def _likeliest(self, run: Standing) -> tuple[str, str] | None:
        """Of what the run has and isn't asked for, and what is asked for and it lacks: the two that are most alike."""
        plan = self.plan
        kept = [
            replace(each, key=plan.new_key(each.key))
            for each in run.journal
            if not plan.is_removed(each.key)
        ]
        trial = try_on(
            self.process,
            replace(run.context, version=self.process.version),
            kept,
            run.signals,
            registry=self.registry,
            may_be_renamed=lambda _key: True,
        )
        journal = {each.key for each in kept}
        pairs = [
            (likeness(former, request), former.key, request.key)
            for former in kept
            if former.key not in trial.asked
            for request in trial.asked.values()
            if request.key not in journal
            and former.kind == request.kind
            and plan.insertion(request.key) is None
        ]
        best = max(pairs, default=(0.0, "", ""))
        return (best[1], best[2]) if best[0] >= ALIKE else None

    def _add(self, part: str, key: str, value: str) -> None:
        self.says[part] = {**self.says.get(part, {}), key: value}

    def _remove(self, key: str) -> None:
        self.says["remove"] = [*self.says.get("remove", []), key]


def likeness(former: Activity, request: Request) -> float:
    """From 0 to 1, for two of one kind: by name, by place, and by arguments if there are any."""
    by_name = SequenceMatcher(None, former.name, request.name).ratio()
    is_same_place = (former.scope, former.ordinal) == (request.scope, request.ordinal)
    is_same_call = former.asked is not None and former.asked == request.asked
    return max(by_name, 0.75 if is_same_place and is_same_call else 0.0)


def stages_of(process: Process) -> list[str]:
    """The names in a declarative process' list; none of a flow in Python."""
    return list(process.spec.get("stages", [])) if process.kind == "declarative" else []


def unknown_keys(plan: Plan, old: Process, new: Process) -> no.UnknownKeys | None:
    """Which key of the plan neither list of stages has. None: all are known, or a flow in Python may have any."""
    before, after = stages_of(old), stages_of(new)
    if not before or not after:
        return None
    targets = [each for each in plan.map.values() if isinstance(each, str)]
    wrong = [
        *(key for key in (*plan.map, *plan.remove) if key not in before),
        *(key for key in (*targets, *plan.insert) if key not in after),
    ]
    if not wrong:
        return None
    return no.UnknownKeys(
        f"the plan names {', '.join(map(repr, wrong))}, which {old.name} hasn't in the version it would be of"
    )


def stages_in_words(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """What differs between two lists of stages: inserted, removed, moved, each by its neighbour."""
    said = [f"{name} is new, {_after(name, new)}" for name in new if name not in old]
    said += [f"{name} is gone" for name in old if name not in new]
    before = [name for name in old if name in new]
    after = [name for name in new if name in old]
    stays = {
        before[block.a + place]
        for block in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
        for place in range(block.size)
    }
    return said + [f"{name} now {_after(name, new)}" for name in after if name not in stays]


def _after(name: str, names: Sequence[str]) -> str:
    place = list(names).index(name)
    return f"after {names[place - 1]}" if place else "at the beginning"
