"""Failed runs among a million: found by their cause, previewed, retried at a rate, finished by a worker.

    python benchmarks/redrive.py --runs 1000000 --failed 10000 --rate 200

Embedded servers and one worker. Three real runs fail, each by a cause of its own, and are copied; the others are bare
rows, half of them open. Then the runs of one cause are retried, after what it stood for is mended; one in a hundred of
them fails again. Prints one JSON document; what a stage does is counted in a table of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from celery import Celery
from rich.console import Console
from sqlalchemy import Engine, create_engine, event, text

from benchmarks.bench.copies import copy_run
from orchestrator import (
    Client,
    Flow,
    Registry,
    Retry,
    RunFilter,
    RunStatus,
    Settings,
    idempotency_key,
    install,
    process,
    stage,
)
from orchestrator.embedded import EmbeddedServers
from orchestrator.store.schema import migrate

GIVE_UP_SECONDS = 3600
FAILS_AGAIN_EVERY = 100
CAUSES: dict[str, type[Exception]] = {
    "connection": ConnectionError,
    "lookup": LookupError,
    "value": ValueError,
}

registry = Registry()
app = Celery("redrive", broker=os.environ.get("PERENNIAL_BROKER_URL"))
app.conf.update(broker_connection_retry_on_startup=True)

EFFECTS = "CREATE TABLE public.effect (stage text NOT NULL, key text NOT NULL)"
OTHERS = """
INSERT INTO perennial.run (id, process, version, status, waiting_for, created_at, closed_at)
SELECT gen_random_uuid(), 'redriven', 1, CASE WHEN n % 2 = 0 THEN 'waiting' ELSE 'completed' END,
    CASE WHEN n % 2 = 0 THEN 'signal go' END, perennial.now(), CASE WHEN n % 2 = 1 THEN perennial.now() END
FROM generate_series(1, :runs) n
"""

_local = threading.local()


def _effect(name: str) -> int:
    """What a stage does to the world is counted. A number by which its run is known."""
    connection = getattr(_local, "connection", None)
    if connection is None:
        url = os.environ["PERENNIAL_DATABASE_URL"].replace("+psycopg", "")
        connection = _local.connection = psycopg.connect(url, autocommit=True)
    key = idempotency_key() or ""
    connection.execute("INSERT INTO public.effect VALUES (%s, %s)", (name, key))
    return UUID(key.partition("/")[0]).int % 1_000_000


@stage(registry=registry)
def validate(cause: str) -> str:
    """Done before the failure, and not to be done again."""
    _effect("validate")
    return cause


@stage(registry=registry, retry=Retry(max_attempts=1))
def provision(cause: str) -> str:
    """Fails, until it is mended; and one in so many then, too."""
    number = _effect("provision")
    is_mended = os.environ.get("REDRIVE_MENDED") == cause
    if not is_mended or number % FAILS_AGAIN_EVERY == 0:
        raise CAUSES[cause](f"request {number} was refused after {number / 7:.2f} s")
    return cause


@process(version=1, registry=registry)
async def redriven(flow: Flow, cause: str) -> str:
    """Two stages, the second of which fails."""
    await flow.stage(validate, cause)
    return await flow.stage(provision, cause)


install(app, registry=registry)


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
            _fill(client, engine, options, environment)
            told = _measure(client, engine, options, environment)
        engine.dispose()
    print(json.dumps(told, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--failed", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=200.0)
    return parser.parse_args()


def _fill(
    client: Client, engine: Engine, options: argparse.Namespace, environment: dict[str, str]
) -> None:
    client.processes.deploy(*registry.processes.values())
    with engine.connect() as connection:
        connection.execute(text(EFFECTS))
        connection.execute(text(OTHERS), {"runs": options.runs - options.failed})
    with _worker(environment):
        failed = [client.start(redriven, cause) for cause in CAUSES]
        for run in failed:
            _wait(lambda run=run: client.get(run).status is RunStatus.FAILED)
    each = options.failed // len(failed) - 1
    for run in failed:
        copy_run(engine, run.run_id, each, console=Console(stderr=True))
    with engine.connect() as connection:
        connection.execute(text("TRUNCATE public.effect"))
        connection.execute(text("VACUUM ANALYZE"))


def _measure(
    client: Client, engine: Engine, options: argparse.Namespace, environment: dict[str, str]
) -> dict[str, Any]:
    bulk, asked = (
        client.operations.bulk,
        RunFilter(process="redriven", error_type="ConnectionError"),
    )
    plans: list[str] = []
    with _explained(client, plans):
        causes, to_group = _timed(client.operations.incidents)
        cause = next(each for each in causes if each.cause.type == "ConnectionError")
        asked = RunFilter(cause=cause.digest, stage="provision", statuses=(RunStatus.FAILED,))
        shown, to_preview = _timed(lambda: bulk.preview("retry", asked, by="ann"))
    with _worker({**environment, "REDRIVE_MENDED": "connection"}):
        done, to_apply = _timed(
            lambda: bulk.apply(shown.digest, by="ann", rate_per_second=options.rate)
        )
        begun = time.monotonic()
        open_runs = RunFilter(process="redriven", statuses=(RunStatus.RUNNING,))
        _wait(lambda: not client.list(matching=open_runs, limit=1))
        to_finish = time.monotonic() - begun
    with engine.connect() as connection:
        sql = "SELECT stage, count(*), count(DISTINCT key) FROM public.effect GROUP BY stage"
        effects = {row[0]: list(row[1:]) for row in connection.execute(text(sql))}
        sql = "SELECT status, count(*) FROM perennial.run WHERE id = ANY(:ids) GROUP BY status"
        ids = [run.id for run in shown.runs]
        ended = {row[0]: row[1] for row in connection.execute(text(sql), {"ids": ids})}
    return {
        "runs": options.runs,
        "failed by three causes": options.failed,
        "seconds to list the causes": round(to_group, 3),
        "seconds to preview the retry": round(to_preview, 3),
        "runs in the preview": len(shown.runs),
        "tables that were read from end to end": [
            plan for plan in plans if "Seq Scan on run" in plan
        ],
        "indexes of run that were read": sorted(
            set(re.findall(r"\b(?:using|on) (run_[a-z]+)", "\n".join(plans)))
        ),
        "runs retried": dict(done.counts),
        "rate asked for": options.rate,
        "runs a second": round(len(shown.runs) / to_apply, 1),
        "seconds from there until the worker had finished": round(to_finish, 1),
        "how they ended": ended,
        "finished stages repeated": effects.get("validate", [0])[0],
        "calls of the failed stage, and of how many runs": effects.get("provision"),
    }


@contextmanager
def _explained(client: Client, plans: list[str]) -> Iterator[None]:
    """The plan of each read, as it is asked."""
    reads = client._context.reads  # noqa: SLF001 - whose statements are looked at
    assert reads is not None

    def explain(_connection: Any, cursor: Any, sql: str, parameters: Any, *_rest: Any) -> None:
        if sql.lstrip().startswith("SELECT"):
            cursor.execute(f"EXPLAIN {sql}", parameters)
            plans.append("\n".join(row[0] for row in cursor.fetchall()))

    event.listen(reads, "before_cursor_execute", explain)
    yield
    event.remove(reads, "before_cursor_execute", explain)


def _timed(act: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.monotonic()
    answer = act()
    return answer, time.monotonic() - begun


@contextmanager
def _worker(environment: dict[str, str]) -> Iterator[None]:
    command = ["-A", "benchmarks.redrive", "worker", "-P", "threads", "-c", "8", "-l", "error"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", *command], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait()


def _wait(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError
        threading.Event().wait(0.1)


if __name__ == "__main__":
    main()
