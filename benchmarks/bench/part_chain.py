"""(a) Five stages, each its own Celery task, beside the plain chain they replace and DBOS.

Runs a second, from the first start to the last completion, all started up front: of Perennial in both
profiles, and in the safe one with each stage handed off by a message; of five Celery tasks that hand off by
`delay()`, with stock settings and no result backend, on the same Valkey, worker count and pool; of DBOS's
workflow of five steps on the same Postgres with as many processes, one workflow after the other and with
threads, whichever is faster. In turns, in one run, and compared round by round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.bench import dbos_side, throughput
from benchmarks.bench.figures import Figure, ratio
from benchmarks.bench.fleet import Stand
from benchmarks.bench.options import Options
from benchmarks.bench.profiles import BY_MESSAGES, DEDICATED, SAFE
from benchmarks.bench.rounds import in_turns

PART = "chain"
RUNS, QUICK_RUNS = 3000, 1000
AT_LEAST = {SAFE: 1.0, DEDICATED: 1.5, BY_MESSAGES: None}
AT_LEAST_DBOS = 3.0
UNIT = "runs/s"


def measure(options: Options) -> list[Figure]:
    """Rates and ratios for each number of workers."""
    python = dbos_side.install_dbos(options)
    figures: list[Figure] = []
    with Stand.open(options) as stand:
        for workers in options.worker_counts:
            samples = in_turns(options, _sides(stand, options, python, workers), unit=UNIT)
            figures += compare(samples, f"{workers} × {options.pool}")
    return figures


def _sides(
    stand: Stand, options: Options, python: Path, workers: int
) -> dict[str, Callable[[], float]]:
    """What is measured, by name."""
    count = options.size(RUNS, QUICK_RUNS)
    fleet = {"count": count, "workers": workers, "pool": options.pool}
    ours = partial(throughput.perennial_per_second, stand, "chain", **fleet)
    return {
        SAFE: partial(ours, profile=SAFE),
        "celery": partial(throughput.plain_per_second, stand, **fleet),
        DEDICATED: partial(ours, profile=DEDICATED),
        BY_MESSAGES: partial(ours, profile=BY_MESSAGES),
        **dbos_side.sides(stand, python, count=count, processes=workers),
    }


def compare(samples: Mapping[str, Sequence[float]], of: str) -> list[Figure]:
    """Rates, and ours over theirs."""
    figures = [Figure(PART, f"{name}, {of}", UNIT, tuple(rates)) for name, rates in samples.items()]
    for profile, bound in AT_LEAST.items():
        mine, celery = samples.get(profile), samples.get("celery")
        figures += ratio(PART, f"{profile} ÷ celery, {of}", mine, celery, at_least=bound)
        if bound is not None:
            figures += dbos_side.ratios_to_dbos(
                PART, of, samples, ours=profile, at_least=AT_LEAST_DBOS
            )
    return figures
