"""A database and a Redis database for each fleet, on the servers of the session."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from orchestrator.embedded import ServerUrls
from tests.chaos.fleet import ChaosFleet
from tests.conftest import fresh
from tests.harness import Database

REDIS_DATABASES = itertools.cycle(range(1, 16))


class Databases:
    """Lent to one fleet after the other: to make one takes as long as a fleet's whole recovery."""

    def __init__(self, make: Callable[[], Database]) -> None:
        self._make, self._free = make, list[Database]()

    def lend(self) -> Database:
        """One without a run, as if new."""
        return self._free.pop() if self._free else self._make()

    def take_back(self, database: Database) -> None:
        """What its fleet's workers were in the middle of is ended, and all that they have written is gone."""
        database.cut_connections()
        database.empty()
        database.rows("DELETE FROM effect")
        self._free.append(database)


@pytest.fixture(scope="session")
def databases(servers: ServerUrls, template: str) -> Iterator[Databases]:
    with ExitStack() as made:
        yield Databases(lambda: made.enter_context(fresh(servers, template)))


@pytest.fixture
def make_fleet(
    servers: ServerUrls, databases: Databases, tmp_path: Path
) -> Iterator[Callable[[], ChaosFleet]]:
    """Makes fleets without workers; all end with the test."""
    fleets: list[tuple[ChaosFleet, Database]] = []

    def make() -> ChaosFleet:
        broker_url = f"{servers.broker_url.rsplit('/', 1)[0]}/{next(REDIS_DATABASES)}"
        with redis.Redis.from_url(broker_url) as client:
            client.flushdb()
        database = databases.lend()
        fleet = ChaosFleet(database.url, broker_url, tmp_path / f"fleet-{len(fleets)}")
        fleets.append((fleet, database))
        return fleet

    yield make
    for fleet, database in fleets:
        fleet.stop()
        databases.take_back(database)
