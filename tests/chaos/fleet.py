"""Fleets that die on purpose: forked workers over one fresh database and one Redis database each."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sqlalchemy import text

from orchestrator import Settings
from orchestrator.core.views import Started
from orchestrator.fleet.publisher import Publisher
from orchestrator.store.transitions.outbox import Handoff
from tests.chaos.app import registry
from tests.chaos.worker import How, Place, Plan, Trap, make_app, run
from tests.fleet.harness import PATIENCE_SECONDS, Fleet
from tests.forks import FORKS

IMPATIENT = {
    "heartbeat_seconds": 0.3,
    "dead_after_seconds": 1.5,
    "sweep_seconds": 0.2,
    "relay_after_seconds": 0.5,
    "timer_grace_seconds": 0.3,
    "timeout_grace_seconds": 0.3,
    "eager_seconds": 0,
}
"""Recovery within seconds; a worker on a busy machine still beats in time. Each stage comes by a message."""


class Worker:
    """A forked worker, and what its trap has said."""

    def __init__(self, process: BaseProcess, trap: Trap | None) -> None:
        self.process, self.trap = process, trap

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def is_caught(self) -> bool:
        """True when its trap has shut: it has exited there, or stands there."""
        assert self.trap is not None
        has_reached = self.trap.reached.exists()
        return has_reached and (self.trap.how is not How.EXITS or not self.process.is_alive())

    def signal(self, how: signal.Signals) -> None:
        """Send it and its children a signal; after SIGKILL, see it gone."""
        try:
            os.killpg(self.pid, how)
        except ProcessLookupError:  # it has no group yet
            self.process.kill()
        if how is signal.SIGKILL:
            self.process.join(PATIENCE_SECONDS)

    def end(self) -> None:
        """SIGKILL, if it is there, and its children, which may have outlived it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.process.is_alive():
            self.process.kill()


class ChaosFleet(Fleet):
    """As `Fleet`, with workers that are forked in milliseconds and caught where the test says."""

    def __init__(self, database_url: str, broker_url: str, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        super().__init__(database_url, broker_url, logs)
        self.folder = logs
        self.forked: list[Worker] = []
        self.client.processes.deploy(*registry.processes.values())

    def fork(
        self,
        place: Place | None = None,
        how: How = How.EXITS,
        *,
        lacks: frozenset[str] = frozenset(),
        has_index: bool = True,
        pool: str = "solo",
        **settings: Any,
    ) -> Worker:
        """Start a worker; with a place, one that is caught there."""
        name = f"worker-{len(self.forked)}"
        trap = None if place is None else Trap(place, how, self._logs / f"{name}.reached")
        urls = {"database_url": self.database_url, "broker_url": self.broker_url}
        plan = Plan(
            name,
            {**urls, **IMPATIENT, **settings},
            self._logs / f"{name}.log",
            trap,
            lacks,
            has_index,
            pool=pool,
        )
        process = FORKS.Process(target=run, args=(plan,), name=name)
        process.start()
        worker = Worker(process, trap)
        self.forked.append(worker)
        return worker

    def publish(self, handoff: Handoff) -> None:
        """A message, from wherever."""
        settings = Settings(database_url=self.database_url, broker_url=self.broker_url)
        with make_app(registry, settings) as app:
            Publisher(app, None).hand_off([handoff])

    def stop(self) -> None:
        """End every worker, stopped or not."""
        for worker in self.forked:
            worker.end()
            worker.process.join(PATIENCE_SECONDS)
            worker.process.close()
        super().stop()

    def told_twice(self, run: Started) -> dict[tuple[str, str | None], int]:
        """Transitions that a run's history tells more than once, other than those of trying again."""
        again = {"attempt handed out again", "attempt failed", "left for another worker"}
        told = Counter(
            (entry.event, entry.key)
            for entry in self.client.history(run)
            if entry.event not in again
        )
        return {fact: count for fact, count in told.items() if count > 1}

    def calls(self, run: Started) -> dict[str, int]:
        """How often each effect of a run was asked for, by name."""
        asked = "SELECT name, sum(calls) AS calls FROM effect WHERE key LIKE :run GROUP BY name"
        with self.engine.connect() as connection:
            rows = connection.execute(text(asked), {"run": f"{run.run_id}/%"})
            return {row.name: int(row.calls) for row in rows}
