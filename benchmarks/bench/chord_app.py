"""The Celery chord that a gather of many stages replaces: its header's tasks, and a body when all have ended."""

from __future__ import annotations

import os
import time

import redis

from benchmarks.bench.celery_app import BROKER, make_app
from benchmarks.bench.plain_app import DONE

app = make_app("chord")
app.conf.result_backend = os.environ[BROKER]  # a chord counts there


@app.task(shared=False)
def add_one(number: int) -> int:
    """The least that a task can do."""
    return number + 1


@app.task(shared=False)
def ended(results: list[int]) -> None:
    """The body: it has all results."""
    redis.Redis.from_url(os.environ[BROKER]).rpush(DONE, time.time())
    assert results
