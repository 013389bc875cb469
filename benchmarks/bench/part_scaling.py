"""(h) One and two workers with each of Celery's pools, and Celery's events (which Flower shows) off and on.

Runs a second of five-stage chains in the safe profile, all started up front, beside the plain Celery chain
in the same pool. Concurrency is what the pool is for: one for solo, one process per core for prefork, some
threads, more greenlets. gevent is measured where it is installed (the extra `bench`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from benchmarks.bench import throughput
from benchmarks.bench.figures import Figure, ratio
from benchmarks.bench.fleet import Stand
from benchmarks.bench.options import Options
from benchmarks.bench.rounds import in_turns

PART = "scaling"
RUNS, QUICK_RUNS = 1500, 300
CONCURRENCY = {"solo": 1, "prefork": os.cpu_count() or 1, "threads": 4, "gevent": 8}
EVENTS = ("-E",)
UNIT = "runs/s"
OURS, THEIRS = "perennial", "celery"


def measure(options: Options) -> list[Figure]:
    """Rates of each fleet, ours over Celery's, and what a second worker and the events make of it."""
    pools = [pool for pool in CONCURRENCY if pool != "gevent" or find_spec("gevent")]
    fleets = {
        _name(workers, pool): (workers, pool, ())
        for pool in pools
        for workers in options.worker_counts
    }
    fleets[f"{SOLO} -E"] = (1, "solo", EVENTS)
    with Stand.open(options) as stand:
        samples = in_turns(options, _sides(stand, options, fleets), unit=UNIT)
    figures = [Figure(PART, name, UNIT, tuple(found)) for name, found in samples.items()]
    for name in fleets:
        ours, theirs = samples.get(f"{OURS}, {name}"), samples.get(f"{THEIRS}, {name}")
        figures += ratio(PART, f"{OURS} ÷ {THEIRS}, {name}", ours, theirs)
    for side in (OURS, THEIRS):
        for pool in pools:
            one, two = (samples.get(f"{side}, {_name(workers, pool)}") for workers in (1, 2))
            figures += ratio(PART, f"{side}: 2 workers ÷ 1, {pool}", two, one)
        off, on = samples.get(f"{side}, {SOLO}"), samples.get(f"{side}, {SOLO} -E")
        figures += ratio(PART, f"{side}: events on ÷ off", on, off)
    return figures


def _sides(
    stand: Stand, options: Options, fleets: dict[str, tuple[int, str, tuple[str, ...]]]
) -> dict[str, Callable[[], float]]:
    sides: dict[str, Callable[[], float]] = {}
    for name, (workers, pool, arguments) in fleets.items():
        fleet = {
            "count": options.size(RUNS, QUICK_RUNS),
            "workers": workers,
            "pool": pool,
            "concurrency": CONCURRENCY[pool],
            "arguments": arguments,
        }
        sides[f"{OURS}, {name}"] = partial(throughput.perennial_per_second, stand, "chain", **fleet)
        sides[f"{THEIRS}, {name}"] = partial(throughput.plain_per_second, stand, **fleet)
    return sides


def _name(workers: int, pool: str) -> str:
    return f"{workers} × {pool} -c {CONCURRENCY[pool]}"


SOLO = _name(1, "solo")
