"""Postgres and Valkey for every test that asks, started once; databases are cloned from one template.

    servers      the two URLs: PERENNIAL_TEST_DATABASE_URL and PERENNIAL_TEST_BROKER_URL where both are
                 given, else embedded servers of this session
    template     a migrated database, made once; PERENNIAL_TEST_TEMPLATE where that is given too
    database     a database of this test module's own
    connection   one connection in an outer transaction that is rolled back
    harness      the engine without Celery, over an emptied `database` (tests/harness.py), in `mode`
    mode         normal, unless the tests of a folder say otherwise (tests/modes.py)

A server that is missing fails the tests that need it: nothing is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from sqlalchemy import Connection, create_engine, make_url, text

from orchestrator.embedded import EmbeddedServers, ServerUrls
from orchestrator.settings import with_psycopg
from orchestrator.store.schema import SCHEMA, migrate, options_in
from tests.harness import Database, Harness
from tests.modes import NORMAL, Mode


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="what docs/reliability.md lists under what `make test` leaves out, too: as `make test-all` does",
    )


@pytest.fixture(scope="session")
def servers() -> Iterator[ServerUrls]:
    database_url = os.environ.get("PERENNIAL_TEST_DATABASE_URL")
    broker_url = os.environ.get("PERENNIAL_TEST_BROKER_URL")
    if database_url and broker_url:
        yield ServerUrls(database_url, broker_url)
        return
    if database_url or broker_url:
        pytest.fail(
            "PERENNIAL_TEST_DATABASE_URL and PERENNIAL_TEST_BROKER_URL go together: give both or neither"
        )
    with EmbeddedServers.temporary() as embedded:
        spare_the_disk(embedded.urls)
        yield embedded.urls


@pytest.fixture(scope="session")
def template(servers: ServerUrls) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    given = os.environ.get("PERENNIAL_TEST_TEMPLATE")
    if given:
        yield given
        return
    with migrated(servers) as name:
        yield name


def spare_the_disk(servers: ServerUrls) -> None:
    """Postgres waits for the disk no longer: no test cuts the power of these servers.

    A commit is still written, and outlives whatever process is killed. Tests of embedded servers and the
    nemesis have servers of their own, with `fsync` on.
    """
    for setting in ("fsync", "full_page_writes"):
        administer(servers, f"ALTER SYSTEM SET {setting} TO off")
    administer(servers, "SELECT pg_reload_conf()")


@contextmanager
def migrated(servers: ServerUrls, schema: str = SCHEMA) -> Iterator[str]:
    """A template while the block runs, with a record in that schema."""
    name = f"perennial_template_{uuid4().hex[:12]}"
    administer(servers, f"CREATE DATABASE {name}")
    engine = create_engine(url_of(servers, name), execution_options=options_in(schema))
    migrate.upgrade(engine)
    engine.dispose()
    yield name
    administer(servers, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def database(servers: ServerUrls, template: str) -> Iterator[Database]:
    with fresh(servers, template) as database:
        yield database


@pytest.fixture
def empty_database(servers: ServerUrls) -> Iterator[Database]:
    """A database without our schema."""
    with fresh(servers, "template1") as database:
        yield database


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.engine.connect() as connection:
        outer = connection.begin()
        yield connection
        outer.rollback()


@pytest.fixture
def mode() -> Mode:
    return NORMAL


@pytest.fixture
def harness(database: Database, mode: Mode) -> Iterator[Harness]:
    database.empty()
    with Harness(database, mode=mode) as harness:
        yield harness


@contextmanager
def fresh(servers: ServerUrls, template: str, schema: str = SCHEMA) -> Iterator[Database]:
    """A database of the tests' own, dropped at the end."""
    name = f"perennial_{uuid4().hex[:12]}"
    administer(servers, f"CREATE DATABASE {name} TEMPLATE {template}")
    database = Database(name, url_of(servers, name), schema)
    yield database
    database.close()
    administer(servers, f"DROP DATABASE {name} WITH (FORCE)")


def url_of(servers: ServerUrls, name: str) -> str:
    return (
        make_url(with_psycopg(servers.database_url))
        .set(database=name)
        .render_as_string(hide_password=False)
    )


def administer(servers: ServerUrls, statement: str) -> None:
    engine = create_engine(with_psycopg(servers.database_url), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()
