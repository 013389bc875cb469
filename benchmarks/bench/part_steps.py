"""(b) Five inline steps of one run, beside DBOS's workflow of five steps.

Runs a second, from the first start to the last completion, all started up front, with as many workers
(solo, or the pool that is asked for) as DBOS has processes, on the same Postgres. A run of ours is a
message and a turn that holds all five; each step's result is recorded before the next begins, as DBOS's is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.bench import dbos_side, throughput
from benchmarks.bench.figures import Figure
from benchmarks.bench.fleet import Stand
from benchmarks.bench.options import Options
from benchmarks.bench.profiles import DEDICATED, SAFE
from benchmarks.bench.rounds import in_turns

PART = "steps"
RUNS, QUICK_RUNS = 5000, 1000
AT_LEAST = 10.0
UNIT = "runs/s"


def measure(options: Options) -> list[Figure]:
    """Rates and ratios for each number of processes."""
    python = dbos_side.install_dbos(options)
    count = options.size(RUNS, QUICK_RUNS)
    figures: list[Figure] = []
    with Stand.open(options) as stand:
        for workers in options.worker_counts:
            ours = partial(
                throughput.perennial_per_second,
                stand,
                "steps",
                count=count,
                workers=workers,
                pool=options.pool,
            )
            sides = {
                SAFE: partial(ours, profile=SAFE),
                DEDICATED: partial(ours, profile=DEDICATED),
                **dbos_side.sides(stand, python, count=count, processes=workers),
            }
            samples = in_turns(options, sides, unit=UNIT)
            figures += compare(samples, f"{workers} × {options.pool}")
    return figures


def compare(samples: Mapping[str, Sequence[float]], of: str) -> list[Figure]:
    """Rates, and ours over DBOS's."""
    figures = [Figure(PART, f"{name}, {of}", UNIT, tuple(rates)) for name, rates in samples.items()]
    for profile in (SAFE, DEDICATED):
        figures += dbos_side.ratios_to_dbos(PART, of, samples, ours=profile, at_least=AT_LEAST)
    return figures
