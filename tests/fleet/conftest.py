"""Each test gets a database and a Redis of its own; the database is cloned from the session's template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.embedded import EmbeddedRedis, ServerUrls
from tests.conftest import fresh
from tests.fleet.harness import Fleet


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that the test may empty, kill and restart."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def fresh_url(servers: ServerUrls, template: str) -> Iterator[Callable[[], str]]:
    """Answers the URL of one more database with our tables, and nothing in them."""
    with ExitStack() as made:
        yield lambda: made.enter_context(fresh(servers, template)).url


@pytest.fixture
def fleet(fresh_url: Callable[[], str], redis: EmbeddedRedis, tmp_path: Path) -> Iterator[Fleet]:
    """No workers yet; the processes are deployed."""
    fleet = Fleet(fresh_url(), redis.url, tmp_path)
    fleet.client.processes.deploy(*_processes(fleet))
    try:
        yield fleet
    finally:
        fleet.stop()


def _processes(fleet: Fleet) -> list[object]:
    """What `tests.fleet.app` defines; it reads the environment when imported, as a worker's app does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_DATABASE_URL", fleet.database_url)
        patch.setenv("PERENNIAL_BROKER_URL", fleet.broker_url)
        from tests.fleet.app import registry
    return list(registry.processes.values())
