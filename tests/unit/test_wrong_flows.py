"""What an author may get wrong is an error that names the line and the remedy, as early as it can be known."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import re
import weakref
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from orchestrator import (
    ActivityFailed,
    Flow,
    Registry,
    Retry,
    RunStatus,
    approval,
    days,
    hours,
    idempotency_key,
    minutes,
    process,
    seconds,
    stage,
    step,
)
from orchestrator.core.annotations import result_type_of
from orchestrator.errors import DefinitionError, InvalidArguments
from tests.unit.replaying import World, define

REGISTRY = Registry()
HERE = re.escape(__file__)


@stage(registry=REGISTRY)
def work(number: int = 0) -> int:
    return number


@stage(registry=REGISTRY)
def store(key: str = "default", retry: int = 0) -> str:
    return f"{key} {retry}"


def double(number: int) -> int:
    return 2 * number


def upload(path: str, key: str = "default.pdf", retry: bool = False) -> str:
    return f"{path} as {key}, {retry}"


def line_of(function: Any, marker: str) -> int:
    lines, first = inspect.getsourcelines(function)
    (found,) = (first + index for index, line in enumerate(lines) if marker in line)
    return found


def parked(flow: Any, **world: Any) -> dict[str, Any]:
    outcome = World(define(flow), REGISTRY, **world).turn()
    assert outcome.status is RunStatus.INCIDENT
    return outcome.error


# -- never awaited -------------------------------------------------------------------------------


async def a_statement(flow: Flow) -> None:
    flow.stage(work, 1)  # here
    await flow.sleep(1)


async def a_name_that_nobody_reads(flow: Flow) -> None:
    handle = flow.approval("boss", assign=["bob"])  # here  # noqa: F841
    await flow.sleep(1)


async def helper(flow: Flow) -> None:
    await flow.stage(work, 1)


async def a_helper(flow: Flow) -> None:
    helper(flow)  # here
    await flow.sleep(1)


async def in_a_branch(flow: Flow) -> None:
    async def branch() -> None:
        flow.step(double, 1)  # here

    await flow.gather(branch())


@pytest.mark.parametrize(
    "flow", [a_statement, a_name_that_nobody_reads, a_helper, in_a_branch], ids=lambda f: f.__name__
)
def test_what_is_visibly_never_awaited_is_refused_where_the_process_is_defined(flow):
    with pytest.raises(DefinitionError, match=r"never awaited.*Write `await`") as refused:
        define(flow)
    assert refused.value.where == f"{__file__}:{line_of(flow, '# here')}"


def ask_for(flow: Flow, what: str) -> Any:
    match what:
        case "stage":
            return flow.stage(work, 1)
        case "step":
            return flow.step(double, 1)
        case "approval":
            return flow.approval("boss", assign=["bob"])
        case "signal":
            return flow.signal("go")
        case "sleep":
            return flow.sleep(60)
        case "gather":
            return flow.gather(flow.sleep(1), flow.sleep(2))
    raise AssertionError(what)


EVERYTHING = ["stage", "step", "approval", "signal", "sleep", "gather"]


@pytest.mark.parametrize("what", EVERYTHING)
def test_what_a_flow_asks_for_and_throws_away_is_an_incident_at_its_first_await(what):
    """Where the source doesn't show it: nothing was opened yet, and nothing is."""

    async def flow(flow: Flow) -> None:
        ask_for(flow, what)
        await flow.sleep(1, key="rest")

    error = parked(flow)
    assert error["type"] == "NeverAwaited"
    assert re.search(rf"{HERE}:\d+: the flow asked for \w+ here", error["message"])
    assert "Write `await`" in error["message"]


@pytest.mark.parametrize("what", EVERYTHING)
def test_what_a_branch_throws_away_while_others_run_is_an_incident(what):
    async def forgets(flow: Flow) -> None:
        ask_for(flow, what)
        await flow.signal("rest")

    async def waits(flow: Flow) -> None:
        await flow.sleep(1)
        await flow.signal("more")

    async def flow(flow: Flow) -> None:
        await flow.gather(waits(flow), forgets(flow), waits(flow))

    assert parked(flow)["type"] == "NeverAwaited"


@pytest.mark.parametrize("what", ["stage", "step", "gather"])
def test_a_branch_that_was_let_go_in_its_middle_has_forgotten_nothing(what):
    """A sibling's bug ended it, and the flow goes on without both."""

    async def breaks(flow: Flow) -> None:
        await flow.signal("now")
        raise ValueError("a bug")

    async def keeps(flow: Flow) -> Any:
        handle = ask_for(flow, what)
        await flow.signal("later")
        return await handle

    async def flow(flow: Flow) -> str:
        try:
            await flow.gather(flow.gather({"inner": keeps(flow)}), breaks(flow))
        except ValueError:
            return "went on"
        return "never"

    world = World(define(flow), REGISTRY)
    world.turn()
    world.signal("now")
    outcome = world.turn()
    assert (outcome.status, outcome.output) == (RunStatus.COMPLETED, '"went on"'), outcome.error


@pytest.mark.parametrize("what", EVERYTHING)
def test_what_a_flow_asks_for_right_before_its_end_and_never_awaits_is_an_incident(what):
    async def flow(flow: Flow) -> None:
        handles = [ask_for(flow, what)]
        handles.append(handles[0])

    assert parked(flow)["type"] == "NeverAwaited"


@pytest.mark.parametrize("what", ["stage", "step", "gather"])
def test_work_that_a_flow_kept_and_never_awaited_is_an_incident_at_its_end(what):
    """Whether it was done would be chance: it is handed off, and the run ends when the flow does."""

    async def flow(flow: Flow) -> int:
        handles = [ask_for(flow, what)]
        await flow.signal("end")
        return len(handles)

    world = World(define(flow), REGISTRY)
    assert world.turn().status.is_moving
    world.signal("end")
    outcome = world.turn()
    assert outcome.status is RunStatus.INCIDENT
    assert outcome.error["type"] == "NeverAwaited"


@pytest.mark.parametrize("what", ["stage", "step", "gather"])
def test_work_whose_await_an_error_has_skipped_is_not_forgotten(what):
    """It is told only on the path that fails, where an incident would help nobody."""

    async def flow(flow: Flow) -> int:
        handle = ask_for(flow, what)
        with suppress(ActivityFailed):
            await flow.stage(work, 0, key="flop")
            await handle
        return await flow.stage(work, 7, key="last")

    world = World(define(flow), REGISTRY)
    world.turn()
    world.fail("flop")
    assert world.turn().status is RunStatus.RUNNING
    world.settle("last", 7)
    outcome = world.turn()
    assert (outcome.status, outcome.output) == (RunStatus.COMPLETED, "7"), outcome.error


def test_an_error_in_a_branch_excuses_nothing_that_the_flow_itself_forgot():
    async def fails(flow: Flow) -> None:
        with suppress(ActivityFailed):
            await flow.stage(work, 0, key="flop")

    async def flow(flow: Flow) -> int:
        handles = [flow.stage(work, 1)]
        await flow.gather({"one": fails(flow)}, key="both")
        return len(handles)

    world = World(define(flow), REGISTRY)
    world.turn()
    world.fail("both/one/flop")
    outcome = world.turn()
    assert (outcome.status, outcome.error["type"]) == (RunStatus.INCIDENT, "NeverAwaited")


@pytest.mark.parametrize("what", ["approval", "signal", "sleep"])
def test_a_wait_that_a_flow_kept_and_needs_no_more_may_be_let_go(what):
    async def flow(flow: Flow) -> int:
        handles = [ask_for(flow, what)]
        await flow.signal("end")
        return len(handles)

    world = World(define(flow), REGISTRY)
    world.turn()
    world.signal("end")
    assert world.turn().status is RunStatus.COMPLETED


def test_a_helper_that_returns_early_may_let_a_kept_wait_go():
    async def both(flow: Flow) -> bool:
        first, second = (flow.approval(name, assign=["bob"]) for name in ("a", "b"))
        return (await first).approved and (await second).approved

    async def flow(flow: Flow) -> int:
        agreed = await both(flow)
        return await flow.stage(work, 1) if agreed else 0

    world = World(define(flow), REGISTRY)
    world.turn()
    world.decide("a", "rejected")
    assert world.turn().output == "0"


def test_a_flow_that_fails_may_leave_what_it_asked_for():
    async def flow(flow: Flow) -> None:
        handles = [flow.stage(work, 1)]
        await flow.signal("go", type=int)
        raise RuntimeError(len(handles))

    world = World(define(flow), REGISTRY)
    world.turn()
    world.signal("go", 1)
    assert world.turn().error["type"] == "RuntimeError"


# -- called directly -----------------------------------------------------------------------------


async def calls_a_stage(flow: Flow) -> int:
    return work(1)  # here


async def calls_a_stage_and_awaits_it(flow: Flow) -> int:
    return await work(1)  # type: ignore[misc]  # here


async def calls_step(flow: Flow) -> int:
    return step(double, 1)  # here


async def asks_for_a_key(flow: Flow) -> str | None:
    return idempotency_key()  # here


DIRECT = [calls_a_stage, calls_a_stage_and_awaits_it, calls_step, asks_for_a_key]


@pytest.mark.parametrize("flow", DIRECT, ids=lambda flow: flow.__name__)
def test_what_a_flow_visibly_calls_itself_is_refused_where_the_process_is_defined(flow):
    with pytest.raises(DefinitionError, match="again at each replay") as refused:
        define(flow)
    assert refused.value.where == f"{__file__}:{line_of(flow, '# here')}"
    assert refused.value.remedy.startswith("Write ")


@pytest.mark.parametrize(
    "call",
    [lambda: work(1), lambda: step(double, 1), lambda: str(idempotency_key())],
    ids=["stage", "step", "key"],
)
def test_what_a_flow_calls_itself_is_an_incident_before_it_is_done(call):
    done = []

    async def flow(flow: Flow) -> None:
        try:
            done.append(call())
        except Exception:  # noqa: BLE001 - it can't be caught
            done.append("caught")

    error = parked(flow)
    assert (error["type"], done) == ("CalledInFlow", [])
    assert re.search(rf"{HERE}:\d+: the flow calls", error["message"])


@pytest.mark.parametrize("is_first", [True, False], ids=["at once", "among others"])
def test_what_a_step_of_a_flow_calls_is_no_flows_code(is_first):
    """A stage's function may be a step's too. Guards the pause of the driver while a step is performed."""

    def calls() -> int:
        return work(1)

    async def alone(flow: Flow) -> int:
        return await flow.step(calls)

    async def beside_others(flow: Flow) -> list[int]:
        return await flow.gather(flow.step(calls), flow.step(calls))

    world = World(define(alone if is_first else beside_others), REGISTRY)
    assert world.turn().status is RunStatus.COMPLETED


def test_a_stage_called_in_a_finally_block_while_its_flow_is_let_go_is_an_incident_too():
    def clean_up() -> int:
        return work(1)

    async def flow(flow: Flow) -> None:
        try:
            await flow.signal("go")
        finally:
            clean_up()

    assert parked(flow)["type"] == "CalledInFlow"


def test_a_step_and_a_test_may_call_a_stage_as_the_function_that_it_is():
    def twice(number: int) -> int:
        return step(work, number) + work(number)

    async def flow(flow: Flow) -> int:
        return await flow.step(twice, 3)

    assert twice(3) == 6
    assert World(define(flow), REGISTRY).turn().output == "6"


# -- what is no stage, step, flow or approval ----------------------------------------------------


async def asynchronous(number: int = 0) -> int:
    return number


def generates(number: int = 0) -> Any:
    yield number


async def generates_later(number: int = 0) -> Any:
    yield number


class Callable:
    def __call__(self, number: int = 0) -> int:
        return number


class CallableLater:
    async def __call__(self, number: int = 0) -> int:
        return number


class Owner:
    def method(self, number: int = 0) -> int:
        return number

    async def later(self, flow: Flow) -> None: ...

    @staticmethod
    def static(number: int = 0) -> int:
        return number


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (generates, "yield.*Return a list"),
        (generates_later, "yield.*Return a list"),
        (Celery(set_as_current=False).task(asynchronous, shared=False), "awaits nothing.*itself"),
        (functools.partial(work.function, 1), "partial.*Write a function"),
        (Callable(), "an object that can be called.*Write a function"),
        (Callable, "a class.*Write a function"),
        (Owner.method, "a method.*@staticmethod"),
        (lambda: 1, "lambda has no name.*name="),
        ("work", "no function.*name="),
        (None.__class__, "a class"),
    ],
)
def test_what_cannot_be_a_stage_is_refused_where_it_is_decorated(function, says):
    with pytest.raises(DefinitionError, match=rf"(?s){says}"):
        stage(function) if isinstance(function, str) else stage(registry=Registry())(function)


def test_functions_bound_methods_and_named_lambdas_are_stages():
    registry = Registry()
    assert stage(registry=registry)(Owner().method).bind((1,), {}) == {"number": 1}
    assert stage(registry=registry, name="one")(lambda: 1)() == 1
    assert stage(registry=registry)(Owner.static)(3) == 3
    assert asyncio.run(stage(registry=registry)(asynchronous)(4)) == 4


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (generates, "yield"),
        (generates_later, "yield"),
        (5, "can't be called.*the function and its arguments apart"),
        (None, "can't be called"),
    ],
)
def test_what_cannot_be_a_step_is_refused_where_it_is_asked_for(function, says):
    async def flow(flow: Flow) -> None:
        await flow.step(function, 1)

    error = parked(flow)
    assert error["type"] == "DefinitionError"
    assert re.search(rf"(?s)flow.step.*{says}.*\(at {HERE}:\d+\)", error["message"])
    with pytest.raises(DefinitionError, match=rf"(?s)step.*{says}"):
        step(function, 1)


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (double, 2),
        (lambda number: number, 1),
        (functools.partial(double, 1), 2),
        (Owner().method, 1),
        (Callable(), 1),
        (int, 1),
        (work, 1),
    ],
)
def test_whatever_can_be_called_and_ends_in_a_value_is_a_step(function, result):
    arguments = () if isinstance(function, functools.partial) else (1,)

    async def flow(flow: Flow) -> Any:
        return await flow.step(function, *arguments)

    assert World(define(flow), REGISTRY).turn().output == str(result)


def plain(flow: Flow) -> None: ...


async def by_name(flow: Flow, *, value: int) -> None: ...


async def several(flow: Flow, *values: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (plain, "`async def`"),
        (generates_later, "without `yield`"),
        (functools.partial(helper), "partial"),
        (Owner.later, "a method"),
        (Owner, "a class"),
        (CallableLater(), "an object that can be called"),
        (by_name, "by position.*dataclass"),
        (several, "by position.*dataclass"),
    ],
)
def test_what_cannot_be_a_process_is_refused_where_it_is_decorated(function, says):
    with pytest.raises(DefinitionError, match=rf"(?s){says}"):
        define(function)


@pytest.mark.parametrize("wrong", [lambda: process(helper), lambda: process(1), process])
def test_a_process_without_its_version_is_refused_with_the_remedy(wrong):
    with pytest.raises(DefinitionError, match=re.escape("Write `@process(version=1)`")):
        wrong()


def test_a_bare_approval_is_registered_as_a_bare_stage_is():
    registry = Registry()

    def boss(request: Any) -> list[str]:
        return ["bob"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.core.decorators.default_registry", registry)
        defined = approval(boss)
    assert registry.approvals == {"boss": defined}
    assert defined(None) == ["bob"]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (asynchronous, "async def"),
        (lambda value: ["bob"], "a lambda has no name"),
        (lambda: ["bob"], "nothing else"),
        (Owner, "a class"),
    ],
)
def test_what_cannot_name_the_people_of_an_approval_is_refused(function, says):
    with pytest.raises(DefinitionError, match=says):
        approval(registry=Registry())(function)


def test_two_stages_of_one_name_are_refused_with_both_places_and_the_remedy():
    registry = Registry()

    def remind() -> None: ...

    stage(registry=registry)(remind)

    def other() -> None: ...

    other.__name__ = "remind"
    with pytest.raises(DefinitionError, match=rf"{HERE}:\d+.*{HERE}:\d+.*name='…'"):
        stage(registry=registry)(other)


# -- names of an author's own --------------------------------------------------------------------


def test_parameters_of_the_function_win_over_those_of_flow_step():
    async def flow(flow: Flow) -> list[Any]:
        return [
            await flow.step(upload, "a", key="mine.pdf"),
            await flow.step(upload, "b", retry=True),
            await flow.step(functools.partial(upload, key="c.pdf"), "c", key="of-the-journal"),
            await flow.step(double, 1, key="also-of-the-journal", retry=Retry()),
        ]

    world = World(define(flow), REGISTRY)
    assert world.turn().output == (
        '["a as mine.pdf, False","b as default.pdf, True","c as c.pdf, False",2]'
    )
    assert list(world.journal) == [
        "upload",
        "upload#2",
        "of-the-journal",
        "also-of-the-journal",
    ]


def test_parameters_of_the_stage_win_over_those_of_flow_stage():
    async def flow(flow: Flow) -> None:
        await flow.gather(flow.stage(store, key="mine", retry=3), flow.stage(work, 1, key="named"))

    outcome = World(define(flow), REGISTRY).turn()
    assert [(each.request.key, each.input) for each in outcome.opened] == [
        ("store", '{"key":"mine","retry":3}'),
        ("named", '{"number":1}'),
    ]


@pytest.mark.parametrize(
    "asks",
    [
        lambda flow: flow.step(double, 1, retry=3),
        lambda flow: flow.step(double, 1, key=7),
        lambda flow: flow.stage(work, 1, key=7),
        lambda flow: flow.gather([flow.sleep(1)]),
        lambda flow: flow.gather(flow.sleep(1) for _ in range(2)),
        lambda flow: flow.sleep_until(timedelta(days=1)),
    ],
)
def test_an_argument_of_flows_own_that_is_wrong_is_an_incident_with_its_line(asks):
    async def flow(flow: Flow) -> None:
        await asks(flow)

    error = parked(flow)
    assert error["type"] == "DefinitionError"
    assert re.search(rf"Give|Keys|Unpack.*\(at {HERE}:\d+\)", error["message"])


# -- asyncio -------------------------------------------------------------------------------------


async def sleeps(flow: Flow) -> None:
    await asyncio.sleep(1)  # here


async def gathers(flow: Flow) -> None:
    await asyncio.gather(flow.sleep(1), flow.sleep(2))  # here


async def waits(flow: Flow) -> None:
    await asyncio.wait_for(flow.sleep(1), 3)  # here


@pytest.mark.parametrize("flow", [sleeps, gathers, waits], ids=lambda flow: flow.__name__)
def test_a_flow_that_visibly_awaits_asyncio_is_refused_where_it_is_defined(flow):
    with pytest.raises(
        DefinitionError, match=r"no event loop.*flow\.sleep, flow\.gather"
    ) as refused:
        define(flow)
    assert refused.value.where == f"{__file__}:{line_of(flow, '# here')}"


def a_future() -> Any:
    loop = asyncio.new_event_loop()
    try:
        return loop.create_future()
    finally:
        loop.close()


@pytest.mark.parametrize(
    "foreign",
    [
        lambda: asyncio.sleep(1),
        lambda: asyncio.sleep(0),
        lambda: asyncio.to_thread(double, 1),
        lambda: f"{asyncio.get_running_loop()}",
        lambda: asyncio.Event().wait(),
        a_future,
    ],
    ids=["sleep", "sleep(0)", "to_thread", "loop", "event", "future"],
)
def test_what_needs_an_event_loop_is_an_incident_with_the_line_and_the_remedy(foreign):
    async def flow(flow: Flow) -> None:
        await foreign()

    error = parked(flow)
    assert re.search(rf"\(at {HERE}:\d+\)", error["message"])
    assert "Await flow.stage, flow.step, flow.sleep" in error["message"]


# -- durations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("duration", [timedelta(minutes=2), 120, 120.0, minutes(2), seconds(120)])
def test_durations_are_taken_alike_everywhere(duration):
    async def flow(flow: Flow) -> None:
        await flow.gather(
            flow.sleep(duration),
            flow.signal("go", timeout=duration),
            flow.approval("boss", assign=["bob"], escalate={duration: ["ann"]}, timeout=hours(1)),
            flow.approval("chief", assign=["bob"], escalate={60: ["ann"]}, timeout=duration),
        )

    defined = define(flow, expires_after=duration)
    opened = World(defined, REGISTRY).turn().opened
    assert [[timer.delay_seconds for timer in each.timers] for each in opened] == [
        [120.0],
        [120.0],
        [120.0, 3600.0],
        [60.0, 120.0],
    ]
    retry = Retry(delay_seconds=duration, max_delay_seconds=duration)
    assert (retry.delay_seconds, retry.max_delay_seconds) == (120.0, 120.0)
    assert stage(registry=Registry(), timeout_seconds=duration)(double).timeout_seconds == 120.0
    assert defined.expires_after_seconds == 120.0


@pytest.mark.parametrize("duration", ["60", True, [60], object()])
@pytest.mark.parametrize(
    "takes",
    [
        lambda value: Retry(delay_seconds=value),
        lambda value: Retry(max_delay_seconds=value),
        lambda value: stage(registry=Registry(), timeout_seconds=value)(double),
        lambda value: define(helper, expires_after=value),
    ],
)
def test_what_is_no_duration_is_refused_where_it_is_given(takes, duration):
    with pytest.raises(DefinitionError, match=r"is given .*Give a timedelta"):
        takes(duration)


@pytest.mark.parametrize("wrong", [hours, days, minutes, seconds])
@pytest.mark.parametrize("number", ["2", float("inf"), float("nan"), 1e300, None])
def test_what_is_no_number_of_hours_is_refused(wrong, number):
    with pytest.raises(DefinitionError, match=f"{wrong.__name__}.* is no duration"):
        wrong(number)


@pytest.mark.parametrize(
    "asks",
    [
        lambda flow: flow.sleep("60"),
        lambda flow: flow.signal("go", timeout="60"),
        lambda flow: flow.approval("boss", assign=["bob"], timeout="60"),
        lambda flow: flow.approval("boss", assign=["bob"], escalate={"60": ["ann"]}),
    ],
)
def test_what_is_no_duration_is_an_incident_of_its_flow_that_names_the_line(asks):
    async def flow(flow: Flow) -> None:
        await asks(flow)

    assert re.search(rf"Give a timedelta.*\(at {HERE}:\d+\)", parked(flow)["message"])


# -- arguments from data -------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"unknown": 1}, {"number": "seven"}, {"number": object()}])
def test_arguments_that_a_stage_does_not_take_can_be_caught_the_same_on_every_replay(given):
    """As an agent's are, say: the flow tells it, and goes on."""
    met = []

    async def flow(flow: Flow) -> int:
        try:
            return await flow.stage(work, **given)
        except InvalidArguments as error:
            met.append(str(error))
        return await flow.stage(work, 1)

    world = World(define(flow), REGISTRY)
    assert [each.request.key for each in world.turn().opened][-1].startswith("work")
    world.settle(next(iter(world.journal)), 1)
    assert world.turn().output == "1"
    assert len(set(met)) == 1
    assert len(met) == 2


def test_arguments_that_nobody_catches_park_the_run_with_the_line():
    async def flow(flow: Flow) -> int:
        return await flow.stage(work, unknown=1)

    error = parked(flow)
    assert error["type"] == "InvalidArguments"
    assert re.search(
        rf"stage 'work' can't be called so: .*'unknown'.*\(at {HERE}:\d+\)", error["message"]
    )


# -- memory --------------------------------------------------------------------------------------


@dataclass
class Large:
    payload: bytes


def test_a_function_that_was_a_step_is_not_kept_with_what_it_closes_over():
    large = Large(b"x" * 1_000)
    gone = weakref.ref(large)

    def closes_over(large: Large) -> Any:
        def size() -> int:
            return len(large.payload)

        return size

    async def flow(flow: Flow) -> int:
        return await flow.step(closes_over(held.pop()))

    held = [large]
    assert World(define(flow), REGISTRY).turn().output == "1000"
    assert result_type_of(closes_over(large)) is int
    del large
    gc.collect()
    assert gone() is None
