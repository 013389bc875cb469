"""`flow.first`: who wins, what becomes of the others, and that each replay says the same. (docs/adr/0051)"""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator import (
    ActivityCancelled,
    ActivityFailed,
    BranchCancelled,
    BranchState,
    Flow,
    RaceResult,
    Registry,
    RunStatus,
    SignalTimedOut,
    TooFewSucceeded,
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


def told(result: RaceResult[Any]) -> dict[str, Any]:
    return {
        "won": [winner.name for winner in result.winners],
        "values": result.values,
        "states": [str(each.state) for each in result.branches],
    }


def state(world: World, key: str) -> str:
    return str(world.journal[key].state)


def test_of_two_signals_the_one_that_came_first_wins_and_the_other_stays_for_the_next_wait():
    async def flow(flow: Flow) -> Any:
        race = await flow.first({"yes": flow.signal("yes"), "no": flow.signal("no")})
        kept = [told(race), await flow.signal("no")]
        await flow.signal("end")
        return kept

    it = world(flow)
    it.turn()
    it.signal("no", 1)
    it.signal("yes", 2)
    it.signal("no", 3)
    it.turn()
    assert state(it, "yes") == "cancelled"
    assert [signal.name for signal in it.signals] == ["yes"]
    it.signal("end")
    outcome = it.turn()
    assert json.loads(outcome.output) == [
        {"won": ["no"], "values": [1], "states": ["cancelled", "succeeded"]},
        3,
    ]


def test_two_of_three_is_decided_by_the_second_success_whatever_has_failed_before():
    async def flow(flow: Flow) -> Any:
        votes = [flow.stage(work, number, key=f"v{number}") for number in range(4)]
        return told(await flow.first(*votes, count=2))

    it = world(flow)
    it.turn()
    it.fail("v1")
    it.settle("v3", 3)
    outcome = it.turn()
    assert outcome.status is RunStatus.RUNNING
    assert outcome.unsettled == ("v0", "v2")
    it.settle("v0", 0)
    outcome = it.turn()
    assert '"states":["succeeded","failed","cancelled","succeeded"]' in outcome.output
    assert '"won":["3","0"]' in outcome.output


def test_a_race_that_cannot_be_won_any_more_raises_and_tells_every_error():
    async def flow(flow: Flow) -> Any:
        try:
            await flow.first(
                flow.stage(work, 1), flow.signal("s", timeout=5), flow.stage(work), count=2
            )
        except TooFewSucceeded as lost:
            return [str(each.state) for each in lost.branches], str(lost)

    it = world(flow)
    it.turn()
    it.fail("work", "ValueError", "broken")
    it.turn()
    it.settle("s", state=ActivityState.TIMED_OUT)
    outcome = it.turn()
    assert '["failed","failed","cancelled"]' in outcome.output
    assert "needed 2 of 3 branches to succeed: 0: work failed" in outcome.output
    assert "1: no signal 's' arrived in time" in outcome.output


def test_a_coroutine_that_loses_cleans_up_with_awaits_and_the_race_ends_after_it():
    seen: list[str] = []

    async def slow(flow: Flow) -> int:
        kept = flow.stage(work, 7, key="never-awaited")
        try:
            await flow.gather(flow.stage(work, 1), inner(flow))
        finally:
            seen.append(f"undo {await flow.stage(work, 9, key='undo')}")
        return await kept

    async def inner(flow: Flow) -> None:
        try:
            await flow.signal("never")
        except BranchCancelled:
            seen.append("inner")
            raise

    async def flow(flow: Flow) -> Any:
        seen.clear()
        race = await flow.first(slow(flow), flow.signal("go"), key="race")
        await flow.signal("end")
        return told(race)

    it = world(flow)
    it.turn()
    it.signal("go", "gone")
    outcome = it.turn()
    assert outcome.status is RunStatus.RUNNING
    assert outcome.unsettled == ("race/0/never-awaited", "race/0/undo")
    assert {key: state(it, key) for key in it.journal} == {
        "go": "done",
        "race/0/never-awaited": "pending",
        "race/0/work": "cancelled",
        "race/0/gather/1/never": "cancelled",
        "race/0/undo": "pending",
    }
    it.settle("race/0/undo", 9)
    it.turn()
    assert state(it, "race/0/never-awaited") == "cancelled"
    it.signal("end")
    outcome = it.turn()
    assert outcome.status is RunStatus.COMPLETED
    assert seen == ["inner", "undo 9"]
    assert '"states":["cancelled","succeeded"]' in outcome.output


def test_a_clean_up_that_fails_is_told_and_one_with_a_bug_is_the_races():
    async def failing(flow: Flow) -> None:
        try:
            await flow.signal("never")
        finally:
            await flow.stage(work, key="undo")

    async def buggy(flow: Flow) -> None:
        try:
            await flow.signal("never")
        finally:
            raise ValueError("a bug in the clean-up")

    async def tells(flow: Flow) -> Any:
        race = await flow.first(failing(flow), flow.signal("go"), key="race")
        return [str(race.others[0].state), str(race.others[0].error)]

    async def parks(flow: Flow) -> Any:
        await flow.first(buggy(flow), flow.signal("go"), key="race")

    it = world(tells)
    it.turn()
    it.signal("go")
    it.turn()
    it.fail("race/0/undo", message="no way back")
    assert '["cancelled","race/0/undo failed after' in it.turn().output

    it = world(parks)
    it.turn()
    it.signal("go")
    assert "a bug in the clean-up" in it.turn().error["message"]


def test_what_was_cancelled_is_raised_to_whoever_awaits_it_later_or_beside():
    async def beside(flow: Flow, shared: Any) -> str:
        try:
            await shared
        except ActivityCancelled as cancelled:
            return f"beside: {cancelled.key}"
        return "no"

    async def race_of(flow: Flow, shared: Any) -> str:
        await flow.first(shared, flow.signal("go"))
        try:
            await shared
        except ActivityCancelled as cancelled:
            return f"later: {cancelled.key}"
        return "no"

    async def flow(flow: Flow) -> Any:
        shared = flow.stage(work)
        return await flow.gather(beside(flow, shared), race_of(flow, shared))

    it = world(flow)
    it.turn()
    it.signal("go")
    assert it.turn().output == '["beside: work","later: work"]'


def test_with_the_rest_left_they_go_on_and_their_answers_can_be_awaited():
    done: list[str] = []

    async def other(flow: Flow) -> None:
        await flow.stage(work, 5, key="other")
        done.append("other")

    async def flow(flow: Flow) -> Any:
        done.clear()
        kept = flow.stage(work, 1)
        race = await flow.first(kept, other(flow), flow.signal("go"), cancel_rest=False)
        return [*told(race)["states"], await kept, list(done)]

    it = world(flow)
    it.turn()
    it.signal("go")
    outcome = it.turn()
    assert outcome.unsettled == ("work", "first/1/other")
    it.settle("first/1/other", 5)
    it.turn()
    it.settle("work", 1)
    assert it.turn().output == '["goes on","goes on","succeeded",1,["other"]]'


def test_the_winner_is_who_came_first_in_the_runs_order_on_every_replay():
    """The loser's result was recorded before the turn that cancels it: the race's result is the same."""

    async def flow(flow: Flow) -> Any:
        race = await flow.first(flow.stage(work, 1, key="a"), flow.stage(work, 2, key="b"))
        return [told(race), await flow.stage(work, 3, key="after")]

    together, apart = world(flow), world(flow)
    for it in (together, apart):
        it.turn()
        it.settle("b", 2)
        if it is apart:
            it.turn()
        else:
            it.settle("a", 1)
        it.turn()
        it.settle("after", 3)
    assert state(apart, "a") == "cancelled"
    assert state(together, "a") == "done"
    assert together.turn().output == apart.turn().output


def test_a_race_that_is_decided_as_it_begins_hands_nothing_out():
    ran: list[int] = []

    async def never(number: int) -> None:
        ran.append(number)

    async def flow(flow: Flow) -> Any:
        await flow.signal("go")
        done = flow.signal("again")
        race = await flow.first(
            done, flow.stage(work), flow.approval("boss", assign=["ann"]), never(1)
        )
        return [str(each.state) for each in race.branches]

    it = world(flow)
    it.turn()
    it.signal("again")
    it.signal("go")
    outcome = it.turn()
    assert outcome.output == '["succeeded","cancelled","cancelled","not started"]'
    assert not ran


def test_races_stand_in_races_and_gathers():
    async def flow(flow: Flow) -> Any:
        inner = flow.first(flow.stage(work, 1, key="a"), flow.stage(work, 2, key="b"))
        pair = flow.gather(flow.stage(work, 3, key="c"), flow.stage(work, 4, key="d"))
        race = await flow.first(inner, pair, flow.sleep(60))
        return [str(each.state) for each in race.branches], race.value.value

    it = world(flow)
    it.turn()
    it.settle("c", 3)
    it.turn()
    it.settle("b", 2)
    outcome = it.turn()
    assert outcome.output == '[["succeeded","cancelled","cancelled"],2]'
    assert {each for each in it.journal if state(it, each) == "cancelled"} == set()


def test_a_signal_that_a_deadline_gave_a_cancelled_wait_is_given_back():
    """The stage came first; then a signal, and the deadline of its wait, which took it; and then the turn."""

    async def flow(flow: Flow) -> Any:
        race = await flow.first(flow.stage(work, 1), flow.signal("s", timeout=60))
        return [race.index, await flow.signal("s")]

    it = world(flow)
    it.turn()
    it.settle("work", 1)
    it.settle("s", "taken")
    outcome = it.look()
    assert outcome.given_back == ("s",)
    assert outcome.goes_on
    # As the record has it then (tests/engine/test_branches.py does this in Postgres).
    it._put("s", state=ActivityState.CANCELLED, result=None, settled_revision=None)
    it.signal("s", "taken")
    assert it.turn().output == '[0,"taken"]'


def test_what_a_cancelled_branch_has_looked_for_is_the_same_at_each_replay():
    """Its clean-up has seen a signal that is there, in the pass in which it ended."""

    async def flow(flow: Flow) -> Any:
        seen = []

        async def loser() -> None:
            try:
                await flow.signal("never")
            finally:
                seen.append(flow.peek("stop"))

        await flow.first(loser(), flow.signal("go"))
        await flow.signal("end")
        return seen

    it = world(flow)
    it.turn()
    it.signal("stop")
    it.signal("go")
    it.turn()
    assert state(it, "first/0/stop-peek") == "done"
    it.signal("end")
    assert it.turn().output == "[true]"


def twice(flow: Flow) -> Any:
    branch = flow.signal("a")
    return flow.first(branch, branch)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda f: f.first(f.signal("a"), count=2), "count=2) is given 1 branches. Give a whole"),
        (lambda f: f.first(f.signal("a"), count=0), "count=0) is given 1 branches"),
        (lambda f: f.first(), "is given 0 branches"),
        (lambda f: f.first([f.signal("a")]), "Unpack it: flow.first(*branches)"),
        (twice, "is given a twice. Give each branch once"),
        (lambda f: f.first({"a": 1}), "flow.first is given a int"),
    ],
)
def test_wrong_use_is_refused_in_a_sentence(wrong, says):
    async def flow(flow: Flow) -> None:
        await wrong(flow)

    assert says in world(flow).turn().error["message"]


def test_states_are_words():
    assert [str(each) for each in BranchState] == [
        "succeeded",
        "failed",
        "cancelled",
        "goes on",
        "not started",
    ]
    assert issubclass(TooFewSucceeded, Exception)
    assert issubclass(SignalTimedOut, TimeoutError)
    assert issubclass(ActivityFailed, Exception)
