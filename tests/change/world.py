"""Runs that are parked at all points of one process while its code is edited, and then go to their ends.

world = World(harness, folder)
old = world.generation(text)          code, as a worker imports it
world.park(old, each=25)              so many runs at each of PLACES
new = world.generation(edited text)
...                                   a door: deploy, amend, migrate
world.finish(workers)                 people act, time passes, until nothing moves any more
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator import Client, Registry, RunStatus
from orchestrator.core.definition import Process
from orchestrator.core.views import Started
from orchestrator.engine.context import EngineContext
from orchestrator.engine.runnable import capabilities_with
from orchestrator.errors import DecisionRefused
from orchestrator.store.parts import ADVANCE
from orchestrator.store.transitions.outbox import Handoff
from tests.change import effects
from tests.harness import Harness

PLACES = (
    "trial",  # asleep after its last approval
    "provision",  # in a stage's back-off after the gather
    "security",  # at an approval in a gather, whose stage is done
    "scan",  # in a stage's back-off in a gather, whose approval is open
    "manager",  # at an approval
    "cool-off",  # asleep
    "validate",  # in its first stage's back-off
    "start",  # not yet moved
)
"""Where runs are parked, the furthest first."""

_numbers = itertools.count()


@dataclass
class Generation:
    """One state of the code, with a worker and a client that have it."""

    module: ModuleType
    registry: Registry
    worker: EngineContext
    client: Client
    process: Process = field(init=False)
    """Its only one."""
    inbox: list[Handoff] = field(default_factory=list)
    """What others have sent on to its worker."""

    def end(self) -> None:
        """Its worker and its client are gone."""
        self.worker.dispose()
        self.client.close()

    def has_task_of(self, message: Handoff) -> bool:
        """Whether its worker knows the task: each stage is one."""
        return message.task == ADVANCE or message.task in self.registry.stages


class Forwarding:
    """What a fleet's is: what a worker can't run goes to another that is alive and can."""

    def __init__(self, world: World, own: Generation) -> None:
        self._world, self._own = world, own

    def has(self, _connection: object, _handoff: Handoff, needs: Sequence[str]) -> bool:
        """Whether another can."""
        return self._who_can(needs) is not None

    def send_on(
        self,
        _connection: object,
        handoff: Handoff,
        needs: Sequence[str],
        *,
        hops: int | None = None,
    ) -> bool:
        """True: it is with another."""
        del hops
        other = self._who_can(needs)
        if other is not None:
            other.inbox.append(handoff)
        return other is not None

    def _who_can(self, needs: Sequence[str]) -> Generation | None:
        others = (each for each in self._world.alive if each is not self._own)
        return next(
            (each for each in others if set(needs) <= set(capabilities_with(each.worker))), None
        )


class World:
    """The runs, their places, and the people who decide."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        self.harness, self.folder = harness, folder
        self.runs: dict[str, list[Started]] = {place: [] for place in PLACES}
        self.alive: Sequence[Generation] = ()
        """Whose workers messages come to."""
        effects.calls.clear()

    def generation(self, text: str) -> Generation:
        """Import the text as a module of its own, from a file: what a flow means is read from its source."""
        generation = self.release(text)
        (generation.process,) = generation.registry.processes.values()
        return generation

    def release(self, text: str) -> Generation:
        """The same, of as many processes as the text has."""
        name = f"code_{next(_numbers)}"
        path = self.folder / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # pydantic looks annotations up there
        spec.loader.exec_module(module)
        worker = self.harness.worker(name, registry=module.registry)
        client = Client(self.harness.settings, registry=module.registry)
        self.harness.database.adopt(client._context.database)
        self.harness.database.adopt(client._context.reads)
        generation = Generation(module, module.registry, worker, client)
        worker.elsewhere = Forwarding(self, generation)  # type: ignore[assignment]
        return generation

    # -- before ------------------------------------------------------------------------------------

    def park(self, old: Generation, *, each: int) -> None:
        """Start the runs, and bring each to its place."""
        effects.held["is"] = True
        self.harness.freeze()
        old.client.processes.deploy(old.process)
        self._start(old, PLACES[:5], each)
        self.drain(old)
        self.harness.move(days=1, seconds=1)
        self.drain(old)
        self.decide(old, "manager", but_at=("manager",))
        self.drain(old)
        self.decide(old, "security", but_at=("security", "scan"))
        self.drain(old)
        self._start(old, ("cool-off", "validate"), each)
        self.drain(old)
        self._start(old, ("start",), each)
        found = {place: {self.waits(old, run) for run in self.runs[place]} for place in PLACES}
        assert found == WAITS, found

    def _start(self, old: Generation, places: Sequence[str], each: int) -> None:
        for place in places:
            for number in range(each):
                value = {"user": f"{place}{number}", "park": place}
                self.runs[place].append(
                    old.client.start(old.process, value, key=f"{place}-{number}")
                )

    @staticmethod
    def waits(generation: Generation, run: Started) -> str:
        return generation.client.get(run).waiting_for or ""

    # -- after -------------------------------------------------------------------------------------

    def finish(self, *workers: Generation) -> None:
        """People decide what is open, partners are back, and three weeks pass in half days."""
        effects.held["is"] = False
        for _ in range(42):
            self.drain(*workers)
            for name in ("manager", "security"):
                self.decide(workers[-1], name)
            self.drain(*workers)
            if not any(self.open()):
                return
            self.harness.move(hours=12)

    def open(self) -> list[Started]:
        """Runs that could still move."""
        client = self.harness.client
        moving = {run.id for run in client.list(limit=10_000) if run.status.is_moving}
        return [run for runs in self.runs.values() for run in runs if run.run_id in moving]

    def decide(self, generation: Generation, name: str, *, but_at: Sequence[str] = ()) -> None:
        """Each open approval of that name is granted by whoever is asked first."""
        for place, runs in self.runs.items():
            if place in but_at:
                continue
            for run in runs:
                for wait in generation.client.get(run).waits:
                    if wait.name == name:
                        with suppress(DecisionRefused):  # it is closed by now
                            generation.client.approve(run, wait, by=wait.who[0])

    def drain(self, *workers: Generation) -> None:
        """Deliver each message to each worker, as long as any comes: who can't do it leaves it to the others."""
        self.alive = workers
        for _ in range(200):
            due = self.harness.due_timers()
            messages = self.harness.pending()
            for generation in workers:
                messages += generation.worker.messenger.handed_off  # type: ignore[attr-defined]
                generation.worker.messenger.handed_off = []  # type: ignore[attr-defined]
            sent_on = [(each, each.inbox) for each in workers]
            for generation in workers:
                generation.inbox = []
            if not due and not messages and not any(inbox for _, inbox in sent_on):
                return
            for generation, inbox in sent_on:
                for message in (*due, *messages, *inbox):
                    if isinstance(message, Handoff) and not generation.has_task_of(message):
                        continue  # a fleet's forwarding sends it on
                    self.harness.deliver(message, generation.worker)
        raise AssertionError("the fleet doesn't come to rest")

    # -- what became of them -----------------------------------------------------------------------

    def ends(self) -> dict[str, Counter[Any]]:
        """By place: how many runs ended how."""
        client = self.harness.client
        found = {}
        for place, runs in self.runs.items():
            views = [client.get(run) for run in runs]
            found[place] = Counter(
                view.output if view.status is RunStatus.COMPLETED else view.status for view in views
            )
        return found

    def repeated(self) -> dict[str, int]:
        """Effects that were had more than once."""
        return {key: count for key, count in effects.calls.items() if count > 1}


WAITS = {
    "trial": {"sleep"},
    "provision": {"stage provision"},
    "security": {"approval security"},
    "scan": {"approval security and 1 more"},
    "manager": {"approval manager"},
    "cool-off": {"sleep"},
    "validate": {"stage validate"},
    "start": {""},
}
