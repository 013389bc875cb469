"""SQLAlchemy and psycopg: each private part that we rely on does what we rely on."""

from __future__ import annotations

import asyncio
import select as selectors
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.rows import namedtuple_row, tuple_row
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from tests.contract.doors import DRIVER, door
from tests.harness import Database


@pytest.fixture
def driver(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A psycopg connection as anybody makes one."""
    with connected(database) as connection:
        yield connection


def connected(database: Database) -> psycopg.Connection[Any]:
    return psycopg.connect(address_of(database), autocommit=True)


def address_of(database: Database) -> str:
    address = database.engine.url.set(drivername="postgresql")
    return address.render_as_string(hide_password=False)


# -- SQLAlchemy ----------------------------------------------------------------------------------


def test_who_listens_to_statements_is_seen_and_that_nobody_does(database: Database) -> None:
    with door("listeners_of", "Connection.dispatch", "sqlalchemy", named_in=DRIVER) as listeners_of:
        with database.engine.connect() as connection:
            heard = listeners_of(connection)
            assert not heard.before_cursor_execute
            assert not heard.after_cursor_execute
            for name in ("before_cursor_execute", "after_cursor_execute"):
                event.listen(connection, name, lambda *_: None)
                assert getattr(listeners_of(connection), name)

        def listener(*_: object) -> None: ...

        event.listen(database.engine, "after_cursor_execute", listener)
        try:
            with database.engine.connect() as connection:
                assert listeners_of(connection).after_cursor_execute
        finally:
            event.remove(database.engine, "after_cursor_execute", listener)


def test_what_a_driver_raises_is_sqlalchemys_to_tell(database: Database) -> None:
    part = "Connection._handle_dbapi_exception"
    with (
        door("raise_as_sqlalchemy", part, "sqlalchemy", named_in=DRIVER) as raise_as_sqlalchemy,
        database.engine.connect() as connection,
    ):
        own: Any = connection.connection.driver_connection

        def execute(sql: Any) -> None:
            try:
                own.execute(sql)
            except BaseException as error:  # noqa: BLE001 - it is raised again there
                told = "perennial:contract" if isinstance(error, psycopg.Error) else None
                raise_as_sqlalchemy(connection, error, told)

        with pytest.raises(TypeError):  # it is no driver's, and stays what it is
            execute(None)
        with pytest.raises(ProgrammingError) as refused:
            execute("SELECT FROM nobody")
        assert isinstance(refused.value.orig, psycopg.errors.UndefinedTable)
        assert refused.value.statement == "perennial:contract"
        assert not refused.value.connection_invalidated
        assert not connection.invalidated
        connection.rollback()
        with pytest.raises(DBAPIError) as cut:
            execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert cut.value.connection_invalidated
        assert connection.invalidated


def test_a_result_knows_what_its_driver_calls_types(database: Database) -> None:
    with (
        door("types_of", "CursorResult.cursor", "sqlalchemy", named_in=DRIVER) as types_of,
        database.engine.connect() as connection,
    ):
        result = connection.execute(text("SELECT gen_random_uuid() AS id, 1 AS number"))
        assert types_of(result) == {"id": 2950, "number": 23}


def test_a_function_that_waits_gives_way_to_a_loop(database: Database) -> None:
    with (
        door("on_a_stack_of_its_own", "greenlet_spawn", "sqlalchemy", named_in=DRIVER) as spawn,
        door("await_here", "await_only", "sqlalchemy", named_in=DRIVER) as await_here,
    ):
        seen = []

        def waits() -> int:
            seen.append(await_here(asyncio.sleep(0, "slept")))
            return 7

        assert asyncio.run(spawn(waits)) == 7
        assert seen == ["slept"]
    with door("as_plain", "psycopg.AsyncConnection", "psycopg", named_in=DRIVER) as as_plain:

        async def asks() -> None:
            connection = await psycopg.AsyncConnection.connect(address_of(database))
            await spawn(ask, as_plain(connection))
            assert connection.closed

        def ask(plain: Any) -> None:
            plain.autocommit = not plain.autocommit
            assert plain.autocommit
            plain.prepare_threshold = None
            assert plain.prepare_threshold is None
            assert plain.info.backend_pid
            with plain.cursor(row_factory=tuple_row) as cursor:
                cursor.execute("SELECT 1 UNION SELECT 2 ORDER BY 1")
                assert cursor.pgresult.nfields == 1
                assert cursor.fetchone() == (1,)
                assert cursor.fetchall() == [(2,)]
            plain.close()

        asyncio.run(asks())


# -- psycopg -------------------------------------------------------------------------------------


def test_adapters_that_nobody_has_touched_lack_none() -> None:
    part = "psycopg.postgres.register_default_adapters"
    with door("untouched_adapters", part, "psycopg", named_in=DRIVER) as untouched_adapters:
        ours, theirs = untouched_adapters(), psycopg.adapters
        assert ours is not theirs
        assert ours.types is not theirs.types
        oids = [oid for each in theirs.types for oid in (each.oid, each.array_oid) if oid]
        assert len(oids) > 100
        for oid in oids:
            for form in (Format.TEXT, Format.BINARY):
                has = ours.get_loader(oid, form) is not None
                assert has == (theirs.get_loader(oid, form) is not None)


class Money:
    """What a caller's adapters would know nothing of."""


class LoadsOnes(Loader):
    def load(self, data: Any) -> str:
        return f"ours: {bytes(data).decode()}"


class DumpsMoney(Dumper):
    def dump(self, obj: Any) -> bytes:
        return b"7"


def test_a_cursor_binds_and_reads_by_the_adapters_it_is_given(
    driver: psycopg.Connection[Any],
) -> None:
    part = "Cursor that takes its `adapters` from the property"
    with door("cursor_with", part, "psycopg", named_in=DRIVER) as cursor_with:
        ours = psycopg.adapt.AdaptersMap(psycopg.adapters)
        ours.register_loader("int8", LoadsOnes)
        ours.register_dumper(Money, DumpsMoney)
        cursor = cursor_with(ours)(driver, row_factory=namedtuple_row)
        cursor.execute(b"SELECT %(money)s::int8 AS money", {"money": Money()})
        assert cursor.fetchall() == [("ours: 7",)]
        assert driver.execute("SELECT 7::int8").fetchone() == (7,)


def test_a_row_maker_serves_every_result_of_its_columns(driver: psycopg.Connection[Any]) -> None:
    """`Statement` keeps the first (store/statement.py)."""
    cursor = driver.execute("SELECT 1 AS one")
    make = namedtuple_row(cursor)
    cursor.close()
    assert make([2]).one == 2
    other = psycopg.Cursor(driver, row_factory=lambda _cursor: make)
    assert other.execute("SELECT 3 AS one").fetchone().one == 3


def test_libpqs_words_are_known() -> None:
    """`addresses.py`, on which the store stands, refuses a word that is none: by a method of a documented class."""
    words = {each.keyword.decode() for each in psycopg.pq.Conninfo.get_defaults()}
    assert words > {"host", "hostaddr", "port", "dbname", "user", "password", "sslmode", "options"}
    assert "hots" not in words


def test_a_connection_knows_whether_a_pipeline_is_open(driver: psycopg.Connection[Any]) -> None:
    with door("is_in_pipeline", "pipeline_status", "psycopg", named_in=DRIVER) as is_in_pipeline:
        assert not is_in_pipeline(driver)
        with driver.pipeline():
            assert is_in_pipeline(driver)
        assert not is_in_pipeline(driver)


def test_it_is_known_when_all_of_a_pipeline_is_sent(driver: psycopg.Connection[Any]) -> None:
    """More than any socket buffers is not sent at once, and is sent when Postgres has read."""
    with door("is_all_sent", "PGconn.flush", "psycopg", named_in=DRIVER) as is_all_sent:
        with driver.pipeline():
            cursor = driver.execute(b"SELECT 1")
            assert is_all_sent(driver) is True
            assert cursor.fetchone() == (1,)
        driver.pgconn.nonblocking = 1
        driver.pgconn.send_query_params(b"SELECT length($1)", [b"x" * 20_000_000])
        assert is_all_sent(driver) is False
        poll = selectors.poll()
        poll.register(driver.pgconn.socket, selectors.POLLOUT)
        while not is_all_sent(driver):
            assert poll.poll(10_000)
        driver.close()


def test_a_session_that_was_ended_is_seen_without_a_round_trip(
    database: Database, driver: psycopg.Connection[Any]
) -> None:
    with (
        door("is_cut", "PGconn.socket and consume_input", "psycopg", named_in=DRIVER) as is_cut,
        connected(database) as other,
    ):
        assert not is_cut(other)
        other.execute("LISTEN contract")
        driver.execute("NOTIFY contract")
        readable(other)
        assert not is_cut(other)  # it was told something, and lives
        driver.execute("SELECT pg_terminate_backend(%s)", [other.info.backend_pid])
        readable(other)
        while not is_cut(other):  # its last words have come, and its end is on its way
            readable(other)
        other.close()
        assert is_cut(other)


def readable(connection: psycopg.Connection[Any]) -> None:
    poll = selectors.poll()
    poll.register(connection.fileno(), selectors.POLLIN)
    assert poll.poll(10_000)
