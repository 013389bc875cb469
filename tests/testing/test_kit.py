"""The kit for tests of authors: stand-ins, crashes, always-replay, doubled messages, looking, and time by itself."""

from __future__ import annotations

import itertools
import logging
import random
import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from orchestrator import (
    ActivityFailed,
    CallbackToken,
    Fail,
    Flow,
    PayloadError,
    Registry,
    Retry,
    RunStatus,
    days,
    hours,
    minutes,
    process,
    seconds,
    stage,
    step,
)
from orchestrator.errors import RunFailed
from orchestrator.testing import (
    FlowNotPure,
    ProcessTester,
    StandInFailed,
    TesterError,
    crashes_at_each_await,
)

log = logging.getLogger(__name__)
registry = Registry()
MONDAY = datetime(2024, 1, 1, 9, tzinfo=UTC)
done: list[str] = []
letters: list[str] = []


def charge_card(amount: int) -> str:
    done.append("charged")
    return f"receipt of {amount}"


async def book_page(amount: int) -> int:
    done.append("booked")
    return amount


@stage(registry=registry, retry=Retry(max_attempts=3, delay_seconds=60), timeout_seconds=30)
def charge(amount: int) -> str:
    receipt = step(charge_card, amount)
    done.append("stage")
    return receipt


@stage(registry=registry)
def ship(receipt: str, token: CallbackToken | None = None) -> str:
    if token is not None:
        letters.append(token.secret)
    return f"shipped for {receipt}"


@process(version=1, registry=registry)
async def order(flow: Flow, amount: int) -> str:
    try:
        receipt = await flow.stage(charge, amount)
    except ActivityFailed as failed:
        return f"{failed.error_type} after {failed.attempts}"
    await flow.step(book_page, amount)
    return await flow.stage(ship, receipt)


@process(version=1, registry=registry)
async def small_order(flow: Flow, amount: int) -> str:
    receipt = await flow.stage(charge, amount)
    await flow.step(book_page, amount)
    return receipt


@process(version=1, registry=registry)
async def purchase(flow: Flow, amount: int) -> str:
    """Each kind of wait, once."""
    boss = await flow.approval("boss", assign=["ann"], timeout=days(3))
    if not boss.approved:
        raise Fail(boss.reason or "too late")
    receipt = await flow.stage(charge, amount)
    await flow.sleep(hours(2))
    await flow.step(book_page, amount)
    paid = flow.callback("paid", type=int)
    shipped, colour = await flow.gather(
        flow.stage(ship, receipt, paid.token), flow.signal("colour", type=str)
    )
    return f"{shipped}, {colour}, {await paid}"


@pytest.fixture
def tester():
    done.clear()
    letters.clear()
    with ProcessTester(registry=registry, now=MONDAY) as tester:
        yield tester


def test_a_stage_returns_what_the_test_says_and_its_calls_are_seen(tester):
    tester.returns(charge, "receipt-7")
    run = tester.start(order, 30)
    assert tester.result(run) == "shipped for receipt-7"
    (call,) = tester.calls(charge)
    assert (call.arguments, call.run_id, call.key, call.attempt) == (
        {"amount": 30},
        run.id,
        "charge",
        1,
    )
    assert [call.arguments for call in tester.calls("ship")] == [{"receipt": "receipt-7"}]
    assert [call.arguments for call in tester.calls(book_page)] == [{"amount": 30}]
    tester.real(charge)
    assert tester.result(tester.start(order, 5)) == "shipped for receipt of 5"


def test_steps_have_stand_ins_too_in_a_stage_and_in_a_flow(tester):
    tester.returns(charge_card, "receipt-8")
    tester.does(book_page, lambda amount: done.append(f"stood in for {amount}") or 0)
    assert tester.result(tester.start(order, 30)) == "shipped for receipt-8"
    assert done == ["stage", "stood in for 30"]


def test_a_stage_fails_as_often_as_the_test_says_and_is_tried_again_as_it_would_be(tester):
    tester.fail(charge, times=2)
    run = tester.start(order, 30)
    assert tester.get(run).failures[0].type == "StandInFailed"
    tester.advance_time(minutes(1))
    assert len(tester.calls(charge)) == 2
    tester.run_to_the_end(run)
    assert tester.result(run) == "shipped for receipt of 30"
    assert tester.now == MONDAY + minutes(1 + 2)


def test_a_stage_fails_for_good_with_the_error_of_the_tests_choice(tester):
    tester.fail(charge, Fail("the card is stolen"))
    assert tester.result(tester.start(order, 30)) == "Fail after 1"
    tester.fail(charge, ConnectionError)
    run = tester.run_to_the_end(tester.start(order, 30))
    assert tester.result(run) == "ConnectionError after 3"
    tester.fail(ship)
    broken = tester.start(order, 30)
    tester.real(charge)
    tester.run_to_the_end(broken)
    tester.fail(ship, Fail)
    failed = tester.run_to_the_end(tester.start(order, 1))
    with pytest.raises(RunFailed) as raised:
        tester.result(failed)
    assert isinstance(raised.value.__cause__, Fail)
    assert StandInFailed.__module__ == "orchestrator.testing.errors"


def test_a_stage_runs_over_its_time_as_on_a_fleet(tester):
    tester.time_out(charge, times=3)
    run = tester.start(order, 30)
    assert tester.get(run).failures[0].message == "attempt 1 of charge overran its timeout of 30 s"
    tester.run_to_the_end(run)
    assert tester.result(run) == "StageTimedOut after 3"
    assert done == []


@pytest.mark.parametrize("during", [charge, charge_card, book_page])
def test_a_worker_dies_in_it_and_it_goes_on_as_on_a_fleet(tester, during):
    """What was recorded isn't done again; what wasn't is, and the clock has moved by what a fleet takes to see it."""
    tester.crash(during=during)
    run = tester.start(order, 30)
    tester.run_to_the_end(run)
    assert tester.result(run) == "shipped for receipt of 30"
    assert (
        done
        == {
            charge: ["charged", "stage", "stage", "booked"],
            charge_card: ["charged", "charged", "stage", "booked"],
            book_page: ["charged", "stage", "booked", "booked"],
        }[during]
    )
    assert tester.now > MONDAY
    assert [entry.actor for entry in tester.history(run)].count("recovery") == 1


def test_what_makes_no_sense_is_refused_with_what_to_write(tester):
    with pytest.raises(TesterError, match="no stage is called 'chrage'; there are: charge, ship"):
        tester.fail("chrage")
    with pytest.raises(TesterError, match="neither a stage nor a step"):
        tester.returns(7, 7)
    with pytest.raises(TesterError, match="times=0 would never happen"):
        tester.fail(charge, times=0)
    with pytest.raises(TesterError, match="step charge-card has no timeout to run over: say"):
        tester.time_out(charge_card)
    with pytest.raises(PayloadError, match="result of stage charge"):
        tester.returns(charge, 7)
    with pytest.raises(TesterError, match="the first place is 1"):
        ProcessTester(crash_at=0)


def test_time_moves_by_itself_to_the_next_timer(tester):
    run = tester.start(purchase, 30)
    (deadline,) = tester.timers(run)
    assert (deadline.key, deadline.due_at) == ("boss", MONDAY + days(3))
    assert tester.advance_to_next() == deadline
    assert tester.now == MONDAY + days(3)
    assert tester.get(run).status is RunStatus.FAILED
    assert tester.advance_to_next() is None
    assert tester.now == MONDAY + days(3)


def test_the_end_does_not_come_by_time_alone_and_the_test_is_told_what_is_missing(tester):
    run = tester.approve(tester.start(purchase, 30), by="ann")
    with pytest.raises(
        TesterError, match=r"waits for .*signal 'colour'.*Approve, signal, complete"
    ):
        tester.run_to_the_end(run)
    assert tester.now == MONDAY + hours(2)


def test_the_record_is_there_to_be_looked_at(tester):
    run = tester.start(purchase, 30, attributes={"customer": "C-1"})
    assert run.attributes == {"customer": "C-1"}
    tester.signal(run, "colour", "red", signal_id="1")
    (asked,) = tester.approvals(run, assignee="ann")
    assert (asked.name, asked.deadline) == ("boss", MONDAY + days(3))
    assert [(each.name, each.payload, each.taken_by) for each in tester.signals(run)] == [
        ("colour", "red", None)
    ]
    tester.approve(run, by="ann")
    assert [timer.due_at for timer in tester.timers()] == [MONDAY + hours(2)]
    tester.advance_time(hours(2))
    lines = {line.key: line for line in tester.journal(run)}
    assert [*lines] == [
        "boss",
        "charge",
        "charge/charge-card",
        "sleep",
        "book-page",
        "paid",
        "ship",
        "colour",
    ]
    assert (lines["charge"].result, lines["charge"].input) == ("receipt of 30", {"amount": 30})
    assert lines["charge/charge-card"].within == "charge"
    assert tester.signals(run)[0].taken_by == "colour"
    tester.complete(letters[-1], 9)
    assert tester.result(run) == "shipped for receipt of 30, red, 9"


PLACES = 12
"""Around three commits of a turn, after a claim and a hold, and around a stage's step and a flow's."""
REPEATS = ("before remember_step", "before remember_flow_step")
"""Where a step is done, and not recorded: once more, with the same idempotency key."""


def live(tester: ProcessTester) -> str:
    """A whole life of `purchase`, for each mode."""
    done.clear()
    letters.clear()
    run = tester.start(purchase, 30)
    tester.advance_time(hours(1))
    tester.signal(run, "colour", "red", signal_id="1")
    tester.approve(run, by="ann")
    tester.advance_time(hours(3))
    tester.complete(letters[-1], 9)
    return tester.result(run)


@pytest.mark.parametrize("options", [{"always_replay": True}, {"doubled": True}])
def test_no_outcome_changes_in_a_mode(options):
    with ProcessTester(registry=registry, now=MONDAY, **options) as tester:
        assert live(tester) == "shipped for receipt of 30, red, 9"
        assert done == ["charged", "stage", "booked"]
        assert tester.now == MONDAY + hours(4)


def test_no_outcome_changes_when_the_worker_dies_at_any_place():
    """One pass as it is, and one for each place where it writes: whatever is recorded isn't done again."""
    passes, places = 0, ()
    for tester in crashes_at_each_await(registry=registry, now=MONDAY):
        done.clear()
        run = tester.run_to_the_end(tester.start(small_order, 30))
        assert tester.result(run) == "receipt of 30"
        assert done.count("charged") + done.count("booked") == 2 + (
            tester.places[passes - 1] in REPEATS
        )
        assert (tester.now > MONDAY) == (passes > 0)
        passes, places = passes + 1, places or tester.places
    assert (passes, len(places)) == (1 + PLACES, PLACES), " ".join(places)


def test_a_flow_that_is_not_pure_is_found_out_when_it_is_always_replayed():
    count = itertools.count(1)

    own = Registry()

    @process(version=1, registry=own)
    async def counting(flow: Flow) -> None:
        await flow.sleep(seconds(next(count)), key="nap")

    with (
        ProcessTester(registry=own, always_replay=True) as tester,
        pytest.raises(FlowNotPure, match=r"process counting .*nap.*take the time from flow.now"),
    ):
        tester.start(counting)


def test_crashes_at_each_await_needs_something_to_crash():
    with pytest.raises(TesterError, match="start a run of the tester"):
        for _tester in crashes_at_each_await(registry=registry):
            pass


IMPURE = {
    "datetime.now": (lambda: datetime.now(UTC), "flow.now"),
    "random.randint": (lambda: random.randint(1, 2), r"flow.random\(\)"),
    "uuid.uuid4": (lambda: str(uuid4()), "flow.uuid"),
    "time.sleep": (lambda: time.sleep(0), "flow.sleep"),
}


@pytest.mark.parametrize("name", IMPURE)
def test_what_a_flow_reads_of_the_world_is_named_with_its_line_and_the_remedy(name):
    """Also where it makes no difference to what the flow asks for; and a step may do it."""
    own, (read, remedy) = Registry(), IMPURE[name]

    @process(version=1, registry=own)
    async def curious(flow: Flow, in_step: bool) -> None:
        if in_step:
            await flow.step(read, key="read")
        else:
            read()
        await flow.sleep(1)

    with ProcessTester(registry=own, always_replay=True) as tester:
        tester.start(curious, True)
        with pytest.raises(
            FlowNotPure,
            match=rf"test_kit.py:{read.__code__.co_firstlineno}: .*{name}.*Instead: .*{remedy}",
        ):
            tester.start(curious, False)


def test_what_is_pure_or_allowed_is_not_named():
    own = Registry()

    @process(version=1, registry=own)
    async def careful(flow: Flow) -> int:
        log.info("its time is the logger's to read")
        time.time()  # perennial: allow nothing is made of it
        await flow.sleep(1)
        return random.Random(7).randint(1, 6)

    with ProcessTester(registry=own, always_replay=True) as tester:
        assert tester.run_to_the_end(tester.start(careful)).output == random.Random(7).randint(1, 6)
