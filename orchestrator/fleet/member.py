"""One process of the fleet: the engine composed with its messages.

Built on first use and per process: a pool's child never shares a connection, a thread or a lock with
the parent it was forked from.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from functools import cached_property
from importlib.util import find_spec
from typing import Any
from uuid import UUID

from celery import Celery
from sqlalchemy import Engine

from orchestrator.core.definition import Registry
from orchestrator.engine.context import EngineContext, connect, connect_for_reads
from orchestrator.engine.elsewhere import Elsewhere
from orchestrator.engine.foreign import Foreign
from orchestrator.engine.liveness import Heartbeat, Identity
from orchestrator.engine.reports import Reports
from orchestrator.engine.troubles import Troubles
from orchestrator.fleet.async_tasks import AsyncTasks
from orchestrator.fleet.event_listeners import EventListeners
from orchestrator.fleet.existing_tasks import call_stage
from orchestrator.fleet.forwarding import SendsOn, UnknownTasks
from orchestrator.fleet.heartbeats import Heartbeats
from orchestrator.fleet.outlast import Refusals
from orchestrator.fleet.publisher import Publisher
from orchestrator.fleet.routes import Routes
from orchestrator.fleet.strangers import OwnRecord
from orchestrator.fleet.timer_index import TimerIndex
from orchestrator.fleet.way import ByMessage, Way
from orchestrator.settings import Settings
from orchestrator.store.reads.identity import record_identity
from orchestrator.store.transitions import workers

log = logging.getLogger(__name__)


class Member:
    """What `install` gives an app: `context` is the engine, for the process that asks."""

    def __init__(
        self,
        app: Celery,
        registry: Registry,
        settings: Settings | None,
        reports: Reports | None = None,
    ) -> None:
        self.app = app
        self._reports = reports or Reports()
        self.registry = registry
        self.routes = Routes(app, registry)
        self.troubles = Troubles(log)
        self.refusals: Refusals | None = None
        """What its broker has refused this worker, once a worker listens for it."""
        self.record = OwnRecord(self._read_record, lambda: self.settings.database_schema)
        """Whose record this process moves."""
        self.listeners = EventListeners()
        self.pool_keeps_limits = True
        """Whether this worker's pool ends tasks that overrun; false only where a worker has said so."""
        self.heartbeats: Heartbeats | None = None
        """The process that beats for this worker's, once a worker has made one."""
        self.hostname: str | None = None
        """This worker's, as Flower knows it, once it has said so."""
        self.code_queue: str | None = None
        """The queue of this worker's code, where its broker has one."""
        self.unknown_tasks: UnknownTasks | None = None
        """Who takes messages of ours whose task this worker hasn't got, once a worker has made it."""
        self._settings = settings
        self._lock = threading.Lock()
        self._context: EngineContext | None = None
        self._async_tasks: AsyncTasks | None = None
        os.register_at_fork(after_in_child=self._forget)

    @property
    def settings(self) -> Settings:
        """The settings, read from the environment the first time where none were given."""
        if self._settings is None:
            self._settings = Settings()
        return self._settings

    @property
    def hook_errors(self) -> dict[str, int]:
        """How often each of the app's hooks has raised in this process: `Tracing.before_attempt` → 3."""
        return self._reports.hook_errors

    @property
    def context(self) -> EngineContext:
        """The engine of this process."""
        if self._context is None:
            with self._lock:
                if self._context is None:
                    self._context = self._compose()
        return self._context

    @cached_property
    def way(self) -> Way:
        """How this process goes on from what a message asks for."""
        if not self.settings.eager_seconds or find_spec("orchestrator.fleet.eager") is None:
            return ByMessage(self)
        from orchestrator.fleet.eager import Eager

        return Eager(self)

    @property
    def async_tasks(self) -> AsyncTasks:
        """The `async def` stages of this process."""
        if self._async_tasks is None:
            with self._lock:
                if self._async_tasks is None:
                    self._async_tasks = AsyncTasks(self)
        return self._async_tasks

    @property
    def timer_index(self) -> TimerIndex | None:
        """The index of delayed messages; None where the broker isn't Redis."""
        messenger = self.context.messenger
        return messenger.timer_index if isinstance(messenger, Publisher) else None

    def _compose(self) -> EngineContext:
        settings = self.settings
        identity = Identity(f"{socket.gethostname()}:{os.getpid()}", self.heartbeats)
        publisher = Publisher(
            self.app,
            TimerIndex.for_app(self.app, settings, self.routes),
            self.listeners,
            batch_max=self.way.batch_max,
            hostname=self.hostname,
            routes=self.routes,
            troubles=self.troubles,
            record=self.record,
        )
        context = EngineContext(
            database=connect(settings, finds_by_key=True),
            reads=connect_for_reads(settings, pool_size=1),
            registry=self.registry,
            settings=settings,
            messenger=publisher,
            identity=identity,
            reports=self._reports,
            call_stage=call_stage,
            call_durations=self.way.call_durations,
            kept_flows=self.way.kept_flows,
            elsewhere=Elsewhere(SendsOn(self, publisher)),
        )
        context.foreign = Foreign(self.registry, context.definitions)
        # A connection of its own, if it comes to need one: a heartbeat that waited for the pool would pass for dead.
        heart_database = connect(settings, pool_size=1)
        Heartbeat(
            identity,
            lambda leased_ids: _beat(heart_database, identity, leased_ids),
            interval_seconds=settings.heartbeat_seconds,
        ).start()
        return context

    def _read_record(self) -> str:
        with self.context.connection() as connection:
            return record_identity(connection)

    def is_heard(self) -> bool:
        """Whether anybody hears events."""
        messenger = self.context.messenger
        return isinstance(messenger, Publisher) and messenger.is_heard

    def send_event(self, event: str, **fields: Any) -> None:
        """Send an event, if anybody hears it."""
        messenger = self.context.messenger
        if isinstance(messenger, Publisher):
            messenger.send_event(event, **fields)

    def _forget(self) -> None:
        """In a forked child: what the parent had is not ours, and is left unclosed."""
        self._lock = threading.Lock()
        self._async_tasks = None
        self.troubles = Troubles(log)  # a thread of the parent's may have held its lock
        if self.heartbeats is not None:
            self.heartbeats.forget()
        if self._context is not None:
            self._context.dispose(close=False)
            self._context = None


def _beat(database: Engine, identity: Identity, leased_ids: list[UUID]) -> None:
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        workers.beat(connection, leased_ids, name=identity.name, pid=identity.pid)
