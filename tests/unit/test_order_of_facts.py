"""Branches see answers in the order in which they came, at the first pass and at each replay. (docs/adr/0030)

What a flow has done up to a fact is the same in each turn, whatever its branches share: so the trace of a turn
is how the trace of the next one begins.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from orchestrator import (
    ActivityCancelled,
    ActivityFailed,
    BlockTimedOut,
    BranchCancelled,
    Flow,
    Registry,
    RunStatus,
    SignalTimedOut,
    TooFewSucceeded,
    hours,
    stage,
)
from orchestrator.core.kinds import Request
from tests.unit.replaying import World, define
from tests.unit.test_replay import run_to_its_end, something_happens

REGISTRY = Registry()


@stage(registry=REGISTRY)
def work(number: int = 0) -> int:
    return number


def double(number: int) -> int:
    return 2 * number


# -- random programs whose branches share things ---------------------------------------------------

AWAITED = ["stage", "step", "sleep", "signal", "timed signal", "approval"]
ALONE = [*AWAITED, "take", "drain", "count", "append", "choose", "raise the flag", "nag", "ask"]
programs = st.recursive(
    st.lists(st.sampled_from(ALONE), min_size=1, max_size=5),
    lambda inner: st.lists(
        st.one_of(
            st.sampled_from(ALONE),
            st.tuples(st.just("gather"), st.lists(inner, min_size=2, max_size=4)),
            st.tuples(st.just("race"), st.lists(inner, min_size=2, max_size=3)),
            st.tuples(st.just("race, the rest left"), st.lists(inner, min_size=2, max_size=3)),
            st.tuples(st.just("two of them"), st.lists(inner, min_size=3, max_size=3)),
            st.tuples(st.just("map"), st.lists(inner, min_size=0, max_size=4)),
            st.tuples(st.just("timeout"), inner),
            st.tuples(st.just("scope"), inner),
            st.tuples(st.just("recorded scope"), inner),
            st.tuples(st.just("clean up after"), inner),
        ),
        min_size=1,
        max_size=4,
    ),
    max_leaves=14,
)

ITEMS, NAGS_MAX = 6, 4


@dataclass
class Shared:
    """What the branches of one run share. Each pass of its flow begins with a new one."""

    items: Any = field(default_factory=lambda: iter(range(ITEMS)))
    seen: list[Any] = field(default_factory=list)
    counter: int = 0
    is_done: bool = False
    kept: list[Any] = field(default_factory=list)
    """Asked for by any branch, and awaited at the end by the flow."""


async def answer_of(awaited: Any) -> str:
    try:
        return str(await awaited)
    except (ActivityFailed, SignalTimedOut, ActivityCancelled) as error:
        return f"{type(error).__name__}: {error}"


def ask(flow: Flow, what: str, number: int) -> Any:
    match what:
        case "stage":
            return flow.stage(work, number)
        case "step":
            return flow.step(double, number)
        case "sleep":
            return flow.sleep(60 + number)
        case "signal":
            return flow.signal("ping")
        case "timed signal":
            return flow.signal("pong", timeout=hours(1))
        case "approval":
            return flow.approval(f"boss-{number}", assign=["bob"])
    raise AssertionError(what)


async def interpret(  # noqa: PLR0912 - an interpreter
    flow: Flow, program: list[Any], shared: Shared, trace: list[Any]
) -> None:
    """What is asked hangs on all that the branches share, and so on the order of all that came before."""

    async def see(what: str) -> None:
        trace.append((what, shared.counter, shared.is_done))
        answer = await answer_of(ask(flow, what, shared.counter))
        shared.seen.append(answer)
        trace.append((what, answer, len(shared.seen), shared.counter, flow.now.isoformat()))

    for operation in program:
        match operation:
            case "take":
                if next(shared.items, None) is not None:
                    shared.counter += 1
                    await see("stage")
            case "drain":
                for item in shared.items:
                    trace.append(("item", item))
                    await see(AWAITED[item % 3])
            case "count":
                shared.counter += 1
            case "append":
                shared.seen.append(shared.counter)
            case "choose":
                await see("stage" if len(shared.seen) % 2 else "step")
            case "raise the flag":
                shared.is_done = True
            case "nag":
                for _ in range(NAGS_MAX):
                    if shared.is_done:
                        break
                    await see("sleep")
            case "ask":
                shared.kept.append(flow.stage(work, shared.counter))
            case ("gather", branches):
                await flow.gather(*(interpret(flow, branch, shared, trace) for branch in branches))
            case ("race" | "race, the rest left" | "two of them", branches):
                # A branch that fails has not won.
                race = await told(
                    flow.first(
                        *(interpret(flow, branch, shared, trace) for branch in branches),
                        flow.signal("ping"),
                        count=2 if operation[0] == "two of them" else 1,
                        cancel_rest=operation[0] != "race, the rest left",
                    )
                )
                trace.append(race)
            case ("map", branches):
                results = await flow.map(
                    partial(interpret, flow, shared=shared, trace=trace),
                    branches,
                    max_concurrency=2,
                    min_successful=3,
                )
                trace.append(("map", str(results.why), [str(each.state) for each in results]))
            case ("timeout", inner):
                try:
                    with flow.timeout(60):
                        await interpret(flow, inner, shared, trace)
                except BlockTimedOut as error:
                    trace.append(("timed out", error.key))
            case ("scope", inner):
                async with flow.scope("part"):
                    await interpret(flow, inner, shared, trace)
            case ("recorded scope", inner):
                # What stands in it isn't replayed: so it shares nothing, and gives its result alone.
                seen = await flow.scope("recorded", apart, flow, inner, record=True)
                trace.append(("recorded", seen))
            case ("clean up after", inner):
                try:
                    await interpret(flow, inner, shared, trace)
                except BranchCancelled:  # not `finally`: that runs each time the flow is let go
                    await see("stage")
                    raise
            case str():
                await see(operation)


async def told(race: Any) -> Any:
    try:
        return [str(each.state) for each in (await race).branches]
    except TooFewSucceeded as error:
        return [str(each.state) for each in error.branches]


async def apart(flow: Flow, program: list[Any]) -> list[str]:
    shared = Shared()
    await interpret(flow, program, shared, [])
    for each in shared.kept:
        await answer_of(each)
    return [str(each) for each in shared.seen]


class Traced:
    """A world whose passes are compared: each does what the one before it did, and goes on from there."""

    def __init__(self, program: list[Any]) -> None:
        self.traces: list[list[Any]] = []

        async def flow(flow: Flow) -> list[Any]:
            shared, trace = Shared(), []
            self.traces.append(trace)
            await interpret(flow, program, shared, trace)
            answers = [await answer_of(each) for each in shared.kept]
            return [shared.seen, shared.counter, answers]

        self.world = World(define(flow), REGISTRY)

    def check(self) -> None:
        for earlier, later in itertools.pairwise(self.traces):
            assert later[: len(earlier)] == earlier


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=programs, seed=st.integers(0, 2**32 - 1))
def test_a_flow_does_at_each_replay_what_it_did_at_first(program, seed):
    """Shared lists, counters, iterators and flags; facts that come one by one, at once, and while a step runs."""
    note(f"seed {seed}")
    traced, chance = Traced(program), random.Random(seed)
    world = traced.world

    def something_comes_meanwhile(_request: Request) -> None:
        if chance.random() < 0.3:
            something_happens(world, chance)

    world.before_step = something_comes_meanwhile
    outcome = run_to_its_end(world, chance)
    assert outcome.status is RunStatus.COMPLETED, outcome.error
    straight = world.look()
    assert (straight.status, straight.output) == (outcome.status, outcome.output)
    traced.check()


# -- as authors write it ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_pool_of_branches_on_one_iterator_takes_each_item_once(seed):
    """Five branches take twenty batches, as they come free."""
    batches = 20

    async def pool(flow: Flow) -> list[int]:
        items, done = iter(range(batches)), []

        async def importer() -> None:
            for item in items:
                imported = await flow.stage(work, item, key=f"import-{item}")
                done.append(imported)

        await flow.gather(*(importer() for _ in range(5)))
        return done

    world, chance = World(define(pool), REGISTRY), random.Random(seed)
    while (outcome := world.turn()).status.is_moving:
        at_once = world.open()
        for activity in chance.sample(at_once, chance.randint(1, len(at_once))):
            world.settle(activity.key, int(activity.name == "work") and number_of(activity.key))
    assert outcome.status is RunStatus.COMPLETED, outcome.error
    imported = [number_of(key) for key in world.journal]
    assert sorted(imported) == list(range(batches))
    assert sorted(outcome_list(outcome)) == list(range(batches))


def number_of(key: str) -> int:
    return int(key.rpartition("-")[2])


def outcome_list(outcome: Any) -> list[int]:
    return [int(each) for each in outcome.output.strip("[]").split(",")]


def test_a_branch_that_looks_at_a_flag_of_another_sees_it_when_it_was_raised():
    """Nagging ends with the work, however late the replay comes."""

    async def flow(flow: Flow) -> int:
        done, nagged = [], 0

        async def job() -> None:
            await flow.stage(work, 1)
            done.append(True)
            await flow.stage(work, 2)

        async def nag() -> None:
            nonlocal nagged
            while not done:
                await flow.sleep(60)
                nagged += 1

        await flow.gather(job(), nag())
        return nagged

    world = World(define(flow), REGISTRY)
    world.turn()
    world.settle("gather/1/sleep")
    world.turn()
    world.settle("gather/0/work", 1)
    world.turn()
    world.settle("gather/1/sleep#2")
    world.turn()
    world.settle("gather/0/work#2", 2)
    outcome = world.turn()
    assert (outcome.status, outcome.output) == (RunStatus.COMPLETED, "2"), outcome.error


def test_facts_that_were_recorded_before_they_had_a_place_come_in_the_order_of_their_times():
    """Runs that were open under the release before go on; what has a place comes after what has none."""

    async def flow(flow: Flow) -> list[str]:
        order: list[str] = []

        async def branch(name: str) -> None:
            await flow.stage(work, key=name)
            order.append(name)

        await flow.gather(*(branch(name) for name in "abc"))
        return order

    world = World(define(flow), REGISTRY)
    world.turn()
    for key in ("gather/2/c", "gather/0/a"):
        world.settle(key, 1)
        world._put(key, settled_revision=None)
    world.settle("gather/1/b", 1)
    assert world.turn().output == '["c","a","b"]'


def test_a_signal_has_the_place_of_its_coming_not_of_its_consumption():
    """It came before the stage ended; one turn sees both."""

    async def flow(flow: Flow) -> list[str]:
        order: list[str] = []

        async def stage_first() -> None:
            await flow.stage(work)
            order.append("stage")

        async def signal_second() -> None:
            await flow.signal("go")
            order.append("signal")

        await flow.gather(stage_first(), signal_second())
        return order

    world = World(define(flow), REGISTRY)
    world.turn()
    world.signal("go")
    world.settle("gather/0/work", 1)
    assert world.turn().output == '["signal","stage"]'
    assert world.look().output == '["signal","stage"]'


def test_clean_up_of_a_branch_is_not_run_while_others_still_go_on():
    """A `finally` of a branch that merely waits isn't an end of it."""

    async def flow(flow: Flow) -> list[int]:
        at_work, most = [0], [0]

        async def branch() -> None:
            at_work[0] += 1
            try:
                most[0] = max(most[0], at_work[0])
                await flow.stage(work)
            finally:
                at_work[0] -= 1

        await flow.gather(*(branch() for _ in range(3)))
        return [most[0], at_work[0]]

    world = World(define(flow), REGISTRY)
    world.turn()
    for activity in world.open():
        world.settle(activity.key, 1)
    assert world.turn().output == "[3,0]"


def test_a_bug_in_a_branch_lets_its_siblings_go_at_the_same_place_in_each_pass():
    """What they would have done later they do at no replay either."""

    async def flow(flow: Flow) -> list[str]:
        order: list[str] = []

        async def broken() -> None:
            await flow.stage(work, key="first")
            raise RuntimeError("a bug")

        async def sibling() -> None:
            try:
                await flow.stage(work, key="second")
                order.append("second")
            finally:
                order.append("sibling is let go")

        try:
            await flow.gather(broken(), sibling())
        except RuntimeError:
            order.append("caught")
        await flow.signal("go")
        return order

    world = World(define(flow), REGISTRY)
    world.turn()
    world.settle("gather/0/first", 1)
    world.turn()
    world.settle("gather/1/second", 1)
    world.turn()
    world.signal("go")
    assert world.turn().output == '["sibling is let go","caught"]'
