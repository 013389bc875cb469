"""Replay: one flow over its journal, let go at every await, on any worker, in any order of answers."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from orchestrator import (
    ActivityFailed,
    Fail,
    Flow,
    PayloadError,
    PayloadMismatch,
    Registry,
    RunStatus,
    SignalTimedOut,
    hours,
    stage,
)
from orchestrator.core.branches import TurnAbandoned
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.outcome import TurnOutcome
from orchestrator.core.requests import REQUESTS_PER_TURN_MAX
from tests.unit.replaying import BEGIN, World, define

REGISTRY = Registry()


@stage(registry=REGISTRY)
def work(number: int = 0) -> int:
    return number


@stage(registry=REGISTRY)
def other() -> str:
    return "other"


@stage(registry=REGISTRY)
def named(one: int, *, two: int) -> int:
    return one + two


def double(number: int) -> int:
    return 2 * number


# -- random flows, random worlds -----------------------------------------------------------------

KINDS = ["stage", "step", "signal", "timed signal", "sleep", "approval", "now"]
operations = st.recursive(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    lambda programs: st.lists(
        st.one_of(
            st.sampled_from(KINDS),
            st.tuples(st.just("gather"), st.lists(programs, min_size=0, max_size=3)),
            st.tuples(
                st.just("handles"), st.lists(st.sampled_from(KINDS[:-1]), min_size=1, max_size=3)
            ),
            st.tuples(st.just("named"), st.lists(programs, min_size=1, max_size=2)),
        ),
        min_size=1,
        max_size=4,
    ),
    max_leaves=14,
)


def ask(flow: Flow, what: str) -> Any:
    match what:
        case "stage":
            return flow.stage(work, 1)
        case "step":
            return flow.step(double, 21)
        case "signal":
            return flow.signal("ping")
        case "timed signal":
            return flow.signal("pong", timeout=hours(1))
        case "sleep":
            return flow.sleep(60)
        case "approval":
            return flow.approval("boss", assign=["bob"], timeout=hours(2))
    raise AssertionError(what)


async def answer_of(awaited: Any) -> Any:
    """What an await gave, or raised, as plain data."""
    try:
        return str(await awaited)
    except (ActivityFailed, SignalTimedOut) as error:
        return f"{type(error).__name__}: {error}"


async def interpret(flow: Flow, program: list[Any]) -> list[Any]:
    """The flow that a random program stands for. What it saw, and when, is its result."""
    seen: list[Any] = []
    for operation in program:
        match operation:
            case "now":
                pass
            case str():
                seen.append(await answer_of(ask(flow, operation)))
            case ("gather", branches):
                seen.append(await flow.gather(*(interpret(flow, branch) for branch in branches)))
            case ("named", branches):
                named = {
                    f"b{index}": interpret(flow, branch) for index, branch in enumerate(branches)
                }
                seen.append(await flow.gather(named))
            case ("handles", kinds):
                handles = [ask(flow, kind) for kind in kinds]
                may_be_dropped = len(kinds) > 1 and kinds[0] not in ("stage", "step")
                seen.append(
                    [await answer_of(handle) for handle in reversed(handles[may_be_dropped:])]
                )
        seen.append(flow.now.isoformat())
    return seen


def something_happens(world: World, chance: random.Random) -> bool:
    """Settle one open activity, or send a signal. False: nothing is open."""
    open_ = [activity for activity in world.open() if activity.kind is not ActivityKind.STEP]
    if not open_:
        return False
    activity = chance.choice(open_)
    match activity.kind:
        case ActivityKind.STAGE if chance.random() < 0.2:
            world.fail(activity.key)
        case ActivityKind.STAGE:
            world.settle(activity.key, chance.randrange(1000))
        case ActivityKind.SIGNAL if activity.name == "pong" and chance.random() < 0.4:
            if any(signal.name == "pong" for signal in world.signals):
                return True  # what is there goes before the deadline
            world.settle(activity.key, state=ActivityState.TIMED_OUT)
        case ActivityKind.SIGNAL:
            world.signal(activity.name, chance.randrange(1000))
        case ActivityKind.APPROVAL:
            world.decide(activity.key, chance.choice(["approved", "rejected", "timed_out"]))
        case ActivityKind.SLEEP:
            world.settle(activity.key)
        case "timeout":
            world.settle(activity.key, state=ActivityState.TIMED_OUT)
    return True


def run_to_its_end(world: World, chance: random.Random) -> TurnOutcome:
    for _ in range(500):
        if chance.random() < 0.3:
            world.look()  # a turn that lost its commit
        outcome = world.turn()
        if not outcome.status.is_moving:
            return outcome
        assert something_happens(world, chance), f"the run waits for nothing: {outcome}"
        while chance.random() < 0.4 and something_happens(world, chance):
            pass
    raise AssertionError("the run doesn't end")


def random_world(program: list[Any]) -> World:
    async def flow(flow: Flow) -> list[Any]:
        return await interpret(flow, program)

    return World(define(flow), REGISTRY)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=operations, seed=st.integers(0, 2**32 - 1))
def test_a_run_let_go_at_every_await_ends_as_one_that_goes_straight_through(program, seed):
    note(f"seed {seed}")
    world = random_world(program)
    outcome = run_to_its_end(world, random.Random(seed))
    assert outcome.status is RunStatus.COMPLETED, outcome.error
    straight = world.look()
    assert (straight.status, straight.output) == (outcome.status, outcome.output)
    assert not straight.opened
    assert not straight.consumed


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=operations, seed=st.integers(0, 2**32 - 1))
def test_the_same_journal_gives_the_same_outcome(program, seed):
    note(f"seed {seed}")
    world, chance = random_world(program), random.Random(seed)
    for _ in range(500):
        first = world.look()  # its steps are recorded, nothing else
        journal = list(world.journal.items())
        chance.shuffle(journal)
        world.journal = dict(journal)
        assert world.look() == first
        if not world.turn().status.is_moving or not something_happens(world, chance):
            return


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=operations, seed=st.integers(0, 2**32 - 1))
def test_no_step_is_called_twice_when_turns_die_after_it(program, seed):
    note(f"seed {seed}")
    world, chance = random_world(program), random.Random(seed)

    def dies_at_times(_request: Any) -> None:
        if chance.random() < 0.3:
            raise TurnAbandoned("the worker died")

    world.after_step = dies_at_times
    for _ in range(500):
        try:
            outcome = world.turn()
        except TurnAbandoned:
            continue
        if not outcome.status.is_moving or not something_happens(world, chance):
            break
    assert len(world.steps_called) == len(set(world.steps_called))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=operations, seed=st.integers(0, 2**32 - 1), data=st.data())
def test_a_journal_that_lost_its_name_somewhere_is_an_incident_and_never_a_silent_re_run(
    program, seed, data
):
    note(f"seed {seed}")
    world = random_world(program)
    run_to_its_end(world, random.Random(seed))
    if not world.journal:
        return
    key = data.draw(st.sampled_from(sorted(world.journal)))
    world.journal[key] = replace(world.journal[key], name="renamed")
    steps_before = len(world.steps_called)
    outcome = world.turn()
    assert outcome.status is RunStatus.INCIDENT
    assert outcome.error["type"] == "contradiction"
    assert "renamed" in outcome.error["message"]
    assert not outcome.opened
    assert not outcome.consumed
    assert len(world.steps_called) == steps_before


# -- contradictions ------------------------------------------------------------------------------


def contradiction(before: Any, after: Any) -> str:
    """Both flows are `lambda flow: [awaitables]`; the second meets the first's journal."""

    async def flow(flow: Flow) -> None:
        for handle in asks[0](flow):
            await handle

    asks = [before]
    world = World(define(flow), REGISTRY)
    for _ in range(4):
        world.turn()
        for activity in world.open():
            world.settle(activity.key, {"work": 1, "other": "o"}.get(activity.name))
    asks[0] = after
    outcome = world.turn()
    assert outcome.status is RunStatus.INCIDENT, outcome
    assert outcome.waiting_for == "an operator"
    assert outcome.error["type"] == "contradiction"
    return outcome.error["message"]


def test_a_changed_order_is_explained_by_its_first_place():
    message = contradiction(
        lambda flow: [flow.stage(work), flow.stage(other)],
        lambda flow: [flow.stage(other), flow.stage(work)],
    )
    assert message.splitlines() == [
        "in the flow:",
        "  - 1. stage work   (in the journal)",
        "  + 1. stage other   (asked by the flow now)",
    ]


def test_of_many_equal_lines_a_diff_shows_the_last_two():
    """The first place that differs is named, and nobody has to look for it in a page."""
    message = contradiction(
        lambda flow: [flow.stage(work, key=f"k{number}") for number in range(9)],
        lambda flow: [
            flow.stage(work, key=f"k{number if number < 7 else 99}") for number in range(8)
        ],
    )
    assert message.splitlines() == [
        "in the flow:",
        "    … 5 more, in both alike",
        "    6. stage work (key k5)",
        "    7. stage work (key k6)",
        "  - 8. stage work (key k7)   (in the journal)",
        "  + 8. stage work (key k99)   (asked by the flow now)",
    ]


def test_a_removed_activity_is_explained():
    message = contradiction(
        lambda flow: [flow.stage(work), flow.stage(other)], lambda flow: [flow.stage(work)]
    )
    assert message.splitlines() == [
        "in the flow:",
        "    1. stage work",
        "  - 2. stage other   (in the journal)",
    ]


def test_an_activity_added_in_the_middle_is_explained():
    message = contradiction(
        lambda flow: [flow.stage(work), flow.stage(other)],
        lambda flow: [flow.stage(work), flow.sleep(1), flow.stage(other)],
    )
    assert "  - 2. stage other   (in the journal)" in message
    assert "  + 2. sleep sleep   (asked by the flow now)" in message


def test_a_renamed_key_is_explained_with_the_key():
    message = contradiction(
        lambda flow: [flow.stage(work, key="first")], lambda flow: [flow.stage(work, key="1st")]
    )
    assert "  - 1. stage work (key first)   (in the journal)" in message
    assert "  + 1. stage work (key 1st)   (asked by the flow now)" in message


def test_a_changed_kind_under_one_key_is_explained():
    message = contradiction(
        lambda flow: [flow.stage(work, key="x")], lambda flow: [flow.sleep(1, key="x")]
    )
    assert "stage work (key x)" in message
    assert "sleep sleep (key x)" in message


def test_an_activity_added_at_the_end_goes_on():
    async def flow(flow: Flow) -> None:
        await flow.stage(work)
        if is_longer:
            await flow.stage(other)

    is_longer = []
    world = World(define(flow), REGISTRY)
    world.turn()
    is_longer.append(True)
    world.settle("work", 1)
    assert [opened.request.key for opened in world.turn().opened] == ["other"]


def test_a_contradiction_inside_a_branch_names_the_branch():
    async def branch(flow: Flow) -> None:
        await (flow.stage(other) if is_changed else flow.stage(work))

    async def flow(flow: Flow) -> None:
        await flow.gather({"left": branch(flow), "right": branch(flow)}, key="both")

    is_changed = []
    world = World(define(flow), REGISTRY)
    world.turn()
    is_changed.append(True)
    assert "in both/left:" in world.turn().error["message"]


def test_except_exception_cannot_swallow_a_contradiction():
    async def flow(flow: Flow) -> str:
        try:
            await (flow.signal("work") if is_changed else flow.stage(work))
        except Exception:  # noqa: BLE001
            return "swallowed"
        return "done"

    is_changed = []
    world = World(define(flow), REGISTRY)
    world.turn()
    is_changed.append(True)
    assert world.turn().error["type"] == "contradiction"


def test_an_incident_keeps_what_is_open_and_opens_nothing():
    async def flow(flow: Flow) -> None:
        handles = [flow.approval("boss", assign=["bob"])]
        await flow.stage(work)
        handles.append(flow.stage(other))
        raise RuntimeError("a bug")

    world = World(define(flow), REGISTRY)
    world.turn()
    world.settle("work", 1)
    outcome = world.turn()
    assert outcome.status is RunStatus.INCIDENT
    assert outcome.unsettled == ("boss",)
    assert not outcome.opened


# -- letting go ----------------------------------------------------------------------------------


def test_what_finally_and_except_blocks_ask_while_a_flow_is_let_go_is_not_recorded():
    noticed = []

    async def flow(flow: Flow) -> None:
        try:
            await flow.stage(work)
        except Exception:  # noqa: BLE001
            await flow.stage(other, key="in-except")
        finally:
            noticed.append("finally")
            await flow.stage(other, key="in-finally")

    world = World(define(flow), REGISTRY)
    outcome = world.turn()
    assert [opened.request.key for opened in outcome.opened] == ["work"]
    assert noticed == ["finally"]
    world.settle("work", 1)
    assert [opened.request.key for opened in world.turn().opened] == ["in-finally"]


def test_a_branch_that_is_let_go_records_nothing_either():
    async def branch(flow: Flow, name: str) -> None:
        try:
            await flow.stage(work, key=name)
        finally:
            await flow.stage(other, key=f"{name}-clean-up")

    async def flow(flow: Flow) -> None:
        await flow.gather(branch(flow, "a"), branch(flow, "b"))

    world = World(define(flow), REGISTRY)
    assert [opened.request.key for opened in world.turn().opened] == ["gather/0/a", "gather/1/b"]
    world.settle("gather/1/b", 1)
    assert [opened.request.key for opened in world.turn().opened] == ["gather/1/b-clean-up"]


def test_an_async_context_manager_around_a_wait_leaves_only_once_it_has_waited():
    class Reservation:
        def __init__(self, flow: Flow) -> None:
            self.flow = flow

        async def __aenter__(self) -> None:
            await self.flow.stage(work, key="reserve")

        async def __aexit__(self, *_exception: object) -> None:
            await self.flow.stage(other, key="release")

    async def flow(flow: Flow) -> None:
        async with Reservation(flow):
            await flow.signal("go")

    world = World(define(flow), REGISTRY)
    world.turn()
    world.settle("reserve", 1)
    world.turn()
    assert "release" not in world.journal
    world.signal("go")
    world.turn()
    assert "release" in world.journal


# -- handles and keys ----------------------------------------------------------------------------


def test_a_decision_that_a_flow_needs_no_more_ends_with_the_run():
    async def flow(flow: Flow) -> str:
        handles = [flow.approval("boss", assign=["bob"]), flow.sleep(60)]
        await flow.signal("go")
        return f"done, without {len(handles)}"

    world = World(define(flow), REGISTRY)
    assert world.turn().status is RunStatus.WAITING
    assert set(world.journal) == {"boss", "sleep", "go"}
    world.signal("go")
    outcome = world.turn()
    assert outcome.status is RunStatus.COMPLETED


def test_keys_are_numbered_when_they_are_not_named():
    async def flow(flow: Flow) -> None:
        await flow.gather(
            flow.stage(work), flow.stage(work), flow.stage(work, key="third"), flow.sleep(1)
        )

    outcome = World(define(flow), REGISTRY).turn()
    assert [opened.request.key for opened in outcome.opened] == ["work", "work#2", "third", "sleep"]


@pytest.mark.parametrize(
    "asks",
    [
        lambda flow: [flow.stage(work, key="x"), flow.stage(other, key="x")],
        lambda flow: [flow.stage(work), flow.stage(other, key="work")],
        lambda flow: [flow.gather(key="x"), flow.stage(other, key="x")],
        lambda flow: [flow.stage(other, key="x"), flow.gather(key="x")],
    ],
)
def test_a_key_given_twice_is_an_incident_that_names_it(asks):
    async def flow(flow: Flow) -> None:
        asks(flow)

    outcome = World(define(flow), REGISTRY).turn()
    assert outcome.status is RunStatus.INCIDENT
    assert "is used twice" in outcome.error["message"]


def test_one_handle_awaited_in_two_branches_answers_both():
    async def wait(handle: Any) -> Any:
        return await handle

    async def flow(flow: Flow) -> list[int]:
        handle = flow.stage(work)
        return await flow.gather(wait(handle), wait(handle), handle)

    world = World(define(flow), REGISTRY)
    world.turn()
    world.settle("work", 5)
    assert world.turn().output == "[5,5,5]"


def test_a_gather_of_nothing_gives_nothing_and_one_of_a_mapping_gives_a_mapping():
    async def flow(flow: Flow) -> list[Any]:
        return [
            await flow.gather(),
            await flow.gather({}),
            await flow.gather({"a": flow.step(double, 1)}),
        ]

    assert World(define(flow), REGISTRY).turn().output == '[[],{},{"a":2}]'


def test_gathers_nest():
    async def flow(flow: Flow) -> Any:
        return await flow.gather(flow.gather(flow.stage(work), flow.stage(work)), flow.stage(other))

    world = World(define(flow), REGISTRY)
    world.turn()
    for key, value in (("work#2", 2), ("other", "o"), ("work", 1)):
        world.settle(key, value)
    assert world.turn().output == '[[1,2],"o"]'


def test_a_gather_waits_for_all_and_raises_the_first_failure_by_position():
    async def flow(flow: Flow) -> str:
        try:
            await flow.gather(flow.stage(work), flow.stage(work), flow.stage(other))
        except ActivityFailed as error:
            return f"{error.key}: {error.error_type}"
        return "?"

    world = World(define(flow), REGISTRY)
    world.turn()
    world.fail("work#2", "Later")
    assert world.turn().status.is_moving
    world.fail("work", "Sooner")
    assert world.turn().status.is_moving
    world.settle("other", "fine")
    assert world.turn().output == '"work: Sooner"'


def test_more_requests_than_the_bound_park_the_run():
    async def flow(flow: Flow) -> None:
        await flow.gather(*(flow.sleep(1) for _ in range(REQUESTS_PER_TURN_MAX + 1)))

    outcome = World(define(flow), REGISTRY).turn()
    assert outcome.status is RunStatus.INCIDENT
    assert str(REQUESTS_PER_TURN_MAX) in outcome.error["message"]


# -- time ----------------------------------------------------------------------------------------


def test_now_is_the_time_of_the_last_fact_that_was_awaited():
    async def flow(flow: Flow) -> list[datetime]:
        seen = [flow.now]
        early, late = flow.stage(work), flow.stage(other)
        await late
        seen.append(flow.now)
        await early
        return [*seen, flow.now]

    world = World(define(flow), REGISTRY)
    world.turn()
    world.settle("work", 1)  # at +1, before the one that is awaited first
    world.settle("other", "o")  # at +2
    seen = world.turn().output
    assert [BEGIN + timedelta(seconds=seconds) for seconds in (0, 2, 2)] == [
        datetime.fromisoformat(each) for each in json.loads(seen)
    ]


def test_now_in_a_branch_is_not_moved_by_facts_of_its_siblings():
    async def branch(flow: Flow, name: str) -> list[str]:
        seen = [flow.now.isoformat()]
        await flow.stage(work, key=name)
        seen.append(flow.now.isoformat())
        await flow.stage(other, key=f"{name}-2")
        return [*seen, flow.now.isoformat()]

    async def flow(flow: Flow) -> Any:
        return [await flow.gather(branch(flow, "a"), branch(flow, "b")), flow.now.isoformat()]

    def outcome_when(order: list[str]) -> list[Any]:
        world = World(define(flow), REGISTRY)
        for key in order:
            world.turn()
            world.settle(key, 1 if key.endswith(("a", "b")) else "o")
        return json.loads(world.turn().output)

    first = outcome_when(["gather/0/a", "gather/0/a-2", "gather/1/b", "gather/1/b-2"])
    at = [(BEGIN + timedelta(seconds=second)).isoformat() for second in range(5)]
    assert first == [[[at[0], at[1], at[2]], [at[0], at[3], at[4]]], at[4]]
    second = outcome_when(["gather/1/b", "gather/0/a", "gather/1/b-2", "gather/0/a-2"])
    assert second == [[[at[0], at[2], at[4]], [at[0], at[1], at[3]]], at[4]]


def test_a_fact_that_was_settled_before_the_last_does_not_turn_time_back():
    async def flow(flow: Flow) -> bool:
        slow = flow.stage(work)
        await flow.signal("go")
        before = flow.now
        await slow
        return flow.now >= before

    world = World(define(flow), REGISTRY)
    world.turn()
    world.settle("work", 1)
    world.signal("go")
    assert world.turn().output == "true"


# -- what flows may not do -----------------------------------------------------------------------


def test_a_foreign_awaitable_is_an_incident_that_says_what_to_await():
    async def flow(flow: Flow) -> None:
        given_way = asyncio.sleep(0)
        await given_way

    outcome = World(define(flow), REGISTRY).turn()
    assert outcome.status is RunStatus.INCIDENT
    assert "an event loop's, which doesn't drive it" in outcome.error["message"]
    assert "flow.sleep" in outcome.error["message"]


def test_a_foreign_awaitable_in_a_gather_is_an_incident_too():
    class Foreign:
        def __await__(self):
            yield "something"

    async def flow(flow: Flow) -> None:
        await flow.gather(flow.step(double, 1), Foreign())

    outcome = World(define(flow), REGISTRY).turn()
    assert outcome.status is RunStatus.INCIDENT
    assert "what flow's own methods return" in outcome.error["message"]


@pytest.mark.parametrize(
    ("asks", "says"),
    [
        (lambda flow: flow.sleep(float("nan")), "flow.sleep"),
        (lambda flow: flow.sleep(1e12), "flow.sleep"),
        (lambda flow: flow.sleep_until(datetime(2030, 1, 1)), "no time zone"),  # noqa: DTZ001
        (lambda flow: flow.stage(double), "takes a @stage"),
        (lambda flow: flow.stage(work, 1, 2, 3), "can't be called so"),
        (lambda flow: flow.stage(named, 1, 2), "can't be called so"),
        (lambda flow: flow.stage(work, "seven"), "argument of stage work"),
        (lambda flow: flow.approval("m", assign="bob"), "not one string"),
        (lambda flow: flow.approval("m", assign=[]), "at least one assignee"),
        (
            lambda flow: flow.approval(
                "m", assign=["b"], escalate={hours(2): ["c"]}, timeout=hours(1)
            ),
            "nobody would",
        ),
    ],
)
def test_what_a_flow_asks_wrongly_is_an_incident_that_explains_itself(asks, says):
    async def flow(flow: Flow) -> None:
        await asks(flow)

    outcome = World(define(flow), REGISTRY).turn()
    assert outcome.status is RunStatus.INCIDENT
    assert says in outcome.error["message"]


PAST = timedelta(minutes=-5)


@pytest.mark.parametrize(
    ("asks", "due"),
    [
        (lambda flow: flow.sleep(-300), [("sleep", 0.0)]),
        (lambda flow: flow.sleep(PAST), [("sleep", 0.0)]),
        (lambda flow: flow.signal("go", timeout=PAST), [("signal-timeout", 0.0)]),
        (lambda flow: flow.signal("go", timeout=timedelta(0)), [("signal-timeout", 0.0)]),
        (lambda flow: flow.approval("m", assign=["b"], timeout=PAST), [("approval-timeout", 0.0)]),
        (
            lambda flow: flow.approval(
                "m", assign=["b"], escalate={hours(24): ["c"]}, timeout=timedelta(0)
            ),
            [("approval-timeout", 0.0)],
        ),
        (
            lambda flow: flow.approval(
                "m", assign=["b"], escalate={PAST: ["c"], hours(1): ["d"]}, timeout=hours(2)
            ),
            [("escalation", 0.0), ("escalation", 3600.0), ("approval-timeout", 7200.0)],
        ),
    ],
)
def test_what_was_due_in_the_past_is_due_now(asks, due):
    """A time that is computed from data may be over by then: no incident."""

    async def flow(flow: Flow) -> None:
        await asks(flow)

    (opened,) = World(define(flow), REGISTRY).turn().opened
    assert [(timer.kind, timer.delay_seconds) for timer in opened.timers] == due


def test_a_stage_that_this_worker_lacks_abandons_the_turn():
    async def flow(flow: Flow) -> None:
        try:
            await flow.stage("of-another-release")
        except Exception:  # noqa: BLE001 - not even so
            return

    with pytest.raises(TurnAbandoned, match="of-another-release"):
        World(define(flow), REGISTRY).turn()


# -- how runs end --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "status", "error_type"),
    [
        (None, RunStatus.FAILED, "ActivityFailed"),
        (Fail("no budget"), RunStatus.FAILED, "Fail"),
        (ZeroDivisionError("a bug"), RunStatus.INCIDENT, "ZeroDivisionError"),
    ],
)
def test_uncaught_failures_fail_the_run_and_bugs_park_it(raised, status, error_type):
    async def flow(flow: Flow) -> None:
        try:
            await flow.stage(work)
        except ActivityFailed:
            if raised is None:
                raise
            raise raised from None

    world = World(define(flow), REGISTRY)
    world.turn()
    world.fail("work", "ValueError", "seven is not enough")
    outcome = world.turn()
    assert (outcome.status, outcome.error["type"]) == (status, error_type)


def test_a_failure_says_which_activity_failed_how_often_and_why():
    async def flow(flow: Flow) -> None:
        await flow.stage(work)

    world = World(define(flow), REGISTRY)
    world.turn()
    world.journal["work"] = replace(world.journal["work"], attempt=3)
    world.fail("work", "ValueError", "seven is not enough")
    assert (
        world.turn().error["message"]
        == "work failed after 3 attempt(s): ValueError: seven is not enough"
    )


def test_a_signal_that_never_came_fails_the_run_unless_it_is_caught():
    async def flow(flow: Flow) -> str:
        try:
            await flow.signal("go", timeout=hours(1))
        except TimeoutError as error:
            if is_careless:
                raise
            return str(error)
        return "?"

    for is_careless in (True, False):
        world = World(define(flow), REGISTRY)
        world.turn()
        world.settle("go", state=ActivityState.TIMED_OUT)
        outcome = world.turn()
        assert outcome.status is (RunStatus.FAILED if is_careless else RunStatus.COMPLETED)


def test_a_result_that_does_not_fit_its_type_parks_the_run():
    async def flow(flow: Flow) -> int:
        return "seven"  # type: ignore[return-value]

    outcome = World(define(flow), REGISTRY).turn()
    assert (outcome.status, outcome.error["type"]) == (RunStatus.INCIDENT, "PayloadError")


def test_an_input_that_does_not_fit_its_type_parks_the_run():
    async def flow(flow: Flow, value: int) -> int:
        return value

    outcome = World(define(flow), REGISTRY, input="seven").turn()
    assert outcome.status is RunStatus.INCIDENT
    assert "input of flow version 1" in outcome.error["message"]


# -- signals -------------------------------------------------------------------------------------


def test_a_signal_that_came_before_its_wait_is_consumed_once_in_order_of_arrival():
    async def flow(flow: Flow) -> list[int]:
        return [await flow.signal("n"), await flow.signal("n")]

    world = World(define(flow), REGISTRY)
    for number in (1, 2, 3):
        world.signal("n", number)
    outcome = world.turn()
    assert outcome.output == "[1,2]"
    assert [signal.payload for signal in world.signals] == [3]


@pytest.mark.parametrize("declared", [int, list[int]])
def test_a_signal_of_the_wrong_form_is_the_same_error_at_each_pass(declared):
    """At the pass that takes it, and at those that find it taken: one class, one text."""
    seen = []

    async def flow(flow: Flow) -> str:
        try:
            await flow.signal("paid", type=declared, on_unfit="raise")
        except PayloadError as error:
            seen.append((type(error), str(error)))
        await flow.signal("go")
        return "done"

    world = World(define(flow), REGISTRY)
    world.turn()
    world.signal("paid", "seven")
    world.turn()
    world.look()
    world.signal("go")
    assert world.turn().output == '"done"'
    assert len(seen) >= 3
    assert set(seen) == {(PayloadError, seen[0][1])}
    assert "signal paid doesn't fit" in seen[0][1]


def test_a_result_that_other_code_recorded_is_the_same_error_at_each_pass():
    seen = []

    async def flow(flow: Flow) -> str:
        try:
            await flow.stage(work)
        except PayloadError as error:
            seen.append((type(error), str(error)))
        await flow.signal("go")
        return "done"

    world = World(define(flow), REGISTRY)
    world.turn()
    world.settle("work", "seven")
    world.turn()
    world.signal("go")
    world.turn()
    assert len(seen) >= 2
    assert set(seen) == {(PayloadMismatch, seen[0][1])}
    assert "result of stage work doesn't fit int" in seen[0][1]


def test_two_waits_for_one_name_in_parallel_share_the_signals():
    async def flow(flow: Flow) -> list[int]:
        return await flow.gather(flow.signal("n"), flow.signal("n"))

    world = World(define(flow), REGISTRY)
    world.turn()
    world.signal("n", 1)
    assert world.turn().status is RunStatus.WAITING
    world.signal("n", 2)
    assert world.turn().output == "[1,2]"


def test_a_run_says_what_it_waits_for_people_first():
    async def flow(flow: Flow) -> None:
        await flow.gather(flow.sleep(1), flow.approval("boss", assign=["bob"]), flow.signal("go"))

    outcome = World(define(flow), REGISTRY).turn()
    assert (outcome.status, outcome.waiting_for) == (RunStatus.WAITING, "approval boss and 2 more")
