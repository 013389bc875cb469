"""What a flow asks for is compared with what is recorded: by name, and by a digest of each argument. (docs/adr/0030)"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, make_dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, create_model

from orchestrator import Flow, Registry, RunStatus, hours, stage
from orchestrator.core.argument_digests import different_arguments, digest_of
from orchestrator.core.kinds import StepCall
from orchestrator.core.retries import Retry
from tests.unit.replaying import World, define

REGISTRY = Registry()


@stage(registry=REGISTRY)
def pay(amount: int, to: str, note: str = "") -> int:
    return amount


def call(*_arguments: Any, **_named: Any) -> int:
    return 1


def met_again(before: Callable[[Flow], Any], after: Callable[[Flow], Any]) -> Any:
    """A flow asks as `before` does, and at its next pass as `after` does."""

    async def flow(flow: Flow) -> None:
        await flow.sleep(1, key="first")
        asked = asks[0](flow)
        await flow.signal("go")
        await asked

    asks = [before]
    world = World(define(flow), REGISTRY)
    world.turn()
    world.settle("first")
    world.turn()
    asks[0] = after
    world.signal("go")
    return world.turn()


OTHERS = {
    "a stage's argument": (
        lambda flow: flow.stage(pay, 100, "ann"),
        lambda flow: flow.stage(pay, 1_000_000, "ann"),
        "stage pay, with another amount",
    ),
    "two of them": (
        lambda flow: flow.stage(pay, 100, "ann"),
        lambda flow: flow.stage(pay, 1_000_000, "mallory"),
        "stage pay, with another amount and another to",
    ),
    "one more": (
        lambda flow: flow.stage(pay, 100, "ann"),
        lambda flow: flow.stage(pay, 100, "ann", note="urgent"),
        "with another note",
    ),
    "whom an approval asks": (
        lambda flow: flow.approval("boss", assign=["ann"]),
        lambda flow: flow.approval("boss", assign=["mallory"]),
        "approval boss, with another assign",
    ),
    "whom it escalates to": (
        lambda flow: flow.approval("boss", assign=["ann"], escalate={hours(1): ["bob"]}),
        lambda flow: flow.approval("boss", assign=["ann"], escalate={hours(1): ["mallory"]}),
        "approval boss, with another escalate",
    ),
    "its deadline": (
        lambda flow: flow.approval("boss", assign=["ann"], timeout=hours(1)),
        lambda flow: flow.approval("boss", assign=["ann"], timeout=hours(2)),
        "approval boss, with another timeout",
    ),
    "how long it waits for a signal": (
        lambda flow: flow.signal("paid", timeout=hours(1)),
        lambda flow: flow.signal("paid"),
        "signal paid, with another timeout",
    ),
    "how long it sleeps": (
        lambda flow: flow.sleep(60),
        lambda flow: flow.sleep(61),
        "sleep sleep, with another duration",
    ),
    "until when": (
        lambda flow: flow.sleep_until(datetime(2031, 1, 1, tzinfo=UTC)),
        lambda flow: flow.sleep_until(datetime(2031, 1, 2, tzinfo=UTC)),
        "sleep sleep, with another until",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_flow_that_asks_for_another_thing_is_parked_with_the_argument_that_differs(what):
    before, after, says = OTHERS[what]
    outcome = met_again(before, after)
    assert (outcome.status, outcome.error["type"]) == (RunStatus.INCIDENT, "contradiction")
    lines = outcome.error["message"].splitlines()
    assert lines[1] == "    1. sleep sleep (key first)"
    assert lines[2].endswith("(in the journal)")
    assert lines[3].startswith("  + 2. ")
    assert says in lines[3]
    for value in ("mallory", "1000000", "urgent"):
        assert value not in outcome.error["message"]


def test_a_step_that_is_given_another_argument_is_parked():
    async def flow(flow: Flow) -> None:
        await flow.step(call, *given_to[0], **named[0])
        await flow.signal("go")

    given_to, named = [(1, "a")], [{"who": "ann"}]
    world = World(define(flow), REGISTRY)
    world.turn()
    world.signal("go")
    given_to[0], named[0] = (1, "b"), {"who": "bob"}
    message = world.turn().error["message"]
    assert "  + 1. step call, with another 2 and another who   (asked by the flow now)" in message
    assert world.steps_called == ["call"]


@pytest.mark.parametrize("what", OTHERS)
def test_the_same_flow_is_not_parked(what):
    before, _, _ = OTHERS[what]
    assert met_again(before, before).status.is_moving


def test_what_was_recorded_by_a_release_that_kept_no_digest_is_not_compared():
    async def flow(flow: Flow) -> None:
        await flow.stage(pay, amounts[0], "ann")

    amounts = [100]
    world = World(define(flow), REGISTRY)
    world.turn()
    world.journal["pay"] = replace(world.journal["pay"], asked=None)
    amounts[0] = 200
    assert world.turn().status.is_moving


# -- digests ---------------------------------------------------------------------------------------


def digest(*arguments: Any) -> str:
    return digest_of(StepCall(call, arguments, {}, Retry()), 7)


class Colour(Enum):
    RED = "red"


class Trip(BaseModel):
    city: str
    nights: int = 1
    tags: list[str] = []


TripOfNow = create_model(
    "Trip", city=(str, ...), nights=(int, 1), tags=(list[str], []), note=(str | None, None)
)


@dataclass
class Visit:
    city: str
    nights: int = 1


VisitOfNow = make_dataclass("Visit", [("city", str), ("nights", int, 1), ("note", str, "")])
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({0, 8}, {8, 0}),
        ([{"x": {"b": 1, "a": {0, 8}}}], [{"x": {"a": {8, 0}, "b": 1}}]),
        (Trip(city="Paris"), TripOfNow(city="Paris")),
        (Visit("Paris"), VisitOfNow("Paris")),
        ([Trip(city="Paris", nights=2)], [TripOfNow(city="Paris", nights=2)]),
        (NOON, NOON.astimezone(timezone(timedelta(hours=5)))),
        ([1e22, -0.0], [10**22, 0.0]),
        ((1, 2), [1, 2]),
        (SecretStr("one"), SecretStr("other")),
    ],
    ids=repr,
)
def test_values_of_one_meaning_have_one_digest(one, other):
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, "1"),
        ("None", None),
        (True, 1),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 2}),
        (Trip(city="Paris"), Trip(city="Rome")),
        (Trip(city="Paris"), Trip(city="Paris", nights=2)),
        (Visit("Paris"), Visit("Paris", 2)),
        (Decimal("1.1"), Decimal("1.2")),
        (NOON, NOON + timedelta(microseconds=1)),
        (timedelta(1), timedelta(2)),
        (UUID(int=1), UUID(int=2)),
        (b"a", b"b"),
        (Colour.RED, "blue"),
        (0.1, 0.2),
    ],
    ids=repr,
)
def test_values_of_other_meanings_have_others(one, other):
    assert different_arguments(digest(one), digest(other)) == ["1"]
    assert different_arguments(digest("same", one), digest("same", other)) == ["2"]


class Hostile:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


def generated() -> Iterator[int]:
    yield 1


def test_what_cannot_be_told_apart_is_not_compared_and_not_touched():
    circle: list[Any] = []
    circle.append(circle)
    generator = generated()
    for value in (
        generator,
        circle,
        Hostile(),
        lambda: 1,
        object(),
        {UUID(int=1): 1},
        {1: 1, "1": 1},
    ):
        assert digest(value) == "1=?"
    assert next(generator) == 1
    assert different_arguments(digest(object(), 1), digest(5, 1)) == []
    assert different_arguments(digest(object(), 1), digest(object(), 2)) == ["2"]


def test_a_digest_says_little_of_its_value():
    """32 bits, and other ones in each run: a secret can't be read from it, nor be found in two runs."""
    ask = StepCall(call, ("hunter2",), {}, Retry())
    assert digest_of(ask, 1) != digest_of(ask, 2)
    assert len(digest_of(ask, 1)) <= len("1=") + 8


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_a_value_that_went_through_json_keeps_its_digest(value):
    """With its keys in another order, as from a jsonb."""
    again = json.loads(json.dumps(value, sort_keys=True))
    assert digest(value) == digest(again)
