"""What our sessions in Postgres are like, whatever the database, the role or the program has set.

    connection_arguments()    for `psycopg.connect`: UTF-8, and adapters that nobody else has changed
    set_up(connection)        once, when a session begins: one statement
    settings_sql()            its text, for a process that has no more than a driver

A caller's own connection keeps its settings, and no answer to a caller depends on them (`store.callers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import psycopg
from psycopg.rows import tuple_row

from orchestrator.errors import PerennialError, PoolerBetween
from orchestrator.store import loaders
from orchestrator.store.driver import untouched_adapters

Pooler = Literal["session", "transaction"]
"""For how long a pooler lends one of its sessions."""

PINNED: Mapping[str, str] = {
    # Each statement is fenced by itself, and sees what others have committed when it begins.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # How values look on the way here and back.
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    # What our names and comparisons mean. Our tables are named with their schema.
    "search_path": "pg_catalog",
    "transform_null_equals": "off",
    "row_security": "on",
    # What may end a statement or a session: locks are held for long by nobody, and a pool's sessions rest.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
}
"""Whoever may log in may set these."""


ADAPTERS = untouched_adapters()
"""As psycopg brings them: neither a program's nor a framework's changes of its own reach our values."""

loaders.register(ADAPTERS)


def connection_arguments() -> dict[str, Any]:
    """What each connection of ours is opened with."""
    return {"client_encoding": "utf8", "context": ADAPTERS}


def settings_sql(
    also: Mapping[str, str] | None = None,
    keeps: frozenset[str] = frozenset(),
    backend_pid: int | None = None,
) -> str:
    """The one statement that pins what we rely on, and `also` that, for the session that it meets.

    `backend_pid`: the server process that a connection was promised. Where another one answers, nothing is set.
    Its answer: whose triggers fire, and whether it was that one.
    """
    settings = {**PINNED, **(also or {})}
    calls = [
        f"set_config('{name}', '{value}', false)"
        for name, value in settings.items()
        if name not in keeps
    ]
    calls.append(
        "CASE WHEN current_setting('server_version_num')::int >= 170000"
        " THEN set_config('transaction_timeout', '0', false) END"
    )
    # guard: what is set in a session that is lent
    is_own = "true" if backend_pid is None else f"pg_backend_pid() = {backend_pid}"
    return (
        "SELECT current_setting('session_replication_role'), session.is_own,"
        f" CASE WHEN session.is_own THEN ARRAY[{', '.join(calls)}] END"
        f" FROM (SELECT {is_own} AS is_own) session"
    )


def set_up(
    connection: psycopg.Connection[Any],
    *,
    also: Mapping[str, str] | None = None,
    keeps: frozenset[str] = frozenset(),
    pooler: Pooler | None = None,
    needs_session: bool = False,
) -> None:
    """Pin what we rely on, and `also` that, for the whole session. `keeps`: what stays as it was found.

    Where a pooler stands between, nothing is set, since others would come to feel it, and nothing is prepared
    by name, since others would meet it. `pooler`: which it is, where that is known: one that lends a whole
    session is as good as none. `needs_session`: then one that doesn't, or may not, is refused.

    Raises PoolerBetween; PerennialError where the record's rules are switched off and this role may not switch
    them on.
    """
    try:
        if pooler == "transaction":
            _do_without(connection, needs_session=needs_session)
            return
        was_autocommit = connection.autocommit
        connection.autocommit = True  # nothing but the one statement
        backend_pid = connection.info.backend_pid if pooler is None else None
        with connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(settings_sql(also, keeps, backend_pid).encode(), prepare=False)
            row = cursor.fetchone() or ("", False)
            if not row[1]:
                _do_without(connection, needs_session=needs_session)
            elif row[0] == "replica":
                _switch_rules_on(cursor)
        connection.autocommit = was_autocommit
    except BaseException:
        connection.close()  # nobody else has it yet
        raise


def _do_without(connection: psycopg.Connection[Any], *, needs_session: bool) -> None:
    if needs_session:
        raise PoolerBetween(
            "a pooler stands between this worker and Postgres (another server process answers than the one that"
            " was promised, or PERENNIAL_DATABASE_POOLER says so), and a worker needs sessions of its own. Give it"
            " Postgres' own address; or, if the pooler lends whole sessions (PgBouncer's `session` mode), set"
            " PERENNIAL_DATABASE_POOLER=session"
        )
    connection.prepare_threshold = None


def _switch_rules_on(cursor: psycopg.Cursor[Any]) -> None:
    """Under `replica` no trigger fires, and the record would refuse nothing."""
    try:
        cursor.execute("SET session_replication_role TO origin", prepare=False)
    except psycopg.errors.InsufficientPrivilege as error:
        raise PerennialError(
            "session_replication_role is `replica` for this database or role, so the rules of the record are"
            " switched off, and this role may not switch them on. Reset it:"
            " ALTER DATABASE … RESET session_replication_role, or ALTER ROLE … RESET session_replication_role"
        ) from error
