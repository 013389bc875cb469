"""The fleet that `recovery_faults.py` does harm to: workers as a user starts them, and what is seen of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import redis
from sqlalchemy import create_engine, text

from orchestrator import Client, PerennialError
from orchestrator.embedded import EmbeddedServers
from orchestrator.store.schema import migrate

WORKERS = 2
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Begun:
    """A stage that has begun: which, when, and in which worker and process."""

    key: str
    at: float
    worker: int
    pid: int


class Fleet:
    """Workers as a user starts them, and what the record says of their work."""

    def __init__(
        self, servers: EmbeddedServers, folder: Path, *, pool: str, concurrency: int
    ) -> None:
        self.servers, self._folder = servers, folder
        self._pool, self.concurrency = pool, concurrency
        environment = {
            **{name: value for name, value in os.environ.items() if "PERENNIAL" not in name},
            "PERENNIAL_DATABASE_URL": servers.urls.database_url,
            "PERENNIAL_BROKER_URL": servers.urls.broker_url,
        }
        database = create_engine(servers.urls.database_url, pool_pre_ping=True)
        self.engine = database.execution_options(isolation_level="AUTOCOMMIT")
        migrate.upgrade(database)
        self.rows(
            "CREATE TABLE begun (key text, worker int, pid int, at timestamptz DEFAULT clock_timestamp())"
        )
        os.environ.update(environment)  # the app reads it when it is imported, here and in workers
        from recovery_app import app, registry

        self.app = app
        self.client = Client(database, registry=registry)
        self.client.processes.deploy(*registry.processes.values())
        self.workers: dict[int, subprocess.Popen[bytes]] = {}
        self._started = 0
        for _ in range(WORKERS):
            self.start_worker()

    def rows(self, sql: str, **parameters: object) -> Sequence[Any]:
        """What one statement returns."""
        with self.engine.connect() as connection:
            result = connection.execute(text(sql), parameters)
            return result.fetchall() if result.returns_rows else ()

    def start_worker(self) -> None:
        """`celery -A recovery_app worker -c 2`, in a process group of its own; it is ready on return."""
        self._started += 1
        log = self._folder / f"worker-{self._started}.log"
        with log.open("wb") as file:
            worker = subprocess.Popen(
                [
                    *(sys.executable, "-m", "celery", "-A", "recovery_app", "worker"),
                    *("-P", self._pool, "-c", str(self.concurrency), "-l", "info"),
                    *("-n", f"recovery-{self._started}@%h", "-Q", "recovery"),
                ],
                cwd=Path(__file__).parent,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.workers[worker.pid] = worker
        wait_for("a worker to be ready", lambda: b" ready." in log.read_bytes())

    def signal(self, worker: int, how: signal.Signals) -> None:
        """To a worker and its children at once."""
        os.killpg(worker, how)
        if how is signal.SIGKILL:
            self.workers.pop(worker).wait()

    def replace(self, worker: int) -> None:
        """End it if it is there still, and start another."""
        if worker in self.workers:
            self.signal(worker, signal.SIGKILL)
        self.start_worker()

    def begun(self) -> list[Begun]:
        """Every beginning of every stage, in order."""
        return [
            Begun(row.key, row.at.timestamp(), row.worker, row.pid)
            for row in self.rows("SELECT key, worker, pid, at FROM begun ORDER BY at")
        ]

    @contextmanager
    def gates(self, count: int) -> Iterator[Gates]:
        """So many, numbered from 1; open when the block ends."""
        with self.connect_to_postgres() as connection:
            gates = Gates(connection)
            for number in range(1, count + 1):
                gates.close(number)
            yield gates

    def first_begun(self, *, since: float = 0) -> dict[str, float]:
        """When each stage has begun, the first time since then."""
        first: dict[str, float] = {}
        for each in self.begun():
            if each.at > since:
                first.setdefault(each.key, each.at)
        return first

    def start(self, process: str, inputs: int | list[Any]) -> list[UUID]:
        """So many runs, or one for each input."""
        asked = [None] * inputs if isinstance(inputs, int) else inputs
        return [started.run_id for started in self.client.start_many(process, asked)]

    def closed(self, runs: list[UUID]) -> int:
        """How many of them have ended."""
        sql = "SELECT count(*) FROM perennial.run WHERE id = ANY(:runs) AND closed_at IS NOT NULL"
        return int(self.rows(sql, runs=runs)[0][0])

    def redis(self) -> redis.Redis:
        """A client that fails at once where nobody answers."""
        return redis.Redis.from_url(self.servers.urls.broker_url, retry=None)

    def connect_to_postgres(self) -> psycopg.Connection[Any]:
        """A connection of its own. Raises where nobody answers."""
        url = self.servers.urls.database_url.replace("postgresql+psycopg://", "postgresql://")
        return psycopg.connect(url, autocommit=True)

    def end(self, *runs: UUID) -> None:
        """What a round has started is over before the next begins."""
        for run in runs:
            with suppress(PerennialError):
                self.client.cancel(run)
        self.rows("DELETE FROM begun")

    def close(self) -> None:
        """End everything that was started."""
        for worker in list(self.workers):
            self.signal(worker, signal.SIGKILL)
        self.client.close()
        self.engine.dispose()


class Gates:
    """Advisory locks that keep stages in their middle."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def close(self, number: int) -> None:
        """Hold whatever comes to this gate."""
        self._connection.execute("SELECT pg_advisory_lock(%s)", [number])

    def open(self, number: int) -> None:
        """Let it through."""
        self._connection.execute("SELECT pg_advisory_unlock(%s)", [number])


def wait_for(what: str, look: Callable[[], Any]) -> Any:
    """Look until it is so."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        if time.monotonic() > give_up_at:
            message = f"{what}: not within {PATIENCE_SECONDS} s"
            raise TimeoutError(message)
        pause(LOOK_SECONDS)
    return found


def pause(seconds: float) -> None:
    """Let time pass."""
    threading.Event().wait(seconds)
