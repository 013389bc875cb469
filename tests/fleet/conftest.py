"""Each test gets a database and a Redis of its own; Postgres is started once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from orchestrator.store import migrate
from tests.fleet.harness import Fleet


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One Postgres for all fleet tests, fsync on."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("fleet-postgres") / "data") as server:
        yield server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that the test may empty, kill and restart."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def fleet(postgres: EmbeddedPostgres, redis: EmbeddedRedis, tmp_path: Path) -> Iterator[Fleet]:
    """No workers yet; the processes are deployed."""
    fleet = Fleet(fresh_database(postgres), redis.url, tmp_path)
    fleet.client.processes.deploy(*_processes(fleet))
    try:
        yield fleet
    finally:
        fleet.stop()


def fresh_database(postgres: EmbeddedPostgres) -> str:
    """The URL of one with our tables, and nothing in them."""
    name = f"fleet_{uuid4().hex}"
    with _engine_on(postgres.url("perennial")) as engine, engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(
            text(f"CREATE DATABASE {name}")
        )
    url = (
        make_url(postgres.url("perennial")).set(database=name).render_as_string(hide_password=False)
    )
    with _engine_on(url) as engine:
        migrate.upgrade(engine)
    return url


@contextmanager
def _engine_on(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _processes(fleet: Fleet) -> list[object]:
    """What `tests.fleet.app` defines; it reads the environment when imported, as a worker's app does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_DATABASE_URL", fleet.database_url)
        patch.setenv("PERENNIAL_BROKER_URL", fleet.broker_url)
        from tests.fleet.app import registry
    return list(registry.processes.values())
