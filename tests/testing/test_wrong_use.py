"""Wrong use is refused in a sentence with the remedy, and nothing is lost by it.

What a flow asks for wrongly parks its run, which says where; what was under way goes on, what came is kept, and once
the code is mended the run goes on as if nothing had been. What the world does wrongly changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import (
    Backoff,
    CallbackRefused,
    CallbackToken,
    CorrelationTaken,
    DefinitionError,
    Flow,
    Registry,
    RunStatus,
    days,
    hours,
    months,
    process,
    stage,
)
from orchestrator.testing import ProcessTester

registry = Registry()
tokens: list[str] = []


class Odd:
    """Nothing that JSON could hold."""


@stage(registry=registry)
def double(number: int) -> int:
    return number * 2


@stage(registry=registry)
def ask_bank(token: CallbackToken) -> None:
    tokens.append(token.secret)


async def numbers(count: int) -> Any:
    for number in range(count):
        yield number


async def part(flow: Flow) -> None:
    await flow.sleep(1)


WRONG: dict[str, tuple[Callable[[Flow], Any], str]] = {
    "an async generator as a stage": (
        lambda flow: flow.stage(numbers, 3),  # type: ignore[call-overload]
        "takes a @stage, not <function numbers.*It yields: return a list",
    ),
    "a function as a stage": (lambda flow: flow.stage(len, "x"), "Decorate it, or use flow.step"),
    "an argument too many": (lambda flow: flow.stage(double, 1, 2), "too many positional"),
    "an argument by no such name": (
        lambda flow: flow.stage(double, 1, n=1),
        "unexpected keyword argument 'n'",
    ),
    "an argument of another type": (
        lambda flow: flow.stage(double, "one"),
        "a str can't be written as JSON: Expected `int`",
    ),
    "an argument that is no data": (lambda flow: flow.stage(double, Odd()), "Use plain data"),
    "a token that no callback has": (
        lambda flow: flow.stage(ask_bank, "abc"),
        r"a callback's token comes from a flow's `flow\.callback",
    ),
    "an unserialisable default": (
        lambda flow: flow.signal("late", timeout=1, default=Odd()),
        "the default of signal 'late': a Odd can't be .* A default is a value that a signal could",
    ),
    "a default that is a function": (
        lambda flow: flow.signal("late", timeout=1, default=lambda: 1),
        "a function can't be written as JSON",
    ),
    "a default of what never ends": (
        lambda flow: flow.signal("late", default=1),
        "Give a timeout or until",
    ),
    "a signal's type that is none": (
        lambda flow: flow.signal("late", type=5),
        "signal 'late' is declared as 5.*Declare plain data",
    ),
    "a callback's type that is none": (
        lambda flow: flow.callback("late", type=Odd),
        "callback 'late' is declared as Odd.*Declare plain data",
    ),
    "a name that is no text": (lambda flow: flow.signal(5), r"5, a int\. Names and keys are text"),
    "a key that is no text": (lambda flow: flow.gather(flow.sleep(1), key=5), "keys are text"),
    "a correlation key that is no text": (
        lambda flow: flow.signal("paid", correlation=5),
        "5 can't be a correlation key. Give text",
    ),
    "nobody at a time": (
        lambda flow: flow.map(double, [1], max_concurrency=0),
        "max_concurrency is 0. Give a whole number of 1 or more",
    ),
    "nobody at a time, of different ones": (
        lambda flow: flow.parallel([lambda: part(flow)], max_concurrency=0),
        "max_concurrency is 0. Give a whole",
    ),
    "more than all": (
        lambda flow: flow.map(double, [1], tolerated_failure_percentage=101),
        "Give a number from 0 to 100",
    ),
    "a race of nobody": (lambda flow: flow.first(), "is given 0 branches. Give a whole number"),
    "a poll without an answer": (
        lambda flow: flow.poll(double, 1, until=None, every=1),
        "until=None. Give a function that takes a check's result",
    ),
    "a poll that looks never": (
        lambda flow: flow.poll(double, 1, until=bool, every=Backoff(1), attempts=0),
        "attempts=0. Give a whole number from 1 on",
    ),
    "a number of signals in words": (
        lambda flow: flow.signals("paid", max="3"),
        "max='3'. Give a whole number from 0 on",
    ),
    "a heartbeat of no time": (
        lambda flow: flow.callback("late", heartbeat=0),
        "Give a longer heartbeat",
    ),
    "people one by one letter": (
        lambda flow: flow.approval("boss", assign="ann"),
        "a list of people or groups, not one string",
    ),
    "an escalation without its time": (
        lambda flow: flow.approval("boss", assign=["ann"], escalate=["bob"]),
        "a list. Give a mapping of durations to lists of people",
    ),
    "missed moments as nobody knows": (
        lambda flow: flow.every(60, missed="some"),
        'missed=.some.. Give "last", "all" or "none"',
    ),
    "a grace of nothing missed": (
        lambda flow: flow.every(60, grace=60),
        'Leave out the grace, or give missed="none"',
    ),
    "a sleep of a month": (
        lambda flow: flow.sleep(months(1)),
        "Give a timedelta, such as hours",
    ),
    "a recorded scope by name": (
        lambda flow: flow.scope("part", part, flow=flow, record=True),
        "Give the arguments of its function by their place",
    ),
}


@pytest.fixture(scope="module")
def tester() -> Iterator[ProcessTester]:
    with ProcessTester(registry=registry) as tester:
        yield tester


@pytest.mark.parametrize("what", WRONG)
def test_what_a_flow_asks_wrongly_parks_its_run_and_loses_nothing(
    tester: ProcessTester, what: str
) -> None:
    """A stage is under way before it, and a signal came: both count when the code is mended."""
    asks, says = WRONG[what]
    is_mended: list[bool] = []

    @process(version=1, registry=registry, name=re.sub(r"\W+", "-", what))
    async def careless(flow: Flow) -> list[int]:
        under_way = flow.stage(double, 21)
        await flow.signal("go")
        if not is_mended:
            asked = asks(flow)
            if hasattr(asked, "__await__"):
                await asked
        return [await under_way, await flow.signal("paid", type=int)]

    run = tester.start(careless)
    tester.signal(run, "paid", 7)
    run = tester.signal(run, "go")
    assert run.status is RunStatus.INCIDENT
    assert run.error is not None
    assert run.error["type"] in ("DefinitionError", "InvalidArguments")
    message = run.error["message"]
    assert re.search(rf"(?s){says}.*\(at {re.escape(__file__)}:\d+\)$", message), message
    is_mended.append(True)
    run = tester.resume(run, by="ann")
    assert tester.result(run) == [42, 7]


def test_what_yields_is_refused_where_it_is_decorated() -> None:
    known = {*registry.stages}
    with pytest.raises(DefinitionError, match=r"can't `yield`.*Return a list"):
        stage(registry=registry)(numbers)
    assert {*registry.stages} == known


@process(version=1, registry=registry)
async def purchase(flow: Flow) -> str:
    return await flow.call_back("payment", ask_bank, type=str, timeout=days(1))


def test_a_token_counts_once_and_not_after_the_end(tester: ProcessTester) -> None:
    run = tester.start(purchase)
    used = tokens[-1]
    tester.complete(used, "paid")
    for answer in (
        lambda: tester.client.complete(used, "paid twice"),
        lambda: tester.client.fail_callback(used, "it was not"),
        lambda: tester.client.heartbeat(used),
    ):
        with pytest.raises(CallbackRefused, match="a token counts once"):
            answer()
    assert tester.result(run) == "paid"

    over = tester.start(purchase)
    tester.advance_time(days(1))
    assert tester.get(over).status is RunStatus.FAILED
    with pytest.raises(CallbackRefused, match=r"timed out.*nothing was recorded"):
        tester.client.complete(tokens[-1], "late")

    cancelled = tester.start(purchase)
    tester.cancel(cancelled)
    with pytest.raises(CallbackRefused, match=r"is cancelled.*has nobody to reach"):
        tester.client.complete(tokens[-1], "late")
    with pytest.raises(CallbackRefused, match="look whether all of it was copied"):
        tester.client.complete("not-a-token", "x")


@process(version=1, registry=registry)
async def invoice(flow: Flow, is_patient: bool) -> Any:
    try:
        return await flow.signal("paid", type=int, correlation="INV-1", timeout=hours(9))
    except CorrelationTaken as taken:
        if not is_patient:
            return str(taken)
        await flow.sleep(hours(1))
        return await flow.signal("paid", type=int, correlation="INV-1", timeout=hours(9))


def test_a_correlation_key_is_one_runs_and_its_signals_go_to_that_one(
    tester: ProcessTester,
) -> None:
    """The other run is told whose it is, and may wait for the next one once the key is free."""
    first = tester.start(invoice, False)
    second = tester.start(invoice, False)
    third = tester.start(invoice, True)
    said = tester.result(second)
    assert str(first.id) in said
    tester.client.signal(correlation="INV-1", name="paid", payload=90)
    assert tester.result(first) == 90
    tester.client.signal(correlation="INV-1", name="paid", payload=91)
    tester.advance_time(hours(1))
    assert tester.result(third) == 91
