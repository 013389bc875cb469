"""What waiting costs: CPU of the workers and transactions of Postgres, with no run and with many parked.

    python benchmarks/parked_runs.py --runs 1000 --seconds 30

Two workers on embedded servers; every run is parked at its first approval. Prints one JSON document:
the two windows side by side, so that the machine's own noise can be judged.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, create_engine, text

from orchestrator import Client, RunStatus, Settings, default_registry
from orchestrator.embedded import EmbeddedServers
from orchestrator.store import migrate
from tasks.access_request import access_request

REPOSITORY = Path(__file__).resolve().parents[1]
WORKERS = 2
SETTLE_SECONDS = 12  # Postgres's backends report their counts late; let them


def main() -> None:
    """Measure and print."""
    options = _options()
    with EmbeddedServers.temporary() as servers:
        urls = servers.urls
        engine = create_engine(urls.database_url, isolation_level="AUTOCOMMIT")
        migrate.upgrade(engine)
        workers = _start_workers(urls.database_url, urls.broker_url)
        try:
            with Client(Settings(database_url=urls.database_url)) as client:
                client.deploy(default_registry.process(access_request.name))
                _park(client, 1)  # every worker has met the process before it is measured
                none = _window(engine, workers, options.seconds)
                _park(client, options.runs)
                many = _window(engine, workers, options.seconds)
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            for worker in workers:
                worker.wait()
            engine.dispose()
    print(
        json.dumps(
            {
                "workers": WORKERS,
                "seconds": options.seconds,
                "1 run": none,
                f"{options.runs} runs": many,
            },
            indent=2,
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=30)
    return parser.parse_args()


def _start_workers(database_url: str, broker_url: str) -> list[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "PERENNIAL_DATABASE_URL": database_url,
        "PERENNIAL_BROKER_URL": broker_url,
    }
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "workers.app",
        "worker",
        "-c",
        "2",
        "-l",
        "warning",
    ]
    return [
        subprocess.Popen([*command, "-n", f"parked-{number}@%h"], cwd=REPOSITORY, env=environment)
        for number in range(WORKERS)
    ]


def _park(client: Client, count: int) -> None:
    before = client.counts().get(RunStatus.WAITING, 0)
    request = {"id": "r", "requester": "ann", "user": "ann", "role": "dev", "manager": "bob"}
    client.start_many(access_request.name, [request] * count)
    pause = threading.Event()
    while client.counts().get(RunStatus.WAITING, 0) < before + count:
        pause.wait(0.2)


def _window(engine: Engine, workers: list[subprocess.Popen[bytes]], seconds: int) -> dict[str, Any]:
    pause = threading.Event()
    pause.wait(SETTLE_SECONDS)
    cpu, transactions, memory = _cpu(workers), _transactions(engine), _memory(workers)
    pause.wait(seconds)
    return {
        "workers_cpu_seconds": round(_cpu(workers) - cpu, 2),
        "transactions_per_worker_second": round(
            (_transactions(engine) - transactions) / seconds / WORKERS, 2
        ),
        "workers_memory_mib": round(memory / 2**20),
    }


def _processes(workers: list[subprocess.Popen[bytes]]) -> list[psutil.Process]:
    parents = [psutil.Process(worker.pid) for worker in workers]
    return [*parents, *(child for parent in parents for child in parent.children(recursive=True))]


def _cpu(workers: list[subprocess.Popen[bytes]]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in _processes(workers))


def _memory(workers: list[subprocess.Popen[bytes]]) -> int:
    return sum(process.memory_info().rss for process in _processes(workers))


def _transactions(engine: Engine) -> int:
    sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    with engine.connect() as connection:
        return int(connection.execute(text(sql)).scalar_one())


if __name__ == "__main__":
    main()
