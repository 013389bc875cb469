"""A named statement: SQL text with psycopg's `%(name)s` parameters, run on whoever's connection.

The same text runs on a SQLAlchemy connection or session, and on a plain psycopg connection, so a
producer can start a run inside its own transaction whichever it uses. It always goes to the driver itself:
for a statement that is written, planned and read by hand, SQLAlchemy's way there and back costs as much as
the driver's (docs/adr/0013). Its connections, pools, transactions and errors are used as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import RowMaker, namedtuple_row
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from orchestrator.faults import reach
from orchestrator.store.together import Gathering


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """A connection that commits each statement, and what to do while Postgres is at work on one.

    For what has a short answer and waits for no lock: until `go_on` comes back, nobody reads and nobody minds
    a deadlock. Where a libpq before 14, or a listener of SQLAlchemy's, keeps it from going on, it doesn't.
    """

    connection: Connection
    go_on: Callable[[], None]


AnyConnection = Connection | Session | psycopg.Connection[Any] | Gathering | Meanwhile

COMMITS_EACH = "perennial_commits_each"
"""An execution option of engines whose connections commit each statement by themselves."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement. `name` stands in its text as a comment, for pg_stat_activity and logs."""

    name: str
    sql: str
    _text: bytes = field(init=False, repr=False, compare=False)
    """The same object each time: psycopg looks plans up by it."""
    _make: RowMaker[Any] | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        self._set("_text", f"/* perennial:{self.name} */ {self.sql}".encode())

    @property
    def text(self) -> str:
        """As it is sent, for a process that has no more than a driver."""
        return self._text.decode()

    def rows(self, connection: AnyConnection, **parameters: object) -> Sequence[Any]:
        """Run it; all rows. One round trip."""
        if isinstance(connection, Gathering):
            return connection.rows(self, parameters)
        reach("before", self.name)
        if isinstance(connection, Meanwhile):
            found = self._rows(connection.connection, parameters, connection.go_on)
        else:
            found = self._rows(connection, parameters)
        reach("after", self.name)
        return found

    def _rows(
        self,
        connection: Connection | Session | psycopg.Connection[Any],
        parameters: dict[str, object],
        meanwhile: Callable[[], None] | None = None,
    ) -> Sequence[Any]:
        if isinstance(connection, psycopg.Connection):
            return self._rows_of(connection, parameters)
        if isinstance(connection, Session):
            connection = connection.connection()
        heard = connection.dispatch
        if heard.before_cursor_execute or heard.after_cursor_execute:
            return self._rows_in_sight(connection, parameters)
        if (
            COMMITS_EACH not in connection.get_execution_options()
            and not connection.in_transaction()
        ):
            connection.begin()  # as SQLAlchemy's own way of executing does; its caller commits
        driver: Any = connection.connection.driver_connection
        try:
            return self._rows_of(driver, parameters, meanwhile)
        except BaseException as error:  # noqa: BLE001 - it is raised again there
            # SQLAlchemy's own door for what a driver raises: it tells a dead connection, and renews its pool.
            told = f"perennial:{self.name}" if isinstance(error, psycopg.Error) else None
            connection._handle_dbapi_exception(error, told, None, None, None)  # noqa: SLF001

    def _rows_in_sight(
        self, connection: Connection, parameters: dict[str, object]
    ) -> Sequence[Any]:
        """As SQLAlchemy executes: somebody listens to what it does (a tracer, a test)."""
        result = connection.exec_driver_sql(self._text.decode(), parameters)
        return result.fetchall() if result.returns_rows else ()

    def _rows_of(
        self,
        connection: psycopg.Connection[Any],
        parameters: dict[str, object],
        meanwhile: Callable[[], None] | None = None,
    ) -> Sequence[Any]:
        # Not in a `with`: a client's cursor holds nothing that needs closing.
        cursor = connection.cursor(row_factory=self._row_maker)
        if meanwhile is None or not psycopg.Pipeline.is_supported():
            cursor.execute(self._text, parameters)
        else:
            self._execute_while(connection, cursor, parameters, meanwhile)
        # Its description would tell too, and describe each column at each call.
        return cursor.fetchall() if cursor.pgresult and cursor.pgresult.nfields else ()

    def _row_maker(self, cursor: psycopg.Cursor[Any]) -> RowMaker[Any]:
        """Made of the first result: one text has the same columns each time."""
        make = self._make
        if make is None:
            make = namedtuple_row(cursor)
            self._set("_make", make)
        return make

    def _execute_while(
        self,
        connection: psycopg.Connection[Any],
        cursor: psycopg.Cursor[Any],
        parameters: dict[str, object],
        meanwhile: Callable[[], None],
    ) -> None:
        """The commit is sent along, since a pipeline's own comes when it is left: no lock waits for that."""
        try:
            with connection.pipeline():
                connection.execute(b"BEGIN")
                cursor.execute(self._text, parameters)
                connection.execute(b"COMMIT")
                is_sent = connection.pgconn.flush() == 0
                if is_sent:
                    meanwhile()
        except psycopg.OperationalError as error:
            # What interrupts the wait for the answer, psycopg hides behind the trouble that it makes.
            if error.__context__ is None or isinstance(error.__context__, psycopg.Error):
                raise
            connection.close()  # there is no way out of its pipeline
            raise error.__context__ from None

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def row(self, connection: AnyConnection, **parameters: object) -> Any | None:
        """Run it; the first row, or None."""
        found = self.rows(connection, **parameters)
        return found[0] if found else None
