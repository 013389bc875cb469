"""The private doors of SQLAlchemy and psycopg: every place of the house that leans on a part they don't document.

Each is named here once, with why it is needed and the first version that has it. The rest of the house calls these
names, so that a part that moves is mended in one file. `tests/contract` says for each which part has moved, and
`make test-lowest` asks that on the lowest versions that are promised. What is asked for every statement is bound,
not wrapped. (The doors of Celery, kombu and billiard: orchestrator.fleet.compat.)

Documented, and so used as they are: `driver_connection`, `get_execution_options`, a dialect's `create_connect_args`;
`Cursor.pgresult`, `Loader`, the maps of adapters, and what `Connection.info` tells.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NoReturn, Self

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.postgres import register_default_adapters, register_default_types
from psycopg.pq import ConnStatus, PipelineStatus
from psycopg.types import TypesRegistry
from psycopg.types.array import register_all_arrays
from sqlalchemy import Connection, CursorResult
from sqlalchemy.util.concurrency import await_only, greenlet_spawn

# -- SQLAlchemy ----------------------------------------------------------------------------------

listeners_of: Callable[[Connection], Any] = attrgetter("dispatch")
"""`Connection.dispatch`: under each event's name who listens, and nothing that is true where nobody does: only
then a statement goes past SQLAlchemy. Since SQLAlchemy 0.7."""


def raise_as_sqlalchemy(
    connection: Connection, error: BaseException, statement: str | None
) -> NoReturn:
    """`Connection._handle_dbapi_exception`: what becomes of a driver's error. Since SQLAlchemy 0.5.

    It is a DBAPIError then, tells whether its connection is lost, and renews the pool if so. To be called
    where the error is handled. (docs/adr/0013)
    """
    connection._handle_dbapi_exception(error, statement, None, None, None)  # noqa: SLF001 - this is its place


def types_of(result: CursorResult[Any]) -> dict[str, object]:
    """`CursorResult.cursor`: by each column's name, what its driver calls its type. Since SQLAlchemy 1.4."""
    return {column[0]: column[1] for column in result.cursor.description}


on_a_stack_of_its_own = greenlet_spawn
"""`sqlalchemy.util.concurrency.greenlet_spawn`: runs a function that waits, on a loop. SQLAlchemy's asyncio stands on
it; `AsyncConnection.run_sync` is the same with a connection that is there already. Since SQLAlchemy 1.4."""

await_here = await_only
"""`sqlalchemy.util.concurrency.await_only`: on such a stack, gives way to the loop until it is there. Since 1.4."""


# -- psycopg -------------------------------------------------------------------------------------


class PlainCursor:
    """A cursor of psycopg's asyncio that waits where it is used, on a stack that can give way."""

    __slots__ = ("_cursor",)

    def __init__(self, cursor: psycopg.AsyncCursor[Any]) -> None:
        self._cursor = cursor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        await_here(self._cursor.close())

    @property
    def pgresult(self) -> Any:
        return self._cursor.pgresult

    def execute(self, *arguments: Any, **options: Any) -> None:
        await_here(self._cursor.execute(*arguments, **options))

    def fetchone(self) -> Any:
        return await_here(self._cursor.fetchone())

    def fetchall(self) -> Any:
        return await_here(self._cursor.fetchall())


class PlainConnection:
    """A connection of psycopg's asyncio, with what we ask of a plain one."""

    __slots__ = ("_connection",)

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    @property
    def info(self) -> psycopg.ConnectionInfo:
        return self._connection.info

    @property
    def autocommit(self) -> bool:
        return self._connection.autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        await_here(self._connection.set_autocommit(value))

    @property
    def prepare_threshold(self) -> int | None:
        return self._connection.prepare_threshold

    @prepare_threshold.setter
    def prepare_threshold(self, value: int | None) -> None:
        self._connection.prepare_threshold = value

    def cursor(self, *, row_factory: Any) -> PlainCursor:
        return PlainCursor(self._connection.cursor(row_factory=row_factory))

    def close(self) -> None:
        await_here(self._connection.close())


def as_plain(connection: Any) -> Any:
    """The same connection, or one that can be asked as a plain one; SQLAlchemy's around psycopg's is taken too."""
    driver = getattr(connection, "driver_connection", connection)
    return PlainConnection(driver) if isinstance(driver, psycopg.AsyncConnection) else connection


def untouched_adapters() -> AdaptersMap:
    """As psycopg brings them, whatever a program has made of the global ones. Since psycopg 3.0.

    `register_default_types` and `register_default_adapters` of `psycopg.postgres`, and `register_all_arrays` of
    `psycopg.types.array`: psycopg fills its own map with these when it is imported.
    """
    types = TypesRegistry()
    register_default_types(types)
    adapters = AdaptersMap(types=types)
    register_default_adapters(adapters)
    register_all_arrays(adapters)
    return adapters


def cursor_with(ours: AdaptersMap) -> type[psycopg.Cursor[Any]]:
    """A cursor that binds and reads by these adapters, on whoever's connection. Since psycopg 3.0.

    What converts its values asks it for `adapters` when it is made; a cursor's own are a copy of its connection's.
    """

    class CursorWith(psycopg.Cursor[Any]):
        __slots__ = ()

        @property
        def adapters(self) -> AdaptersMap:  # guard: our own adapters on a caller's connection
            return ours

    return CursorWith


is_in_pipeline: Callable[[psycopg.Connection[Any]], PipelineStatus] = attrgetter(
    "pgconn.pipeline_status"
)
"""`PGconn.pipeline_status`, by number: nothing that is true, where no pipeline is open; `Connection.info` has it too,
and is made anew each time it is asked for. Since psycopg 3.1."""


def is_all_sent(connection: psycopg.Connection[Any]) -> bool:
    """`PGconn.flush`: whether libpq has given all of a pipeline to the network, without waiting. Since psycopg 3.0."""
    return connection.pgconn.flush() == 0


def is_cut(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether the session of a connection that rests has ended. No round trip.

    `PGconn.status`, `socket` and `consume_input`: between statements Postgres sends nothing, so that a socket which
    can be read holds a notice, a setting that was changed for all, or the end. Since psycopg 3.0.
    """
    pgconn = connection.pgconn
    if pgconn.status != ConnStatus.OK:
        return True
    if not _can_be_read(pgconn.socket):
        return False
    try:
        pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return _can_be_read(pgconn.socket)  # the end of a stream stays


def _can_be_read(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
