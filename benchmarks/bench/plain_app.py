"""The plain Celery chain that a process of five stages replaces: each task hands off by `delay()`.

Nothing here is durable: a worker that dies loses its chains or doubles them. What the benchmark needs to
know, when each chain ended, is one Redis command a chain.
"""

from __future__ import annotations

import os
import time
from functools import cache

import redis

from benchmarks.bench.celery_app import BROKER, make_app

DONE = "bench:done"
"""A list in Redis: when each chain ended, in seconds of Unix time."""

app = make_app("plain")


@app.task(shared=False)
def first(number: int) -> None:
    """The least that a task can do, and the hand-off."""
    second.delay(number + 1)


@app.task(shared=False)
def second(number: int) -> None:
    """The same."""
    third.delay(number + 1)


@app.task(shared=False)
def third(number: int) -> None:
    """The same."""
    fourth.delay(number + 1)


@app.task(shared=False)
def fourth(number: int) -> None:
    """The same."""
    fifth.delay(number + 1)


@app.task(shared=False)
def fifth(number: int) -> None:
    """The last."""
    _redis(os.getpid()).rpush(DONE, time.time())
    assert number


@cache
def _redis(_process_id: int) -> redis.Redis:
    """One client per process."""
    return redis.Redis.from_url(os.environ[BROKER])
