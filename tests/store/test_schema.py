"""The schema that a record is in: its name, our texts in it, and upgrades of two in one database."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import ProgrammingError

from orchestrator import Client, Settings
from orchestrator.engine.context import connect
from orchestrator.errors import PerennialError, SchemaNotReady, SettingsError
from orchestrator.store import schema
from orchestrator.store.schema import checked, in_schema, migrate, options_in, tables
from orchestrator.store.schema.migrations import versions
from orchestrator.store.statement import Statement
from tests.harness import Database, Thread, wait_until_blocked
from tests.store.catalog import catalog
from tests.store.statements import modules, statements_of
from tests.store.test_rights import engine_as, role

__all__ = ["role"]

# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["perennial", "billing", "user", "_a1", "a" * 40])
def test_a_plain_name_is_taken(name: str):
    assert Settings(database_schema=name).database_schema == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Billing", "made of a to z"),
        ("1st", "begins with no digit"),
        ("bill ing", "made of a to z"),
        ("bill\ning", "made of a to z"),
        ("büro", "made of a to z"),
        ('b"; DROP SCHEMA perennial; --', "made of a to z"),
        ("a" * 41, "40 characters at most"),
        ("public", "an app's own tables"),
        ("pg_billing", "Postgres' own"),
        ("information_schema", "Postgres' own"),
    ],
)
def test_any_other_is_refused_in_a_sentence_whoever_gives_it(name, why, monkeypatch):
    """It stands in SQL. Guards the one place that lets a name into a text."""
    with pytest.raises(ValidationError, match=why):
        Settings(database_schema=name)
    monkeypatch.setenv("PERENNIAL_SCHEMA", name)
    with pytest.raises(ValidationError, match=why):
        Settings()
    monkeypatch.delenv("PERENNIAL_SCHEMA")
    with pytest.raises(SettingsError, match=why):
        Client("postgresql://localhost/none", schema=name)
    for door in (checked, options_in, lambda name: in_schema("SELECT 1", name)):
        with pytest.raises(ValueError, match=why):
            door(name)


def test_an_empty_variable_names_none(monkeypatch):
    monkeypatch.setenv("PERENNIAL_SCHEMA", " ")
    assert Settings().database_schema == "perennial"


def test_a_client_takes_it_from_the_environment_or_by_name(monkeypatch):
    monkeypatch.setenv("PERENNIAL_SCHEMA", "billing")
    url = "postgresql+psycopg://localhost/none"
    with Client(url) as client:
        assert schema_of(client) == "billing"
    with Client(url, schema="shop") as client:
        assert schema_of(client) == "shop"
    with Client(Settings(database_url=SecretStr(url), database_schema="own")) as client:
        assert schema_of(client) == "own"
    engine = create_engine(url)
    with Client(engine, schema="shop") as client:
        assert schema_of(client) == "shop"
        assert schema.schema_of(engine) == schema.SCHEMA  # it stays its owner's


def schema_of(client: Client) -> str:
    return schema.schema_of(client._context._each)


# -- texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_a_text_elsewhere_names_what_is_there_and_celerys_tasks_alone(module):
    for statement in statements_of(module):
        there = statement.of("billing")
        assert set(re.findall(r"perennial\b[^:]\w*", there.sql)) <= {"perennial.advance"}
        assert there.text.startswith(f"/* perennial:{statement.name} */")
        assert there.of("perennial").sql == there.sql  # it is made of ours, never the other way


def test_the_usual_texts_are_sent_as_they_stand():
    statement = Statement("ask", "SELECT * FROM perennial.run")
    assert statement.of("perennial") is statement
    there = statement.of("billing")
    assert there.sql == 'SELECT * FROM "billing".run'
    assert there is statement.of("billing")  # psycopg finds its plan by the same bytes
    assert there is there.of("billing")


def test_what_is_called_the_same_in_each_schema_keeps_its_name():
    kept = "SELECT current_setting('perennial.now', true), 'perennial.advance', 'perennial.drop_history_before'"
    assert in_schema(kept, "billing") == kept
    assert (
        in_schema("pg_notify('perennial_outbox', '')", "shop")
        == "pg_notify('perennial_outbox_shop', '')"
    )


def test_every_table_and_function_is_known_by_name(database: Database):
    """A new one that isn't would be looked for in `perennial`, from wherever."""
    found = database.rows(
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'perennial'::regnamespace AND relkind = 'r'"
        " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'perennial'::regnamespace"
    )
    assert sorted(row.name for row in found) == sorted([*schema.TABLES, *schema.FUNCTIONS])
    assert {table.name for table in tables.metadata.tables.values()} < set(schema.TABLES)


@pytest.mark.parametrize(
    "script", sorted(Path(versions.__path__[0]).glob("v*.py")), ids=lambda path: path.stem
)
def test_a_migration_names_nothing_that_would_stay_in_the_usual_schema(script: Path):
    """Also on its way back, and of what a later one drops."""
    there = in_schema(script.read_text(encoding="utf-8"), "billing")
    named = set(re.findall(r"perennial\.\w+", there))
    task = "perennial.advance"  # Celery's, called the same in each
    assert named <= {"perennial.now", "perennial.drop_history_before", task}


# -- upgrades ------------------------------------------------------------------------------------


def engine_in(name: str, database: Database) -> Engine:
    return database.adopt(create_engine(database.url, execution_options=options_in(name)))


def test_two_schemas_of_a_database_are_alike_and_upgraded_each_by_itself(empty_database):
    first, second = engine_in("perennial", empty_database), engine_in("billing", empty_database)
    assert migrate.upgrade(second, "0001") == "0001"
    assert migrate.current(first) is None
    with closing(empty_database.psycopg()) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [migrate._ADVISORY_LOCK])
        again = Thread(lambda: migrate.upgrade(second))
        wait_until_blocked(empty_database, or_ended=again)
        assert not again.is_alive()  # an upgrade of the first keeps nobody of the second
    assert again.outcome() == migrate.head()
    assert migrate.current(first) is None
    assert migrate.upgrade(first) == migrate.head()
    here, there = catalog(empty_database), catalog(empty_database, "billing")
    assert there == here
    assert len(here) > 100


def test_upgrades_of_one_schema_wait_for_each_other(empty_database):
    engine = engine_in("billing", empty_database)
    with closing(empty_database.psycopg()) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [migrate._lock_of("billing")])
        one = Thread(lambda: migrate.upgrade(engine))
        wait_until_blocked(empty_database, or_ended=one)
        assert one.is_alive()
        other.rollback()
    assert one.outcome() == migrate.head()


def test_who_owns_that_schema_alone_upgrades_it(empty_database, role):
    quoted = role.replace('"', '""')
    migrate.upgrade(empty_database.engine)  # whose record is another's, and stays as it is
    engine = engine_as(role, empty_database).execution_options(**options_in("billing"))
    with pytest.raises(PerennialError, match="CREATE SCHEMA billing AUTHORIZATION"):
        migrate.upgrade(engine)
    with closing(empty_database.psycopg(autocommit=True)) as admin:
        admin.execute(f'CREATE SCHEMA billing AUTHORIZATION "{quoted}"')
        assert migrate.upgrade(engine) == migrate.head()
        with engine.connect() as connection, pytest.raises(Exception, match="permission denied"):
            connection.execute(text("SELECT FROM perennial.run"))
        engine.dispose()
        admin.execute(f'DROP OWNED BY "{quoted}" CASCADE')


def test_a_schema_of_an_apps_own_tables_is_left_as_it_is(empty_database):
    engine = engine_in("billing", empty_database)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA billing"))
        connection.execute(text("CREATE TABLE billing.invoice (id int)"))
    with pytest.raises(PerennialError, match="has tables, and none of them is Perennial's"):
        migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE billing.invoice"))
    assert migrate.upgrade(engine) == migrate.head()


def test_who_meets_no_tables_there_says_so_and_a_callers_own_is_his_own_error(empty_database):
    settings = Settings(database_url=SecretStr(empty_database.url), database_schema="user")
    with Client(settings) as client:
        for ask in (client.list, lambda: client.start("p")):
            with pytest.raises(SchemaNotReady, match=r"in schema user \(PERENNIAL_SCHEMA\)"):
                ask()
    migrate.upgrade(engine_in("user", empty_database))
    # Whoever forgot the setting must not make a second record.
    with (
        Client(empty_database.url) as client,
        pytest.raises(SchemaNotReady, match="schema of its own, PERENNIAL_SCHEMA names it"),
    ):
        client.list()
    engine = empty_database.adopt(connect(settings, commits_each=False))
    with engine.connect() as connection, pytest.raises(ProgrammingError, match="users"):
        connection.execute(text("SELECT * FROM users"))


def test_a_refusal_of_the_record_names_its_schema(empty_database):
    migrate.upgrade(engine_in("billing", empty_database))
    with closing(empty_database.psycopg()) as connection:
        connection.execute(
            "INSERT INTO billing.history (run_id, actor, event) VALUES (gen_random_uuid(), 'a', 'b')"
        )
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation) as refusal:
            connection.execute("DELETE FROM billing.history")
    assert refusal.value.diag.schema_name == "billing"
