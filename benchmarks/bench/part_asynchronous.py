"""(i) `async def` stages of one second each, all started at once: one worker process with each of Celery's pools.

Seconds from the first start until the last of them is recorded. gevent is measured where it is installed (the
extra `bench`).
"""

from __future__ import annotations

import time
from functools import partial
from importlib.util import find_spec

from benchmarks.bench.figures import Figure
from benchmarks.bench.fleet import Stand
from benchmarks.bench.options import Options
from benchmarks.bench.processes import registry
from benchmarks.bench.rounds import in_turns
from benchmarks.bench.throughput import APP

PART = "asynchronous"
RUNS, QUICK_RUNS = 1000, 1000
WARM_UP = 20
POOLS = ("solo", "prefork", "threads", "gevent")
UNIT = "s"


def measure(options: Options) -> list[Figure]:
    """How long so many stages of a second take, side by side in one process."""
    count = options.size(RUNS, QUICK_RUNS)
    pools = [pool for pool in POOLS if pool != "gevent" or find_spec("gevent")]
    with Stand.open(options) as stand:
        sides = {
            f"{count} stages of 1 s, {pool} -c 1": partial(_seconds, stand, count=count, pool=pool)
            for pool in pools
        }
        samples = in_turns(options, sides, unit=UNIT)
    return [Figure(PART, name, UNIT, tuple(found)) for name, found in samples.items()]


def _seconds(stand: Stand, *, count: int, pool: str) -> float:
    with stand.fleet(APP, registry=registry, pool=pool) as fleet:
        fleet.client.start_many("waits-a-second", list(range(WARM_UP)))
        fleet.wait_until_closed()
        began = time.time()
        fleet.client.start_many("waits-a-second", list(range(count)))
        return fleet.wait_until_closed() - began
