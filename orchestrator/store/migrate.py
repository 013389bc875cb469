"""Bring a database to this release's schema. Expand first, contract a release later.

Old workers must survive a deploy, so a migration never takes away what the release before it uses.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from orchestrator.store.session import PINNED
from orchestrator.store.tables import SCHEMA

_ADVISORY_LOCK = 0x506572656E6E  # "Perenn": one upgrade at a time


def upgrade(engine: Engine, revision: str = "head") -> str:
    """Upgrade to `revision`; returns the revision reached. Safe to call from many processes at once."""
    with (
        engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
        connection.begin(),
        as_file(files("orchestrator.store") / "migrations") as home,
    ):
        connection.exec_driver_sql("SET TRANSACTION READ WRITE")
        for name, value in PINNED.items():
            connection.execute(
                text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value}
            )
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        config = _config(str(home))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        reached = _current(connection)
    return reached or ""


def current(engine: Engine) -> str | None:
    """The revision the database is at; None before the first upgrade."""
    with engine.connect() as connection:
        return _current(connection)


def head() -> str:
    """The revision this release needs."""
    with as_file(files("orchestrator.store") / "migrations") as home:
        return ScriptDirectory(str(home)).get_current_head() or ""


def _current(connection: Connection) -> str | None:
    options = {"version_table": "schema_version", "version_table_schema": SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def _config(home: str) -> Config:
    config = Config()
    config.set_main_option("script_location", home.replace("%", "%%"))
    return config
