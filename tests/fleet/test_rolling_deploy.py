"""A rolling deploy at default settings: workers of two releases on one queue, and no run waits for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from orchestrator import Settings, install
from orchestrator.core.views import Started
from orchestrator.embedded import EmbeddedRedis
from orchestrator.engine.context import EngineContext
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.store.transitions.outbox import Handoff
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

    @contextmanager
    def gone(self) -> Iterator[EngineContext]:
        """A worker of release 2 that is gone by now; what it has sent comes to whoever is there."""
        settings = Settings(
            database_url=self.fleet.database_url, broker_url=self.fleet.broker_url, eager_seconds=0
        )
        app = Celery("gone", broker=self.fleet.broker_url)
        app.conf.task_default_queue = "deploys"
        context = install(app, registry=release(2), settings=settings).context
        yield context
        context.dispose()
        app.close()

    def current(self) -> int:
        """The version that new runs take."""
        (found,) = (
            each.version
            for each in self.fleet.client.processes.list()
            if each.is_current and each.name == "order"
        )
        return found

    def lead_to_its_new_stage(self, run: Started) -> None:
        with self.gone() as context:
            advance(context, run.run_id)
            run_stage(context, run.run_id, "take-order", 1)

    def send(self, runs: Sequence[Started]) -> None:
        with self.gone() as context:
            context.messenger.hand_off([Handoff.advance(run.run_id, None) for run in runs])

    def events(self, *runs: Started) -> list[str]:
        """Of all of them."""
        return [entry.event for run in runs for entry in self.fleet.client.history(run)]

    def sent_on(self, client: Redis) -> int:
        """How many messages lie in queues of codes."""
        return sum(client.llen(key) for key in client.scan_iter("perennial:code:*"))

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


SMALL = ((1, 2),)
FORTH = ((1, 1, 1, 1), (1, 1, 1, 2), (1, 1, 2, 2), (1, 2, 2, 2), (2, 2, 2, 2))
PLANS = {"one old, one new": SMALL, "forth": FORTH, "back": tuple(reversed(FORTH))}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One old worker and one new; with `--all` four workers, one after the other, forth and back."""
    if metafunc.function is test_new_runs_are_not_held_up_by_old_workers:
        names = PLANS if metafunc.config.getoption("--all") else list(PLANS)[:1]
        metafunc.parametrize("plan", [PLANS[name] for name in names], ids=list(names))


def test_new_runs_are_not_held_up_by_old_workers(
    rollout: Rollout, plan: Sequence[tuple[int, ...]], record_property: Any
) -> None:
    """An old one takes its share of their messages, and can't run them: each goes on to a new one at once.

    After the last new worker has gone, new runs take the version before. The longest of each step is no more than
    two seconds over the first step's.
    """
    fleet, (first, *steps) = rollout.fleet, plan
    for number in sorted({1, first[-1]}):
        rollout.deploy(number)
    at_work = dict(enumerate(rollout.workers(*first)))
    before = list(first)
    limit = FEW_SECONDS
    under_way: list[Started] = []
    for count, step in enumerate((first, *steps)):
        rollout.deploy(max(step))
        for place, (was, will) in enumerate(zip(before, step, strict=True)):
            if was != will:
                if rollout.current() in step:  # some worker stays that can run it
                    under_way += rollout.start(20)
                fleet.kill(at_work[place], signal.SIGTERM)
                (at_work[place],) = rollout.workers(will)
        before = list(step)
        fleet.wait_for("the version of new runs", lambda step=step: rollout.current() == max(step))
        runs = rollout.start(15 if plan is SMALL else 60)
        took = rollout.wait_for_approvals(runs)
        p99 = took[round(0.99 * len(took)) - 1]
        record_property(
            f"{step}",
            f"median {took[len(took) // 2]:.2f} s, p99 {p99:.2f} s, longest {took[-1]:.2f} s",
        )
        assert {run.version for run in runs} == {max(step)}
        assert took[-1] < limit, took
        if not count:
            limit = took[-1] + FEW_SECONDS
    if under_way:
        took = rollout.wait_for_approvals(under_way)
        record_property("under way", f"longest {took[-1]:.2f} s")
        # What a worker has in its hands as it is killed, Redis gives back; a relay is the last resort.
        assert took[round(0.99 * len(took)) - 1] < limit, took
    assert "unregistered task" not in fleet.logs()
    assert fleet.scalar("SELECT count(*) FROM perennial.run WHERE error IS NOT NULL") == 0


def test_what_no_living_worker_can_do_goes_on_as_soon_as_one_comes(
    rollout: Rollout, redis: EmbeddedRedis
) -> None:
    """A stage and a turn of the new release, met by an old worker alone; and then the new worker is killed too, with
    messages in the queue of its code.

    Each is sent on by the next worker that comes with that code, or sent again after Redis was emptied.
    """
    fleet = rollout.fleet
    rollout.deploy(2)
    (at_its_stage,) = rollout.start(1, version=2)
    rollout.lead_to_its_new_stage(at_its_stage)
    rollout.workers(1)
    fleet.wait_for(
        "the old worker's word", lambda: "left for another worker" in rollout.events(at_its_stage)
    )
    assert "no living worker has stage" in fleet.scalar(
        "SELECT detail ->> 'why' FROM perennial.history WHERE event = 'left for another worker'"
    )
    (newer,) = rollout.workers(2)
    rollout.wait_for_approvals([at_its_stage])
    with Redis.from_url(redis.url) as client:
        fleet.kill(newer, signal.SIGSTOP)  # it lives, and takes nothing
        runs = rollout.start(5, version=2)
        rollout.send(runs)
        # One may be with it already: it was waiting for messages as it was stopped.
        fleet.wait_for("what lies in its queue", lambda: rollout.sent_on(client) >= len(runs) - 1)
        fleet.kill(newer)
        client.flushall()
        (third,) = rollout.workers(2)
        rollout.wait_for_approvals(runs)
        fleet.kill(third, signal.SIGTERM)
        assert (
            rollout.registered() == 2
        )  # the first, and the one that was killed, which nothing is sent to
        assert all(client.ttl(key) > 0 for key in client.scan_iter("perennial:code:*"))
        assert "perennial:code:" not in str(client.smembers("_kombu.binding.deploys"))
    assert "unregistered task" not in fleet.logs()
    assert fleet.scalar("SELECT count(*) FROM perennial.run WHERE error IS NOT NULL") == 0
