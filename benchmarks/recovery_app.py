"""The Celery app that `recovery.py` does harm to: written as a user's, with default settings.

A stage that is `held` says that it has begun, and waits at a gate: a Postgres advisory lock that the
benchmark holds.
"""

from __future__ import annotations

import os
from datetime import datetime
from functools import cache

from celery import Celery
from sqlalchemy import Engine, create_engine, text

from orchestrator import Flow, Registry, Settings, idempotency_key, install, process, stage

FAR = "far"
"""A queue that workers serve only when they are told to."""

registry = Registry()
settings = Settings()
app = Celery("recovery", broker=settings.broker())
app.conf.task_default_queue = "recovery"
app.conf.broker_connection_retry_on_startup = True


@cache
def database(_process_id: int) -> Engine:
    """One pool per process."""
    return create_engine(settings.database(), isolation_level="AUTOCOMMIT", pool_pre_ping=True)


def begin() -> None:
    """Note that this stage is at work, and in which process."""
    with database(os.getpid()).connect() as connection:
        connection.execute(
            text("INSERT INTO begun (key, worker, pid) VALUES (:key, :worker, :pid)"),
            {"key": idempotency_key(), "worker": os.getpgrp(), "pid": os.getpid()},
        )


@stage(registry=registry)
def held(gate: int) -> None:
    """In the middle of its work until the gate opens."""
    begin()
    with database(os.getpid()).connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock_shared(:gate)"), {"gate": gate})
        connection.execute(text("SELECT pg_advisory_unlock_shared(:gate)"), {"gate": gate})


@stage(registry=registry, queue=FAR)
def faraway() -> None:
    """Its message stands in a queue until that is served."""
    begin()


@stage(registry=registry)
def nearby() -> None:
    """Short, and noted."""
    begin()


@stage(registry=registry)
def tick(number: int) -> int:
    """One short piece of many."""
    return number


@process(version=1, registry=registry)
async def hold(flow: Flow, gate: int) -> None:
    """One stage, held."""
    await flow.stage(held, gate)


@process(version=1, registry=registry)
async def travel(flow: Flow) -> None:
    """One stage, far away."""
    await flow.stage(faraway)


@process(version=1, registry=registry)
async def visit(flow: Flow) -> None:
    """One stage, nearby."""
    await flow.stage(nearby)


@process(version=1, registry=registry)
async def nap(flow: Flow, until: datetime) -> None:
    """One timer."""
    await flow.sleep_until(until)


@process(version=1, registry=registry)
async def tread(flow: Flow) -> None:
    """One commit after the other."""
    for number in range(1000):
        await flow.stage(tick, number)


install(app, registry=registry, settings=settings)
