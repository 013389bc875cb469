"""`flow.map`, `flow.parallel`, `flow.timeout` and `flow.scope`: what they do, at the first pass and at each replay."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator import (
    ActivityFailed,
    BlockTimedOut,
    BranchResults,
    Fail,
    Flow,
    Registry,
    RunStatus,
    SignalTimedOut,
    WhyCompleted,
    stage,
)
from orchestrator.core.journal import ActivityState
from tests.unit.replaying import World, define

REGISTRY = Registry()


@stage(registry=REGISTRY)
def work(number: int = 0) -> int:
    return number


def world(flow: Any) -> World:
    return World(define(flow), REGISTRY)


def told(results: BranchResults[Any]) -> dict[str, Any]:
    assert len(results) == len(list(results)) == len(results.branches)
    assert [each.index for each in results] == list(range(len(results)))
    return {
        "why": str(results.why),
        "counts": [results.succeeded, results.failed, results.started],
        "states": [str(each.state) for each in results],
        "values": results.values,
        "errors": [str(error) for error in results.errors],
    }


def at_work(it: World) -> list[str]:
    return sorted(activity.key for activity in it.open())


def told_by(outcome: Any) -> Any:
    assert outcome.output is not None, outcome
    return json.loads(outcome.output)


# -- map and parallel --------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_items_and_so_many_are_under_way():
    async def flow(flow: Flow) -> Any:
        return told(await flow.map(work, [0, 1, 2, 3], max_concurrency=2))

    it = world(flow)
    it.turn()
    assert at_work(it) == ["work/0/work", "work/1/work"]
    it.settle("work/1/work", 10)
    it.turn()
    assert at_work(it) == ["work/0/work", "work/2/work"]
    it.fail("work/0/work")
    it.settle("work/2/work", 20)
    it.turn()
    it.settle("work/3/work", 30)
    assert told_by(it.turn()) == {
        "why": "all have ended",
        "counts": [3, 1, 4],
        "states": ["failed", "succeeded", "succeeded", "succeeded"],
        "values": [10, 20, 30],
        "errors": ["work/0/work failed after 1 attempt(s): ValueError: broken"],
    }


def test_enough_successes_end_it_and_the_rest_is_cancelled_or_never_started():
    async def flow(flow: Flow) -> Any:
        results = await flow.map(
            work, range(5), max_concurrency=3, min_successful=2, key="provision"
        )
        await flow.signal("end")
        return told(results)

    it = world(flow)
    it.turn()
    it.settle("provision/2/work", 2)
    it.turn()
    it.settle("provision/0/work", 0)
    it.turn()
    assert {key: str(entry.state) for key, entry in it.journal.items()} == {
        "provision/0/work": "done",
        "provision/1/work": "cancelled",
        "provision/2/work": "done",
        "provision/3/work": "cancelled",
        "end": "pending",
    }
    it.signal("end")
    end = told_by(it.turn())
    assert end["why"] == "enough have succeeded"
    assert end["counts"] == [2, 0, 4]
    assert end["states"] == ["succeeded", "cancelled", "succeeded", "cancelled", "not started"]


@pytest.mark.parametrize(
    ("policy", "fails", "why"),
    [
        ({"tolerated_failures": 0}, 1, WhyCompleted.TOO_MANY_FAILED),
        ({"tolerated_failures": 1}, 1, None),
        ({"tolerated_failures": 1}, 2, WhyCompleted.TOO_MANY_FAILED),
        ({"tolerated_failure_percentage": 50}, 2, None),
        ({"tolerated_failure_percentage": 50}, 3, WhyCompleted.TOO_MANY_FAILED),
        ({"tolerated_failure_percentage": 49.9}, 2, WhyCompleted.TOO_MANY_FAILED),
        ({"tolerated_failure_percentage": 0}, 1, WhyCompleted.TOO_MANY_FAILED),
        ({}, 4, WhyCompleted.ALL),
    ],
)
def test_failures_are_tolerated_up_to_a_bound_that_is_strictly_exceeded(policy, fails, why):
    async def flow(flow: Flow) -> Any:
        results = await flow.map(work, range(4), **policy)
        try:
            results.raise_if_failed()
        except ActivityFailed as error:
            return str(results.why), error.key
        return str(results.why), ""

    it = world(flow)
    it.turn()
    for number in range(fails):
        it.fail(f"work/{number}/work")
        outcome = it.turn()
    if why is None:
        assert outcome.status is RunStatus.RUNNING
    else:
        assert told_by(outcome) == [str(why), "work/0/work"]


def test_an_empty_map_is_complete_at_once_and_asks_for_nothing():
    async def flow(flow: Flow) -> Any:
        return [
            told(await flow.map(work, [], min_successful=3, tolerated_failures=0)),
            told(await flow.parallel([])),
        ]

    it = world(flow)
    one, other = told_by(it.turn())
    assert one == other
    assert one["why"] == "all have ended"
    assert not it.journal


def test_a_wait_inside_one_branch_runs_no_other_branch_again_and_maps_stand_in_maps():
    calls: list[str] = []

    async def flow(flow: Flow) -> Any:
        def noted(what: str) -> str:
            calls.append(what)
            return what

        async def inner(item: str) -> str:
            noted_ = await flow.step(noted, item)
            await flow.signal(f"go-{item}")
            return noted_ + str(await flow.stage(work, 1))

        async def outer(items: list[str]) -> list[str]:
            return (await flow.map(inner, items)).raise_if_failed()

        return (await flow.map(outer, [["a", "b"], ["c"]], max_concurrency=1)).values

    it = world(flow)
    it.turn()
    assert calls == ["a", "b"]
    for item, key in (("b", "outer/0/inner/1"), ("a", "outer/0/inner/0"), ("c", "outer/1/inner/0")):
        it.signal(f"go-{item}")
        it.turn()
        it.settle(f"{key}/work", 1)
        outcome = it.turn()
    assert calls == ["a", "b", "c"]
    assert told_by(outcome) == [["a1", "b1"], ["c1"]]


def test_parallel_takes_coroutines_functions_and_what_is_asked_for_and_names_them():
    async def flow(flow: Flow) -> Any:
        async def fails() -> int:
            raise Fail("no")

        async def waits(number: int) -> int:
            return await flow.stage(work, number)

        results = await flow.parallel(
            {"asked": flow.stage(work, 1), "called": fails, "made": waits(3)}, key="steps"
        )
        return [[each.name, str(each.state), each.value] for each in results]

    it = world(flow)
    it.turn()
    it.settle("steps/made/work", 3)
    it.settle("work", 1)
    assert told_by(it.turn()) == [
        ["asked", "succeeded", 1],
        ["called", "failed", None],
        ["made", "succeeded", 3],
    ]


def test_parallel_does_not_start_what_is_not_its_turn():
    started: list[int] = []

    async def flow(flow: Flow) -> Any:
        started.clear()

        async def branch(number: int) -> int:
            started.append(number)
            return await flow.stage(work, number)

        results = await flow.parallel(
            [branch(0), branch(1), branch(2)], max_concurrency=1, tolerated_failures=0
        )
        return told(results)["states"]

    it = world(flow)
    it.turn()
    it.fail("parallel/0/work")
    assert told_by(it.turn()) == ["failed", "not started", "not started"]
    assert started == [0]


def test_a_bug_in_a_branch_is_no_failure_that_is_tolerated():
    async def flow(flow: Flow) -> Any:
        async def buggy(number: int) -> int:
            return 1 // number

        await flow.map(buggy, [1, 0], tolerated_failures=5)

    outcome = world(flow).turn()
    assert outcome.status is RunStatus.INCIDENT
    assert "division" in outcome.error["message"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda f: f.map(work, [1], max_concurrency=0), "max_concurrency is 0. Give a whole"),
        (lambda f: f.map(work, [1], max_concurrency=True), "max_concurrency is True"),
        (lambda f: f.map(work, [1], min_successful=0), "min_successful is 0"),
        (lambda f: f.map(work, [1], tolerated_failures=-1), "tolerated_failures is -1"),
        (
            lambda f: f.map(work, [1], tolerated_failure_percentage=101),
            "tolerated_failure_percentage is 101. Give a number from 0 to 100",
        ),
        (lambda f: f.map(3, [1]), "flow.map is given 3. Give it a @stage"),
        (lambda f: f.map(work, "abc"), "is given a str for its items"),
        (lambda f: f.map(work, 7), "is given a int for its items"),
        (lambda f: f.map(len, ["a"]), "which flow.map calls, gives a int. Make it an `async def`"),
        (lambda f: f.parallel(7), "flow.parallel is given a int. Give it a list"),
        (lambda f: f.parallel([7]), "flow.parallel is given a int. Give it what"),
        (
            lambda f: f.parallel([f.stage(work)], max_concurrency=1),
            "is given work, which is asked for already",
        ),
        (lambda f: f.parallel([f.stage(work)] * 2), "flow.parallel is given work twice"),
        (lambda f: f.scope("a/b"), "a/b"),
        (lambda f: f.scope("a", 7), "is given 7. Give it an `async def`"),
        (lambda f: f.timeout("soon"), "flow.timeout"),
    ],
)
def test_wrong_use_is_refused_in_a_sentence(wrong, says):
    async def flow(flow: Flow) -> None:
        await wrong(flow)

    assert says in world(flow).turn().error["message"]


# -- timeout -----------------------------------------------------------------------------------------


def test_a_block_that_is_not_done_in_time_is_raised_an_error_and_what_it_awaits_is_cancelled():
    async def flow(flow: Flow) -> Any:
        kept = None
        try:
            async with flow.timeout(60):
                kept = flow.stage(work, 1, key="beside")
                await flow.gather(flow.stage(work, 2), flow.signal("s"))
        except BlockTimedOut as error:
            await flow.signal("end")
            return error.key, kept is not None
        return "in time"

    it = world(flow)
    outcome = it.turn()
    assert outcome.stage == "beside"
    assert outcome.waiting_for == "stage work and 3 more"
    it.settle("timeout", state=ActivityState.TIMED_OUT)
    it.turn()
    assert {key: str(entry.state) for key, entry in it.journal.items()} == {
        "timeout": "timed_out",
        "beside": "cancelled",
        "work": "cancelled",
        "s": "cancelled",
        "end": "pending",
    }
    it.signal("end")
    assert told_by(it.turn()) == ["timeout", True]


def test_a_block_that_is_done_in_time_disarms_its_deadline_and_what_comes_next_stands_free():
    async def flow(flow: Flow) -> Any:
        with flow.timeout(60, key="soon"):
            first = await flow.stage(work, 1)
        return first + await flow.stage(work, 2, key="after")

    it = world(flow)
    it.turn()
    it.settle("work", 1)
    outcome = it.turn()
    assert outcome.unsettled == ("after",)
    assert str(it.journal["soon"].state) == "cancelled"
    it.settle("after", 2)
    assert told_by(it.turn()) == 3


def test_blocks_stand_in_blocks_in_branches_and_the_inner_or_the_outer_may_come_first():
    async def flow(flow: Flow) -> Any:
        async def inner() -> str:
            try:
                with flow.timeout(60, key="outer"):
                    try:
                        with flow.timeout(30, key="inner"):
                            await flow.signal("never")
                    except BlockTimedOut:
                        await flow.signal("neither")
            except BlockTimedOut as error:
                return error.key
            return "in time"

        return await flow.gather(inner(), flow.stage(work, 1), key="g")

    for order in (["g/0/inner", "g/0/outer"], ["g/0/outer"]):
        it = world(flow)
        it.turn()
        for key in order:
            it.settle(key, state=ActivityState.TIMED_OUT)
            it.turn()
        assert at_work(it) == ["work"]
        it.settle("work", 1)
        assert told_by(it.turn()) == ["g/0/outer", 1]


def test_of_two_deadlines_the_outer_one_counts():
    """The outer one is over, and its clean-up still goes on, when the inner one is."""

    async def flow(flow: Flow) -> Any:
        async def slow() -> None:
            try:
                await flow.signal("never")
            finally:
                await flow.stage(work, 1, key="undo")

        try:
            with flow.timeout(60, key="outer"):
                try:
                    with flow.timeout(90, key="inner"):
                        await flow.gather(slow(), key="g")
                except BlockTimedOut:
                    return "the inner one"
        except BlockTimedOut as error:
            return error.key

    it = world(flow)
    it.turn()
    it.settle("outer", state=ActivityState.TIMED_OUT)
    it.settle("inner", state=ActivityState.TIMED_OUT)
    it.turn()
    assert at_work(it) == ["g/0/undo"]
    it.settle("g/0/undo", 1)
    assert told_by(it.turn()) == "outer"


def test_the_error_of_a_wait_in_the_block_is_not_the_blocks_own():
    async def flow(flow: Flow) -> Any:
        try:
            with flow.timeout(60):
                await flow.signal("s", timeout=5)
        except SignalTimedOut:
            return "signal"

    it = world(flow)
    it.turn()
    it.settle("s", state=ActivityState.TIMED_OUT)
    assert told_by(it.turn()) == "signal"


def test_a_block_in_a_branch_that_is_cancelled_ends_with_it():
    async def flow(flow: Flow) -> Any:
        async def bounded() -> None:
            with flow.timeout(60):
                await flow.signal("never")

        race = await flow.first(bounded(), flow.signal("go"))
        await flow.signal("end")
        return race.index

    it = world(flow)
    it.turn()
    it.signal("go")
    it.turn()
    assert at_work(it) == ["end"]


def test_a_flow_that_does_not_catch_it_fails_with_it():
    async def flow(flow: Flow) -> Any:
        with flow.timeout(60):
            await flow.signal("never")

    it = world(flow)
    it.turn()
    it.settle("timeout", state=ActivityState.TIMED_OUT)
    outcome = it.turn()
    assert outcome.status is RunStatus.FAILED
    assert outcome.error["type"] == "BlockTimedOut"


# -- scope -------------------------------------------------------------------------------------------


def test_keys_of_a_scope_stand_under_its_name():
    async def flow(flow: Flow) -> Any:
        async def bill(number: int, *, more: int = 0) -> int:
            return await flow.stage(work, number + more)

        async with flow.scope("billing"):
            one = await flow.stage(work, 1)
            with flow.scope("inner"):
                two = await flow.stage(work, 2)
        with flow.scope("billing"):
            three = await flow.stage(work, 3)
        four = await flow.scope("billing", bill, 4, more=1)
        return [one, two, three, four, await flow.stage(work, 5)]

    it = world(flow)
    keys = ["billing/work", "billing/inner/work", "billing#2/work", "billing#3/work", "work"]
    for number, key in enumerate(keys):
        it.turn()
        it.settle(key, number)
    assert told_by(it.turn()) == [0, 1, 2, 3, 4]


def test_a_scope_whose_result_is_recorded_is_not_run_again():
    calls: list[str] = []

    async def flow(flow: Flow) -> Any:
        async def provision(user: str) -> list[str]:
            calls.append(user)
            kept = flow.signal("kept")
            number = await flow.stage(work, 1)
            await flow.first(flow.stage(work, 2), flow.sleep(60))
            assert kept
            return [user, str(number)]

        before = flow.now
        done = await flow.scope("accounts", provision, "ann", record=True)
        assert flow.now > before
        first = flow.patched("newer")
        return [done, await flow.stage(work, 3), first]

    it = world(flow)
    it.turn()
    it.settle("accounts/work", 1)
    it.turn()
    it.settle("accounts/work#2", 2)
    outcome = it.turn_once()
    assert outcome.goes_on
    passes = len(calls)
    it.turn()
    assert len(calls) == passes
    assert str(it.journal["accounts"].state) == "done"
    assert it.journal["accounts"].result == ["ann", "1"]
    it.settle("work", 3)
    outcome = it.turn()
    assert len(calls) == passes
    assert told_by(outcome) == [["ann", "1"], 3, True]


def test_a_scope_that_fails_is_not_recorded_and_raises_what_its_function_raised():
    async def flow(flow: Flow) -> Any:
        async def fails() -> None:
            await flow.signal("s", timeout=5)

        try:
            await flow.scope("part", fails, record=True)
        except SignalTimedOut as error:
            return error.key

    it = world(flow)
    it.turn()
    it.settle("part/s", state=ActivityState.TIMED_OUT)
    assert told_by(it.turn()) == "part/s"
    assert "part" not in it.journal


def test_recorded_scopes_stand_in_branches_and_in_each_other():
    async def flow(flow: Flow) -> Any:
        async def leaf(number: int) -> int:
            return await flow.stage(work, number)

        async def both(number: int) -> int:
            one = await flow.scope("leaf", leaf, number, record=True)
            return one + await flow.scope("leaf", leaf, number, record=True)

        return (await flow.map(_scoped(flow, both), [1, 2])).values

    def _scoped(flow: Flow, function: Any) -> Any:
        async def one(number: int) -> int:
            return await flow.scope("both", function, number, record=True)

        return one

    it = world(flow)
    it.turn()
    while it.open():
        for activity in it.open():
            it.settle(activity.key, 10)
        outcome = it.turn()
    assert told_by(outcome) == [20, 20]
    assert sum(entry.kind == "scope" for entry in it.journal.values()) == 6
