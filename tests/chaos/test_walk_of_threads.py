"""The walk of test_walk.py at the places inside the engine, with threads for workers: the same scenarios, the same
ways to be lost, the same end. No process is started, and nobody waits for time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from orchestrator.core.views import Started
from tests.chaos import app
from tests.chaos.fleet import ChaosFleet, Worker
from tests.chaos.test_walk import (
    CASES,
    CROWD,
    EDGES,
    RETRIES,
    WALK,
    Scenario,
    cases_of,
    survive,
)
from tests.chaos.threads import ThreadFleet
from tests.chaos.worker import Place
from tests.harness import Database


def signal_while_paused(fleet: ChaosFleet, run: Started, _victim: Worker) -> None:
    assert isinstance(fleet, ThreadFleet)
    fleet.wait_until_waiting(run)
    fleet.client.operations.pause(run)
    fleet.client.signal(run, "go", "gone")
    fleet.let_pass(timedelta(hours=1))
    fleet.wait_for(
        "the deadline", lambda: fleet.scalar("SELECT state <> 'armed' FROM perennial.timer")
    )
    fleet.client.operations.resume(run)


BELATED = Scenario("belated", "gone", {}, signal_while_paused)


@pytest.fixture(autouse=True)
def in_this_process(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Effects are counted in this database, and stages take no time."""
    effects = create_engine(database.url, isolation_level="AUTOCOMMIT")
    monkeypatch.setattr(app, "_database", lambda _process_id: effects)
    monkeypatch.setattr(app, "BETWEEN_STEPS_SECONDS", 0)
    yield
    effects.dispose()


@contextmanager
def thread_fleet(database: Database, logs: Path) -> Iterator[ThreadFleet]:
    """One without a run, as if new."""
    database.empty()
    fleet = ThreadFleet(database, logs)
    fleet.execute("DELETE FROM effect")
    try:
        yield fleet
    finally:
        fleet.stop()


@pytest.mark.parametrize("what", [what for what in WALK if what not in EDGES])
def test_a_thread_lost_there_loses_nothing_and_doubles_nothing(
    database: Database, tmp_path: Path, what: str, request: pytest.FixtureRequest
) -> None:
    outcomes = []
    for when, how in cases_of(what, request.config):
        with thread_fleet(database, tmp_path) as fleet:
            outcomes.append(survive(fleet, WALK[what], (Place(when, what), how)))
    assert not any(outcomes), "\n".join(filter(None, outcomes))


@pytest.mark.parametrize("scenario", [CROWD, BELATED, RETRIES], ids=lambda each: each.process)
def test_a_thread_that_fires_timers_is_lost_whatever_they_lead_to(
    database: Database, tmp_path: Path, scenario: Scenario
) -> None:
    """To several facts of a run, to a signal that came in time, and to a next attempt."""
    outcomes = []
    for when, how in CASES:
        with thread_fleet(database, tmp_path) as fleet:
            outcomes.append(survive(fleet, scenario, (Place(when, "fire_timers"), how)))
    assert outcomes == [None] * len(CASES), "\n".join(filter(None, outcomes))
