"""(j) Runs of many activities: a gather of stages beside a Celery chord of as many tasks, and what length costs.

Seconds from the start of one run until it is recorded as completed; of a chord, until its body is called. The
same fleet, queue and pool, in turns. Of a chain: milliseconds a stage, in a short run and in a long one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module

from celery import chord

from benchmarks.bench.celery_app import BROKER
from benchmarks.bench.figures import Figure, ratio
from benchmarks.bench.fleet import Stand, wait_for
from benchmarks.bench.options import Options
from benchmarks.bench.processes import registry
from benchmarks.bench.rounds import in_turns
from benchmarks.bench.throughput import APP

PART = "many"
STAGES, QUICK_STAGES = 1000, 1000
MORE = 4
SHORT, LONG, QUICK_LONG = 30, 3000, 1000
SHORT_RUNS = 10
WARM_UP = 20
AT_LEAST_CHORD = 2.0
AT_LEAST_LENGTH = 1 / 3
CHORD_APP = "benchmarks.bench.chord_app"


def measure(options: Options) -> list[Figure]:
    """Seconds, and ratios."""
    count = options.size(STAGES, QUICK_STAGES)
    length = options.size(LONG, QUICK_LONG)
    figures: list[Figure] = []
    with Stand.open(options) as stand:
        for workers in options.worker_counts:
            of = f"{workers} × {options.pool}"
            ours = partial(_seconds, stand, workers=workers, pool=options.pool)
            few, more = f"gather of {count}, {of}", f"gather of {MORE * count}, {of}"
            theirs = f"chord of {count}, {of}"
            sides: dict[str, Callable[[], float]] = {
                few: partial(ours, "many", count),
                theirs: partial(_chord, stand, count, workers=workers, pool=options.pool),
                more: partial(ours, "many", MORE * count),
            }
            samples = in_turns(options, sides, unit="s")
            figures += [Figure(PART, name, "s", tuple(found)) for name, found in samples.items()]
            figures += ratio(
                PART,
                f"chord ÷ gather, {of}",
                samples.get(theirs),
                samples.get(few),
                at_least=AT_LEAST_CHORD,
            )
            short, long = (
                f"a stage in a chain of {SHORT}, {of}",
                f"a stage in one of {length}, {of}",
            )
            sides = {
                short: partial(ours, "long", SHORT, runs=SHORT_RUNS, each=SHORT),
                long: partial(ours, "long", length, each=length),
            }
            samples = in_turns(options, sides, unit="ms")
            figures += [Figure(PART, name, "ms", tuple(found)) for name, found in samples.items()]
            figures += ratio(
                PART,
                f"short ÷ long, {of}",
                samples.get(short),
                samples.get(long),
                at_least=AT_LEAST_LENGTH,
            )
    return figures


def _seconds(
    stand: Stand,
    process: str,
    count: int,
    *,
    workers: int,
    pool: str,
    runs: int = 1,
    each: int = 0,
) -> float:
    """From the first start to the last end; with `each`, milliseconds for each of so many stages of a run."""
    with stand.fleet(APP, registry=registry, workers=workers, pool=pool) as fleet:
        fleet.client.start_many("chain", list(range(WARM_UP)))
        fleet.wait_until_closed()
        began = time.time()
        for _ in range(runs):  # one after the other: each has the fleet for itself
            fleet.client.start(process, count)
            ended = fleet.wait_until_closed()
        return (ended - began) * 1000 / (runs * each) if each else ended - began


def _chord(stand: Stand, count: int, *, workers: int, pool: str) -> float:
    with stand.fleet(CHORD_APP, workers=workers, pool=pool) as fleet:
        os.environ[BROKER] = stand.broker_url
        theirs = import_module(CHORD_APP)  # not before there is a broker
        if theirs.app.conf.broker_url != stand.broker_url:
            theirs.app.conf.update(broker_url=stand.broker_url, result_backend=stand.broker_url)
            theirs.app.pool.force_close_all()
        redis = fleet.redis()

        def call(many: int) -> float:
            redis.delete(theirs.DONE)
            began = time.time()
            chord(theirs.add_one.s(number) for number in range(many))(theirs.ended.s())
            wait_for("the chord to end", lambda: redis.llen(theirs.DONE) >= 1, every_seconds=0.01)
            return float(redis.lrange(theirs.DONE, 0, -1)[0]) - began

        call(WARM_UP)
        return call(count)
