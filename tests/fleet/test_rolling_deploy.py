"""A rolling deploy at default settings: workers of two releases on one queue, and no run waits for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchestrator.core.views import Started
from tests.fleet.harness import AnyWorker, Fleet
from tests.fleet.releases import release

FEW_SECONDS = 2.0
"""The longest that a run may wait for its first approval: 150 s before workers said what they can run."""


@pytest.fixture
def rollout(fleet: Fleet) -> Rollout:
    return Rollout(fleet)


class Rollout:
    """A fleet whose workers are of release 1 or 2, at default settings."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        fleet.app = "tests.fleet.deploy_app"
        # As a fleet has it that sets nothing.
        fleet.extra_environment = {
            "PERENNIAL_HEARTBEAT_SECONDS": "2",
            "PERENNIAL_DEAD_AFTER_SECONDS": "6",
            "PERENNIAL_SWEEP_SECONDS": "2",
            "PERENNIAL_RELAY_AFTER_SECONDS": "5",
            "PERENNIAL_TIMER_GRACE_SECONDS": "2",
        }

    def worker(self, release: int, *options: str, pool: str = "solo") -> AnyWorker:
        self.fleet.extra_environment["RELEASE"] = str(release)
        return self.fleet.start_worker(*options, pool=pool)

    def workers(self, *releases: int) -> list[AnyWorker]:
        """Start them, and wait until each has registered."""
        there = self.registered()
        started = [self.worker(release) for release in releases]
        self.fleet.wait_for("the workers", lambda: self.registered() == there + len(releases))
        return started

    def registered(self) -> int:
        return int(
            self.fleet.scalar(
                "SELECT count(*) FROM perennial.worker WHERE can IS NOT NULL AND can <> '{}'"
            )
        )

    def deploy(self, number: int) -> None:
        self.fleet.client.processes.deploy(*release(number).processes.values())

    def start(self, count: int, version: int | None = None) -> list[Started]:
        return [
            self.fleet.client.start("order", f"order {number}", version=version)
            for number in range(count)
        ]

    def wait_for_approvals(self, runs: Sequence[Started]) -> list[float]:
        """Until each has reached its first; how long each took, sorted."""
        ids = ", ".join(f"'{run.run_id}'" for run in runs)
        self.fleet.wait_for(
            "their approvals",
            lambda: (
                self.fleet.scalar(
                    f"SELECT count(*) FROM perennial.approval WHERE run_id IN ({ids})"
                )
                == len(runs)
            ),
        )
        return sorted(
            self.fleet.scalar(
                "SELECT array_agg(extract(epoch FROM a.opened_at - r.created_at)::float8) FROM perennial.approval a "
                f"JOIN perennial.run r ON r.id = a.run_id WHERE r.id IN ({ids})"
            )
        )


def test_new_runs_are_not_held_up_by_an_old_worker(rollout: Rollout) -> None:
    """It takes half of their messages, and can't run them: each goes on to the new one at once."""
    rollout.deploy(2)
    rollout.workers(1, 2)
    runs = rollout.start(15, version=2)
    took = rollout.wait_for_approvals(runs)
    assert took[-1] < FEW_SECONDS, took
    assert "unregistered task" not in rollout.fleet.logs()
    assert rollout.fleet.scalar("SELECT count(*) FROM perennial.run WHERE error IS NOT NULL") == 0
