"""A process that is edited while its runs stand at each of `PLACES`, on real Celery workers of both codes.

    edited = Edited(fleet, folder)
    edited.park(old, each=25)     so many runs at each place, moved there by old's workers, which are stopped then
    ...                           a door: deploy, amend, migrate
    edited.finish(new)            its workers, or those of both; people decide and timers come due, until all is over

Timers are weeks long, and no clock is moved: whoever tests says in the record that they are due.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator import Client, Registry, RunStatus, Settings
from orchestrator.core.definition import Process
from orchestrator.core.views import Started
from orchestrator.errors import DecisionRefused
from tests.change.world import PLACES
from tests.fleet.harness import AnyWorker, Fleet

PARKING_SECONDS = 240.0
"""For two hundred runs, on a machine that has other work."""

STANDS = {
    "trial": "EXISTS (SELECT FROM perennial.timer t WHERE t.run_id = r.id AND t.key = 'trial' AND t.state = 'armed')",
    "cool-off": "EXISTS (SELECT FROM perennial.timer t WHERE t.run_id = r.id AND t.key = 'cool-off'"
    " AND t.state = 'armed')",
    "manager": "EXISTS (SELECT FROM perennial.approval p WHERE p.run_id = r.id AND p.name = 'manager'"
    " AND p.state = 'open')",
    "security": "EXISTS (SELECT FROM perennial.approval p WHERE p.run_id = r.id AND p.name = 'security'"
    " AND p.state = 'open') AND EXISTS (SELECT FROM perennial.activity a WHERE a.run_id = r.id AND a.name = 'scan'"
    " AND a.state IN ('done', 'retrying'))",
    "validate": "EXISTS (SELECT FROM perennial.activity a WHERE a.run_id = r.id AND a.name = 'validate'"
    " AND a.state = 'retrying')",
    "provision": "EXISTS (SELECT FROM perennial.activity a WHERE a.run_id = r.id AND a.name = 'provision'"
    " AND a.state = 'retrying')",
    "start": "r.turn_revision = -1",
}
"""By place, in the record: that a run stands there."""
STANDS["scan"] = STANDS["security"]


def imported(path: Path) -> Registry:
    """What that file registers; as a module of its own, since what a flow means is read from its source."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # pydantic looks annotations up there
    spec.loader.exec_module(module)
    registry: Registry = module.registry
    return registry


class Old(StrEnum):
    """Where the old code's worker is while runs go to their ends."""

    BESIDE = "beside the new one"
    AFTERWARDS = "back when all that have moved have ended"
    GONE = "gone"


@dataclass
class Code:
    """One state of the code, and a client that has it."""

    path: Path
    process: Process[Any, Any]
    client: Client


class Edited:
    """The runs, their places, and the people who decide."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet, self._folder = fleet, folder
        self.runs: dict[str, list[Started]] = {place: [] for place in PLACES}
        self._codes: list[Code] = []
        self._old: AnyWorker | None = None
        fleet.app = "tests.fleet.edited_app"
        fleet.execute("CREATE TABLE held ()")
        fleet.execute("INSERT INTO held DEFAULT VALUES")

    def code(self, text: str) -> Code:
        """That text, as an app has it."""
        path = self._folder / f"edited_{len(self._codes)}_{id(self)}.py"
        path.write_text(
            text.replace(
                "from tests.change.effects import effect",
                "from tests.fleet.edited_effects import effect",
            )
        )
        registry = imported(path)
        (process,) = registry.processes.values()
        settings = Settings(database_url=self.fleet.database_url, broker_url=self.fleet.broker_url)
        code = Code(path, process, Client(settings, registry=registry))
        self._codes.append(code)
        return code

    def close(self) -> None:
        for code in self._codes:
            code.client.close()

    def worker(self, code: Code) -> AnyWorker:
        self.fleet.extra_environment["EDITED_CODE"] = str(code.path)
        return self.fleet.start_worker()

    # -- before ------------------------------------------------------------------------------------

    def park(self, old: Code, *, each: int) -> None:
        """Start the runs and bring each to its place. The old code's worker is stopped at the end, as if it hung."""
        old.client.processes.deploy(old.process)
        self._old = self.worker(old)
        self._start(old, PLACES[:7], each)
        self._wait("the first stage", "cool-off", PLACES[:6])
        self._fire(PLACES[:5])
        self._wait("the manager's approval", "manager", PLACES[:5])
        self._decide(old, "manager", PLACES[:4])
        self._wait("security's approval", "security", PLACES[:4])
        self._decide(old, "security", PLACES[:2])
        for place in PLACES[:7]:
            self._wait(f"runs at {place}", place, (place,))
        self.fleet.kill(self._old, signal.SIGSTOP)
        self._start(old, PLACES[7:], each)
        self._wait("runs that have not begun", "start", PLACES[7:])

    def _start(self, old: Code, places: tuple[str, ...], each: int) -> None:
        for place in places:
            for number in range(each):
                value = {"user": f"{place}{number}", "park": place}
                self.runs[place].append(
                    old.client.start(old.process, value, key=f"{place}/{number}")
                )

    def _wait(self, what: str, stands: str, places: tuple[str, ...]) -> None:
        expected = sum(len(self.runs[place]) for place in places)
        count = f"SELECT count(*) FROM perennial.run r WHERE {_of(places)} AND r.error IS NULL AND {STANDS[stands]}"
        self.fleet.wait_for(
            what, lambda: self.fleet.scalar(count) == expected, patience_seconds=PARKING_SECONDS
        )

    def _fire(self, places: tuple[str, ...]) -> None:
        """Sleeps and back-offs of these are over."""
        self.fleet.execute(
            "UPDATE perennial.timer t SET due_at = perennial.now() - interval '1 second' FROM perennial.run r"
            f" WHERE r.id = t.run_id AND {_of(places)} AND t.state = 'armed' AND t.kind IN ('sleep', 'retry')"
            " AND t.due_at > perennial.now()"
        )

    def _decide(self, code: Code, name: str, places: tuple[str, ...]) -> None:
        """Each open approval is granted by whoever is asked first, as it is shown."""
        those = {run.run_id for place in places for run in self.runs[place]}
        for approval in code.client.approvals(limit=1000):
            if approval.run_id in those and approval.name == name:
                with suppress(DecisionRefused):  # it is closed by now
                    code.client.approve(approval.run_id, approval, by=approval.assignees[0])

    # -- after -------------------------------------------------------------------------------------

    def finish(self, new: Code, *, old: Old, stay: Sequence[str] = ()) -> None:
        """The world does what each run waits for, until all have ended. `stay`: places that need the old code."""
        assert self._old is not None
        self.worker(new)
        self.fleet.kill(self._old, signal.SIGCONT if old is Old.BESIDE else signal.SIGKILL)
        self.fleet.execute("DELETE FROM held")
        if old is Old.AFTERWARDS:
            self._play(new, tuple(place for place in PLACES if place not in stay))
            self.worker(self._codes[0])
        self._play(new, PLACES)

    def _play(self, code: Code, places: tuple[str, ...]) -> None:
        def are_over() -> bool:
            if not self.fleet.scalar(
                f"SELECT count(*) FROM perennial.run r WHERE r.closed_at IS NULL AND {_of(places)}"
            ):
                return True
            self._fire(places)
            for name in ("manager", "security"):
                self._decide(code, name, places)
            return False

        self.fleet.wait_for("their ends", are_over, patience_seconds=PARKING_SECONDS)

    def ends(self) -> dict[str, list[Any]]:
        """By place: how each run ended, in the order in which they were started."""
        found = {}
        for place, runs in self.runs.items():
            views = [self.fleet.client.get(run) for run in runs]
            found[place] = [
                view.output if view.status is RunStatus.COMPLETED else str(view.status)
                for view in views
            ]
        return found

    def audits(self) -> dict[str, float]:
        """By place: how often a run has had the effect that an edit adds."""
        return {
            place: sum(len(self.fleet.effects_of(run).get("audit", ())) for run in runs) / len(runs)
            for place, runs in self.runs.items()
        }


def _of(places: tuple[str, ...]) -> str:
    named = ", ".join(f"'{place}'" for place in places)
    return f"split_part(coalesce(r.business_key, ''), '/', 1) IN ({named})"
