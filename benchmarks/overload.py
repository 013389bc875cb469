"""What a flood of starts does to everybody else: a run on another queue, a dead worker's work, a timer.

    python benchmarks/overload.py --runs 100000

Two workers on embedded servers, and one that is killed at its work. Then all runs are started at once, in
calls of 10,000, with a queue of their own. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from celery import Celery
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine, create_engine, text

from orchestrator import Client, Flow, Registry, Retry, Settings, install, process, stage
from orchestrator.core.views import Started
from orchestrator.embedded import EmbeddedServers
from orchestrator.store.schema import migrate

REPOSITORY = Path(__file__).resolve().parents[1]
RUNS_PER_CALL = 10_000
GIVE_UP_SECONDS = 3600
SLEEP_SECONDS = 5.0

registry = Registry()
app = Celery("overload", broker=os.environ.get("PERENNIAL_BROKER_URL"))
app.conf.update(task_default_queue="flood", broker_connection_retry_on_startup=True)


@stage(registry=registry, queue="flood")
def nothing(number: int) -> int:
    """What each of the many does."""
    return number


@stage(registry=registry, queue="aside", retry=Retry(max_attempts=2))
def aside(marker: str) -> str:
    """What the others do. The worker that has the marker hangs, until it is killed."""
    if marker and os.environ.get("OVERLOAD_HANGS"):
        Path(marker).touch()
        threading.Event().wait()
    return marker


@process(version=1, registry=registry, queue="flood")
async def flood(flow: Flow, number: int) -> int:
    """One of the many."""
    return await flow.stage(nothing, number)


@process(version=1, registry=registry, queue="aside")
async def other(flow: Flow, marker: str) -> str:
    """One of the others."""
    return await flow.stage(aside, marker)


@process(version=1, registry=registry, queue="aside")
async def sleeper(flow: Flow, sleep_seconds: float) -> None:
    """One that waits for a date."""
    await flow.sleep(sleep_seconds)


install(app, registry=registry)


COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def main() -> None:
    """Measure and print."""
    options = _options()
    with EmbeddedServers.temporary() as servers:
        urls = servers.urls
        environment = {
            **os.environ,
            "PERENNIAL_DATABASE_URL": urls.database_url,
            "PERENNIAL_BROKER_URL": urls.broker_url,
        }
        engine = create_engine(urls.database_url, isolation_level="AUTOCOMMIT")
        migrate.upgrade(engine)
        with Client(Settings(database_url=urls.database_url), registry=registry) as client:
            client.processes.deploy(*registry.processes.values())
            lost = _lose_a_worker(client, environment, servers)
            with _workers(environment):
                told = _measure(client, engine, options, lost)
        engine.dispose()
    print(json.dumps({"runs": options.runs, "workers": 2, **told}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100_000)
    return parser.parse_args()


def _measure(
    client: Client, engine: Engine, options: argparse.Namespace, lost: Started
) -> dict[str, Any]:
    warm = client.start(other, "")
    _wait(lambda: client.get(warm).status.is_closed)
    sleeping = client.start(sleeper, SLEEP_SECONDS)
    _wait(lambda: client.get(sleeping).next_timer_at is not None)
    with Progress(*COLUMNS, console=Console(stderr=True)) as progress:
        starting = progress.add_task("started", total=options.runs)
        sending = progress.add_task("handed off", total=options.runs)
        begun = time.monotonic()
        first = None
        for number in range(0, options.runs, RUNS_PER_CALL):
            numbers = list(range(number, min(number + RUNS_PER_CALL, options.runs)))
            started = client.start_many(flood, numbers)
            first = first or started[0]
            progress.advance(starting, len(numbers))
        all_started = time.monotonic()
        afterwards = client.start(other, "")

        def is_over() -> bool:
            unsent = _unsent(engine)
            progress.update(sending, completed=options.runs - unsent)
            return unsent == 0

        _wait(is_over)
        all_sent = time.monotonic()
        for run in (afterwards, lost, sleeping):
            _wait(lambda run=run: client.get(run).status.is_closed)
    assert first is not None
    begin = client.get(first).created_at
    return {
        "seconds to start them": round(all_started - begun, 1),
        "seconds from there until each is handed off": round(all_sent - all_started, 1),
        "seconds that a run took on another queue, started after them": _seconds(
            client.get(afterwards).created_at, client.get(afterwards).closed_at
        ),
        "seconds from the first start until a dead worker's stage was done by another": _seconds(
            begin, client.get(lost).closed_at
        ),
        "seconds that a timer was late": _lateness(engine, sleeping),
    }


def _seconds(begin: datetime, end: datetime | None) -> float | None:
    return None if end is None else round((end - begin).total_seconds(), 2)


def _lateness(engine: Engine, run: Started) -> float | None:
    sql = "SELECT extract(epoch FROM fired_at - due_at)::float8 FROM perennial.timer WHERE run_id = :id"
    with engine.connect() as connection:
        late = connection.execute(text(sql), {"id": run.run_id}).scalar_one()
    return None if late is None else round(late, 2)


def _unsent(engine: Engine) -> int:
    with engine.connect() as connection:
        sql = "SELECT count(*) FROM perennial.outbox WHERE publishes = 0"
        return int(connection.execute(text(sql)).scalar_one())


def _lose_a_worker(
    client: Client, environment: dict[str, str], servers: EmbeddedServers
) -> Started:
    """A run whose stage is claimed by a worker that is dead."""
    marker = servers.data_dir / "hangs"
    run = client.start(other, str(marker))
    with _worker({**environment, "OVERLOAD_HANGS": "1"}, "aside"):
        _wait(marker.exists)
    return run


@contextmanager
def _workers(environment: dict[str, str]) -> Iterator[None]:
    with _worker(environment, "flood"), _worker(environment, "aside"):
        yield


@contextmanager
def _worker(environment: dict[str, str], queue: str) -> Iterator[None]:
    command = ["-A", "benchmarks.overload", "worker", "-P", "solo", "-l", "error"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", *command, "-Q", queue, "-n", f"{queue}@%h"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,  # its banner
    )
    try:
        yield
    finally:
        worker.kill()
        worker.wait()


def _wait(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError
        threading.Event().wait(0.05)


if __name__ == "__main__":
    main()
