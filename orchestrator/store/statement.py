"""A named statement: SQL text with psycopg's `%(name)s` parameters, run on whoever's connection.

The same text runs on a SQLAlchemy connection or session, and on a plain psycopg connection, so a
producer can start a run inside its own transaction whichever it uses. It goes to the driver itself:
for a statement that is written, planned and read by hand, SQLAlchemy's way there and back costs as much as
the driver's (docs/adr/0013). Its connections, pools, transactions and errors are used as they are.

On a caller's connection a statement reads and writes values by our own adapters, whatever the caller has
registered; and where SQLAlchemy drives something else than psycopg, it goes through SQLAlchemy.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import RowMaker, namedtuple_row
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from orchestrator.errors import PoolerBetween, SchemaNotReady
from orchestrator.faults import reach
from orchestrator.store.driver import (
    as_plain,
    cursor_with,
    is_all_sent,
    is_in_pipeline,
    listeners_of,
    raise_as_sqlalchemy,
    types_of,
)
from orchestrator.store.schema import IN_SCHEMA, SCHEMA, in_schema
from orchestrator.store.session import ADAPTERS


class StandIn(ABC):
    """Stands where a connection does, and says by itself what a statement returns."""

    @abstractmethod
    def rows(self, statement: Statement, parameters: dict[str, object]) -> Sequence[Any]:
        """What it returns: it doesn't wait for others."""


@dataclass(frozen=True, slots=True)
class PipelinedConnection:
    """A connection that commits each statement, and what to do while Postgres is at work on one.

    For what has a short answer and waits for no lock: until `go_on` comes back, nobody reads and nobody minds
    a deadlock. Where a libpq before 14, or a listener of SQLAlchemy's, keeps it from going on, it doesn't.
    """

    connection: Connection
    go_on: Callable[[], None]


AnyConnection = Connection | Session | psycopg.Connection[Any] | StandIn | PipelinedConnection

_UUID_OID = 2950

_MARKER = re.compile(r" */\* guard: .*? \*/")
"""A guard's name, at the end of its line (tests/guards): for who reads the text, and not for Postgres."""

COMMITS_EACH = "perennial_commits_each"
"""An execution option of engines whose connections commit each statement by themselves."""


_CallersCursor = cursor_with(ADAPTERS)
"""On a caller's connection: parameters are bound by Postgres, and values are as psycopg brings them."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement. `name` stands in its text as a comment, for pg_stat_activity and logs.

    Its text names the schema `perennial`; `of` has the one that is sent where the record is in another.
    """

    name: str
    sql: str
    schema: str = SCHEMA
    """Whose text this is."""
    _text: bytes = field(init=False, repr=False, compare=False)
    """The same object each time: psycopg looks plans up by it."""
    _make: RowMaker[Any] | None = field(init=False, repr=False, compare=False, default=None)
    _elsewhere: dict[str, Statement] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    """Its like in other schemas, made when each is first needed."""

    def __post_init__(self) -> None:
        self._set("sql", _MARKER.sub("", self.sql))
        self._set("_text", f"/* perennial:{self.name} */ {self.sql}".encode())

    @property
    def text(self) -> str:
        """As it is sent, for a process that has no more than a driver."""
        return self._text.decode()

    def of(self, schema: str) -> Statement:
        """The same for a record in that schema."""
        if schema == self.schema:
            return self
        found = self._elsewhere.get(schema)
        if found is None:
            there = Statement(self.name, in_schema(self.sql, schema), schema)
            found = self._elsewhere.setdefault(schema, there)
        return found

    def rows(self, connection: AnyConnection, **parameters: object) -> Sequence[Any]:
        """Run it; all rows. One round trip."""
        if isinstance(connection, StandIn):
            return connection.rows(self, parameters)
        reach("before", self.name)
        if isinstance(connection, PipelinedConnection):
            found = self._rows(connection.connection, parameters, connection.go_on)
        else:
            found = self._rows(connection, parameters)
        reach("after", self.name)
        return found

    def _rows(
        self,
        connection: Connection | Session | psycopg.Connection[Any],
        parameters: dict[str, object],
        while_waiting: Callable[[], None] | None = None,
    ) -> Sequence[Any]:
        if isinstance(connection, psycopg.Connection):
            return self._rows_of_caller(connection, parameters)
        if isinstance(connection, Session):
            connection = connection.connection()
        options = connection.get_execution_options()
        schema = options.get(IN_SCHEMA)
        if schema is not None and schema != self.schema:
            return self.of(schema)._rows(connection, parameters, while_waiting)  # noqa: SLF001 - its like
        is_ours = COMMITS_EACH in options
        if not is_ours and not is_psycopg(connection):
            return self._rows_by_sqlalchemy(connection, parameters)
        heard = listeners_of(connection)
        if heard.before_cursor_execute or heard.after_cursor_execute:
            return self._rows_in_sight(connection, parameters)
        if not is_ours and not connection.in_transaction():
            connection.begin()  # as SQLAlchemy's own way of executing does; its caller commits
        driver: Any = connection.connection.driver_connection
        if is_ours and connection.dialect.is_async:
            driver = as_plain(driver)
        try:
            if not is_ours:
                return self._rows_of_caller(driver, parameters)
            return self._rows_of(driver, parameters, while_waiting)
        except BaseException as error:  # noqa: BLE001 - it is raised again there
            told = f"perennial:{self.name}" if isinstance(error, psycopg.Error) else None
            raise_as_sqlalchemy(connection, error, told)

    def _rows_in_sight(
        self, connection: Connection, parameters: dict[str, object]
    ) -> Sequence[Any]:
        """As SQLAlchemy executes: somebody listens to what it does (a tracer, a test)."""
        try:
            result = connection.exec_driver_sql(self._text.decode(), parameters)
        except DBAPIError as error:
            pooler = pooler_in(error.orig) if error.orig is not None else None
            if pooler is None:
                raise
            raise pooler from error
        return result.fetchall() if result.returns_rows else ()

    def _rows_by_sqlalchemy(
        self, connection: Connection, parameters: dict[str, object]
    ) -> Sequence[Any]:
        """By whatever drives the caller's connection, psycopg2 or an async driver."""
        result = connection.execute(text(_for_sqlalchemy(self._text.decode())), parameters)
        if not result.returns_rows:
            return ()
        kinds = types_of(result)
        return [
            SimpleNamespace(
                **{name: _of_kind(kinds.get(name), value) for name, value in row.items()}
            )
            for row in result.mappings()
        ]

    def _rows_of_caller(
        self, connection: psycopg.Connection[Any], parameters: dict[str, object]
    ) -> Sequence[Any]:
        """Whatever its cursors, row factories and adapters are, and in its pipeline, if it has one open."""
        cursor = _CallersCursor(connection, row_factory=self._row_maker)
        try:
            cursor.execute(self._text, parameters)
        except psycopg.Error as error:
            pooler = pooler_in(error)
            if pooler is None:
                raise
            raise pooler from error
        if not is_in_pipeline(connection):
            return cursor.fetchall() if cursor.pgresult and cursor.pgresult.nfields else ()
        try:
            return cursor.fetchall()
        except psycopg.ProgrammingError:
            if cursor.pgresult is None or cursor.pgresult.nfields:
                raise
            return ()

    def _rows_of(
        self,
        connection: psycopg.Connection[Any],
        parameters: dict[str, object],
        while_waiting: Callable[[], None] | None = None,
    ) -> Sequence[Any]:
        # Not in a `with`: a client's cursor holds nothing that needs closing.
        cursor = connection.cursor(row_factory=self._row_maker)
        if while_waiting is None or not psycopg.Pipeline.is_supported():
            cursor.execute(self._text, parameters)
        else:
            self._execute_while(connection, cursor, parameters, while_waiting)
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
        while_waiting: Callable[[], None],
    ) -> None:
        """The commit is sent along, since a pipeline's own comes when it is left: no lock waits for that."""
        try:
            with connection.pipeline():
                connection.execute(b"BEGIN")
                cursor.execute(self._text, parameters)
                connection.execute(b"COMMIT")  # guard: its commit is sent along
                is_sent = is_all_sent(connection)  # guard: all of it is sent
                if is_sent:
                    while_waiting()
        except psycopg.OperationalError as error:
            # What interrupts the wait for the answer, psycopg hides behind the trouble that it makes.
            # guard: what interrupts is told
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


def pooler_in(error: BaseException) -> PoolerBetween | None:
    """What a refusal means by which a pooler shows itself: a prepared name is another's, or is in another session."""
    if not isinstance(
        error, psycopg.errors.DuplicatePreparedStatement | psycopg.errors.InvalidSqlStatementName
    ):
        return None
    return PoolerBetween(
        f"Postgres refused ({error.sqlstate}): {error.diag.message_primary}. So a pooler stands between that lends"
        " a session for one transaction (PgBouncer's `transaction` mode). A worker must be given Postgres' own"
        " address; a producer sets PERENNIAL_DATABASE_POOLER=transaction, and a connection of your own"
        " prepare_threshold=None"
    )


def lack_in(error: BaseException, statement: object, schema: str = SCHEMA) -> SchemaNotReady | None:
    """What a refusal of one of our statements means, where a table, column, function or the schema isn't there."""
    if not isinstance(
        error,
        psycopg.errors.UndefinedTable
        | psycopg.errors.UndefinedColumn
        | psycopg.errors.UndefinedFunction
        | psycopg.errors.InvalidSchemaName,
    ):
        return None
    told = error.diag.message_primary or ""
    marks = (SCHEMA,) if schema == SCHEMA else (f"{SCHEMA}:", f"{schema}.", f'"{schema}"')
    if not any(mark in said for mark in marks for said in (told, str(statement))):
        return None  # a statement of the caller's, about tables of his own
    there, or_else = f" in schema {schema} (PERENNIAL_SCHEMA)", ""
    if schema == SCHEMA:
        there, or_else = (
            "",
            "; where the record is in a schema of its own, PERENNIAL_SCHEMA names it",
        )
    return SchemaNotReady(
        f"the database lacks Perennial's tables{there}, or has older ones ({told})."
        f" `perennial db upgrade` makes them{or_else}"
    )


def is_psycopg(connection: Connection) -> bool:
    """SQLAlchemy drives psycopg 3 here, and not through an event loop."""
    dialect = connection.dialect
    return dialect.driver == "psycopg" and not dialect.is_async


def _of_kind(kind: object, value: Any) -> Any:
    """Not every driver has UUIDs of its own."""
    return UUID(value) if kind == _UUID_OID and isinstance(value, str) else value


def _for_sqlalchemy(sql: str) -> str:
    """The same text with SQLAlchemy's own parameters, `:name`."""
    escaped = re.sub(r"(?<!:):(?=\w)", r"\\:", sql)
    return re.sub(r"%\((\w+)\)s", r":\1 ", escaped).replace("%%", "%")
