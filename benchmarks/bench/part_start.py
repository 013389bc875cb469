"""(c) What a producer pays to start runs, from one process.

Starts a second: one by one (`Client.start`), by one thread and by several that share a client as those of a web
server do, each waiting for its run before it starts another; in bulk (`Client.start_many`, a thousand
a statement), and inside a transaction of the caller's that also inserts a row of its own, with what such a
transaction does without a start beside it; and, as the machine's own measure, a bare row of one number, inserted
and committed by psycopg alone. No worker runs: what is measured is the producer and Postgres.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import psycopg
from sqlalchemy import Connection, Engine, create_engine, text

from benchmarks.bench.figures import Figure
from benchmarks.bench.fleet import Stand
from benchmarks.bench.options import Options
from benchmarks.bench.processes import registry
from benchmarks.bench.rounds import in_turns
from orchestrator import Client

PART = "start"
PROCESS = "chain"
STARTS, QUICK_STARTS = 10_000, 2_000
BULK_FACTOR = 10
BULK = 1000
WARM_UP = 50
UNIT = "starts/s"
THREADS = (2, 8, 16)
ONE_BY_ONE, BARE_ROWS = "one by one", "a bare row"
AT_LEAST = {ONE_BY_ONE: 2_000.0, f"{ONE_BY_ONE}, 8 threads": 2_000.0, "in bulk": 20_000.0}
TRANSACTIONS, WITH_A_START = "the caller's transaction alone", "in the caller's transaction"


def measure(options: Options) -> list[Figure]:
    """Rates, and what a start adds to a transaction."""
    count = options.size(STARTS, QUICK_STARTS)
    with Stand.open(options) as stand:
        samples = in_turns(options, _ways(stand, count), unit=UNIT)
    figures = [
        Figure(PART, name, UNIT, tuple(found), at_least=AT_LEAST.get(name))
        for name, found in samples.items()
    ]
    added = tuple(
        1000 / mine - 1000 / alone
        for mine, alone in zip(samples[WITH_A_START], samples[TRANSACTIONS], strict=True)
    )
    beside = tuple(
        mine / bare for mine, bare in zip(samples[ONE_BY_ONE], samples[BARE_ROWS], strict=True)
    )
    return [
        *figures,
        Figure(PART, f"{ONE_BY_ONE} ÷ {BARE_ROWS}", "×", beside),
        Figure(PART, "a start adds to the caller's transaction", "ms", added),
    ]


def _ways(stand: Stand, count: int) -> dict[str, Callable[[], float]]:
    return {
        ONE_BY_ONE: lambda: _one_by_one(stand, count),
        **{
            f"{ONE_BY_ONE}, {threads} threads": partial(_by_threads, stand, count, threads)
            for threads in THREADS
        },
        BARE_ROWS: lambda: _bare_rows(stand, count),
        "in bulk": lambda: _in_bulk(stand, count * BULK_FACTOR),
        WITH_A_START: lambda: _in_transactions(stand, count, is_starting=True),
        TRANSACTIONS: lambda: _in_transactions(stand, count, is_starting=False),
    }


def _one_by_one(stand: Stand, count: int) -> float:
    with _producer(stand) as (client, _):
        began = time.perf_counter()
        _start_each(client, range(count))
        return count / (time.perf_counter() - began)


def _by_threads(stand: Stand, count: int, threads: int) -> float:
    """Each starts its share one by one."""
    with _producer(stand) as (client, _), ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(lambda share: _start_each(client, share), _shares(count, threads)))
        return count / (time.perf_counter() - began)


def _shares(count: int, threads: int) -> list[range]:
    return [range(first, count, threads) for first in range(threads)]


def _start_each(client: Client, numbers: range) -> None:
    for number in numbers:
        client.start(PROCESS, number)


def _bare_rows(stand: Stand, count: int) -> float:
    with _producer(stand) as (_, engine):
        url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True, prepare_threshold=0) as connection:
            began = time.perf_counter()
            for number in range(count):
                connection.execute("INSERT INTO orders (number) VALUES (%s)", [number])
            return count / (time.perf_counter() - began)


def _in_bulk(stand: Stand, count: int) -> float:
    with _producer(stand) as (client, _):
        began = time.perf_counter()
        for first in range(0, count, BULK):
            client.start_many(PROCESS, list(range(first, min(first + BULK, count))))
        return count / (time.perf_counter() - began)


def _in_transactions(stand: Stand, count: int, *, is_starting: bool) -> float:
    """The caller's own row and the run become true together, or not at all."""
    with _producer(stand) as (client, engine):
        began = time.perf_counter()
        for number in range(count):
            with engine.begin() as connection:
                _order(connection, number)
                if is_starting:
                    client.start(PROCESS, number, connection=connection)
        return count / (time.perf_counter() - began)


def _order(connection: Connection, number: int) -> None:
    connection.execute(text("INSERT INTO orders (number) VALUES (:number)"), {"number": number})


@contextmanager
def _producer(stand: Stand) -> Iterator[tuple[Client, Engine]]:
    """A client that is warm, and an application's own engine, on a fresh database."""
    with stand.database() as url:
        engine = create_engine(url)
        try:
            with Client(url, registry=registry) as client:
                client.processes.deploy(*registry.processes.values())
                for number in range(WARM_UP):
                    client.start(PROCESS, number)
                with engine.begin() as connection:
                    connection.execute(text("CREATE TABLE orders (number bigint)"))
                stand.administer("CHECKPOINT")
                yield client, engine
        finally:
            engine.dispose()
