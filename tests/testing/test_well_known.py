"""What authors of other engines ask for first, each replayed at every await: no outcome hangs on a worker's memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator import (
    Backoff,
    CallbackToken,
    Flow,
    Registry,
    days,
    hours,
    minutes,
    process,
    stage,
)
from orchestrator.testing import ProcessTester

registry = Registry()
MONDAY = datetime(2024, 1, 1, 9, tzinfo=UTC)
tokens: list[str] = []
looks: list[datetime] = []


@pytest.fixture(scope="module", params=["always_replay", "doubled"])
def tester(request) -> Iterator[ProcessTester]:
    with ProcessTester(registry=registry, now=MONDAY, **{request.param: True}) as tester:
        yield tester


@process(version=1, registry=registry)
async def updatable_timer(flow: Flow, wake_up: datetime) -> datetime:
    while moved := await flow.signal("wake-up", type=datetime, until=wake_up, default=None):
        wake_up = moved
    return flow.now


def test_a_signal_moves_the_wake_up_later_and_earlier(tester):
    began = tester.now
    run = tester.start(updatable_timer, began + days(7))
    tester.signal(run, "wake-up", began + days(30))
    tester.advance_time(days(10))
    tester.signal(run, "wake-up", began + days(11))
    tester.run_to_the_end(run)
    assert tester.result(run) - began == days(11)


@process(version=1, registry=registry)
async def sleep_for_days(flow: Flow) -> int:
    nights = 0
    while not await flow.signal("end", type=bool, timeout=days(1), default=False):
        nights += 1
    return nights


def test_days_of_sleep_are_ended_by_a_signal(tester):
    run = tester.start(sleep_for_days)
    tester.advance_time(days(10) + hours(5))
    tester.signal(run, "end", payload=True)
    assert tester.result(run) == 10


@process(version=1, registry=registry)
async def in_order(flow: Flow, count: int) -> list[int]:
    early: set[int] = set()
    taken: list[int] = []
    while len(taken) < count:
        early.add(await flow.signal("number", type=int))
        while len(taken) in early:
            taken.append(len(taken))
    return taken


def test_ten_shuffled_signals_are_put_in_order_before_and_while_they_are_awaited(tester):
    shuffled = (7, 2, 9, 0, 4, 1, 8, 3, 6, 5)
    run = tester.start(in_order, 10)
    for number in shuffled[:4]:
        tester.client.signal(run, "number", number)
    for number in shuffled[4:]:
        tester.signal(run, "number", number)
    assert tester.result(run) == [*range(10)]


@stage(registry=registry)
def is_there(at: datetime) -> bool:
    looks.append(at)
    return len(looks) == 4


@process(version=1, registry=registry)
async def infrequent(flow: Flow, at: datetime) -> timedelta:
    await flow.poll(is_there, at, until=bool, every=Backoff(minutes(1), factor=2))
    return flow.now - at


def test_polling_with_growing_pauses(tester):
    looks.clear()
    run = tester.run_to_the_end(tester.start(infrequent, tester.now))
    assert tester.result(run) == minutes(1 + 2 + 4)
    assert len(looks) == 4


@process(version=1, registry=registry)
async def two_or_nobody(flow: Flow) -> str:
    race = await flow.first(
        {"a": flow.signal("a"), "b": flow.signal("b"), "nobody": flow.sleep(hours(1))}
    )
    return race.name


def test_two_signals_race_a_timeout(tester):
    first, second, neither = (tester.start(two_or_nobody) for _ in range(3))
    tester.client.signal(first, "b")
    tester.client.signal(first, "a")
    tester.advance_time(minutes(59))
    tester.signal(second, "a")
    tester.advance_time(minutes(1))
    assert [tester.result(run) for run in (first, second, neither)] == ["b", "a", "nobody"]


@stage(registry=registry)
def ask_partner(token: CallbackToken) -> None:
    tokens.append(token.secret)


@process(version=1, registry=registry)
async def answered_early(flow: Flow) -> tuple[str, datetime]:
    answer = flow.callback("answer", type=str, timeout=days(30))
    await flow.stage(ask_partner, answer.token)
    await flow.sleep(days(2))
    return await answer, flow.now


def test_a_callback_is_completed_before_it_is_awaited(tester):
    began = tester.now
    run = tester.start(answered_early)
    tester.complete(tokens[-1], "yes")
    assert not tester.get(run).status.is_closed
    tester.run_to_the_end(run)
    assert tester.result(run) == ("yes", began + days(2))
