"""What a flow may ask of chance and of signals, over an in-memory record: the same at each replay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from orchestrator import Flow, RunStatus
from orchestrator.core.journal import Activity, ActivityKind, ActivityState
from orchestrator.core.kinds.origin import ORIGIN, ORIGIN_KEY
from orchestrator.errors import SignalTimedOut
from tests.unit.replaying import BEGIN, World, define


def output(world: World) -> Any:
    import json

    outcome = world.turn()
    assert outcome.status is RunStatus.COMPLETED, outcome.error
    return json.loads(outcome.output or "null")


# -- chance ----------------------------------------------------------------------------------------


def test_ids_and_numbers_differ_at_each_call_and_come_again_at_each_replay():
    drawn: list[list[Any]] = []

    async def p(flow: Flow) -> None:
        async def branch() -> UUID:
            return flow.uuid()

        found = [flow.uuid(), flow.uuid(), flow.random(), flow.random(), flow.uuid("order")]
        drawn.append(found)
        await flow.signal("go")
        found += [flow.uuid(), *await flow.gather(branch(), branch())]

    world = World(define(p))
    world.turn()
    world.signal("go")
    world.turn()
    first, second = drawn
    assert second[:5] == first
    assert len(set(map(str, second))) == 8
    assert all(each.version == 8 for each in second if isinstance(each, UUID))
    assert all(0 <= each < 1 for each in second if isinstance(each, float))


def test_a_name_keeps_its_ids_where_code_asks_for_others():
    def drawn_by(asks: tuple[str, ...]) -> dict[str, UUID]:
        found: dict[str, UUID] = {}

        async def p(flow: Flow) -> None:
            found.update({name: flow.uuid(name) for name in asks})

        World(define(p)).turn()
        return found

    assert drawn_by(("order",))["order"] == drawn_by(("", "invoice", "order"))["order"]


def test_a_copy_goes_on_with_the_ids_of_the_run_that_it_is_a_copy_of():
    drawn: list[UUID] = []

    async def p(flow: Flow) -> None:
        drawn.append(flow.uuid())
        await flow.signal("go")

    World(define(p)).turn()
    for origin in (UUID(int=7), UUID(int=8)):  # the first is that of the run itself
        copy = World(define(p))
        copy.journal[ORIGIN_KEY] = Activity(
            ORIGIN_KEY, "", 0, ORIGIN, "origin", ActivityState.DONE, result=str(origin)
        )
        assert copy.turn().status is RunStatus.WAITING
    assert drawn[0] == drawn[1] != drawn[2]


# -- signals ---------------------------------------------------------------------------------------


def test_a_wait_ends_at_its_moment_with_its_default():
    until = BEGIN + timedelta(days=3)

    async def p(flow: Flow) -> list[Any]:
        return [
            await flow.signal("paid", type=int, until=until, default=None),
            await flow.signal("paid", timeout=60, default={"by": "nobody"}),
        ]

    world = World(define(p))
    (opened,) = world.turn_once().opened
    assert [(timer.at, timer.delay_seconds) for timer in opened.timers] == [(until, None)]
    world.settle("paid", state=ActivityState.TIMED_OUT)
    world.turn()
    world.settle("paid#2", state=ActivityState.TIMED_OUT)
    assert output(world) == [None, {"by": "nobody"}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"default": 1}, "has a default, and never ends.*Give a timeout or until"),
        ({"default": object(), "timeout": 1}, "default of signal 'paid'.*plain data or a model"),
        ({"timeout": 1, "until": BEGIN}, "a timeout and until. Give one of the two"),
        ({"until": datetime(2030, 1, 1)}, "has no time zone"),  # noqa: DTZ001 - that is what is refused
        ({"until": 3}, "until=3, a int. Give a datetime with a time zone"),
        ({"on_invalid": "ignore"}, 'is "set_aside" or "raise"'),
        ({"on_invalid": "raise", "on_unfit": "raise"}, "Leave out on_unfit, its former name"),
    ],
)
def test_a_wait_that_makes_no_sense_is_refused(options: dict[str, Any], said: str):
    async def p(flow: Flow) -> None:
        await flow.signal("paid", **options)

    outcome = World(define(p)).turn()
    assert outcome.status is RunStatus.INCIDENT
    import re

    assert re.search(said, outcome.error["message"]), outcome.error["message"]


def test_signals_come_one_after_the_other_until_their_end():
    async def p(flow: Flow) -> list[Any]:
        until = flow.now + timedelta(hours=1)
        first = [each async for each in flow.signals("reading", type=int, max=2)]
        second = [each async for each in flow.signals("reading", type=int, until=until)]
        none = [each async for each in flow.signals("reading", max=0)]
        return [first, second, none]

    world = World(define(p))
    for number in range(3):
        world.signal("reading", number)
    world.turn()
    world.signal("reading", 3)
    world.turn()
    assert [each.key for each in world.open()] == ["reading#5"]
    world.settle("reading#5", state=ActivityState.TIMED_OUT)
    assert output(world) == [[0, 1], [2, 3], []]


def test_who_catches_a_timeout_meets_that_of_no_other_wait():
    """The iterator ends at its own wait's timeout alone: one of its body is the body's."""

    async def p(flow: Flow) -> str:
        try:
            async for _ in flow.signals("reading", timeout=60):
                await flow.signal("other", timeout=5)
        except SignalTimedOut as late:
            return late.name
        return "ended"

    world = World(define(p))
    world.signal("reading")
    world.turn()
    world.settle("other", state=ActivityState.TIMED_OUT)
    assert output(world) == "other"


def test_a_peek_says_what_the_flow_has_come_past_and_says_it_again():
    """Guards that it is recorded: by now the signal was taken, or set aside."""

    async def p(flow: Flow) -> list[Any]:
        found = [flow.peek("stop")]
        await flow.signal("go")
        found += [flow.peek("stop"), flow.peek("stop")]
        found.append(await flow.signal("stop", type=int))
        return [*found, flow.peek("stop")]

    world = World(define(p))
    world.turn()
    world.signal("stop", "no number")  # which is to be set aside, and leaves the buffer
    world.signal("go")
    world.turn()
    world.signal("stop", 7)
    assert output(world) == [False, True, True, 7, False]
    kinds = [(each.key, each.result) for each in world.journal.values() if each.kind == "peek"]
    assert kinds == [
        ("stop-peek", False),
        ("stop-peek#2", True),
        ("stop-peek#3", True),
        ("stop-peek#4", False),
    ]
    assert ActivityKind("peek") in {each.kind for each in world.journal.values()}
    assert world.now.tzinfo is UTC
