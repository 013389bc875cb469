"""How long until work goes on after a fault: real workers, embedded servers, default settings.

    python benchmarks/recovery.py --rounds 2 --json recovery.json

Each round does each kind of harm once, at a random moment, to a fleet that is in the middle of its
work, and mends it again:

    kill         SIGKILL of a worker with its children      → its activities are running again
    kill-child   SIGKILL of one process of a worker's pool  → its activity is running again
    stall        SIGSTOP of a worker with its children      → its activities are running elsewhere
    flush        FLUSHALL                                   → timers fire, handoffs are taken
    redis        Redis killed, and started empty            → the same, from when it answers
    postgres     Postgres crashed, and started              → runs commit, from when it answers
    cut          every connection to Postgres ended         → runs commit
    cut-idle     the same while nothing runs                → the next run is at work

Workers, Postgres and this program are on one machine, and so all moments are by one clock.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import psutil
import psycopg
import redis
import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, text

from orchestrator import Client, PerennialError
from orchestrator.embedded import EmbeddedServers
from orchestrator.store import migrate

REPOSITORY = Path(__file__).resolve().parents[1]
WORKERS = 2
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.02

# Between the sweeps and heartbeats of a fleet at rest every moment is like any other.
PHASE_SECONDS = 2.0
REDIS_DOWN_SECONDS = 5.0
POSTGRES_DOWN_SECONDS = 10.0

NAPS = 6
NAP_SPACING_SECONDS = 1.5
TRAVELLERS = 5
TREADERS = 6

console = Console(stderr=True)


# -- the fleet -----------------------------------------------------------------------------------


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
        self.environment = {
            **{name: value for name, value in os.environ.items() if "PERENNIAL" not in name},
            "PERENNIAL_DATABASE_URL": servers.urls.database_url,
            "PERENNIAL_BROKER_URL": servers.urls.broker_url,
        }
        pool = create_engine(servers.urls.database_url, pool_pre_ping=True)
        self.engine = pool.execution_options(isolation_level="AUTOCOMMIT")
        migrate.upgrade(pool)
        self.rows(
            "CREATE TABLE begun (key text, worker int, pid int, at timestamptz DEFAULT clock_timestamp())"
        )
        os.environ.update(self.environment)
        from recovery_app import app, registry

        self.app = app
        self.client = Client(pool, registry=registry)
        self.client.deploy(*registry.processes.values())
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
                env=self.environment,
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
        with psycopg.connect(_libpq(self.servers), autocommit=True) as connection:
            gates = Gates(connection)
            for number in range(1, count + 1):
                gates.close(number)
            yield gates

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


def _libpq(servers: EmbeddedServers) -> str:
    return servers.urls.database_url.replace("postgresql+psycopg://", "postgresql://")


# -- the faults ----------------------------------------------------------------------------------

Samples = dict[str, list[float]]
"""Seconds, by what was waited for."""

RUNS_AGAIN = "the activity is running again"
TIMER_FIRES = "the first timer due afterwards fires"
TIMER_LATE = "… after its due time"
FIRST_TAKEN = "the first unclaimed handoff is taken"
ALL_TAKEN = "each unclaimed handoff is taken"
FIRST_COMMIT = "the first commit of a run in flight"
EACH_COMMIT = "each run in flight commits"
NEXT_RUN = "a run that is started then is at work"


def kill(fleet: Fleet, chance: random.Random) -> Samples:
    """A whole worker, with its children."""

    def harm(victims: list[Begun]) -> None:
        fleet.signal(victims[0].worker, signal.SIGKILL)

    return _in_mid_stage(fleet, chance, harm, mend=fleet.replace)


def kill_child(fleet: Fleet, chance: random.Random) -> Samples:
    """The children that are at work; their parent lives, and starts others."""

    def harm(victims: list[Begun]) -> None:
        for pid in {victim.pid for victim in victims}:
            os.kill(pid, signal.SIGKILL)

    return _in_mid_stage(fleet, chance, harm, mend=lambda _worker: None)


def stall(fleet: Fleet, chance: random.Random) -> Samples:
    """A worker that is there and does nothing, as on a machine that hangs."""

    def harm(victims: list[Begun]) -> None:
        fleet.signal(victims[0].worker, signal.SIGSTOP)

    return _in_mid_stage(
        fleet, chance, harm, mend=lambda worker: fleet.signal(worker, signal.SIGCONT)
    )


def _in_mid_stage(
    fleet: Fleet,
    chance: random.Random,
    harm: Callable[[list[Begun]], None],
    mend: Callable[[int], None],
) -> Samples:
    """All hands of one worker are at work, and those of the other are free to take that on."""
    count = (
        2 * fleet.concurrency - 1
    )  # so many are too many for one worker, and one has its hands full
    with fleet.gates(count) as gates:
        runs = _start(fleet, "hold", list(range(1, count + 1)))
        victims = wait_for("a worker with its hands full", lambda: _busy(fleet))
        lost = {each.key for each in victims}
        others = [run for run in runs if not any(key.startswith(str(run)) for key in lost)]
        for run in others:
            gates.open(runs.index(run) + 1)
        wait_for("free hands", lambda: _closed(fleet, others) == len(others))
        pause(chance.uniform(0, PHASE_SECONDS))
        at = time.time()
        harm(victims)

        def again() -> dict[str, float]:
            found = _first_begun(fleet, since=at)
            return found if lost <= found.keys() else {}

        found = wait_for("the lost activities", again)
    wait_for("the ends of all", lambda: _closed(fleet, runs) == count)
    mend(victims[0].worker)
    fleet.end()
    return {RUNS_AGAIN: [found[key] - at for key in lost]}


def _busy(fleet: Fleet) -> list[Begun]:
    """What the worker does that has its hands full."""
    by_worker = defaultdict(list)
    for each in fleet.begun():
        by_worker[each.worker].append(each)
    return next((each for each in by_worker.values() if len(each) == fleet.concurrency), [])


def _first_begun(fleet: Fleet, *, since: float = 0) -> dict[str, float]:
    """When each stage has begun, the first time since then."""
    first: dict[str, float] = {}
    for each in fleet.begun():
        if each.at > since:
            first.setdefault(each.key, each.at)
    return first


def _closed(fleet: Fleet, runs: list[UUID]) -> int:
    sql = "SELECT count(*) FROM perennial.run WHERE id = ANY(:runs) AND closed_at IS NOT NULL"
    return int(fleet.rows(sql, runs=runs)[0][0])


def flush(fleet: Fleet, chance: random.Random) -> Samples:
    """Queues, timers and all else in Redis are gone, and Redis is there.

    The handoffs stand in a queue that nobody serves until then.
    """
    runs = _start(fleet, "travel", TRAVELLERS)
    wait_for("handoffs in their queue", lambda: _redis(fleet).llen("far") >= TRAVELLERS)
    naps = _fall_asleep(fleet, chance)
    at = time.time()
    _redis(fleet).flushall()
    fleet.app.control.add_consumer("far")
    samples = _after_redis_was_emptied(fleet, at, runs, naps)
    fleet.app.control.cancel_consumer("far")
    return samples


def restart_redis(fleet: Fleet, chance: random.Random) -> Samples:
    """The same, and it was away for a while. The handoffs are of runs that were started then."""
    naps = _fall_asleep(fleet, chance)
    fleet.servers.redis.kill()
    runs = _start(fleet, "visit", TRAVELLERS)
    pause(chance.uniform(0, REDIS_DOWN_SECONDS))
    at = _answers(fleet.servers.redis.start, lambda: _redis(fleet).ping())
    return _after_redis_was_emptied(fleet, at, runs, naps)


def _fall_asleep(fleet: Fleet, chance: random.Random) -> list[UUID]:
    """Timers that come due one after the other, a while apart: returns somewhere among the first."""
    first_at = datetime.now(UTC) + timedelta(seconds=chance.uniform(3, 5))
    spacing = timedelta(seconds=NAP_SPACING_SECONDS)
    naps = _start(fleet, "nap", [first_at + number * spacing for number in range(NAPS)])
    armed = "SELECT count(*) FROM perennial.timer WHERE run_id = ANY(:runs)"
    wait_for("naps", lambda: fleet.rows(armed, runs=naps)[0][0] == NAPS)
    wakes_in = first_at.timestamp() - time.time()
    pause(max(0.0, wakes_in + chance.uniform(-1, 1) * NAP_SPACING_SECONDS))
    return naps


def _after_redis_was_emptied(
    fleet: Fleet, at: float, runs: list[UUID], naps: list[UUID]
) -> Samples:
    taken = wait_for(
        "every handoff to be taken",
        lambda: len(found := _first_begun(fleet)) == len(runs) and found,
    )
    wait_for("the ends of all", lambda: _closed(fleet, [*runs, *naps]) == len(runs) + len(naps))
    sql = "SELECT due_at, fired_at FROM perennial.timer WHERE run_id = ANY(:runs) ORDER BY due_at"
    timers = [
        (row.due_at.timestamp(), row.fired_at.timestamp()) for row in fleet.rows(sql, runs=naps)
    ]
    fleet.end()
    seconds = [begun - at for begun in taken.values()]
    later = [(due_at, fired_at) for due_at, fired_at in timers if due_at > at]
    return {
        TIMER_FIRES: [fired_at - at for _, fired_at in later[:1]],
        TIMER_LATE: [fired_at - due_at for due_at, fired_at in later[:1]],
        FIRST_TAKEN: [min(seconds)],
        ALL_TAKEN: seconds,
    }


def _start(fleet: Fleet, process: str, inputs: int | list[Any]) -> list[UUID]:
    asked = [None] * inputs if isinstance(inputs, int) else inputs
    return [started.run_id for started in fleet.client.start_many(process, asked)]


def crash_postgres(fleet: Fleet, chance: random.Random) -> Samples:
    """As a power cut does it; it recovers from its log."""

    def harm() -> float:
        fleet.servers.postgres.crash()
        pause(chance.uniform(0, POSTGRES_DOWN_SECONDS))
        return _answers(fleet.servers.postgres.start, lambda: _can_connect(fleet))

    return _with_runs_in_flight(fleet, chance, harm)


def cut_connections(fleet: Fleet, chance: random.Random) -> Samples:
    """As a failover or a firewall does it."""
    return _with_runs_in_flight(fleet, chance, lambda: _cut(fleet))


def cut_idle_connections(fleet: Fleet, chance: random.Random) -> Samples:
    """The same at night: every process keeps connections, and finds out when it is needed."""
    warm = _start(fleet, "visit", 10 * WORKERS * fleet.concurrency)
    wait_for("the ends of all", lambda: _closed(fleet, warm) == len(warm))
    pause(chance.uniform(0, PHASE_SECONDS))
    fleet.end()
    _cut(fleet)
    at = time.time()
    (run,) = _start(fleet, "visit", 1)
    wait_for("the end of a run", lambda: _closed(fleet, [run]))
    (begun,) = _first_begun(fleet).values()
    fleet.end()
    return {NEXT_RUN: [begun - at]}


def _cut(fleet: Fleet) -> float:
    at = time.time()
    fleet.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return at


def _with_runs_in_flight(fleet: Fleet, chance: random.Random, harm: Callable[[], float]) -> Samples:
    """Runs that commit all the time, more of them than the fleet has hands."""
    runs = _start(fleet, "tread", TREADERS)
    moving = """SELECT run_id, min(at) AS at FROM perennial.history
        WHERE run_id = ANY(:runs) AND at > :since AND event = 'stage done' GROUP BY run_id"""

    def each_since(since: float) -> Callable[[], Sequence[Any]]:
        def look() -> Sequence[Any]:
            at = datetime.fromtimestamp(since, UTC)
            found = fleet.rows(moving, runs=runs, since=at)
            return found if len(found) == len(runs) else ()

        return look

    wait_for("runs in flight", each_since(0))
    pause(chance.uniform(0, PHASE_SECONDS))
    at = harm()
    found = wait_for("each to commit", each_since(at))
    fleet.end(*runs)
    seconds = [row.at.timestamp() - at for row in found]
    return {FIRST_COMMIT: [min(seconds)], EACH_COMMIT: seconds}


def _answers(start: Callable[[], object], looks: Callable[[], object]) -> float:
    """Start a server; the moment from which it answers."""
    starting = threading.Thread(target=start)
    starting.start()
    while True:
        with suppress(Exception):  # whatever a server says that isn't there yet
            looks()
            at = time.time()
            break
        pause(0.005)
    starting.join()
    return at


def _can_connect(fleet: Fleet) -> None:
    psycopg.connect(_libpq(fleet.servers)).close()


def _redis(fleet: Fleet) -> redis.Redis:
    return redis.Redis.from_url(fleet.servers.urls.broker_url, retry=None)


FAULTS: dict[str, Callable[[Fleet, random.Random], Samples]] = {
    "kill": kill,
    "kill-child": kill_child,
    "stall": stall,
    "flush": flush,
    "redis": restart_redis,
    "postgres": crash_postgres,
    "cut": cut_connections,
    "cut-idle": cut_idle_connections,
}

BOUND_SECONDS = {
    ("kill", RUNS_AGAIN): 10.0,
    ("kill-child", RUNS_AGAIN): 10.0,
    ("flush", TIMER_FIRES): 5.0,
}


# -- what is told --------------------------------------------------------------------------------


@dataclass
class Results:
    """Samples by fault and by what was waited for."""

    samples: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, fault: str, samples: Samples) -> None:
        """One round's."""
        for what, seconds in samples.items():
            self.samples[fault, what] += seconds

    def figures(self) -> list[dict[str, Any]]:
        """p50, p99 and the longest of each; a percentile is a sample that was seen (nearest rank)."""
        return [
            {
                "fault": fault,
                "until": what,
                "n": len(seconds),
                "p50_seconds": round(_percentile(seconds, 50), 2),
                "p99_seconds": round(_percentile(seconds, 99), 2),
                "max_seconds": round(max(seconds), 2),
                "bound_seconds": BOUND_SECONDS.get((fault, what)),
            }
            for (fault, what), seconds in self.samples.items()
        ]


def _percentile(seconds: list[float], percent: int) -> float:
    return sorted(seconds)[max(0, math.ceil(len(seconds) * percent / 100) - 1)]


def table_of(figures: list[dict[str, Any]], title: str) -> Table:
    """For people."""
    table = Table(title=title)
    for name in ("fault", "until"):
        table.add_column(name)
    for name in ("n", "p50", "p99", "max", "bound"):
        table.add_column(name, justify="right")
    for row in figures:
        bound = row["bound_seconds"]
        is_missed = bound is not None and row["p99_seconds"] >= bound
        p99 = f"[red]{row['p99_seconds']:.2f} s[/]" if is_missed else f"{row['p99_seconds']:.2f} s"
        table.add_row(
            row["fault"],
            row["until"],
            str(row["n"]),
            f"{row['p50_seconds']:.2f} s",
            p99,
            f"{row['max_seconds']:.2f} s",
            f"{bound:.0f} s" if bound is not None else "",
        )
    return table


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "processors": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        **{name: version(name) for name in ("celery", "kombu", "redis", "psycopg")},
    }


def main(
    rounds: Annotated[int, typer.Option(help="How often each kind of harm is done.")] = 2,
    fault: Annotated[
        list[str] | None, typer.Option(help=f"Only these, of {', '.join(FAULTS)}.")
    ] = None,
    pool: Annotated[str, typer.Option(help="Celery's pool: prefork or solo.")] = "prefork",
    concurrency: Annotated[int, typer.Option(help="Of each worker.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the moments of harm.")] = 1,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here too.")
    ] = None,
) -> None:
    """Do harm, and measure how long until work goes on."""
    if pool == "solo":
        concurrency = 1
    chosen = {name: FAULTS[name] for name in fault or FAULTS}
    if pool == "solo":
        chosen.pop("kill-child", None)  # it has none
    chance, results = random.Random(seed), Results()
    about = {"pool": pool, "concurrency": concurrency, "workers": WORKERS, "rounds": rounds}
    about |= {"seed": seed, "machine": machine()}
    with (
        EmbeddedServers.temporary() as servers,
        tempfile.TemporaryDirectory(prefix="perennial-recovery-") as folder,
    ):
        fleet = Fleet(servers, Path(folder), pool=pool, concurrency=concurrency)
        try:
            for number in range(rounds):
                for name, harm in chosen.items():
                    console.print(f"round {number + 1} of {rounds}: {name}", end=" ")
                    samples = harm(fleet, chance)
                    results.add(name, samples)
                    worst = {what: f"{max(found):.2f}" for what, found in samples.items()}
                    console.print(str(worst), style="dim", soft_wrap=True)
        finally:
            fleet.close()
    figures = results.figures()
    title = f"{WORKERS} workers, {pool}, -c {concurrency}; default settings; seed {seed}"
    Console().print(table_of(figures, title))
    if json_path is not None:
        json_path.write_text(json.dumps({**about, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
