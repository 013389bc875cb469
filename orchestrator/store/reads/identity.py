"""Whose record this is: a word that no other database, and no other schema, has.

A message carries it, so that a worker of another database on the same broker knows that the message is not its own.
Made of what Postgres knows of itself: nothing is kept, and a copy by dump has another. A copy of the server's files
(a snapshot, a standby that was promoted) has the same.
"""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from orchestrator.store.statement import AnyConnection, Statement

_IDENTITY = Statement(
    "record_identity",
    """
SELECT left(md5(concat_ws('/', d.oid, d.datname, c.relnamespace)), 8) AS identity
FROM pg_catalog.pg_database d, pg_catalog.pg_class c
WHERE d.datname = current_database() AND c.oid = 'perennial.run'::regclass
""",
)

_SERVER = Statement(
    "record_server",
    "SELECT left(md5(system_identifier::text), 8) AS identity FROM pg_catalog.pg_control_system()",
)

_MAY_NOT = ("42501", "42883", "0A000")
"""insufficient_privilege, undefined_function, feature_not_supported: every role may ask, unless a host forbids it."""


def record_identity(connection: AnyConnection) -> str:
    """Eight hexadecimal digits for the database and schema, a dot, and eight for the server, where it says."""
    row = _IDENTITY.row(connection)
    assert row is not None  # noqa: S101 - this database is there, and its table, or it has raised
    return f"{row.identity}.{_server(connection)}"


def _server(connection: AnyConnection) -> str:
    try:
        row = _SERVER.row(connection)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _MAY_NOT:
            raise
        return ""
    return "" if row is None else str(row.identity)


def is_another(theirs: str, ours: str) -> bool:
    """Whether these are two records. Where one of them doesn't know its server, the database alone decides."""
    their_database, _, their_server = theirs.partition(".")
    our_database, _, our_server = ours.partition(".")
    if their_database != our_database:
        return True
    return bool(their_server and our_server) and their_server != our_server
