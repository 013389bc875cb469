"""Signals: each answers one wait, and no wait loses its answer or its deadline to another."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator import Flow, RunStatus, hours, process
from orchestrator.engine.fire import fire
from orchestrator.errors import PayloadError
from orchestrator.store.transitions import signals
from tests.modes import NORMAL, modes_of


def test_a_signal_for_one_wait_does_not_take_the_timeout_of_another(harness):
    """A signal answers one wait. When two waits of its name are overdue, the first to fire takes
    the buffered signal and the second times out: neither loses its deadline to the other.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        async def wait() -> Any:
            try:
                return await flow.signal("go", timeout=hours(1))
            except TimeoutError:
                return "timed out"

        return await flow.gather(wait(), wait())

    harness.freeze()
    run = harness.run(p)
    harness.move(hours=1)
    harness.client.signal(run, "go", "here")
    for timer_id in harness.due_timers():
        fire(harness.context, timer_id)
    harness.drain()
    for _ in range(5):
        harness.move(minutes=10)
        harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED


def test_a_signal_awaited_twice_answers_twice(harness):
    """A handle consumes one signal in its life. To await it again gives the same answer, also
    within the turn that consumed it; it does not take the next signal.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        go = flow.signal("go")
        return [await go, await go]

    run = harness.start(p)
    harness.client.signal(run, "go", 1)
    harness.drain()
    assert harness.client.result(run) == [1, 1]


def test_a_signal_that_does_not_fit_can_be_caught_by_its_flow(harness):
    """With `on_unfit="raise"` it is raised at the await, as PayloadError, and the signal is consumed.
    So the flow can answer it, and wait for the next.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        refused = 0
        while True:
            try:
                return refused + await flow.signal("amount", type=int, on_unfit="raise")
            except PayloadError:
                refused += 1

    run = harness.start(p)
    harness.client.signal(run, "amount", "a lot")
    harness.client.signal(run, "amount", 7)
    harness.drain()
    assert harness.client.result(run) == 8


class Paid(BaseModel):
    amount: int


def set_aside(harness, run: Any) -> list[str]:
    return [
        entry.detail["why"]
        for entry in harness.client.history(run)
        if entry.event == "signal set aside"
    ]


def test_a_signal_of_the_wrong_form_is_refused_where_it_is_sent_if_what_waits_is_known(harness):
    """Without its values, and nothing is written: the sender sends it again, in the form that is asked for."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        paid = await flow.signal("paid", type=Paid)
        note = await flow.signal("note")
        told = await flow.signal("told", type=int, on_unfit="raise")
        return [paid.amount, note, told]

    run = harness.run(p)
    before = harness.client.get(run).revision
    for wrong, problem in (
        ({"amount": "s3cret"}, "amount: Input should be an integer"),
        ({}, "amount: Field required"),
        ("s3cret", "Input should be an object"),
    ):
        with pytest.raises(PayloadError, match=problem) as refused:
            harness.client.signal(run, "paid", wrong)
        assert "s3cret" not in str(refused.value)
        with pytest.raises(PayloadError):  # also in the transaction of a program
            harness.client.signal(run, "paid", wrong, signal_id="again")
    assert harness.client.get(run).revision == before
    assert not set_aside(harness, run)
    assert harness.client.signal(run, "note", ["early"])  # nobody has said yet what it must be
    assert harness.client.signal(
        run, "paid", {"amount": "7"}, signal_id="again"
    )  # as pydantic reads
    assert not harness.client.signal(run, "paid", {"amount": 7}, signal_id="again")
    harness.drain()
    assert harness.client.signal(run, "told", 3)
    harness.drain()
    assert harness.client.result(run) == [7, ["early"], 3]
    harness.assert_ended_cleanly(run)


def test_what_a_sender_has_learnt_of_a_form_is_not_held_against_another(harness):
    """Two processes wait for the same name in two forms, and what fits one is refused to the other."""

    @process(version=1, registry=harness.registry)
    async def numbers(flow: Flow) -> int:
        return await flow.signal("word", type=int)

    @process(version=1, registry=harness.registry)
    async def payments(flow: Flow) -> int:
        return (await flow.signal("word", type=Paid)).amount

    for _ in range(2):
        number, payment = harness.run(numbers), harness.run(payments)
        for run, wrong, right in ((number, {"amount": 1}, 2), (payment, 2, {"amount": 1})):
            with pytest.raises(PayloadError, match="Input should be an"):
                harness.client.signal(run, "word", wrong)
            assert harness.client.signal(run, "word", right)
        harness.drain()
        assert [harness.client.result(run) for run in (number, payment)] == [2, 1]


def test_who_waits_for_several_forms_of_a_name_looks_at_what_comes_itself(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        return await flow.gather(
            flow.signal("word", type=int), flow.signal("word", type=Paid), flow.signal("word")
        )

    run = harness.run(p)
    assert harness.client.signal(run, "word", {"amount": 1})
    assert harness.client.signal(run, "word", 2)
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING


def test_a_signal_of_the_wrong_form_is_set_aside_in_sight_and_the_next_is_taken(harness):
    """The flow hears nothing of it; `show` and `history` say what was wrong, without the values.
    Guards `why_unfit`, and the rows of `taken_signals`.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[int]:
        first = await flow.signal("paid", type=Paid)
        second = await flow.signal("paid", type=Paid)
        return [first.amount, second.amount]

    run = harness.start(p)
    harness.client.signal(run, "paid", {"amount": "s3cret"})
    harness.client.signal(run, "paid", "s3cret")
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING
    reasons = [
        (
            "signal paid doesn't fit Paid: amount: Input should be a valid integer, "
            "unable to parse string as an integer"
        ),
        "signal paid doesn't fit Paid: Input should be an object",
    ]
    assert set_aside(harness, run) == reasons
    (wait,) = harness.client.get(run).waits
    assert wait.detail == f"a signal was set aside: {reasons[1]}"
    harness.client.signal(run, "paid", {"amount": 1})
    harness.client.signal(run, "paid", [])
    harness.client.signal(run, "paid", {"amount": 2})
    harness.drain()
    assert harness.client.result(run) == [1, 2]
    assert len(set_aside(harness, run)) == 3
    harness.assert_ended_cleanly(run)


def test_a_signal_behind_one_of_the_wrong_form_is_not_lost_to_the_deadline(harness):
    """Whoever waits with a timeout waits on, with its deadline, until one that fits has come."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int | str:
        try:
            return (await flow.signal("paid", type=Paid, timeout=hours(1))).amount
        except TimeoutError:
            return "timed out"

    harness.freeze()
    late, paid = harness.start(p), harness.start(p)
    for run in (late, paid):
        harness.client.signal(run, "paid", None)
    harness.drain()
    harness.client.signal(paid, "paid", {"amount": 1})
    harness.drain()
    harness.move(hours=1)
    harness.drain()
    assert harness.client.result(paid) == 1
    assert harness.client.result(late) == "timed out"


@modes_of(NORMAL, because="it is about a timer that comes before a turn")
def test_one_of_the_wrong_form_that_a_deadline_finds_did_not_come_in_time(harness):
    """A timer knows no types: what it took is looked at by the turn. Guards TAKEN_AT_THE_DEADLINE."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        try:
            await flow.signal("paid", type=Paid, timeout=hours(1))
        except TimeoutError:
            return "timed out"
        return "paid"

    harness.freeze()
    run = harness.run(p)
    harness.client.operations.pause(run)
    with harness.context.connection() as connection:  # as one comes in that crosses its wait
        assert signals.signal_run_if_open(
            connection,
            run.run_id,
            name="paid",
            payload='"nothing"',
            signal_id=None,
            sender="x",
            unseen=True,
        )
    harness.move(hours=1)
    harness.drain()
    harness.client.operations.resume(run)
    harness.drain()
    assert harness.client.result(run) == "timed out"


@modes_of(NORMAL, because="a flow is wrong in every mode")
def test_only_two_answers_to_an_unfit_signal_are_known(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("paid", on_unfit="ignore")  # type: ignore[arg-type]

    run = harness.run(p)
    assert '"set_aside" or "raise"' in harness.client.get(run).error["message"]


def test_an_overdue_signal_that_nobody_awaits_yet_does_not_poll(harness):
    """A due timeout gives its wait the signal that came in time, also where the flow has not
    awaited the handle yet. So the timer ends there: it neither comes back every few seconds nor
    raises the revision for nothing.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        stop = flow.signal("stop", timeout=hours(1))
        await flow.approval("manager", assign=["bob"])
        return await stop

    harness.freeze()
    run = harness.run(p)
    harness.client.signal(run, "stop", "please")
    harness.move(hours=1)
    harness.drain()
    before = harness.client.get(run).revision
    for _ in range(10):
        harness.move(minutes=1)
        harness.drain()
    assert harness.client.get(run).revision - before <= 2
    harness.client.approve(run, by="bob")
    harness.move(minutes=1)
    harness.drain()
    assert harness.client.result(run) == "please"


def test_a_paused_run_with_an_overdue_signal_is_left_in_peace(harness):
    """The same for a run at rest, where no turn gives signals to waits: facts are recorded once,
    nothing comes back until it is resumed, and then the signal is answered.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        return await flow.signal("stop", timeout=hours(1))

    harness.freeze()
    run = harness.run(p)
    harness.client.operations.pause(run)
    harness.client.signal(run, "stop", "please")
    harness.move(hours=1)
    harness.drain()
    before = harness.client.get(run).revision
    for _ in range(10):
        harness.move(minutes=1)
        harness.drain()
    assert harness.client.get(run).revision - before <= 2
    harness.client.operations.resume(run)
    harness.drain()
    assert harness.client.result(run) == "please"
