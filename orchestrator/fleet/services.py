"""What runs beside the tasks in every worker: two threads of its parent process, and no flow code.

    Mover      sleeps on Redis until a timer is due, and moves it onto its queue
    Caretaker  sleeps in Postgres until a producer leaves a handoff, and sweeps now and then;
               it also notes how this worker's own children ended

Both are safe in every worker at once. `ServicesStep` starts them with a worker; `perennial services`
runs them alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
from celery import bootsteps
from psycopg import sql

from orchestrator.engine.deploy import changed_since_deployed
from orchestrator.engine.recover import rebuild_index, relay, sweep
from orchestrator.engine.troubles import Troubles, kind_of, one_line
from orchestrator.faults import around
from orchestrator.fleet.alarms import Alarms
from orchestrator.fleet.celery_settings import check_worker
from orchestrator.fleet.compat import ends_what_overruns, pool_class_of
from orchestrator.fleet.heartbeats import Heartbeats
from orchestrator.fleet.losses import Losses
from orchestrator.fleet.member import Member
from orchestrator.fleet.outlast import outlast
from orchestrator.fleet.refresh import Refresh
from orchestrator.store.schema import channel_of
from orchestrator.store.session import connection_arguments, set_up
from orchestrator.store.workers import forget_old_workers

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


class Mover:
    """Delayed messages, one look at a time."""

    def __init__(self, member: Member, alarms: Alarms) -> None:
        self._member, self._alarms = member, alarms

    def work(self) -> None:
        """Move what is due; then sleep until the next is, or rebuild what Redis has lost."""
        moved = self._alarms.move()
        if not moved.epoch_is_there and self._alarms.may_rebuild():  # guard: epoch check
            try:
                with around("rebuild"):
                    count = rebuild_index(self._member.context)
                    self._alarms.rebuilt()
            except BaseException:
                self._alarms.let_rebuild()  # guard: a failed rebuild is made again
                raise
            log.info(
                "a new epoch of Redis: %s timer(s) indexed again",
                count,
                extra={"action": "rebuild"},
            )
            return
        self._alarms.wait(moved.wait_seconds)


class Caretaker:
    """Handoffs that producers leave, and whatever was left undone."""

    def __init__(
        self,
        member: Member,
        losses: Losses | None = None,
        look: Callable[[], None] | None = None,
        refresh: Refresh | None = None,
    ) -> None:
        self._member, self._losses, self._look = member, losses, look
        self._refresh = refresh
        self._listening: psycopg.Connection[Any] | None = None
        self._forget_countdown = 0
        self._has_compared = False
        self._sweep_at = self._contact_since = 0.0

    def work(self) -> None:
        """Sleep until Postgres notifies, and relay a share; when its time has come, sweep, however busy it is.

        A full share means that there may be more. Then the next sweep comes at once: however much one kind
        of work there is, each kind gets its turn.
        """
        context = self._member.context
        if self._listening is None:
            self._listening = self._listen()
            self._contact_since = self._sweep_at = time.monotonic()
        if not self._has_compared:
            self._compare_with_what_is_deployed()
        left = max(0.0, self._sweep_at - time.monotonic())
        words = [each.payload for each in self._listening.notifies(timeout=left, stop_after=1)]
        is_told = "" in words
        if self._look is not None:
            self._look()
        if self._losses is not None:
            self._losses.note()  # before anything is judged
        share = relay(context, may_judge=self._may_judge()) if is_told else 0
        if time.monotonic() >= self._sweep_at:
            share = max(share, sweep(context, may_judge=self._may_judge()).largest)
            self._forget_now_and_then()
            self._sweep_at = time.monotonic() + context.settings.sweep_seconds
        if share >= context.settings.batch_size:
            self._sweep_at = time.monotonic()
        if self._refresh is not None:
            self._refresh.look(self._listening, [UUID(word) for word in words if word])

    def _compare_with_what_is_deployed(self) -> None:
        """Once, at the worker's start: say where its code is not what runs of a version were started with."""
        changed = changed_since_deployed(self._member.context)
        self._has_compared = True
        if changed:
            log.warning(
                "This worker's code is not what was deployed as %s. A run of it may contradict its history and "
                "become an incident. Give this worker the code that was deployed; or, if the change is meant, "
                "raise the version and `perennial deploy` (which replaces a version that no run has used).",
                ", ".join(f"{process.name} version {process.version}" for process in changed),
                extra={"action": "compare-with-deployed"},
            )

    def reset(self) -> None:
        """After a failure: listen anew, and keep no connection that may be dead like that one."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._refresh is not None:
            self._refresh.lose()
        self._member.context.database.dispose()  # guard: a caretaker trusts no old connection

    def _may_judge(self) -> bool:
        """While Postgres was away nobody could beat: who has just come back may not judge who is dead."""
        contact_seconds = time.monotonic() - self._contact_since
        # guard: who has just come back does not judge
        return contact_seconds >= self._member.context.settings.dead_after_seconds

    def _listen(self) -> psycopg.Connection[Any]:
        connection = self._member.settings.database_address().connect(
            autocommit=True,
            application_name="perennial-caretaker",
            connect_timeout=10,
            keepalives_idle=30,
            **connection_arguments(),
        )
        set_up(connection, pooler=self._member.settings.database_pooler, needs_session=True)
        channel = sql.Identifier(channel_of(self._member.settings.database_schema))
        connection.execute(sql.SQL("LISTEN {}").format(channel))
        return connection

    def _forget_now_and_then(self) -> None:
        self._forget_countdown -= 1
        if self._forget_countdown <= 0:
            self._forget_countdown = 1000
            with self._member.context.connection() as connection:
                forget_old_workers(connection)


def services_of(
    member: Member, losses: Losses | None = None, look: Callable[[], None] | None = None
) -> list[Service]:
    """The services a worker of this app runs. `losses`: what it sees of its pool's children.

    `look`: called now and then, to see what the worker was told meanwhile.
    """
    refresh = Refresh(
        lambda: member.context,
        is_heard=lambda: member.audience.is_there,
        fleet=f"{member.app.main}/{member.settings.keys_prefix}",
    )

    def know_and_look() -> None:
        member.record.get()  # before anything is published
        if look is not None:
            look()

    caretaker = Caretaker(member, losses, know_and_look, refresh)
    services = [Service("caretaker", caretaker.work, caretaker.reset)]
    if member.alarms is not None:
        services.append(Service("mover", Mover(member, member.alarms).work, member.alarms.reset))
    return services


def limit_stages(member: Member) -> None:
    """Celery ends a stage's process a grace after its soft limit. Now that settings may be read."""
    grace_seconds = member.settings.timeout_grace_seconds
    for stage in member.registry.stages.values():
        if stage.timeout_seconds is not None:
            member.app.tasks[stage.name].time_limit = stage.timeout_seconds + grace_seconds


class ServicesStep(bootsteps.StartStopStep):
    """Starts the services in a worker's parent process, once its pool is there."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        self._services: list[Service] = []
        self._losses: Losses | None = None
        member = parent.app.perennial  # before the pool starts, so that its processes know
        pool = pool_class_of(parent)
        check_worker(parent.app, member.registry, member.settings, member.routes, pool)
        member.hostname = parent.hostname
        member.pool_keeps_limits = ends_what_overruns(pool)
        member.audience.begin(parent)
        member.refusals = outlast(parent.app, member.troubles)
        member.heartbeats = Heartbeats(member.settings)
        member.heartbeats.look()
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        """The worker is up."""
        member = parent.app.perennial
        limit_stages(member)
        self._losses = Losses(member)
        self._losses.watch(parent)

        def look() -> None:
            member.audience.look(parent)
            member.heartbeats.look()
            member.refusals.look()

        self._services = services_of(member, self._losses, look)
        for service in self._services:
            service.start()

    def stop(self, parent: Any) -> None:
        """The worker goes down: end with it."""
        parent.app.perennial.refusals.stopped.set()
        if self._losses is not None:
            self._losses.unwatch()
        for service in self._services:
            service.stop()
        for service in self._services:
            service.join(timeout_seconds=3.0)
