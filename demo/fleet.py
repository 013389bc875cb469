"""The demo's servers and processes: started, hurt on purpose, and stopped by their ids.

What stands in `home`, and goes when the next demo begins:

    postgres/, redis/   the embedded servers, unless two URLs name others
    *.log               what the workers, the people and Flower say
    *.jsonl             the plan, and what the people did
    report.json         what came of it
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

import redis

from demo.failures import DemoFailed
from demo.reference import APP, ROOT
from orchestrator.embedded import EmbeddedServers, ServerUrls
from orchestrator.embedded.private import flower_login

READY_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 15.0
LOOK_SECONDS = 0.1
LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Child:
    """A process that the demo started, in a process group of its own."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_alive(self) -> bool:
        """True until it has ended."""
        return self.process.poll() is None

    def send(self, signal_number: signal.Signals) -> None:
        """Signal the whole group: a worker's pool processes must not outlive it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal_number)

    def said(self, words: str) -> bool:
        """Whether its log holds these words."""
        return words in self.log.read_text(encoding="utf-8", errors="replace")

    def failure(self, problem: str) -> DemoFailed:
        """An error that shows the end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(lines[-LOG_TAIL_LINES:])
        return DemoFailed(f"{self.name} {problem}. The end of {self.log}:\n{tail}")


class DemoFleet:
    """Use it in a `with` statement: leaving that stops all that it started, and nothing else."""

    def __init__(
        self,
        home: Path,
        *,
        urls: ServerUrls | None = None,
        concurrency: int = 2,
        flower: bool = False,
    ) -> None:
        self.home = home
        self._given_urls = urls
        self._concurrency = concurrency
        self._wants_flower = flower and find_spec("flower") is not None
        self.flower_url: str | None = None
        self._servers: EmbeddedServers | None = None
        self._urls: ServerUrls | None = None
        self._children: list[Child] = []
        self._workers: list[Child] = []
        self._workers_started = 0

    @property
    def urls(self) -> ServerUrls:
        """Where the servers are. Raises DemoFailed before `start_servers`."""
        if self._urls is None:
            raise DemoFailed("the demo's servers are not started yet")
        return self._urls

    @property
    def embedded(self) -> bool:
        """True if the servers are the demo's own, to do with as it likes."""
        return self._given_urls is None

    def start_servers(self) -> ServerUrls:
        """Start the embedded servers with no data, or take the given ones. Raises DemoFailed."""
        self.home.mkdir(parents=True, exist_ok=True)
        if self._given_urls is not None:
            self._urls = self._given_urls
        else:
            self._servers = EmbeddedServers(self.home)
            self._urls = self._start_empty(self._servers)
        for leftover in (*self.home.glob("*.log"), *self.home.glob("*.json*")):
            leftover.unlink()
        return self._urls

    def start_workers(self, number: int) -> None:
        """Start Celery workers, and Flower if asked for, and wait for the workers to be ready.

        Raises DemoFailed.
        """
        if self._wants_flower:
            self.flower_url = self._start_flower()
        started = [self._start_worker() for _ in range(number)]
        for worker in started:
            self._wait_until_said(worker, " ready.")

    def kill_worker(self) -> str:
        """SIGKILL the oldest worker with its whole pool, start another, and tell what was done."""
        victim = self._workers.pop(0)
        victim.send(signal.SIGKILL)
        victim.process.wait()
        self._children.remove(victim)
        successor = self._start_worker()
        return f"{victim.name} killed (SIGKILL), {successor.name} started"

    def flush_redis(self) -> str:
        """FLUSHALL, and tell what was done."""
        with redis.Redis.from_url(self.urls.broker_url) as server:
            messages = server.dbsize()
            server.flushall()
        return f"Redis emptied (FLUSHALL, {messages} keys)"

    def start_people(self, *arguments: str) -> Child:
        """Start the process of the people."""
        return self._start("people", "-m", "demo.people", *arguments)

    def check_alive(self) -> None:
        """Raises DemoFailed if a worker ended that nobody killed."""
        for worker in self._workers:
            if not worker.is_alive:
                raise worker.failure(f"ended with status {worker.process.returncode}")

    def stop(self) -> None:
        """Ask every process to end, end those that don't, then stop the embedded servers."""
        alive = [child for child in self._children if child.is_alive]
        for child in alive:
            child.process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        for child in alive:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            child.send(signal.SIGKILL)
            child.process.wait()
        self._children.clear()
        self._workers.clear()
        if self._servers is not None:
            self._servers.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _start_empty(self, servers: EmbeddedServers) -> ServerUrls:
        is_first = not servers.postgres.data_dir.exists()
        urls = servers.start()
        if not servers.owned:
            raise DemoFailed(
                f"another demo is at work in {self.home}: end that one, or give another --data-dir"
            )
        if is_first:
            return urls
        servers.delete()
        return servers.start()

    def _start_worker(self) -> Child:
        self._workers_started += 1
        name = f"demo-{self._workers_started}"
        worker = self._start(
            name,
            *("-m", "celery", "-A", APP, "worker", "--loglevel=INFO", f"--hostname={name}@%h"),
            f"--concurrency={self._concurrency}",
            *(["--task-events"] if self._wants_flower else []),
        )
        self._workers.append(worker)
        return worker

    def _start_flower(self) -> str:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self._start(
            *("flower", "-m", "celery", "-A", APP, "flower", "--address=127.0.0.1"),
            f"--port={port}",
            **flower_login(self.home),
        )
        return f"http://127.0.0.1:{port}"

    def _start(self, name: str, *arguments: str, **variables: str) -> Child:
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PERENNIAL_DATABASE_URL": self.urls.database_url,
            "PERENNIAL_BROKER_URL": self.urls.broker_url,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            **variables,
        }
        log = self.home / f"{name}.log"
        mine = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(mine, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def _wait_until_said(self, child: Child, words: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        rest = Event()
        while not child.said(words):
            if not child.is_alive:
                raise child.failure(f"ended with status {child.process.returncode}")
            if time.monotonic() > deadline:
                raise child.failure(f"was not ready within {READY_TIMEOUT_SECONDS:.0f} s")
            rest.wait(LOOK_SECONDS)
