"""The same message comes again, to another worker, at every place that its first delivery reaches.

On the engine without Celery, so that every place is tried, however often it is reached. Where the first
delivery holds a lock, the second waits for it; elsewhere it goes all the way before the first goes on.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from orchestrator import Flow, Retry, SignalTimedOut, hours, process, stage, step
from orchestrator.core.run import RunStatus
from orchestrator.core.views import Started
from orchestrator.engine.context import EngineContext
from orchestrator.engine.fire import fire
from orchestrator.faults import listen
from tests.harness import Harness, Thread, wait_until_blocked

AT_ONCE = timedelta(0)
NEARLY_AT_ONCE = timedelta(microseconds=1)
Delivery = Callable[[EngineContext], None]


class Effects(Counter[str]):
    """What the world has seen, by name."""

    def __call__(self, name: str) -> str:
        self[name] += 1
        return name


@pytest.fixture
def effects(harness: Harness) -> Effects:
    """The process that is repeated: every kind of wait, none of which takes time."""
    seen = Effects()

    @stage(registry=harness.registry, retry=Retry(delay_seconds=0))
    def work() -> str:
        step(first)
        if seen["stumble"] == 0:
            seen("stumble")
            raise RuntimeError
        return step(second)

    def first() -> str:
        return seen("first")

    def second() -> str:
        return seen("second")

    def inline() -> str:
        return seen("inline")

    @process(version=1, registry=harness.registry)
    async def everything(flow: Flow) -> list[str]:
        await flow.sleep(AT_ONCE)
        worked = await flow.stage(work)
        said = await flow.signal("go", timeout=hours(1))
        try:
            await flow.signal("never", timeout=AT_ONCE)
        except SignalTimedOut:
            await flow.step(inline)
        decision = await flow.approval("boss", assign=["bob"], timeout=NEARLY_AT_ONCE)
        both = await flow.gather(flow.stage(work, key="left"), flow.sleep(AT_ONCE))
        return [worked, said, decision.outcome, both[0]]

    harness.client.processes.deploy(everything)
    return seen


def test_a_message_that_comes_again_at_any_place_does_nothing_twice(
    harness: Harness, effects: Effects
) -> None:
    """Effects exactly once: neither delivery is cut off, so even at-least-once leaves no room."""
    other = harness.worker("worker-2")
    other.messenger = harness.messenger
    for number in itertools.count(1):
        effects.clear()
        run = harness.client.start("everything", key=f"repeat-{number}")
        harness.client.signal(run, "go", "gone")
        with _again_at(harness, other, number) as place:
            _deliver_all(harness, place)
        _deliver_all(harness)
        view = harness.client.get(run)
        assert view.status is RunStatus.COMPLETED, (place.name, view.error)
        assert harness.client.result(run) == ["second", "gone", "timed_out", "second"], place.name
        assert effects == {"first": 2, "stumble": 1, "second": 2, "inline": 1}, place.name
        assert _told_twice(harness, run) == [], place.name
        harness.assert_ended_cleanly(run)
        if place.name is None:
            break
    assert number > 50, "so many places were walked"


class _Place:
    """Where the message comes again. `delivery` is the one that is under way."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.name: str | None = None
        self.delivery: Delivery | None = None


@contextmanager
def _again_at(harness: Harness, other: EngineContext, number: int) -> Iterator[_Place]:
    place = _Place(number)
    threads: list[Thread] = []

    def at(when: str, what: str) -> None:
        delivery = place.delivery
        if delivery is None or threads:
            return
        place.left -= 1
        if place.left == 0:
            place.name = f"{when} {what}, {number}"
            threads.append(Thread(lambda: delivery(other)))
            wait_until_blocked(harness.database, or_ended=threads[0])

    listen(at)
    try:
        yield place
    finally:
        listen(None)
        for thread in threads:
            thread.outcome()


def _deliver_all(harness: Harness, place: _Place | None = None) -> None:
    """As `Harness.drain`, by one worker, with each delivery known to the place."""
    place = place or _Place(0)
    while True:
        deliveries: list[Delivery] = [
            lambda context, timer_id=timer_id: context.messenger.hand_off(fire(context, timer_id))
            for timer_id in harness.due_timers()
        ]
        deliveries += [
            lambda context, handoff=handoff: harness.deliver(handoff, context)
            for handoff in harness.pending()
        ]
        if not deliveries:
            return
        for delivery in deliveries:
            place.delivery = delivery
            delivery(harness.context)
            place.delivery = None


def _told_twice(harness: Harness, run: Started) -> list[tuple[str, str | None]]:
    told = Counter(
        (entry.event, entry.key)
        for entry in harness.client.history(run)
        if entry.event != "attempt failed"
    )
    return [fact for fact, count in told.items() if count > 1]
