"""What runs beside the tasks in every worker: two threads of its parent process, and no flow code.

    timer dispatcher  sleeps on Redis until a timer is due, and moves it onto its queue
    maintenance       sleeps in Postgres until a producer leaves a handoff, and sweeps now and then

Both are safe in every worker at once. `ServicesStep` starts them with a worker; `perennial services`
runs them alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import bootsteps, signals
from kombu.entity import Exchange

from orchestrator.engine.troubles import Troubles, kind_of, one_line
from orchestrator.fleet.celery_settings import check_worker
from orchestrator.fleet.child_exits import ChildExits
from orchestrator.fleet.compat import (
    ends_what_overruns,
    is_told_to_terminate,
    pool_class_of,
    queues_consumed,
    transport_of,
)
from orchestrator.fleet.forwarding import UnknownTasks, declared, queue_of_code
from orchestrator.fleet.heartbeats import Heartbeats
from orchestrator.fleet.maintenance import Maintenance
from orchestrator.fleet.member import Member
from orchestrator.fleet.outlast import outlast
from orchestrator.fleet.refresh import Refresh
from orchestrator.fleet.registration import Registration
from orchestrator.fleet.timer_dispatcher import TimerDispatcher

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 2.0  # as often as a worker sweeps


class Service:
    """A thread that repeats `work` until it is stopped, and pauses, longer each time, while it fails."""

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        on_failure: Callable[[], None] | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        self.name, self._work, self._on_failure = name, work, on_failure
        self._troubles = troubles or Troubles(log)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"perennial-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; it does after the wait it is in."""
        self._stopped.set()

    def join(self, timeout_seconds: float) -> None:
        """Wait for its end."""
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        while not self._stopped.is_set():
            try:
                self._work()
                pause_seconds = _FIRST_PAUSE_SECONDS
                self._troubles.over(self.name)
            except Exception as error:  # noqa: BLE001 - a service outlives every server it talks to
                self._troubles.meet(
                    self.name,
                    "%s: %s; again in %.1f s",
                    self.name,
                    one_line(error),
                    pause_seconds,
                    kind=kind_of(error),
                )
                self._clean_up()
                self._stopped.wait(pause_seconds)
                pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    def _clean_up(self) -> None:
        """What fails in it must not end the thread: nobody would start another."""
        if self._on_failure is not None:
            try:
                self._on_failure()
            except Exception as error:  # noqa: BLE001 - the same
                self._troubles.meet(
                    self.name,
                    "%s: its clean-up failed: %s",
                    self.name,
                    one_line(error),
                    kind="clean-up",
                )


def services_of(
    member: Member,
    child_exits: ChildExits | None = None,
    look: Callable[[], None] | None = None,
    registration: Registration | None = None,
) -> list[Service]:
    """The services a worker of this app runs. `child_exits`: what it sees of its pool's children.

    `look`: called now and then, to see what the worker has been told since. `registration`: of that worker.
    """
    refresh = Refresh(
        lambda: member.context,
        is_heard=lambda: member.listeners.is_there,
        fleet=f"{member.app.main}/{member.settings.keys_prefix}",
    )

    def know_and_look() -> None:
        member.record.get()  # before anything is published
        if look is not None:
            look()

    maintenance = Maintenance(member, child_exits, know_and_look, refresh, registration)
    services = [Service("maintenance", maintenance.work, maintenance.reset)]
    if member.timer_index is not None:
        services.append(
            Service(
                "timer-dispatcher",
                TimerDispatcher(member, member.timer_index).work,
                member.timer_index.reset,
            )
        )
    if member.unknown_tasks is not None:
        services.append(Service("unknown-tasks", member.unknown_tasks.work))
    return services


def limit_stages(member: Member) -> None:
    """Celery ends a stage's process a grace after its soft limit. Now that settings may be read."""
    grace_seconds = member.settings.timeout_grace_seconds
    for stage in member.registry.stages.values():
        if stage.timeout_seconds is not None and not stage.is_asynchronous:
            member.app.tasks[stage.name].time_limit = stage.timeout_seconds + grace_seconds


class ServicesStep(bootsteps.StartStopStep):
    """Starts the services in a worker's parent process, once its pool is there."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        self._services: list[Service] = []
        self._registration: Registration | None = None
        self._child_exits: ChildExits | None = None
        member = parent.app.perennial  # before the pool starts, so that its processes know
        pool = pool_class_of(parent)
        check_worker(parent.app, member.registry, member.settings, member.routes, pool)
        member.hostname = parent.hostname
        member.pool_keeps_limits = ends_what_overruns(pool)
        member.listeners.begin(parent)
        member.refusals = outlast(parent.app, member.troubles)
        member.heartbeats = Heartbeats(member.settings)
        member.heartbeats.look()
        _take_from_queue_of_code(member)
        member.unknown_tasks = UnknownTasks(member)
        # In each process of a pool, when it goes: with its worker, or after so many tasks.
        self._drain = lambda **_: member.async_tasks.drain()
        signals.worker_process_shutdown.connect(self._drain)
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        """The worker is up."""
        member = parent.app.perennial
        limit_stages(member)
        self._child_exits = ChildExits(member)
        self._child_exits.watch(parent)

        def look() -> None:
            member.listeners.look(parent)
            member.heartbeats.look()
            member.refusals.look()

        self._registration = Registration(
            parent.app,
            lambda: member.context,
            name=parent.hostname,
            queue=member.code_queue,
            troubles=member.troubles,
        )
        self._services = services_of(member, self._child_exits, look, self._registration)
        for service in self._services:
            service.start()

    def terminate(self, parent: Any) -> None:
        """The worker goes down at once."""
        parent.app.perennial.async_tasks.give_back()

    def stop(self, parent: Any) -> None:
        """The worker goes down: end with it."""
        signals.worker_process_shutdown.disconnect(self._drain)
        parent.app.perennial.async_tasks.drain(is_hurried=is_told_to_terminate)
        parent.app.perennial.refusals.stopped.set()
        if self._child_exits is not None:
            self._child_exits.unwatch()
        for service in self._services:
            service.stop()
        for service in self._services:
            service.join(timeout_seconds=3.0)
        if self._registration is not None:
            with suppress(Exception):  # its silence says the same, a moment later
                self._registration.leave()


def _take_from_queue_of_code(member: Member) -> None:
    """Beside the queues that it was told to take from."""
    app = member.app
    member.code_queue = queue_of_code(
        member.registry,
        member.settings,
        queues=queues_consumed(app),
        transport=transport_of(app),
    )
    if member.code_queue is not None:
        queue = app.amqp.queues.select_add(declared(member.code_queue))
        # Celery has given it the app's exchange, whose bindings in Redis would name it long after it is gone.
        queue.exchange = Exchange("")  # type: ignore[no-untyped-call]
