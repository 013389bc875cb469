"""Where it plays: one Postgres, one Valkey, a few workers with default settings, and their keeper.

Effects are counted in a Postgres of their own, the witness, which nothing happens to.

Whoever hurts a thing holds its lock, so that two faults don't undo each other's healing.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import redis
from sqlalchemy import create_engine

from orchestrator import Client, Settings
from orchestrator.embedded import EmbeddedPostgres, EmbeddedServers
from orchestrator.store.schema import migrate
from tests.chaos.fleet import Worker
from tests.chaos.worker import Plan, run
from tests.forks import FORKS
from tests.oracle.effects import effects
from tests.oracle.flow import registry

REGISTRY = "tests.oracle.flow"
RECENT = frozenset({"timed"})
"""The stage that only the newer of two releases has."""
STOP_SECONDS = 15.0
INSIST_SECONDS = 60.0


@dataclass
class Slot:
    """A place in the fleet: whoever works there now, and since when."""

    number: int
    worker: Worker | None = None
    lacks: frozenset[str] = frozenset()
    lives: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Theatre:
    """Servers and workers in a folder of their own; `close` ends them all."""

    def __init__(self, folder: Path, *, workers: int, pool: str) -> None:
        self.folder, self.pool = folder, pool
        folder.chmod(0o711)  # as root, Postgres' account has to pass through
        self.servers = EmbeddedServers(folder / "servers")
        self.servers.start()
        self.settings = Settings(
            database_url=self.servers.urls.database_url, broker_url=self.servers.urls.broker_url
        )
        self.database_lock, self.redis_lock = threading.Lock(), threading.Lock()
        self.witness = EmbeddedPostgres(folder / "witness")
        self.witness.start()
        self.engine = create_engine(
            self.servers.urls.database_url, isolation_level="AUTOCOMMIT", pool_pre_ping=True
        )
        migrate.upgrade(self.engine)
        FORKS.set_forkserver_preload([REGISTRY, "tests.chaos.worker", "celery.apps.worker"])
        self.slots = [Slot(number) for number in range(workers)]
        self.is_over = threading.Event()
        self.ended_alone = 0
        effects.use(create_engine(self.witness.url(), isolation_level="AUTOCOMMIT"))
        effects.create()
        self.client = Client(self.settings, registry=registry)
        self.client.processes.deploy(*registry.processes.values())

    # -- workers -----------------------------------------------------------------------------

    def start(self, slot: Slot, *, clock_ahead_seconds: float = 0.0) -> None:
        """Somebody new works there. The caller holds the slot."""
        name = f"worker-{slot.number}-{slot.lives}"
        plan = Plan(
            name,
            {
                "database_url": self.servers.urls.database_url,
                "broker_url": self.servers.urls.broker_url,
            },
            self.folder / f"{name}.log",
            lacks=slot.lacks,
            registry=REGISTRY,
            witness_url=self.witness.url(),
            pool=self.pool,
            clock_ahead_seconds=clock_ahead_seconds,
        )
        process = FORKS.Process(target=run, args=(plan,), name=name)
        process.start()
        slot.worker, slot.lives = Worker(process, None), slot.lives + 1

    def kill(self, slot: Slot) -> None:
        """SIGKILL, with its children. The caller holds the slot."""
        if slot.worker is not None:
            slot.worker.signal(signal.SIGKILL)

    def retire(self, slot: Slot) -> None:
        """SIGTERM, as a release does; SIGKILL for one that does not go. The caller holds the slot."""
        assert slot.worker is not None
        slot.worker.signal(signal.SIGTERM)
        slot.worker.process.join(STOP_SECONDS)
        if slot.worker.process.is_alive():
            self.kill(slot)

    def keep(self) -> None:
        """What a supervisor does: start again who has ended by itself."""
        for slot in self.slots:
            if slot.worker is None or not slot.lock.acquire(blocking=False):
                continue
            try:
                if not slot.worker.process.is_alive():
                    self.ended_alone += 1
                    self.start(slot)
            finally:
                slot.lock.release()

    @contextmanager
    def a_worker(self, chance: random.Random) -> Iterator[Slot]:
        """One that nobody else is hurting; it is alive."""
        free = [slot for slot in self.slots if not slot.lock.locked()] or self.slots
        slot = chance.choice(free)
        with slot.lock:
            if slot.worker is None or not slot.worker.process.is_alive():
                self.start(slot)
            yield slot

    def memory(self) -> dict[str, float]:
        """MiB of each worker process by its worker's name and its own place in it."""
        found = {}
        for slot in self.slots:
            if slot.worker is None:
                continue
            with suppress(psutil.Error):
                parent = psutil.Process(slot.worker.pid)
                for each in [parent, *parent.children()]:
                    name = f"{slot.worker.process.name} {each.pid}"
                    found[name] = each.memory_info().rss / 2**20
        return found

    # -- servers -----------------------------------------------------------------------------

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        """A client for a moment."""
        with redis.Redis.from_url(self.servers.urls.broker_url, socket_timeout=5) as client:
            yield client

    @contextmanager
    def postgres(self) -> Iterator[psycopg.Connection]:
        """A session of our own, which our own cutting of connections leaves alone."""
        url = self.servers.urls.database_url.replace("postgresql+psycopg://", "postgresql://")
        with psycopg.connect(url, autocommit=True, application_name="nemesis") as connection:
            yield connection

    def pause(self, seconds: float) -> None:
        """Wait, unless it is all over."""
        self.is_over.wait(seconds)

    def insist(self, heal: Callable[[], None]) -> None:
        """Try until it works: what was hurt has to be healed whatever else is hurt."""
        give_up_at = time.monotonic() + INSIST_SECONDS
        while True:
            try:
                return heal()
            except Exception:
                if time.monotonic() > give_up_at:
                    raise
                threading.Event().wait(0.2)

    def heal(self) -> None:
        """Everything stands again, and every worker is of the newest release."""
        self.is_over.set()
        self.servers.start()
        for slot in self.slots:
            with slot.lock:
                if slot.lacks:
                    self.retire(slot)
                    slot.lacks = frozenset()
                if slot.worker is None or not slot.worker.process.is_alive():
                    self.start(slot)

    def close(self) -> None:
        """End it."""
        self.is_over.set()
        for slot in self.slots:
            with slot.lock:
                self.kill(slot)
        self.client.close()
        self.engine.dispose()
        effects.engine.dispose()
        self.witness.delete()
        self.servers.delete()
