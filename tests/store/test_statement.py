"""One SQL text, three kinds of connection."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy.orm import Session

from orchestrator.store.statement import Statement

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


def test_its_name_is_seen_in_postgres(any_connection):
    seen = Statement("look", "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()").row(
        any_connection
    )
    assert seen.query.startswith("/* perennial:look */")
