"""Each thing that a flow may await, on the tester: as it is, evicted at each await, and with every message twice.

One table has a case for each kind of `core/kinds` and for each method of `Flow`. A kind or a method without a case
fails the two tests at the end: so a new one can't forget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from types import CodeType
from typing import Any, Self
from unittest.mock import ANY, patch

import pytest
from sqlalchemy import text

from orchestrator import (
    BlockTimedOut,
    CallbackToken,
    Fail,
    Flow,
    Process,
    Registry,
    RunStatus,
    WhyCompleted,
    days,
    hours,
    minutes,
    process,
    stage,
)
from orchestrator.core.kinds import KINDS, Sleep
from orchestrator.core.views import RunView
from orchestrator.engine import turn
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.testing import ProcessTester
from orchestrator.testing import tester as tester_module
from tests.modes import EVICT, NORMAL, TWICE, Leaving, Mode, leaving_early

registry = Registry()
MONDAY = datetime(2031, 1, 6, 9, tzinfo=UTC)
calls: Counter[str] = Counter()
tokens: list[str] = []


class ModalTester(ProcessTester):
    """A tester in one of the modes (tests/modes.py)."""

    def __init__(self, mode: Mode, registry: Registry = registry) -> None:
        super().__init__(registry=registry, now=MONDAY)
        self.mode = mode
        self._mode = ExitStack()

    def __enter__(self) -> Self:
        super().__enter__()
        if self.mode.leaves_early:
            leave = leaving_early(lambda run: self._inbox.hand_off([Handoff.advance(run, None)]))
            self._mode.enter_context(patch.object(turn, "Replay", partial(Leaving, leave)))
        if self.mode.delivers_twice:
            fire = tester_module.fire
            self._mode.enter_context(
                patch.object(tester_module, "fire", lambda *timer: [*fire(*timer), *fire(*timer)])
            )
        return self

    def __exit__(self, *exception: object) -> None:
        self._mode.close()
        super().__exit__(*exception)

    @contextmanager
    def unspoilt(self) -> Iterator[None]:
        """A case that fails leaves nothing to the next one."""
        try:
            yield
        except BaseException:
            self._inbox.handoffs.clear()
            for table in ("outbox", "timer"):
                with self.database.begin() as connection:
                    connection.execute(text(f"DELETE FROM perennial.{table}"))
            raise

    def _do(self, handoff: Handoff) -> None:
        for _ in range(2 if self.mode.delivers_twice else 1):
            super()._do(handoff)


# -- what the flows call -------------------------------------------------------------------------


@stage(registry=registry)
def double(number: int) -> int:
    calls["double"] += 1
    return number * 2


@stage(registry=registry)
async def triple(number: int) -> int:
    calls["triple"] += 1
    return number * 3


@stage(registry=registry)
def ask_bank(token: CallbackToken, amount: int) -> int:
    calls["ask bank"] += 1
    tokens.append(token.secret)
    return amount


@stage(registry=registry)
def look_up(seen: int) -> int:
    calls["look up"] += 1
    return seen + 1


def halve(number: int) -> int:
    calls["halve"] += 1
    return number // 2


# -- the cases -----------------------------------------------------------------------------------


def nothing(_tester: ModalTester, run: RunView) -> RunView:
    return run


@dataclass
class Case:
    """A flow, what the world does to its run, and what must come of it.

    `kinds`: of the activities in its journal. `called`: how often each function is, in any mode.
    """

    process: Process
    kinds: set[str]
    result: Any
    world: Callable[[ModalTester, RunView], RunView | None] = nothing
    called: dict[str, int] = field(default_factory=dict)
    ends: RunStatus = RunStatus.COMPLETED


CASES: dict[str, Case] = {}


def case(*kinds: str, result: Any, world: Any = nothing, **called: int) -> Callable[[Any], None]:
    def note(flow: Any) -> None:
        made = process(version=1, registry=registry)(flow)
        times = {name.replace("_", " "): count for name, count in called.items()}
        CASES[flow.__name__] = Case(made, set(kinds), result, world, times)

    return note


@case("stage", result=42, double=1)
async def a_stage(flow: Flow) -> int:
    return await flow.stage(double, 21)


@case("stage", result=63, triple=1)
async def an_async_stage(flow: Flow) -> int:
    return await flow.stage(triple, 21)


@case("step", result=5, halve=2)
async def a_step(flow: Flow) -> int:
    return await flow.step(halve, await flow.step(halve, 20))


@case("sleep", result="2031-01-13", world=lambda tester, _: tester.advance_time(days(7)))
async def a_sleep(flow: Flow) -> str:
    await flow.sleep(days(1))
    await flow.sleep_until(datetime(2031, 1, 13, 9, tzinfo=UTC))
    return flow.now.date().isoformat()


def signals_come(tester: ModalTester, run: RunView) -> None:
    tester.signal(run, "later", 2)  # buffered: its wait comes after
    tester.signal(run, "paid", 1, signal_id="bank-1")
    tester.signal(run, "paid", 7, signal_id="bank-1")
    tester.advance_time(hours(1))


@case("signal", result=[1, 2, "nobody"], world=signals_come)
async def a_signal(flow: Flow) -> list[Any]:
    paid = await flow.signal("paid", type=int)
    later = await flow.signal("later", type=int, timeout=days(1))
    return [paid, later, await flow.signal("never", timeout=minutes(1), default="nobody")]


def sent_by_key(tester: ModalTester, _run: RunView) -> None:
    for _ in range(2):
        tester.client.signal(correlation="INV-1", name="paid", payload=90, signal_id="bank-7")


@case("signal", result=90, world=sent_by_key)
async def a_signal_by_key(flow: Flow) -> int:
    return await flow.signal("paid", type=int, correlation="INV-1", timeout=days(30))


def readings(tester: ModalTester, run: RunView) -> None:
    for reading in (3, 4):
        tester.signal(run, "reading", reading)
    tester.advance_time(hours(1))


@case("signal", result=[3, 4], world=readings)
async def many_signals(flow: Flow) -> list[int]:
    return [each async for each in flow.signals("reading", type=int, timeout=minutes(10))]


def stopped(tester: ModalTester, run: RunView) -> None:
    tester.advance_time(hours(1.5))
    tester.signal(run, "stop")
    tester.advance_time(hours(1))


@case("peek", "sleep", result=2, world=stopped)
async def a_peek(flow: Flow) -> int:
    done = 0
    while not flow.peek("stop"):
        await flow.sleep(hours(1))
        done += 1
    return done


def bank_answers(tester: ModalTester, _run: RunView) -> None:
    tester.heartbeat(tokens[-1])
    tester.complete(tokens[-1], {"amount": 90})
    tester.advance_time(hours(1))


@case(*("callback", "stage", "sleep"), result=90, world=bank_answers, ask_bank=1)
async def a_callback_before_it_is_awaited(flow: Flow) -> int:
    promised = flow.callback("payment", type=dict[str, int], timeout=days(1), heartbeat=hours(2))
    await flow.stage(ask_bank, promised.token, 90)
    await flow.sleep(minutes(30))
    return (await promised)["amount"]


@case("callback", "stage", result={"amount": 90}, world=bank_answers, ask_bank=1)
async def a_call_back(flow: Flow) -> Any:
    return await flow.call_back("payment", ask_bank, 90, timeout=days(1))


@case(*("poll", "stage"), result=3, world=lambda t, _: t.advance_time(minutes(20)), look_up=3)
async def a_poll(flow: Flow) -> int:
    return await flow.poll(look_up, state=0, until=lambda seen: seen == 3, every=minutes(10))


@case(
    *("sleep", "step", "missed", "stage"),
    result=[0, 2],
    world=lambda tester, _: tester.advance_time(days(21)),
    double=2,
)
async def moments(flow: Flow) -> list[int]:
    """A week's work outlasts two moments; then the series has ended."""
    missed = []
    async for due in flow.every(days(2), until=flow.now + days(9)):
        missed.append(due.missed)
        await flow.stage(double, due.missed)
        await flow.sleep(days(7))
    return missed


def decided(tester: ModalTester, run: RunView) -> None:
    tester.advance_time(hours(2))
    tester.approve(run, "boss", by="cleo", comment="fine")
    tester.advance_time(days(2))


@case("approval", result=["cleo", "fine", "timed_out"], world=decided)
async def an_approval(flow: Flow) -> list[Any]:
    first = await flow.approval("boss", assign=["ann"], escalate={hours(1): ["cleo"]})
    last = await flow.approval("board", assign=["bob"], timeout=days(1))
    return [first.by, first.reason, last.outcome]


@case(
    *("timeout", "signal", "step"),
    result=["late", 1],
    world=lambda tester, _: tester.advance_time(hours(1)),
    halve=1,
)
async def a_timeout(flow: Flow) -> list[Any]:
    cleaned = 0
    try:
        with flow.timeout(hours(1)):
            try:
                await flow.signal("never")
            finally:
                cleaned = await flow.step(halve, 2)
    except BlockTimedOut:
        return ["late", cleaned]
    return ["in time", cleaned]


async def a_part(flow: Flow, number: int) -> int:
    doubled = await flow.stage(double, number)
    await flow.sleep(minutes(1))
    return doubled


@case(
    *("scope", "stage", "sleep"),
    result=[2, 4, 6],
    world=lambda tester, _: tester.advance_time(hours(1)),
    double=3,
)
async def a_scope(flow: Flow) -> list[int]:
    with flow.scope("first"):
        one = await a_part(flow, 1)
    two = await flow.scope("second", a_part, flow, 2)
    return [one, two, await flow.scope("third", a_part, flow, 3, record=True)]


@case("stage", "step", result=[2, 6, 5], double=1, triple=1, halve=1)
async def a_gather(flow: Flow) -> list[int]:
    return await flow.gather(flow.stage(double, 1), flow.stage(triple, 2), flow.step(halve, 10))


def accepted(tester: ModalTester, run: RunView) -> None:
    tester.signal(run, "accepted", 7)
    tester.advance_time(days(30))


@case("signal", "sleep", "approval", "step", result=["accepted", 7, 4], world=accepted, halve=1)
async def a_race(flow: Flow) -> list[Any]:
    cleaned: list[int] = []

    async def cleans_up() -> None:
        try:
            await flow.sleep(days(20))
        finally:
            cleaned.append(await flow.step(halve, 8))

    race = await flow.first(
        {
            "accepted": flow.signal("accepted", type=int),
            "late": flow.sleep(days(14)),
            "board": flow.approval("board", assign=["bob"]),
            "own": cleans_up(),
        }
    )
    return [race.name, race.value, *cleaned]


@case("stage", result=[[2, 4, 6], "all have ended"], double=3)
async def a_map(flow: Flow) -> list[Any]:
    results = await flow.map(double, [1, 2, 3], max_concurrency=2)
    return [results.values, str(results.why)]


@case("stage", "signal", result=[[4], "enough have succeeded", 2], double=1)
async def branches_side_by_side(flow: Flow) -> list[Any]:
    results = await flow.parallel([flow.signal("never"), flow.stage(double, 2)], min_successful=1)
    assert results.why is WhyCompleted.ENOUGH
    return [results.values, str(results.why), results.started]


@case("stage", "step", result=["Fail", 8], double=4, triple=1, halve=1)
async def a_block_that_is_undone(flow: Flow) -> list[Any]:
    """What is done in it is doubled when it is undone."""
    try:
        async with flow.undo() as undo:
            undone = await flow.stage(triple, 1, compensate=double)
            undone += await flow.step(halve, 10, compensate=double)
            undo.add(double, 5)
            undo.add(double, number=6)
            raise Fail("undo it")  # noqa: TRY301 - as an author writes it
    except Fail as error:
        return [type(error).__name__, undone]


@case("stage", "sleep", result=True, world=lambda t, _: t.advance_time(hours(1)), double=1)
async def ids_and_chance(flow: Flow) -> bool:
    """They are a stage's arguments, which are compared at each replay."""
    drawn = flow.uuid(), flow.uuid("order"), flow.random(), flow.random("sample")
    await flow.sleep(minutes(1))
    await flow.stage(double, sum(hash(each) for each in drawn) % 1_000_000)
    return len({*drawn}) == 4


@case("patch", "stage", result="new", double=1)
async def a_patch(flow: Flow) -> str:
    if flow.patched("doubled"):
        await flow.stage(double, 1)
        return "new"
    return "former"


@case("sleep", result=None, world=lambda tester, _: tester.advance_time(hours(1)))
async def a_kind_by_its_name(flow: Flow) -> None:
    await flow.ask(Sleep(delay_seconds=60.0), "nap")


def cancelled(tester: ModalTester, run: RunView) -> RunView:
    tester.cancel(run, compensate=True)
    tester.advance_time(hours(1))
    return tester.get(run)


@case(
    *("cancellation", "clean-up", "stage", "signal"),
    result=None,
    world=cancelled,
    double=1,
    triple=1,
)
async def a_cancellation(flow: Flow) -> None:
    """Its clean-up waits for ever, and what was done is undone when that has had its time."""
    await flow.stage(triple, 1, compensate=double)
    try:
        await flow.signal("never")
    finally:
        await flow.signal("never", key="nor-ever")


CASES["a_cancellation"].ends = RunStatus.CANCELLED


def copied(tester: ModalTester, run: RunView) -> RunView:
    forked = tester.client.operations.fork(run, at="sleep", by="ann")
    tester.advance_time(hours(1))
    assert tester.result(run) == tester.result(forked.new_run_id)
    return tester.get(forked.new_run_id)


def asked(tester: ModalTester, run: RunView) -> None:
    assert tester.client.query(run, "order") == 7
    assert tester.get(run).status_text == "waits for its payment"
    assert [each.id for each in tester.client.list(where={"order": 7})] == [run.id]
    tester.signal(run, "paid")
    assert tester.client.query(run, "order") == 8


@case("signal", result=None, world=asked)
async def what_it_says(flow: Flow) -> None:
    flow.attributes(order=7)
    flow.status("waits for its payment")
    await flow.signal("paid")
    flow.attributes(order=8)


@case("signal", result=[2, "b"], world=lambda tester, run: tester.signal(run, "on", "b"))
async def in_chapters(flow: Flow, chapter: int | None) -> list[Any]:
    if chapter is None:
        await flow.sleep(0)
        return await flow.continue_as_new(2)
    return [chapter, await flow.signal("on")]


@case("origin", "stage", "sleep", result=ANY, world=copied, double=1)
async def a_copy(flow: Flow) -> str:
    """The copy's world has said that its result is that of its origin."""
    await flow.stage(double, flow.uuid("order").int % 1000)
    await flow.sleep(minutes(1))
    return str(flow.uuid("order"))


@process(version=1, registry=registry)
async def doubling(flow: Flow, number: int) -> int:
    """A child."""
    if number < 0:
        await flow.signal("never")
    return await flow.stage(double, number)


@case("child", result=[4, [6, 8]], double=3)
async def children(flow: Flow) -> list[Any]:
    first = await flow.child(doubling, 2)
    return [first, await flow.gather(*(flow.child(doubling, n, name=f"n{n}") for n in (3, 4)))]


def both_end(tester: ModalTester, run: RunView) -> RunView:
    run = tester.get(run)
    assert [tester.get(each).status for each in run.output] == ["cancelled", "waiting"]
    tester.client.cancel(run.output[1], by="ann")
    return run


@case("child", result=ANY, world=both_end)
async def children_that_are_not_awaited(flow: Flow) -> list[str]:
    ends = await flow.start_child(doubling, -1, key="ends", on_parent_end="cancel")
    return [str(ends), str(await flow.start_child(doubling, -2))]


# -- the tests -----------------------------------------------------------------------------------

LEFT_OVER = """
SELECT (SELECT count(*) FROM perennial.activity a WHERE a.run_id = r.id AND a.settled_at IS NULL) AS activities,
    (SELECT count(*) FROM perennial.timer t WHERE t.run_id = r.id AND t.state = 'armed') AS timers,
    (SELECT count(*) FROM perennial.approval p WHERE p.run_id = r.id AND p.state = 'open') AS approvals,
    (SELECT count(*) FROM perennial.outbox o WHERE o.run_id = r.id) AS handoffs
FROM perennial.run r WHERE r.id = :id
"""


@pytest.fixture(scope="module", params=[NORMAL, EVICT, TWICE], ids=lambda mode: mode.name)
def tester(request: pytest.FixtureRequest) -> Iterator[ModalTester]:
    with ModalTester(request.param) as tester:
        yield tester


@pytest.mark.parametrize("name", CASES)
def test_each_comes_to_its_end_in_each_mode(tester: ModalTester, name: str) -> None:
    """Its result, its functions called once, its journal's kinds, and nothing left open."""
    each = CASES[name]
    calls.clear()
    with tester.unspoilt():
        run = tester.start(each.process)
        assert run.status.is_closed or run.waits, "a run that waits says for what"
        run = each.world(tester, run) or tester.get(run)
        assert run.status is each.ends
        if each.ends is RunStatus.COMPLETED:
            assert tester.result(run) == each.result
    assert calls == each.called
    with tester.database.connect() as connection:
        journal = connection.execute(
            text("SELECT DISTINCT kind FROM perennial.activity WHERE run_id = :id"), {"id": run.id}
        )
        assert {row.kind for row in journal} == each.kinds
        left = connection.execute(text(LEFT_OVER), {"id": run.id}).one()
    assert not any(left), left


def test_each_registered_kind_has_a_case() -> None:
    ours = {str(kind) for kind, ask in KINDS.items() if ask.__module__.startswith("orchestrator.")}
    assert set().union(*(each.kinds for each in CASES.values())) == ours


def test_each_method_of_flow_has_a_case() -> None:
    methods = {
        name for name in dir(Flow) if not name.startswith("_") and callable(getattr(Flow, name))
    }
    called = set().union(*(names_in(each.process.flow.__code__) for each in CASES.values()))
    assert methods - called == set()


def names_in(code: CodeType) -> set[str]:
    """What it names, and what is defined in it."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*map(names_in, inner))
