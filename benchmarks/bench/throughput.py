"""Runs a second of each side, measured alike: the fleet is ready and warm, and all runs are started at once.

Every rate is from the first start to the last completion, so it holds what starting takes; each side is
started the way its users start many.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from benchmarks.bench.celery_app import BROKER
from benchmarks.bench.fleet import Fleet, Stand, wait_for
from benchmarks.bench.processes import registry
from benchmarks.bench.profiles import SAFE, environment_of

APP = "benchmarks.bench.app"
PLAIN_APP = "benchmarks.bench.plain_app"
WARM_UP = 100
START_BATCH = 1000


def perennial_per_second(
    stand: Stand,
    process: str,
    *,
    count: int,
    workers: int,
    pool: str = "solo",
    concurrency: int = 1,
    profile: str = SAFE,
    arguments: Sequence[str] = (),
) -> float:
    """Runs of a process of ours."""
    with stand.fleet(
        APP,
        registry=registry,
        workers=workers,
        pool=pool,
        concurrency=concurrency,
        environment=environment_of(profile),
        arguments=arguments,
    ) as fleet:
        fleet.client.start_many(process, list(range(WARM_UP)))
        fleet.wait_until_closed()
        return measure_open_runs(fleet, process, count)


def measure_open_runs(fleet: Fleet, process: str, count: int) -> float:
    """Start so many, and see when the last one has ended."""
    began = time.time()
    for batch in range(0, count, START_BATCH):
        fleet.client.start_many(process, list(range(batch, min(batch + START_BATCH, count))))
    return count / (fleet.wait_until_closed() - began)


def plain_per_second(
    stand: Stand,
    *,
    count: int,
    workers: int,
    pool: str = "solo",
    concurrency: int = 1,
    arguments: Sequence[str] = (),
) -> float:
    """Celery's plain chains."""
    with stand.fleet(
        PLAIN_APP, workers=workers, pool=pool, concurrency=concurrency, arguments=arguments
    ) as fleet:
        plain = _plain_app(stand.broker_url)
        _run_plain(fleet, plain, WARM_UP)
        began = time.time()
        return count / (_run_plain(fleet, plain, count) - began)


def _run_plain(fleet: Fleet, plain: Any, count: int) -> float:
    """When the last one ended."""
    redis = fleet.redis()
    redis.delete(plain.DONE)
    for number in range(count):
        plain.first.delay(number)
    wait_for("chains to end", lambda: redis.llen(plain.DONE) >= count, every_seconds=0.05)
    return max(float(ended) for ended in redis.lrange(plain.DONE, 0, -1))


def _plain_app(broker_url: str) -> Any:
    """Its module, on this broker: `delay()` as a producer calls it."""
    os.environ[BROKER] = broker_url
    plain = import_module(PLAIN_APP)
    if plain.app.conf.broker_url != broker_url:
        plain.app.conf.broker_url = broker_url
        plain.app.pool.force_close_all()
    return plain
