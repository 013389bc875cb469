"""Workers that stop where the adversary says: threads of which one runs at a time, handed on at statements.

    Clock   the database's time, which every session of the oracle's engines sees from its next statement on
    Task    one message on a worker; it may be paused, killed, or cut off from Postgres, at any statement
    Hooks   asks the adversary before and after each statement of each worker

No two run at once, so one seed gives one order of all statements. A task is paused only outside of a
transaction: nobody waits for a lock that a paused one holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, ExceptionContext, event

BEGINNING = datetime(2031, 1, 1, tzinfo=UTC)
PATIENCE_SECONDS = 60.0
"""How long the driver waits for a thread that it let go on: they never wait for anything."""


class WorkerKilled(BaseException):
    """The process dies here."""


class Clock:
    """Time for the database, by a setting of each session, renewed when it has moved."""

    def __init__(self) -> None:
        self.now = BEGINNING

    def move(self, by_seconds: float) -> None:
        """Forward."""
        self.now += timedelta(seconds=by_seconds)

    def show(self, connection: Connection) -> None:
        """Before a statement: let its session see the time."""
        if connection.info.get("shown") != self.now:
            own: Any = connection.connection.dbapi_connection
            own.execute("SELECT set_config('perennial.now', %s, false)", [self.now.isoformat()])
            connection.info["shown"] = self.now


class Task:
    """Work on a thread of its own, which runs only while the driver waits for it."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self.doom: BaseException | None = None
        self.error: BaseException | None = None
        self.is_over = False
        self._work = work
        self._may_go_on, self._has_stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._is_started = False

    def go_on(self) -> None:
        """For the driver: let it run until it stops at a statement, or ends."""
        if not self._is_started:
            self._is_started = True
            self.thread.start()
        self._may_go_on.release()
        assert self._has_stopped.acquire(timeout=PATIENCE_SECONDS), f"{self.name} hangs"

    def pause(self) -> None:
        """For its own thread: stop here. Raises what the driver has decided meanwhile."""
        self._has_stopped.release()
        self._may_go_on.acquire()
        if self.doom is not None:
            raise self.doom

    def _run(self) -> None:
        self._may_go_on.acquire()
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - the driver judges it
            self.error = error
        self.is_over = True
        self._has_stopped.release()


class Disturber(Protocol):
    """Asked at each statement of a worker. It may raise, or pause the task at work."""

    def before(self, connection: Connection, *, may_pause: bool, may_break: bool) -> None:
        """The statement has not been sent."""

    def after(self, connection: Connection, *, may_pause: bool, may_break: bool) -> None:
        """It is done, and committed unless it is part of a transaction."""


class Hooks:
    """Listens to the statements of engines."""

    def __init__(self, clock: Clock, disturber: Disturber) -> None:
        self.clock, self.disturber = clock, disturber
        self._heard: list[tuple[Engine, str, Any]] = []

    def follow(self, engine: Engine, *, is_disturbed: bool, may_break: bool = False) -> None:
        """Its sessions see the clock; if disturbed, the disturber is asked at its statements.

        `may_break`: whether their connection may be lost.
        """

        def before(connection: Connection, *_: Any) -> None:
            if is_disturbed:
                self.disturber.before(
                    connection, may_pause=_is_idle(connection), may_break=may_break
                )
            self.clock.show(connection)

        def after(connection: Connection, *_: Any) -> None:
            if is_disturbed:
                self.disturber.after(
                    connection, may_pause=_is_idle(connection), may_break=may_break
                )

        def forget(connection: Connection) -> None:
            if not connection.invalidated:  # a setting goes with its transaction
                connection.info.pop("shown", None)

        def keep(context: ExceptionContext) -> None:
            if isinstance(context.original_exception, WorkerKilled):
                context.is_disconnect = (
                    False  # its connection is used again: a new one costs too much
                )

        for name, listener in (
            ("handle_error", keep),
            ("before_cursor_execute", before),
            ("after_cursor_execute", after),
            ("rollback", forget),
        ):
            event.listen(engine, name, listener)
            self._heard.append((engine, name, listener))

    def stop(self) -> None:
        """Leave the engines as they were."""
        for engine, name, listener in self._heard:
            event.remove(engine, name, listener)
        self._heard.clear()


def cut_off(connection: Connection) -> None:
    """Its session is gone."""
    own: Any = connection.connection.dbapi_connection
    own.close()


def failed_by_postgres() -> psycopg.OperationalError:
    """What a statement raises that Postgres has not done, or whose answer never came."""
    return psycopg.OperationalError("failed by the adversary")


def _is_idle(connection: Connection) -> bool:
    """True outside of a transaction: no lock is held."""
    own: Any = connection.connection.dbapi_connection
    return bool(own.pgconn.transaction_status == TransactionStatus.IDLE)
