"""A database and a Redis database for each fleet, on the servers of the session."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from orchestrator.embedded import ServerUrls
from tests.chaos.fleet import ChaosFleet
from tests.conftest import administer, url_of

REDIS_DATABASES = itertools.cycle(range(1, 16))


@pytest.fixture
def make_fleet(
    servers: ServerUrls, template: str, tmp_path: Path
) -> Iterator[Callable[[], ChaosFleet]]:
    """Makes fleets without workers; all end with the test."""
    fleets: list[tuple[ChaosFleet, str]] = []

    def make() -> ChaosFleet:
        name = f"chaos_{uuid4().hex}"
        administer(servers, f"CREATE DATABASE {name} TEMPLATE {template}")
        broker_url = f"{servers.broker_url.rsplit('/', 1)[0]}/{next(REDIS_DATABASES)}"
        with redis.Redis.from_url(broker_url) as client:
            client.flushdb()
        fleet = ChaosFleet(url_of(servers, name), broker_url, tmp_path / name)
        fleets.append((fleet, name))
        return fleet

    yield make
    for fleet, name in fleets:
        fleet.stop()
        administer(servers, f"DROP DATABASE {name} WITH (FORCE)")
