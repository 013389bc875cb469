"""Words to the fleet on Celery's broker. A broker that is away, or says no, loses a hint, never a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from typing import Any
from uuid import UUID

from celery import Celery, uuid
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from orchestrator.core.run_notice import RunNotice
from orchestrator.engine.troubles import Troubles, kind_of, one_line
from orchestrator.faults import around
from orchestrator.fleet.compat import batch, message_maker_of
from orchestrator.fleet.event_listeners import EventListeners
from orchestrator.fleet.routes import Routes
from orchestrator.fleet.rows import event_of
from orchestrator.fleet.strangers import RECORD_HEADER, OwnRecord
from orchestrator.fleet.timer_index import TimerIndex
from orchestrator.store.parts import ADVANCE
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.timers import ArmedTimer

log = logging.getLogger(__name__)

BROKER, TIMERS = "the broker", "the index of timers"
"""Where a trouble may be."""

_WAIT = "%s handoff(s) wait in the outbox: %s (%s)"


class Publisher:
    """A Messenger on kombu, with the index of delayed messages beside it."""

    def __init__(
        self,
        app: Celery,
        timer_index: TimerIndex | None,
        listeners: EventListeners | None = None,
        *,
        batch_max: int = 1,
        hostname: str | None = None,
        routes: Routes | None = None,
        troubles: Troubles | None = None,
        record: OwnRecord | None = None,
    ) -> None:
        self._record = record
        self._troubles = troubles or Troubles(log)
        self.timer_index = timer_index
        self._routes = routes or Routes(app)
        self._batch_max, self._hostname = batch_max, hostname
        self._app, self._listeners = app, listeners
        self._events: Any = None

    def hand_off(self, handoffs: Sequence[Handoff]) -> Sequence[Handoff]:
        """Publish, queue by queue; the outbox keeps what could not be published.

        Answers what the broker never got, being away. What it refused counts as sent: to ask again at once
        would be in vain, and one queue that it refuses keeps no other back.
        """
        left = self._by_queue(handoffs)
        while left:
            queue, group = next(iter(left.items()))
            error = self._publish(queue, group)
            if isinstance(error, self._away):
                unsent = list(chain.from_iterable(left.values()))
                self._warn(BROKER, unsent, "the broker is away", error)
                return unsent
            if error is not None:
                self._warn(f"queue {queue}", group, f"queue {queue} refuses them", error)
            else:
                self._troubles.over(f"queue {queue}")
            self._troubles.over(BROKER)
            del left[queue]
        return ()

    def _warn(
        self, where: str, handoffs: Sequence[Handoff], what: str, error: BaseException
    ) -> None:
        self._troubles.meet(where, _WAIT, len(handoffs), what, one_line(error), kind=kind_of(error))

    def send_on(self, handoff: Handoff, queue: Queue, marks: dict[str, Any]) -> bool:
        """One message to another queue than its own, with these headers. False: the broker didn't take it."""
        error = self._publish(queue.name, [handoff], declare=[queue], marks=marks)
        if error is not None:
            self._warn(f"queue {queue.name}", [handoff], "it could not be sent on", error)
        return error is None

    def backlog_of(self, queue: str | None) -> int:
        """The queue's length as its broker tells it."""
        try:
            name = self._routes.queue_of(ADVANCE, queue)
            with self._app.connection_for_write() as connection, connection.channel() as channel:
                return int(channel.queue_declare(queue=name, passive=True).message_count)
        except Exception:  # noqa: BLE001 - a guess is as good
            return 0

    def arm(self, timers: Sequence[ArmedTimer]) -> None:
        """Index; a sweep fires what could not be indexed."""
        if self.timer_index is None or not timers:
            return
        try:
            self.timer_index.arm(timers)
        except Exception as error:  # noqa: BLE001 - the row is the truth
            self._troubles.meet(
                TIMERS,
                "%s timer(s) wait for a sweep: Redis says %s",
                len(timers),
                one_line(error),
                kind=kind_of(error),
            )
        else:
            self._troubles.over(TIMERS)

    def disarm(self, timers: Sequence[tuple[UUID, str | None]]) -> None:
        """Take out of the index; what stays fires into a fence."""
        if self.timer_index is None or not timers:
            return
        try:
            self.timer_index.disarm(timers)
        except Exception as error:  # noqa: BLE001 - the same
            log.debug("%s timer(s) stay in the index: Redis says %r", len(timers), error)

    def announce(self, notice: RunNotice) -> None:
        """A task event of the run's own id: Flower shows a row for it."""
        if self.is_heard:
            try:
                event, fields = event_of(notice, datetime.now(UTC))
            except Exception as error:  # noqa: BLE001 - nobody waits for an event
                log.debug("a run was not announced: %r", error)
                return
            self.send_event(event, **fields)

    @property
    def is_heard(self) -> bool:
        """Whether anybody hears events."""
        return self._listeners is None or self._listeners.is_there

    def send_event(self, event: str, **fields: Any) -> None:
        """Send an event, if anybody hears it."""
        if not self.is_heard:
            return
        try:
            self._event_dispatcher().send(event, **fields)
        except Exception as error:  # noqa: BLE001 - nobody waits for an event
            self._events = None
            log.debug("an event was not sent: %r", error)

    @cached_property
    def _away(self) -> tuple[type[BaseException], ...]:
        """What this broker's transport raises when it has no connection."""
        try:
            return (OperationalError, OSError, *self._app.connection_for_write().connection_errors)
        except Exception:  # noqa: BLE001 - no such transport, or its library isn't installed
            return (Exception,)

    @cached_property
    def _message(self) -> Callable[..., Any]:
        """Makes a task's message."""
        return message_maker_of(self._app)

    def _event_dispatcher(self) -> Any:
        """One per process, kept: to make one costs more than to send an event."""
        if self._events is None:
            self._events = self._app.events.Dispatcher(
                self._app.connection_for_write(),
                hostname=self._hostname,
                buffer_while_offline=False,
            )
        return self._events

    def _by_queue(self, handoffs: Sequence[Handoff]) -> dict[str, list[Handoff]]:
        found: dict[str, list[Handoff]] = {}
        for handoff in handoffs:
            try:
                queue = self._routes.queue_of(
                    handoff.task,
                    handoff.queue,
                    (str(handoff.run_id), handoff.key, handoff.attempt),
                )
            except Exception as error:  # noqa: BLE001 - a router is the app's own code
                what = f"no queue is found for {handoff.task}"
                self._warn(what, [handoff], what, error)
                continue
            found.setdefault(queue, []).append(handoff)
        return found

    def _publish(
        self,
        queue: str,
        handoffs: Sequence[Handoff],
        *,
        declare: list[Queue] | None = None,
        marks: dict[str, Any] | None = None,
    ) -> Exception | None:
        """To one queue, in one batch; or what kept it from being sent.

        To the queue itself: an exchange's bindings vanish with an emptied Redis, a queue's name doesn't.
        """
        try:
            declare = self._declaration_of(queue) if declare is None else declare
            with (
                around("publish"),
                self._app.producer_pool.acquire(block=True) as producer,
                batch(producer),
            ):
                for handoff, arguments in _messages_of(handoffs, self._batch_max):
                    message = self._message(
                        uuid(), handoff.task, arguments, {}, ignore_result=True, origin="perennial"
                    )
                    producer.publish(
                        message.body,
                        exchange="",
                        routing_key=queue,
                        headers=self._named(message.headers) | (marks or {}),
                        serializer="json",
                        declare=declare,
                        retry=False,
                        **message.properties,
                    )
                    declare = []  # once is enough
        except Exception as error:  # noqa: BLE001 - brokers fail in many ways, and a word is a hint
            return error
        return None

    def _named(self, headers: dict[str, Any]) -> dict[str, Any]:
        """With whose record it is of."""
        known = None if self._record is None else self._record.known
        return headers if not known else {**headers, RECORD_HEADER: known}

    def _declaration_of(self, queue: str) -> list[Queue]:
        """What a broker that has no such queue yet needs; nothing where the app declares its queues itself."""
        try:
            return [self._app.amqp.queues[queue]]
        except KeyError:  # task_create_missing_queues is off, and another app serves this one
            return []


def _messages_of(
    handoffs: Sequence[Handoff], batch_max: int
) -> Iterator[tuple[Handoff, tuple[object, ...]]]:
    """One for each, but for runs whose turn is asked for the first time: those go on together, some in a message.

    What has been sent before goes alone: if it ends its worker, it takes no other run along.
    """
    together = [
        each
        for each in handoffs
        if each.task == ADVANCE
        if not each.publishes  # guard: what ended its worker goes alone
    ]
    for first in range(0, len(together), batch_max):
        some = together[first : first + batch_max]
        yield some[0], tuple(str(each.run_id) for each in some)
    for each in handoffs:
        if each.task == ADVANCE and each.publishes:
            yield each, (str(each.run_id),)
        elif each.task != ADVANCE:
            yield each, (str(each.run_id), each.key, each.attempt)
