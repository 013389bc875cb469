"""One SQL text, three kinds of connection."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import psycopg
import pytest
from psycopg.rows import dict_row, namedtuple_row
from sqlalchemy.orm import Session

from orchestrator.engine.context import connect
from orchestrator.store import statement
from orchestrator.store.statement import PipelinedConnection, Statement

ASK = Statement(
    "ask", "SELECT %(number)s::int AS number, '100%%' AS percent, %(data)s::jsonb AS data"
)


@pytest.fixture(params=["sqlalchemy", "session", "psycopg", "psycopg with another row factory"])
def any_connection(request: Any, database: Any) -> Any:
    match request.param:
        case "sqlalchemy":
            with database.engine.connect() as connection:
                yield connection
        case "session":
            with Session(database.engine) as session:
                yield session
        case "psycopg":
            with database.psycopg() as connection:
                yield connection
        case _:
            with psycopg.connect(database.libpq_url, row_factory=dict_row) as connection:
                yield connection


def test_a_statement_runs_on_any_connection(any_connection):
    row = ASK.row(any_connection, number=7, data='{"a": [1, null]}')
    assert (row.number, row.percent, row.data) == (7, "100%", {"a": [1, None]})


def test_no_row_is_none_and_no_result_is_empty(any_connection):
    assert Statement("none", "SELECT 1 AS one WHERE false").row(any_connection) is None
    assert list(Statement("set", "SET LOCAL lock_timeout = '1s'").rows(any_connection)) == []


def test_the_names_of_guards_are_not_sent():
    marked = Statement(
        "ask", "SELECT 1\nWHERE true  /* guard: it's true */\n    AND true /* not one */"
    )
    assert marked.text == "/* perennial:ask */ SELECT 1\nWHERE true\n    AND true /* not one */"
    assert "guard" not in marked.of("billing").text


def test_its_name_is_seen_in_postgres(any_connection):
    seen = Statement("look", "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()").row(
        any_connection
    )
    assert seen.query.startswith("/* perennial:look */")


def test_its_columns_are_looked_at_once(database, monkeypatch):
    looked = []

    def look(cursor: psycopg.Cursor[Any]) -> Any:
        looked.append(cursor)
        return namedtuple_row(cursor)

    monkeypatch.setattr(statement, "namedtuple_row", look)
    ask = Statement("ask", ASK.sql)
    for number in (1, 2):
        with database.psycopg() as connection:  # each prepares it anew
            assert ask.row(connection, number=number, data="[]").number == number
    assert len(looked) == 1


# -- while Postgres is at work -------------------------------------------------------------------


@pytest.fixture
def each(database: Any) -> Any:
    """A connection that commits each statement."""
    engine = connect(database.settings())
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_what_goes_on_meanwhile_sees_the_statement_at_work_and_then_its_commit(each, database):
    seen: list[Any] = []
    wait = Statement("wait", "SELECT pg_advisory_xact_lock(7), 5 AS five")

    def go_on() -> None:
        lock = "SELECT pg_advisory_lock(7), pg_advisory_unlock(7)"
        with database.psycopg() as other:
            seen.append(other.execute("SELECT 1").fetchone())
            other.execute(lock)  # it is free when the statement has been committed

    assert wait.row(PipelinedConnection(each, go_on)).five == 5
    assert seen == [(1,)]
    assert ASK.row(each, number=7, data="{}").number == 7


def test_nobody_goes_on_before_all_of_it_is_sent(each):
    """Its end would be sent when they have come back: too late for a worker that has died meanwhile."""
    calls: list[int] = []
    size = 30_000_000
    long = Statement("long", "SELECT length(%(text)s::text) AS length")
    row = long.row(PipelinedConnection(each, lambda: calls.append(1)), text="x" * size)
    assert (row.length, calls) == (size, [])


class Interrupted(Exception):
    pass


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    def interrupt(*_: object) -> NoReturn:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_interrupts_the_wait_for_an_answer_is_not_hidden(each):
    """A time limit that came as a trouble with Postgres would be tried once more."""
    sleep = Statement("sleep", "SELECT pg_sleep(20)")
    with pytest.raises(Interrupted), interrupted_after(0.2):
        sleep.rows(PipelinedConnection(each, lambda: None))
