"""Messages for other code: a worker that can't run one sends it on to the queue of a code that can.

Each worker takes from one queue more than its own: that of its code, which all workers with the same code share. So
what is sent on is shared among them, and outlives each of them. Its name is a digest of what the program can run, of
the queues that it takes from, and of its database. A message that was sent on names the queue that it came from, as
if it still were on it, and how often it was sent on: after `HOPS_MAX` it is left to its relay.

A task that this worker doesn't know, Celery would reject: ours it sends on, by a thread, since it comes to the loop
that takes messages. Redis alone has such queues; on other brokers a message is left to its relay. (docs/adr/0046)
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import Empty, Full
from queue import Queue as Waiting
from typing import Any, Protocol
from uuid import UUID

from celery import Celery, bootsteps
from kombu.entity import Queue

from orchestrator.core.definition import Registry
from orchestrator.engine.context import EngineContext
from orchestrator.engine.runnable import capabilities_of
from orchestrator.fleet.compat import takes_unknown_tasks
from orchestrator.fleet.publisher import Publisher
from orchestrator.fleet.routes import Routes
from orchestrator.fleet.strangers import (
    RECORD_HEADER,
    RETURNS_HEADER,
    OwnRecord,
    give_back_unknown,
    rest_of,
)
from orchestrator.settings import Settings
from orchestrator.store.transitions import capabilities
from orchestrator.store.transitions.outbox import Handoff

log = logging.getLogger(__name__)

HOPS_HEADER = "perennial_hops"
QUEUE_HEADER = "perennial_queue"
"""The queue by rights of a message that was sent on."""

HOPS_MAX = 3
"""So often a message is sent on: what each claims to be able to run, and can't, goes round no longer."""

EXPIRES_SECONDS = 600
"""A code's queue that nobody takes from is gone after this; what was in it is sent again by its relay."""

WAITING_MAX = 1_000
"""So many messages with unknown tasks wait to be sent on; what comes beyond is left to its relay."""

STOP_SECONDS = 1.0


class Worker(Protocol):
    """What is asked here of the process that sends on."""

    app: Celery
    routes: Routes
    record: OwnRecord
    code_queue: str | None

    @property
    def context(self) -> EngineContext:
        """The engine of this process."""


def queue_of_code(
    registry: Registry, settings: Settings, *, queues: Iterable[str], transport: str
) -> str | None:
    """The name of the queue of this program's code. None: its broker has no such queues."""
    if transport != "redis":
        return None
    fingerprints = {
        f"{name} {version}": process.fingerprint_by_way
        for (name, version), process in registry.processes.items()
    }
    address = settings.database_address().parameters
    told = json.dumps(
        {
            "can": sorted(capabilities_of(registry)),
            "fingerprints": fingerprints,
            "queues": sorted(queues),
            "database": [str(address.get(part, "")) for part in ("host", "port", "dbname")],
        },
        sort_keys=True,
    )
    return f"{settings.keys_prefix}:code:{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def declared(name: str) -> Queue:
    """That queue, as senders and takers declare it."""
    return Queue(  # type: ignore[no-untyped-call]
        name, routing_key=name, expires=EXPIRES_SECONDS
    )


class SendsOn:
    """The fleet's part of `engine.elsewhere`."""

    def __init__(self, member: Worker, publisher: Publisher) -> None:
        self._member, self._publisher = member, publisher

    @property
    def own_queue(self) -> str | None:
        """The queue of this worker's code."""
        return self._member.code_queue

    def queue_of(self, handoff: Handoff) -> str | None:
        """As the app's routes say."""
        try:
            return self._member.routes.queue_of(
                handoff.task, handoff.queue, (str(handoff.run_id), handoff.key, handoff.attempt)
            )
        except Exception:  # noqa: BLE001 - a router is the app's own code; the publisher says what it raises
            return None

    def send_on(self, handoff: Handoff, queue: str, to: str, *, hops: int | None = None) -> bool:
        """Once more than the message that is worked on now."""
        if hops is None:
            hops = _hops_of_current(self._member.app)
        if hops >= HOPS_MAX:  # guard: a message goes round no longer
            return False
        marks = {QUEUE_HEADER: queue, HOPS_HEADER: hops + 1}
        return self._publisher.send_on(handoff, declared(to), marks)


def _hops_of_current(app: Celery) -> int:
    task = app.current_worker_task
    request = None if task is None else task.request
    return 0 if request is None else _count(request.get(HOPS_HEADER))


def _count(found: object) -> int:
    return found if isinstance(found, int) and found >= 0 else 0


@dataclass(frozen=True, slots=True)
class UnknownTask:
    """A message of ours whose task this worker hasn't got."""

    name: str
    run_id: UUID
    key: str
    attempt: int
    queue: str
    hops: int
    record: str | None
    returns: int = 0

    @classmethod
    def of(cls, message: Any) -> UnknownTask | None:
        """None: the message is none of ours, or none that anybody could read."""
        headers = message.headers or {}
        if headers.get("origin") != "perennial" and RECORD_HEADER not in headers:
            return None
        try:
            (run_id, key, attempt), *_ = message.payload
            record = headers.get(RECORD_HEADER)
            return cls(
                str(headers["task"]),
                UUID(run_id),
                str(key),
                int(attempt),
                str(headers.get(QUEUE_HEADER) or message.delivery_info["routing_key"]),
                _count(headers.get(HOPS_HEADER)),
                record if isinstance(record, str) else None,
                _count(headers.get(RETURNS_HEADER)),
            )
        except Exception:  # noqa: BLE001 - whatever it is, it isn't a stage's message
            return None


class UnknownTasks:
    """Messages of ours whose task this worker hasn't got: taken from Celery, and sent on by a thread.

    Those of another record that are on the same queue go back, and rest between; ours don't wait for that.
    """

    def __init__(self, member: Worker, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._member, self._clock = member, clock
        self._waiting: Waiting[UnknownTask] = Waiting(WAITING_MAX)
        self._strange: deque[UnknownTask] = deque(maxlen=WAITING_MAX)
        self._rests_until = 0.0
        self.stopped = threading.Event()

    def take(self, message: Any) -> bool:
        """Whether it is ours. Called by the loop that takes messages: it waits for nothing."""
        task = UnknownTask.of(message)
        if task is None:
            return False
        try:
            self._waiting.put_nowait(task)
        except Full:
            log.debug("%s of run %s is left to its relay", task.key, task.run_id)
        return True

    def work(self) -> None:
        """Send the next on, or give it back; wait for one, for a moment."""
        due_in = self._rests_until - self._clock() if self._strange else STOP_SECONDS
        try:
            task = self._waiting.get(timeout=min(max(due_in, 0.0), STOP_SECONDS))
        except Empty:
            pass
        else:
            if task.record is not None and self._member.record.is_stranger(task.record):
                # guard: another record's message goes back though its task is unknown
                self._strange.append(task)
            else:
                self._send_on(task)
        if self._strange and self._clock() >= self._rests_until:
            self._give_back(self._strange.popleft())

    def _give_back(self, task: UnknownTask) -> None:
        assert task.record is not None  # noqa: S101 - it is another's
        is_back = give_back_unknown(
            self._member.app,
            task.name,
            (str(task.run_id), task.key, task.attempt),
            queue=task.queue,
            record=task.record,
            returns=task.returns,
        )
        if is_back:
            self._rests_until = self._clock() + rest_of(task.returns)

    def _send_on(self, task: UnknownTask) -> None:
        context = self._member.context
        handoff = Handoff(task.run_id, task.key, task.attempt, task.name, task.queue)
        needs = (capabilities.stage_of(task.name),)
        sends = context.elsewhere
        with context.connection() as connection:
            if sends is not None and sends.send_on(connection, handoff, needs, hops=task.hops):
                return
            log.warning(
                "stage %s of run %s is left for another worker: this one has no stage %r",
                task.key,
                task.run_id,
                task.name,
                extra={"action": "leave", "run_id": str(task.run_id), "stage": task.key},
            )
            capabilities.note_needs_of_stage(
                connection,
                task.run_id,
                task.key,
                task.attempt,
                needs,
                why=f"no living worker has stage {task.name!r}",
                actor=context.identity.name,
            )
            if sends is not None:
                sends.send_on(connection, handoff, needs, hops=task.hops)


class UnknownTasksStep(bootsteps.Step):
    """Made with a worker's consumer, before it begins."""

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        unknown = getattr(parent.app.perennial, "unknown_tasks", None)
        if unknown is not None:
            takes_unknown_tasks(parent, unknown.take)
