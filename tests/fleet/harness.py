"""Start and kill real workers, and wait for what the record says, never for the clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, create_engine, text

from orchestrator import Client, Settings
from orchestrator.core.run import RunStatus
from orchestrator.core.views import Started
from tests.forks import Command

AnyWorker = subprocess.Popen[bytes] | Command

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 60.0
SWEEP_SECONDS = 0.5


class Fleet:
    """Workers on one fresh database and one Redis of their own."""

    def __init__(self, database_url: str, broker_url: str, logs: Path) -> None:
        self.database_url, self.broker_url, self._logs = database_url, broker_url, logs
        self.engine: Engine = create_engine(database_url, isolation_level="AUTOCOMMIT")
        self.client = Client(Settings(database_url=database_url))
        self.workers: list[AnyWorker] = []
        self._gates: list[Gate] = []
        self.extra_environment: dict[str, str] = {}
        self.app = "tests.fleet.app"
        with self.engine.connect() as connection:
            connection.execute(
                text(
                    "CREATE TABLE IF NOT EXISTS effect (key text PRIMARY KEY, name text, calls int NOT NULL DEFAULT 1)"
                )
            )

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this fleet needs; recovery is made impatient."""
        return {
            **os.environ,
            "PERENNIAL_DATABASE_URL": self.database_url,
            "PERENNIAL_BROKER_URL": self.broker_url,
            "PERENNIAL_HEARTBEAT_SECONDS": "0.5",
            "PERENNIAL_DEAD_AFTER_SECONDS": "2",
            "PERENNIAL_SWEEP_SECONDS": str(SWEEP_SECONDS),
            "PERENNIAL_RELAY_AFTER_SECONDS": "1",
            "PERENNIAL_TIMER_GRACE_SECONDS": "0.5",
            **self.extra_environment,
        }

    def start_worker(self, *options: str, pool: str = "solo", is_forked: bool = True) -> AnyWorker:
        """A worker in a process group of its own, so that it can be killed with its children.

        `is_forked` False: by the command line, with all its imports.
        """
        name = f"worker-{len(self.workers)}"
        log = self._logs / f"{name}.log"
        arguments = [
            *("-A", self.app, "worker", "-P", pool, "-c", "2", "-n", f"{name}@tests"),
            *("-l", "info", "--without-mingle", *options),
        ]
        worker: AnyWorker
        if is_forked:
            worker = Command(arguments, folder=REPOSITORY, environment=self.environment, log=log)
        else:
            with log.open("wb") as file:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "celery", *arguments],
                    cwd=REPOSITORY,
                    env=self.environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        self.workers.append(worker)
        return worker

    def kill(self, worker: AnyWorker, how: signal.Signals = signal.SIGKILL) -> None:
        """Signal a worker and all its children at once."""
        os.killpg(worker.pid, how)
        if how in (signal.SIGKILL, signal.SIGTERM):
            worker.wait(PATIENCE_SECONDS)

    def stop(self) -> None:
        """End what is left of the workers."""
        for worker in self.workers:
            if worker.poll() is None:
                self.kill(worker)
        for gate in self._gates:
            gate.close()
        self.client.close()
        self.engine.dispose()

    def wait_for(
        self, what: str, look: Callable[[], Any], *, patience_seconds: float = PATIENCE_SECONDS
    ) -> Any:
        """Look until it is so; fails with what was waited for, and the workers' last words."""
        deadline = threading.Event()
        timer = threading.Timer(patience_seconds, deadline.set)
        timer.start()
        try:
            while not (found := look()):
                if deadline.wait(0.02):
                    raise AssertionError(f"never came: {what}\n{self._last_words()}")
            return found
        finally:
            timer.cancel()

    def wait_until_closed(self, *runs: Started | UUID) -> None:
        """Until these runs have ended."""
        for run in runs:
            self.wait_for(
                f"the end of {run}", lambda run=run: self.client.get(run).status.is_closed
            )

    def wait_until_waiting(self, run: Started) -> None:
        """Until only the world can move the run."""
        self.wait_for(f"{run} to wait", lambda: self.client.get(run).status is RunStatus.WAITING)

    def hold_gate(self, number: int) -> Gate:
        """Close a gate; stages wait at it until it is opened."""
        gate = Gate(self.engine.connect(), number)
        self._gates.append(gate)
        return gate

    def effects(self, name: str) -> list[int]:
        """How often each effect of that name was asked for."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                text("SELECT calls FROM effect WHERE name = :name"), {"name": name}
            )
            return [row.calls for row in rows]

    def effects_of(self, run: Started) -> dict[str, list[int]]:
        """The same for all effects of a run, by name."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                text("SELECT name, calls FROM effect WHERE key LIKE :run || '/%' ORDER BY key"),
                {"run": str(run.run_id)},
            ).all()
        names = dict.fromkeys(row.name for row in rows)
        return {name: [row.calls for row in rows if row.name == name] for name in names}

    def scalar(self, sql: str) -> Any:
        """One value, read from the record."""
        with self.engine.connect() as connection:
            return connection.execute(text(sql)).scalar_one()

    def execute(self, sql: str) -> None:
        """Change the record, behind everybody's back."""
        with self.engine.connect() as connection:
            connection.execute(text(sql))

    def leftovers(self) -> dict[str, int]:
        """What must be nothing once every run has ended."""
        return {
            "armed timers": self.scalar(
                "SELECT count(*) FROM perennial.timer WHERE state = 'armed'"
            ),
            "handoffs": self.scalar("SELECT count(*) FROM perennial.outbox"),
            "claims": self.scalar(
                "SELECT count(*) FROM perennial.activity WHERE state = 'claimed'"
            ),
            "open activities": self.scalar(
                "SELECT count(*) FROM perennial.activity WHERE state IN ('pending', 'retrying')"
            ),
            "open approvals": self.scalar(
                "SELECT count(*) FROM perennial.approval WHERE state = 'open'"
            ),
            "open runs": self.scalar("SELECT count(*) FROM perennial.run WHERE closed_at IS NULL"),
        }

    def logs(self) -> str:
        """All that the workers have said."""
        return "".join(log.read_text(errors="replace") for log in sorted(self._logs.glob("*.log")))

    def _last_words(self) -> str:
        logs = sorted(self._logs.glob("*.log"))
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs
        )


class Gate:
    """An advisory lock that keeps stages waiting."""

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection, self._number = connection, number
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number})

    def waiting(self) -> int:
        """How many stages stand at the gate."""
        return int(
            self._connection.execute(
                text(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = :number"
                ),
                {"number": self._number},
            ).scalar_one()
        )

    def open(self) -> None:
        """Let them through."""
        self._connection.execute(
            text("SELECT pg_advisory_unlock(:number)"), {"number": self._number}
        )

    def close(self) -> None:
        """Give its connection back; an open gate stays open."""
        self._connection.invalidate()
        self._connection.close()
