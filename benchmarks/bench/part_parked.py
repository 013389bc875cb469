"""(f) What waiting costs: runs that are parked at their first approval, from none to a million.

One idle fleet of two workers looks after none of them, then 10 thousand, 100 thousand, a million, and at last
none again. Of each crowd, in windows of some seconds: the CPU of all worker processes and their memory (PSS,
which counts what forks share once), Redis's memory, and transactions of Postgres per worker: an idle worker's
are statements. The crowds are copies of one real run (`copies.py`), spread over days as in life.

Bytes per parked run are those of every table and index of the schema, history and all: once of runs that the
engine itself has brought there one after the other, dead rows and half-filled pages included, and once of the
crowd. What the empty schema takes is subtracted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Engine, create_engine, text

from benchmarks.bench.copies import copy_run
from benchmarks.bench.figures import Figure
from benchmarks.bench.fleet import Fleet, Stand, pause, wait_for
from benchmarks.bench.inline import Inline
from benchmarks.bench.options import Options
from benchmarks.bench.waits import a_request, ask, registry
from orchestrator import RunStatus

PART = "parked"
APP = "benchmarks.bench.waits_app"
CROWDS, QUICK_CROWDS = (10_000, 100_000, 1_000_000), (10_000,)
DRIVEN, QUICK_DRIVEN = 10_000, 2_000
WORKERS = 2
WINDOW_SECONDS, QUICK_WINDOW_SECONDS = 20.0, 8.0
SETTLE_SECONDS = 3.0  # what a crowd's arrival has left to do
VACUUM_EVERY = 1_000  # runs; what autovacuum does in a fleet, once a minute
NOISE = 1.1
BYTES_MAX = 3 * 1024
SPREAD = "copy.number * interval '200 milliseconds'"


@dataclass(frozen=True)
class Window:
    """What an idle fleet took in a while."""

    cpu: float
    memory: float
    redis: float
    statements: float


WHAT = {
    "cpu": ("workers' CPU", "ms/s"),
    "memory": ("workers' memory", "MiB"),
    "redis": ("Redis's memory", "MiB"),
    "statements": ("statements per idle worker", "per s"),
}


def measure(options: Options) -> list[Figure]:
    """The windows, and the bytes."""
    crowds = QUICK_CROWDS if options.quick else CROWDS
    if options.runs is not None:
        crowds = (options.runs,)
    with Stand.open(options) as stand:
        driven = _bytes_as_driven(stand, min(options.size(DRIVEN, QUICK_DRIVEN), DRIVEN))
        with stand.fleet(
            APP, registry=registry, workers=WORKERS, pool=options.pool, concurrency=1
        ) as fleet:
            figures, copied = _of_an_idle_fleet(stand, fleet, crowds, options)
    return [*figures, driven, copied]


def _of_an_idle_fleet(
    stand: Stand, fleet: Fleet, crowds: tuple[int, ...], options: Options
) -> tuple[list[Figure], Figure]:
    seconds = QUICK_WINDOW_SECONDS if options.quick else WINDOW_SECONDS
    stand.administer("ALTER SYSTEM SET autovacuum = off")  # its transactions are nobody's here
    stand.administer("SELECT pg_reload_conf()")
    empty = bytes_of(fleet.engine)

    def windows(name: str) -> list[Window]:
        fleet.engine.dispose()  # a session counts its transactions late, but at its end
        pause(SETTLE_SECONDS)
        found = []
        for number in range(options.rounds):
            options.console.print(f"{name}: window {number + 1} of {options.rounds}")
            found.append(_window(fleet, seconds))
        return found

    run = fleet.client.start(ask.name, a_request(1), key="REQ-1").run_id
    wait_for("a run to be parked", lambda: fleet.client.get(run).status is RunStatus.WAITING)
    none, there, many = windows("none"), 0, {}
    for crowd in crowds:
        copy_run(
            fleet.engine,
            run,
            crowd - there,
            changes={
                "timer.due_at": f"timer.due_at + {SPREAD}",
                "approval.opened_at": f"approval.opened_at + {SPREAD}",
            },
            console=options.console,
        )
        there = crowd
        fleet.rows("VACUUM (ANALYZE)")
        stand.administer("CHECKPOINT")
        many[crowd] = windows(f"{crowd:,} runs parked")
    copied = Figure(
        PART,
        f"bytes per parked run, of {crowds[-1]:,}",
        "bytes",
        ((bytes_of(fleet.engine) - empty) / crowds[-1],),
        at_most=BYTES_MAX,
        note="copies",
    )
    _empty(fleet)
    none += windows("none again")
    return _figures(none, many), copied


def _figures(none: list[Window], many: dict[int, list[Window]]) -> list[Figure]:
    figures = []
    for field, (name, unit) in WHAT.items():
        alone = tuple(getattr(window, field) for window in none)
        at_most = 1.0 if field == "statements" else max(alone) * NOISE
        figures.append(Figure(PART, f"{name}, none parked", unit, alone))
        figures += [
            Figure(
                PART,
                f"{name}, {crowd:,} parked",
                unit,
                tuple(getattr(window, field) for window in windows),
                at_most=at_most,
            )
            for crowd, windows in many.items()
        ]
    return figures


def _window(fleet: Fleet, seconds: float) -> Window:
    cpu, statements, began = _cpu(fleet), _transactions(fleet), time.monotonic()
    pause(seconds)
    took = time.monotonic() - began
    memory = sum(process.memory_full_info().pss for process in fleet.processes())
    return Window(
        cpu=(_cpu(fleet) - cpu) / took * 1000,
        memory=memory / 2**20,
        redis=float(fleet.redis().info("memory")["used_memory"]) / 2**20,
        # one of our own: the first look
        statements=(_transactions(fleet) - statements - 1) / took / WORKERS,
    )


def _cpu(fleet: Fleet) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in fleet.processes())


def _transactions(fleet: Fleet) -> int:
    sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    return int(fleet.rows(sql)[0][0])


def _empty(fleet: Fleet) -> None:
    """All runs go, at once."""
    with (
        fleet.engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
        connection.begin(),
    ):
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(
            text("TRUNCATE perennial.run, perennial.history, perennial.outbox CASCADE")
        )


def bytes_of(engine: Engine) -> int:
    """All tables of the schema, their indexes and what they keep out of line."""
    sql = """SELECT sum(pg_total_relation_size(oid)) FROM pg_class
        WHERE relnamespace = 'perennial'::regnamespace AND relkind IN ('r', 'm')"""
    with engine.connect() as connection:
        return int(connection.execute(text(sql)).scalar_one())


def _bytes_as_driven(stand: Stand, count: int) -> Figure:
    """Runs that arrive one after the other, each brought to its approval by the engine."""
    with stand.database() as url, Inline.open(url, registry) as inline:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        empty = bytes_of(engine)
        for number in range(count):
            inline.run(ask, a_request(number), key=f"REQ-{number}")
            if number % VACUUM_EVERY == VACUUM_EVERY - 1:
                _vacuum(engine)
        _vacuum(engine)
        taken = bytes_of(engine) - empty
        engine.dispose()
    name = "bytes per parked run, as the engine has left it"
    return Figure(PART, name, "bytes", (taken / count,), at_most=BYTES_MAX, note=f"{count:,} runs")


def _vacuum(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("VACUUM"))
