"""Bring a database to this release's tables. Expand first, contract a release later.

The record is in the engine's schema (store.schema): two in one database are upgraded each by itself.
Old workers must survive a deploy, so a migration never takes away what the release before it uses.
"""

from __future__ import annotations

import zlib
from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from orchestrator.errors import PerennialError
from orchestrator.store.schema import SCHEMA, schema_of
from orchestrator.store.session import PINNED

_ADVISORY_LOCK = 0x506572656E6E  # "Perenn": one upgrade of a schema at a time


def upgrade(engine: Engine, revision: str = "head") -> str:
    """Upgrade to `revision`; returns the revision reached. Safe to call from many processes at once.

    Where there is nothing to do, nothing is asked of Postgres but the revision. The role needs to own the schema,
    or to be allowed to create one. Raises PerennialError where it may not.
    """
    if revision == "head":
        reached = current(engine)
        if reached == head():
            return reached or ""
    with (
        engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
        connection.begin(),
        as_file(files("orchestrator.store.schema") / "migrations") as home,
    ):
        connection.exec_driver_sql("SET TRANSACTION READ WRITE")
        for name, value in PINNED.items():
            connection.execute(
                text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value}
            )
        connection.execute(
            text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _lock_of(schema_of(connection))}
        )
        _make_schema(connection)
        config = _config(str(home))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        reached = _current(connection)
    return reached or ""


def _lock_of(schema: str) -> int:
    return _ADVISORY_LOCK + (0 if schema == SCHEMA else zlib.crc32(schema.encode()))


def _make_schema(connection: Connection) -> None:
    """Only where there is none: to ask for it again would take the right to create one."""
    schema = schema_of(connection)
    asked = {"schema": schema}
    found = connection.execute(
        text(
            "SELECT current_user AS role, current_database() AS database,"
            " has_database_privilege(current_database(), 'CREATE') AS may_create,"
            " n.oid IS NOT NULL AS is_there, pg_has_role(n.nspowner, 'USAGE') AS is_owner,"
            " EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f'))"
            " AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'schema_version')"
            " AS is_anothers"
            " FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = :schema"
        ),
        asked,
    ).one()
    role = found.role.replace('"', '""')
    if found.is_there and not found.is_owner:
        raise PerennialError(
            f"{found.role} doesn't own the schema {schema} of database {found.database}, and upgrades are its"
            f" owner's. Upgrade as its owner; `perennial db grants {found.role}` prints what a worker needs"
        )
    if found.is_anothers:
        raise PerennialError(
            f"schema {schema} of database {found.database} has tables, and none of them is Perennial's. A record needs"
            " a schema of its own: set PERENNIAL_SCHEMA to another name"
        )
    if not found.is_there and not found.may_create:
        raise PerennialError(
            f"database {found.database} has no schema {schema}, and {found.role} may not create one. Let whoever"
            f' may: CREATE SCHEMA {schema} AUTHORIZATION "{role}"; then upgrade again'
        )
    if not found.is_there:
        connection.execute(text(f'CREATE SCHEMA "{schema}"'))


def current(engine: Engine) -> str | None:
    """The revision the database is at; None before the first upgrade."""
    with engine.connect() as connection:
        return _current(connection)


def head() -> str:
    """The revision this release needs."""
    with as_file(files("orchestrator.store.schema") / "migrations") as home:
        return ScriptDirectory(str(home)).get_current_head() or ""


def _current(connection: Connection) -> str | None:
    options = {"version_table": "schema_version", "version_table_schema": schema_of(connection)}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def _config(home: str) -> Config:
    config = Config()
    config.set_main_option("script_location", home.replace("%", "%%"))
    return config
