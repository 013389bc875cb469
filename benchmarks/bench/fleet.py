"""Servers of a benchmark's own, and workers as a user starts them.

    with Stand.open(options) as stand, stand.fleet("benchmarks.bench.app", workers=2) as fleet:
        fleet.client.start_many("chain", [1] * 1000)
        fleet.wait_until_closed()

Each fleet has a fresh database and an empty Redis, so that no measurement stands on another's rows.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import psutil
import redis
from sqlalchemy import Engine, create_engine, text

from benchmarks.bench.celery_app import BROKER, DATABASE, READY_FOLDER
from benchmarks.bench.options import Options
from orchestrator import Client, Registry, Settings
from orchestrator.embedded import EmbeddedServers
from orchestrator.store.schema import migrate

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 600.0
LOOK_SECONDS = 0.02
END_SECONDS = 20.0


class Stand:
    """Postgres and Valkey, a template of our schema, and a folder for logs."""

    def __init__(self, servers: EmbeddedServers, logs: Path) -> None:
        self.servers, self.logs = servers, logs
        self._template: str | None = None
        self._admin = create_engine(servers.urls.database_url, isolation_level="AUTOCOMMIT")

    @classmethod
    @contextmanager
    def open(cls, options: Options) -> Iterator[Self]:
        """While the block runs. Logs are kept in the options' folder, until the next stand opens."""
        logs = options.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with EmbeddedServers.temporary() as servers:
            stand = cls(servers, logs)
            try:
                yield stand
            finally:
                stand._admin.dispose()

    @property
    def broker_url(self) -> str:
        """Where Valkey is."""
        return self.servers.urls.broker_url

    def administer(self, sql: str) -> None:
        """One statement outside every measured database."""
        with self._admin.connect() as connection:
            connection.execute(text(sql))

    @contextmanager
    def database(self, *, is_ours: bool = True) -> Iterator[str]:
        """The URL of a database of one's own, with our schema or without, gone when the block ends."""
        name = f"bench_{uuid4().hex[:12]}"
        self.administer(
            f"CREATE DATABASE {name} TEMPLATE {self._migrated() if is_ours else 'template1'}"
        )
        try:
            yield self.servers.postgres.url(name)
        finally:
            self.administer(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def fleet(
        self,
        app: str,
        *,
        registry: Registry | None = None,
        workers: int = 1,
        pool: str = "solo",
        concurrency: int = 1,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Fleet]:
        """Workers of that app that are ready, while the block runs.

        `registry`: its processes are deployed before, and the fleet's client knows them.
        `arguments`: more of them for `celery worker`.
        """
        self.redis().flushall()
        with (
            self.database(is_ours=registry is not None) as database_url,
            tempfile.TemporaryDirectory(prefix="bench-ready-") as ready,
        ):
            fleet = Fleet(
                database_url,
                self.broker_url,
                app,
                registry=registry or Registry(),
                logs=self.logs,
                ready=Path(ready),
                environment=dict(environment or {}),
            )
            try:
                fleet.start_workers(
                    workers, pool=pool, concurrency=concurrency, arguments=arguments
                )
                self.administer("CHECKPOINT")
                yield fleet
            finally:
                fleet.close()

    def redis(self) -> redis.Redis:
        """A client."""
        return redis.Redis.from_url(self.broker_url)

    def _migrated(self) -> str:
        if self._template is None:
            name = "bench_template"
            self.administer(f"CREATE DATABASE {name}")
            engine = create_engine(self.servers.postgres.url(name))
            migrate.upgrade(engine)
            engine.dispose()
            self._template = name
        return self._template


@dataclass
class Fleet:
    """Workers on one database and one broker."""

    database_url: str
    broker_url: str
    app: str
    registry: Registry
    logs: Path
    ready: Path
    environment: dict[str, str] = field(default_factory=dict)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine: Engine = create_engine(self.database_url, isolation_level="AUTOCOMMIT")
        self.client = Client(Settings(database_url=self.database_url), registry=self.registry)
        if self.registry.processes:
            self.client.processes.deploy(*self.registry.processes.values())
        self._started = 0

    def start_workers(
        self,
        count: int,
        *,
        pool: str = "solo",
        concurrency: int = 1,
        arguments: Sequence[str] = (),
    ) -> None:
        """`celery -A app worker -P pool -c concurrency`, so many times; all are ready on return."""
        for _ in range(count):
            self._start_worker(pool, concurrency, arguments)
        wait_for(
            "workers to be ready",
            lambda: len(list(self.ready.iterdir())) >= self._started,
            while_true=self._none_has_ended,
        )

    def _start_worker(self, pool: str, concurrency: int, arguments: Sequence[str]) -> None:
        self._started += 1
        with self._log(self._started).open("wb") as log:
            self.workers.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "celery", "-A", self.app, "worker"),
                        *("-P", pool, "-c", str(concurrency), "-n", f"bench-{self._started}@%h"),
                        *arguments,
                    ],
                    cwd=REPOSITORY,
                    env=self._environment(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _log(self, number: int) -> Path:
        return self.logs / f"{self.app.rpartition('.')[2]}-{number}.log"

    def _environment(self) -> dict[str, str]:
        urls = {
            DATABASE: self.database_url,
            BROKER: self.broker_url,
            "PERENNIAL_DATABASE_URL": self.database_url,
            "PERENNIAL_BROKER_URL": self.broker_url,
            READY_FOLDER: str(self.ready),
        }
        plain = {
            name: value for name, value in os.environ.items() if not name.startswith("PERENNIAL_")
        }
        return {**plain, **urls, **self.environment}

    def _none_has_ended(self) -> bool:
        first = self._started - len(self.workers) + 1
        for number, worker in enumerate(self.workers, first):
            if worker.poll() is not None:
                tail = self._log(number).read_text(errors="replace")[-2000:]
                message = f"a worker of {self.app} has ended:\n{tail}"
                raise RuntimeError(message)
        return True

    def rows(self, sql: str, **parameters: object) -> Sequence[Any]:
        """What one statement returns."""
        with self.engine.connect() as connection:
            result = connection.execute(text(sql), parameters)
            return result.fetchall() if result.returns_rows else ()

    def redis(self) -> redis.Redis:
        """A client of the broker."""
        return redis.Redis.from_url(self.broker_url)

    def wait_until_closed(self) -> float:
        """Until no run is open: when the last one ended, in seconds of Unix time, by the record.

        What is asked reads the index of open runs alone, and the answer is the record's: looking costs
        the fleet nothing, and how often is not seen in the figure.
        """
        wait_for(
            "runs to end",
            lambda: self.rows(
                "SELECT NOT EXISTS (SELECT 1 FROM perennial.run WHERE closed_at IS NULL)"
            )[0][0],
            every_seconds=0.05,
            while_true=self._none_has_ended,
        )
        states = self.rows("SELECT status, count(*) FROM perennial.run GROUP BY status")
        assert [row.status for row in states] == ["completed"], states
        return float(
            self.rows("SELECT extract(epoch FROM max(closed_at)) FROM perennial.run")[0][0]
        )

    def processes(self) -> list[psutil.Process]:
        """Of all workers, with their children."""
        parents = [psutil.Process(worker.pid) for worker in self.workers]
        return [
            *parents,
            *(child for parent in parents for child in parent.children(recursive=True)),
        ]

    def stop_workers(self) -> None:
        """As a supervisor does: asked first, and after some seconds killed."""
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        give_up_at = time.monotonic() + END_SECONDS
        for worker in self.workers:
            try:
                worker.wait(max(0.0, give_up_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        self.workers.clear()

    def close(self) -> None:
        """End all that was started."""
        self.stop_workers()
        self.client.close()
        self.engine.dispose()


def wait_for(
    what: str,
    look: Callable[[], Any],
    *,
    every_seconds: float = LOOK_SECONDS,
    while_true: Callable[[], bool] = lambda: True,
) -> Any:
    """Look until it is so."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        while_true()
        if time.monotonic() > give_up_at:
            message = f"{what}: not within {PATIENCE_SECONDS} s"
            raise TimeoutError(message)
        pause(every_seconds)
    return found


def pause(seconds: float) -> None:
    """Let time pass."""
    threading.Event().wait(seconds)
