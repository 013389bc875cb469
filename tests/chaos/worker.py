"""A real worker in a process of its own, forked from a server that has imported everything already.

`Trap` is what makes it die, or stand still, at a place of the main path.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import time_machine
from celery import Celery

from orchestrator import Client, PerennialError, Registry, Settings, install
from orchestrator.engine import liveness
from orchestrator.faults import When, listen
from orchestrator.fleet.timer_index import TimerIndex

QUEUE = "chaos"


def make_app(
    registry: Registry, settings: Settings, *, lacks: frozenset[str] = frozenset()
) -> Celery:
    """The Celery app of one worker. `lacks`: stages and processes that this release has not got."""
    app = Celery("chaos", broker=settings.broker())
    app.conf.update(
        task_default_queue=QUEUE,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 2},
        worker_hijack_root_logger=False,
    )
    install(app, registry=without(registry, lacks), settings=settings)
    return app


def without(registry: Registry, lacks: frozenset[str]) -> Registry:
    if not lacks:
        return registry
    older = Registry()
    for each in registry.stages.values():
        if each.name not in lacks:
            older.add_stage(each)
    for definition in registry.processes.values():
        if definition.name not in lacks:
            older.add_process(definition)
    return older


@dataclass(frozen=True, order=True)
class Place:
    """A fault point by name."""

    when: When
    what: str

    def __str__(self) -> str:
        return f"{self.when} {self.what}"


class How(Enum):
    """What becomes of the process there."""

    EXITS = "exits"
    """`os._exit`: no clean-up, no goodbye."""
    KILLED = "is killed"
    """SIGKILL from outside, while it stands at the place."""
    STALLS = "stalls"
    """SIGSTOP; it comes back when its work has long been done by others."""


@dataclass(frozen=True)
class Trap:
    """At the n-th time this place is reached, that happens. `reached` is a file that says so."""

    place: Place
    how: How
    reached: Path
    occurrence: int = 1

    def set(self) -> None:
        """Listen, in the process that is to be caught."""
        lock, left = threading.Lock(), self.occurrence

        def at(when: When, what: str) -> None:
            nonlocal left
            if (when, what) != (self.place.when, self.place.what):
                return
            with lock:
                left -= 1
                if left != 0:
                    return
                self.reached.touch()
                if self.how is How.EXITS:
                    os._exit(86)
                # This very thread, so that it takes no step more; the others stop with it.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

        listen(at)


@dataclass(frozen=True)
class Plan:
    """All that a worker's process is told."""

    name: str
    settings: dict[str, Any]
    log: Path
    trap: Trap | None = None
    lacks: frozenset[str] = frozenset()
    has_index: bool = True
    registry: str = "tests.chaos.app"
    """The module whose `registry` it has."""
    pool: str = "solo"
    clock_ahead_seconds: float = 0.0
    witness_url: str = ""
    """Where effects are counted, if not in the database of the record."""


@dataclass(frozen=True)
class Words:
    """A call of the client's, from outside the fleet: `operations.resume`."""

    verb: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def speak(database_url: str, trap: Trap, words: Words) -> None:
    """Be a caller, into a trap."""
    os.setpgrp()
    client = Client(Settings(database_url=database_url))
    trap.set()
    with suppress(PerennialError):
        attrgetter(words.verb)(client)(*words.arguments, **words.options)
    os._exit(0)


def run(plan: Plan) -> None:
    """Be that worker until it is ended."""
    os.setpgrp()  # so that it can be killed with its children
    log = plan.log.open("w")
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())
    logging.basicConfig(stream=log, level=logging.INFO, force=True)
    os.environ["PERENNIAL_DATABASE_URL"] = plan.witness_url or plan.settings["database_url"]
    if not plan.has_index:
        TimerIndex.for_app = classmethod(lambda *_: None)  # type: ignore[assignment,method-assign]
    if plan.clock_ahead_seconds:
        there = datetime.now(UTC) + timedelta(seconds=plan.clock_ahead_seconds)
        time_machine.travel(there, tick=True).start()
    registry = import_module(plan.registry).registry
    app = make_app(registry, Settings(**plan.settings), lacks=plan.lacks)
    if plan.trap is not None:
        plan.trap.set()
        if plan.trap.place.what == "beat":
            liveness.MISSED_MAX = -1  # it beats itself, whether its helper does or not
    worker = app.Worker(
        hostname=f"{plan.name}@chaos",
        pool=plan.pool,
        concurrency=2,
        loglevel="INFO",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    os._exit(worker.exitcode or 0)
