"""The migrations make what tables.py says, once, whoever asks and however many at once."""

from __future__ import annotations

import re
import threading
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from orchestrator import store
from orchestrator.core.run import RunStatus
from orchestrator.store.schema import SCHEMA, migrate, rules
from orchestrator.store.schema.migrations.versions.v0001_first_schema import NOW
from orchestrator.store.schema.tables import metadata
from tests.harness import Thread
from tests.store.catalog import catalog


def test_alembic_finds_no_difference(database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": "schema_version",
                "version_table_schema": SCHEMA,
                "include_schemas": True,
                "compare_type": True,
                "compare_server_default": True,
                "include_name": lambda name, kind, _parents: kind != "schema" or name == SCHEMA,
            },
        )
        assert compare_metadata(context, metadata) == []


def test_the_schema_is_as_the_tables_and_the_rules_say(database, empty_database):
    """Alembic compares no CHECKs, index predicates, triggers and functions; Postgres's catalog knows them all."""
    with empty_database.engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        connection.exec_driver_sql(NOW)
        metadata.create_all(connection)
        triggers = (*(rule.ddl() for rule in rules.RULES), *rules.FILLS)
        for statement in (*rules.FUNCTIONS, *triggers):
            connection.execute(text(statement))
    assert catalog(database) == catalog(empty_database)


def test_an_upgrade_is_done_once(empty_database):
    assert migrate.current(empty_database.engine) is None
    assert migrate.upgrade(empty_database.engine) == migrate.head()
    before = catalog(empty_database)
    assert migrate.upgrade(empty_database.engine) == migrate.head()
    assert catalog(empty_database) == before
    assert migrate.current(empty_database.engine) == migrate.head()


def test_upgrades_from_many_processes_at_once_wait_for_each_other(empty_database):
    together = threading.Barrier(4)

    def upgrade() -> str:
        engine = create_engine(empty_database.url)
        try:
            together.wait(10)
            return migrate.upgrade(engine)
        finally:
            engine.dispose()

    threads = [Thread(upgrade) for _ in range(4)]
    assert {thread.outcome() for thread in threads} == {migrate.head()}


def test_the_database_and_the_code_know_the_same_states(database):
    (check,) = database.rows(
        "SELECT pg_get_constraintdef(oid) AS says FROM pg_constraint WHERE conname = 'run_status_check'"
    )
    assert all(f"'{status}'" in check.says for status in RunStatus)
    assert check.says.count("::text") == len(RunStatus) + check.says.count("(status)::text")


def test_time_has_one_door(database):
    """No default of the schema and no statement of the store reads Postgres's own clock; a session can move it."""
    with database.engine.begin() as connection:
        connection.execute(text("SET LOCAL perennial.now = '2030-01-01 00:00:00+00'"))
        assert connection.execute(text("SELECT perennial.now()")).scalar_one().year == 2030
    defaults = database.rows(
        """SELECT pg_get_expr(adbin, adrelid) AS says FROM pg_attrdef d JOIN pg_class t ON t.oid = d.adrelid
        WHERE t.relnamespace = 'perennial'::regnamespace"""
    )
    times = [row.says for row in defaults if "now" in row.says or "timestamp" in row.says]
    assert times
    assert set(times) == {"perennial.now()"}
    for source in Path(store.__path__[0]).glob("*.py"):
        own_clock = re.search(
            r"(?<!perennial\.)\bnow\(\)|current_timestamp|clock_timestamp",
            source.read_text(),
            re.IGNORECASE,
        )
        assert own_clock is None, f"{source.name}: {own_clock}"
