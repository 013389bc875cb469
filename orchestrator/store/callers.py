"""What callers give as `connection=`: what a statement can run on is found in it, or a sentence says why not.

    with usable(given, schema) as connection:
        statement.rows(connection, ...)    psycopg's, SQLAlchemy's or Django's; a session, a cursor, a proxy of these

Django and other drivers are known by their shape: none of them is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import psycopg
from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from orchestrator.errors import UnusableConnection
from orchestrator.store.batched import Answer, BatchConnection, BatchVerb, Call
from orchestrator.store.schema import SCHEMA
from orchestrator.store.statement import AnyConnection, PipelinedConnection, Statement

CallersConnection = Any
"""A psycopg 3 connection or cursor, a SQLAlchemy Connection or (scoped) Session, or Django's `connection`."""

WHAT_WORKS = (
    "Give a psycopg 3 connection, a SQLAlchemy Connection or Session, or Django's `connection`;"
    " or leave `connection=` out, for a transaction of its own"
)

_BRIDGE = "await {}.run_sync(lambda sync: client.start(…, connection=sync))"


class InSchema(BatchConnection):
    """A caller's connection, on which our statements are in a schema of their own. The connection knows of none."""

    def __init__(self, connection: Any, schema: str) -> None:
        self._connection, self._schema = connection, schema

    def ask(self, verb: BatchVerb[Call, Answer], ask: Call) -> Answer:
        """For this one."""
        return verb.many(self, [ask])[0]

    def rows(self, statement: Statement, parameters: dict[str, object]) -> Sequence[Any]:
        """On the connection, with the schema's text."""
        return statement.of(self._schema).rows(self._connection, **parameters)


@contextmanager
def usable(given: Any, schema: str = SCHEMA) -> Iterator[AnyConnection]:
    """The connection that stands in whatever a caller gave, for a record in that schema. Raises UnusableConnection.

    What Django's wrapper knows of its transaction holds here too: a broken one is refused, and errors are Django's.
    """
    wrapper = _django_wrapper(given)
    if wrapper is None:
        yield _in(schema, _unwrapped(given))
        return
    if wrapper.vendor != "postgresql":
        _refuse(f"Django's connection {wrapper.alias!r} is to {wrapper.display_name}", "Postgres")
    wrapper.validate_thread_sharing()
    wrapper.ensure_connection()
    wrapper.validate_no_broken_transaction()
    connection = wrapper.connection
    if not isinstance(connection, psycopg.Connection):
        raise UnusableConnection(
            f"Django's connection {wrapper.alias!r} is driven by {_name_of(connection)}; Perennial speaks"
            " psycopg 3. Install it (`pip install 'psycopg[binary]'`) and remove psycopg2: Django then takes it"
        )
    with wrapper.wrap_database_errors:
        yield _in(schema, connection)


def _in(schema: str, connection: AnyConnection) -> AnyConnection:
    # guard: a caller's connection is in its client's schema
    return connection if schema == SCHEMA else InSchema(connection, schema)


def _unwrapped(given: Any) -> AnyConnection:
    if isinstance(given, scoped_session):
        given = given()
    elif isinstance(given, PoolProxiedConnection):
        given = given.driver_connection
    elif isinstance(given, psycopg.Cursor):
        given = given.connection
    if isinstance(given, Session):
        given = given.connection()
    if isinstance(given, Connection):
        if given.dialect.name != "postgresql":
            _refuse(f"this SQLAlchemy connection is to {given.dialect.name}", "Postgres")
        return given
    if isinstance(given, psycopg.Connection):
        if given.info.encoding == "ascii":
            raise UnusableConnection(
                "this connection's client_encoding is SQL_ASCII, in which text can't be read as text:"
                " connect with client_encoding=utf8"
            )
        return given
    if isinstance(given, BatchConnection | PipelinedConnection):
        return given
    return _say_why(given)


def _say_why(given: Any) -> NoReturn:
    name = _name_of(given)
    kinds = {kind.__name__ for kind in type(given).__mro__}
    if "AsyncSession" in kinds or ("AsyncConnection" in kinds and name.startswith("sqlalchemy.")):
        what = "session" if "AsyncSession" in kinds else "connection"
        raise UnusableConnection(
            f"{name} waits on an event loop, and this verb doesn't. SQLAlchemy has a bridge: "
            + _BRIDGE.format(what)
        )
    if isinstance(given, Engine | sessionmaker) or "AsyncEngine" in kinds:
        raise UnusableConnection(
            f"{name} is no connection and has no transaction: give the connection of a"
            " `with engine.begin() as connection:`, or a Session"
        )
    if isinstance(given, psycopg.AsyncConnection | psycopg.AsyncCursor) or (
        name.startswith("asyncpg.")
    ):
        raise UnusableConnection(
            f"{name} waits on an event loop, and this verb doesn't. {WHAT_WORKS}"
        )
    raise UnusableConnection(f"connection= can't be {name}. {WHAT_WORKS}")


def _django_wrapper(given: Any) -> Any | None:
    """Django's DatabaseWrapper: it, the proxy `django.db.connection`, or the one that a cursor of Django's has."""
    if not _is_djangos(given):
        return None
    wrapper = given if hasattr(given, "ensure_connection") else getattr(given, "db", None)
    return wrapper if hasattr(wrapper, "ensure_connection") else None


def _is_djangos(given: Any) -> bool:
    """Also of a subclass of somebody else's. By its own type: a proxy shows the attributes of what it stands for."""
    return any(kind.__module__.startswith("django.") for kind in type(given).__mro__)


def _refuse(what: str, wanted: str) -> NoReturn:
    raise UnusableConnection(f"{what}; the record is in {wanted}. {WHAT_WORKS}")


def _name_of(given: Any) -> str:
    kind = type(given)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
