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
from benchmarks.bench.figures import Figure, ratios
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
        f"{workers} × {pool} -c {CONCURRENCY[pool]}": (workers, pool, ())
        for pool in pools
        for workers in options.worker_counts
    }
    fleets["1 × solo -c 1 -E"] = (1, "solo", EVENTS)
    with Stand.open(options) as stand:
        samples = in_turns(options, _sides(stand, options, fleets), unit=UNIT)
    figures = [Figure(PART, name, UNIT, tuple(found)) for name, found in samples.items()]
    figures += [
        _ratio(f"{OURS} ÷ {THEIRS}, {name}", samples, f"{OURS}, {name}", f"{THEIRS}, {name}")
        for name in fleets
    ]
    for side in (OURS, THEIRS):
        figures += [
            _ratio(f"{side}: 2 workers ÷ 1, {pool}", samples, two, one)
            for pool in pools
            if (two := f"{side}, 2 × {pool} -c {CONCURRENCY[pool]}") in samples
            and (one := f"{side}, 1 × {pool} -c {CONCURRENCY[pool]}") in samples
        ]
        solo = f"{side}, 1 × solo -c 1"
        if solo in samples:
            figures.append(_ratio(f"{side}: events on ÷ off", samples, f"{solo} -E", solo))
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


def _ratio(name: str, samples: dict[str, list[float]], of: str, to: str) -> Figure:
    return Figure(PART, name, "×", ratios(samples[of], samples[to]))
