"""(d) Stage to stage, and signal to resume, on two workers: an idle fleet, and one at half of its capacity.

Stage to stage: from the end of one stage's function to the beginning of the next one's, both read from the
machine's one clock by the stages themselves, over the four hand-offs of each measured run. Signal to
resume: from before the sender's `Client.signal` to the first step that the flow calls after its await. One
measured run at a time. Capacity is what the same fleet does in the same round when 1,000 chains are started
at once; half of it is started at random moments (Poisson).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

from benchmarks.bench.figures import Figure, percentile
from benchmarks.bench.fleet import Fleet, Stand, wait_for
from benchmarks.bench.load import steady_load
from benchmarks.bench.options import Options
from benchmarks.bench.processes import registry
from benchmarks.bench.profiles import DEDICATED, PROFILE, SAFE
from benchmarks.bench.throughput import APP, START_BATCH, measure_open_runs
from orchestrator.core.run import RunStatus
from orchestrator.core.views import Started

PART = "latency"
WORKERS = 2
RUNS, QUICK_RUNS = 300, 60
WARM_UP = 10
CAPACITY_RUNS = START_BATCH
LOAD = 0.5
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.005
MILLISECOND = 1_000_000
STAGES, SIGNALS = "stage to stage", "signal to resume"
AT_MOST = {(STAGES, "idle", "p50"): 3.0, (STAGES, "idle", "p99"): 10.0}


def measure(options: Options) -> list[Figure]:
    """p50 and p99 of each, in both profiles."""
    samples: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    with Stand.open(options) as stand:
        for number in range(options.rounds):
            for profile in filter(options.wants, (SAFE, DEDICATED)):
                options.console.print(f"round {number + 1} of {options.rounds}: {profile}")
                for (what, when), found in _round(stand, options, profile).items():
                    samples[profile, what, when, "p50"].append(percentile(found, 50))
                    samples[profile, what, when, "p99"].append(percentile(found, 99))
                    options.console.print(
                        f"[dim]  {what}, {when}: p50 {percentile(found, 50):.2f} ms,"
                        f" p99 {percentile(found, 99):.2f} ms[/]",
                        highlight=False,
                    )
    return [
        Figure(
            PART,
            f"{what}, {when}, {at}, {profile}",
            "ms",
            tuple(found),
            at_most=AT_MOST.get((what, when, at)),
        )
        for (profile, what, when, at), found in samples.items()
    ]


def _round(stand: Stand, options: Options, profile: str) -> dict[tuple[str, str], list[float]]:
    """Milliseconds: of an idle fleet first, then of the same fleet at work."""
    count = options.size(RUNS, QUICK_RUNS)
    with stand.fleet(
        APP,
        registry=registry,
        workers=WORKERS,
        pool=options.pool,
        environment={PROFILE: profile},
    ) as fleet:
        for take in (stage_to_stage, signal_to_resume):
            take(fleet, WARM_UP)
        found = {(what, "idle"): take(fleet, count) for what, take in _MEASURED.items()}
        capacity = measure_open_runs(fleet, "chain", options.size(CAPACITY_RUNS, CAPACITY_RUNS))
        busy = f"at {LOAD:.0%} load"
        with steady_load(fleet.client, "chain", per_second=capacity * LOAD):
            found |= {(what, busy): take(fleet, count) for what, take in _MEASURED.items()}
        fleet.wait_until_closed()
    return found


def stage_to_stage(fleet: Fleet, count: int) -> list[float]:
    """Of each hand-off of so many runs, one after the other."""
    gaps: list[float] = []
    for _ in range(count):
        stamps = _result(fleet, fleet.client.start("stamps"))
        for (_, ended), (began, _) in pairwise(stamps):
            gaps.append((began - ended) / MILLISECOND)
    return gaps


def signal_to_resume(fleet: Fleet, count: int) -> list[float]:
    """Of so many runs that wait for their signal, one after the other."""
    took: list[float] = []
    for _ in range(count):
        run = fleet.client.start("wait-for-word")
        wait_for(
            "a run to wait", lambda run=run: _is_waiting(fleet, run), every_seconds=LOOK_SECONDS
        )
        fleet.client.signal(run, "word", time.monotonic_ns())
        took.append(_result(fleet, run) / MILLISECOND)
    return took


_MEASURED: dict[str, Callable[[Fleet, int], list[float]]] = {
    STAGES: stage_to_stage,
    SIGNALS: signal_to_resume,
}


def _is_waiting(fleet: Fleet, run: Started) -> bool:
    return fleet.client.get(run).status is RunStatus.WAITING


def _result(fleet: Fleet, run: Started) -> object:
    return fleet.client.result(run, timeout_seconds=PATIENCE_SECONDS)
