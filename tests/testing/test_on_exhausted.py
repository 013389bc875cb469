"""A stage whose attempts are used up, and people who say whether it is tried again: `@stage(on_exhausted=ask(…))`.

Each as it is, evicted at each await, with every message twice, and with flows that stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import (
    ActivityFailed,
    DefinitionError,
    Fail,
    Flow,
    OperationRefused,
    Registry,
    Retry,
    RunStatus,
    WorkerLost,
    ask,
    days,
    hours,
    idempotency_key,
    load_process,
    minutes,
    process,
    stage,
    step,
)
from orchestrator.core.views import ApprovalView, RunView
from orchestrator.engine.eager.kept_flows import KeptFlows
from tests.modes import EVICT, NORMAL, TWICE
from tests.testing.test_each_awaitable import ModalTester

registry = Registry()
done: list[str] = []
broken: dict[str, BaseException] = {}
TWO = Retry(max_attempts=2, delay_seconds=60, jitter=0)


class Declined(Exception):
    """The bank says no, and will say so again."""


def do(what: str) -> str:
    """Note that it was tried; or fail, while that is broken."""
    if what in broken:
        done.append(f"{what}!")
        raise type(broken[what])(*broken[what].args)
    done.append(what)
    return what


def reserve(what: str) -> str:
    return do(f"reserve {what}")


@stage(
    registry=registry,
    retry=Retry(max_attempts=2, delay_seconds=60, jitter=0, non_retryable=(Declined,)),
    on_exhausted=ask("it-ops", timeout=days(2), escalate={hours(4): ["head-of-it"]}),
)
def charge(what: str) -> str:
    """Two attempts a round."""
    step(reserve, what)
    return f"{do(what)} by {idempotency_key()}"


@stage(registry=registry, retry=TWO)
def refund(charged: str) -> None:
    do(f"refund {charged.partition(' ')[0]}")


@stage(registry=registry, retry=TWO)
def ship(what: str) -> str:
    return do(what)


@stage(registry=registry, retry=Retry(max_attempts=2, delay_seconds=3600, jitter=0))
def pack(what: str) -> str:
    return do(what)


@stage(registry=registry, retry=Retry(max_attempts=1), on_exhausted=ask("it-ops"))
async def wire(what: str) -> str:
    await step(areserve, what)
    return do(what)


async def areserve(what: str) -> str:
    return do(f"reserve {what}")


@pytest.fixture(scope="module", params=["normal", "evict", "twice", "kept"], ids=str)
def tester(request: pytest.FixtureRequest) -> Iterator[ModalTester]:
    modes = {mode.name: mode for mode in (NORMAL, EVICT, TWICE)}
    with ModalTester(modes.get(request.param, NORMAL), registry) as tester:
        if request.param == "kept":
            tester._context.kept_flows = KeptFlows(least_lines=1)
        yield tester


@pytest.fixture(autouse=True)
def _afresh(tester: ModalTester) -> Iterator[None]:
    done.clear()
    broken.clear()
    yield
    assert tester.approvals() == []


def breaks(*what: str, by: BaseException | None = None) -> None:
    broken.update(dict.fromkeys(what, by or ConnectionError("the bank is away")))


def asked(tester: ModalTester, run: RunView) -> ApprovalView:
    """What it-ops find in their inbox, when the attempts of a round are over."""
    tester.advance_time(minutes(5))
    found = tester.client.approvals(assignee="it-ops", run=run)
    assert len(found) == 1, found
    return found[0]


def keys(tester: ModalTester, run: RunView) -> list[str]:
    return [line.key for line in tester.journal(run)]


@process(version=1, registry=registry)
async def order(flow: Flow, what: str) -> str:
    await flow.stage(ship, "before")
    try:
        charged = await flow.stage(charge, what, compensate=refund)
    except ActivityFailed as error:
        if what == "caught":
            return f"{error.error_type} after {error.attempts}"
        raise
    await flow.stage(ship, "after")
    return charged


def test_who_approves_lets_it_be_tried_again_with_all_its_attempts(tester: ModalTester) -> None:
    """As often as it takes. To the world it is one activity: with one idempotency key, and its steps remembered."""
    breaks("bread")
    run = tester.start(order, "bread")
    first = asked(tester, run)
    assert (first.key, first.name, first.state) == (
        "charge#again/exhausted-1",
        "retry charge",
        "open",
    )
    assert first.why == "charge failed after 2 attempts: ConnectionError: the bank is away"
    assert first.deadline is not None
    run = tester.get(run)
    assert (run.status, run.waiting_for) == (RunStatus.WAITING, "approval retry charge")
    (wait,) = run.waits
    assert (wait.who, wait.detail) == (("it-ops",), first.why)
    assert [each.what for each in wait.next] == ["escalates to head-of-it", "times out"]

    tester.approve(run, by="it-ops")
    second = asked(tester, run)
    assert (second.key, second.why) == ("charge#again/exhausted-2", first.why)
    broken.clear()
    tester.approve(run, by="it-ops")
    assert tester.result(run) == f"bread by {run.id}/charge"
    tries = ["bread!"] * 4
    assert done == ["before", "reserve bread", *tries, "bread", "after"]
    rounds = ["charge#again/exhausted-1", "charge#again/round-2"]
    assert [key for key in keys(tester, run) if "#again" in key] == [
        *rounds,
        "charge#again/exhausted-2",
        "charge#again/round-3",
    ]


@pytest.mark.parametrize("how", ["rejected", "too late"])
def test_otherwise_it_has_failed_as_any_other_stage(tester: ModalTester, how: str) -> None:
    """The await raises what it has failed by last; what is not caught ends the run."""
    for what in ("caught", "raised"):
        breaks(what)
        run = tester.start(order, what)
        tester.approve(asked(tester, run).run_id, by="it-ops")
        asked(tester, run)
        if how == "rejected":
            tester.reject(run, by="it-ops", comment="no use")
        else:
            tester.advance_time(days(2))
        run = tester.get(run)
        if what == "caught":
            assert tester.result(run) == "ConnectionError after 2"
        else:
            assert run.status is RunStatus.FAILED
            assert run.error is not None
            assert "the bank is away" in run.error["message"]
    assert "after" not in done


def test_what_is_of_no_use_to_try_again_is_asked_of_nobody(tester: ModalTester) -> None:
    """`Fail`, an error that its Retry never tries again, and a failure by an operator's hand."""
    for error in (Fail("no"), Declined("51")):
        breaks("caught", by=error)
        assert tester.result(tester.start(order, "caught")).startswith(type(error).__name__)
    breaks("caught")
    run = tester.start(order, "caught")
    tester.client.operations.fail(run, "charge", error="not to be had", by="ann")
    tester.advance_time(minutes(5))
    assert tester.result(run).startswith("FailedByHand")


@process(version=1, registry=registry)
async def three(flow: Flow) -> list[str]:
    return await flow.gather(
        flow.stage(charge, "a"), flow.stage(charge, "b"), flow.stage(pack, "c")
    )


@process(version=1, registry=registry)
async def mapped(flow: Flow) -> list[str]:
    found = await flow.map(charge, ["a", "b", "d"], max_concurrency=2)
    return found.raise_if_failed()


def test_of_three_one_is_exhausted(tester: ModalTester) -> None:
    """It is asked for at once, while another rests until its retry; and the others are done once."""
    breaks("b", "c")
    run = tester.start(three)
    tester.advance_time(minutes(1))
    (found,) = tester.client.approvals(run=run)
    assert found.key == "charge#2#again/exhausted-1"
    assert [wait.name for wait in tester.get(run).waits] == ["pack", "retry charge"]
    broken.clear()
    tester.approve(run, by="it-ops")
    assert tester.get(run).waiting_for == "stage pack"
    tester.advance_time(hours(1))
    assert tester.result(run)[2] == "c"
    assert sorted(what for what in done if len(what) == 1) == ["a", "b", "c"]


def test_two_wait_for_people_side_by_side(tester: ModalTester) -> None:
    """Each with its own approval; decided in any order, the results stand in theirs."""
    for flow in (three, mapped):
        done.clear()
        breaks("a", "b")
        run = tester.start(flow)
        tester.advance_time(minutes(5))
        found = tester.client.approvals(run=run)
        assert len(found) == 2
        broken.clear()
        for each in reversed(found):
            tester.approve(run, each, by="it-ops")
        result = tester.result(run)
        assert [each.partition(" ")[0] for each in result][:2] == ["a", "b"]
        assert done.count("a") == done.count("b") == done.count("reserve a") == 1


@process(version=1, registry=registry)
async def race(flow: Flow, how: str) -> str:
    if how == "lost at once":
        won = flow.stage(ship, "won")
        await won
        found = await flow.first(won, flow.stage(charge, "lost"))
        await flow.sleep(hours(1))
        return str(found.index)
    if how == "block":
        try:
            with flow.timeout(hours(1)):
                await flow.stage(charge, "lost")
        except TimeoutError:
            return "late"
    found = await flow.first(flow.stage(charge, "lost", compensate=refund), flow.sleep(hours(1)))
    return str(found.index)


def test_who_loses_a_race_or_is_late_asks_nobody_any_more(tester: ModalTester) -> None:
    """The approval is withdrawn; and what had not begun never begins."""
    breaks("lost")
    for how, came in (("race", "1"), ("block", "late")):
        run = tester.start(race, how)
        asking = asked(tester, run)
        tester.advance_time(hours(1))
        assert tester.result(run) == came
        (after,) = tester.client.approvals(run=run, state=None)
        assert (after.key, after.state) == (asking.key, "cancelled")
    done.clear()
    run = tester.start(race, "lost at once")
    tester.advance_time(hours(1))
    assert tester.result(run) == "0"
    assert done == ["won"]


def test_what_a_further_round_has_done_is_undone(tester: ModalTester) -> None:
    """And the round that failed is not."""
    breaks("bread", "after")
    run = tester.start(order, "bread")
    asked(tester, run)
    del broken["bread"]
    tester.approve(run, by="it-ops")
    tester.advance_time(minutes(5))
    assert tester.get(run).status is RunStatus.FAILED
    assert [what for what in done if "refund" in what] == ["refund bread"]


@process(version=1, registry=registry)
async def awaited_twice(flow: Flow) -> list[str]:
    charged = flow.stage(charge, "twice")

    async def one() -> str:
        return (await charged).partition(" ")[0]

    both = await flow.gather(one(), one())
    return [*both, await one()]


def test_whoever_awaits_it_shares_the_answer(tester: ModalTester) -> None:
    breaks("twice")
    run = tester.start(awaited_twice)
    asked(tester, run)
    broken.clear()
    tester.approve(run, by="it-ops")
    assert tester.result(run) == ["twice"] * 3
    assert done.count("twice") == 1


@process(version=1, registry=registry)
async def wired(flow: Flow) -> str:
    try:
        return await flow.stage(wire, "w")
    except WorkerLost:
        return "who knows"


def test_a_lost_worker_was_the_last_attempt(tester: ModalTester) -> None:
    """Nobody knows what it has done: people are asked, where the run would be an incident. Of an `async def`, too."""
    for decide, came in (("approve", "w"), ("reject", "who knows")):
        done.clear()
        tester.crash(during=wire)
        run = tester.start(wired)
        found = asked(tester, run)
        assert found.why.startswith("wire failed after 1 attempt: WorkerLost: ")
        getattr(tester, decide)(run, by="it-ops")
        assert tester.result(run) == came
        assert done.count("reserve w") == 1


def test_an_operator_lets_a_run_go_on_all_the_same(tester: ModalTester) -> None:
    """What people had decided of it goes with what failed; a decision on that is none on what is asked anew."""
    operations = tester.client.operations
    for rounds in (1, 2):
        breaks("bread")
        run = tester.start(order, "bread")
        for _ in range(rounds - 1):
            asked(tester, run)
            tester.approve(run, by="it-ops")
        asked(tester, run)
        tester.reject(run, by="it-ops")
        assert tester.get(run).status is RunStatus.FAILED
        broken.clear()
        if rounds == 1:
            preview = operations.retry(run, dry_run=True).preview
            assert preview is not None
            assert preview.drops == (
                "approval retry charge (key charge#again/exhausted-1), rejected by it-ops",
            )
            operations.retry(run, by="ann")
            assert tester.result(run) == f"bread by {run.id}/charge"
        else:
            operations.complete(run, "charge#again/round-2", result="by hand", by="ann")
            assert tester.result(run) == "by hand"


def test_what_a_further_round_has_done_is_not_done_again(tester: ModalTester) -> None:
    """By an operator's retry of what failed beside it."""
    breaks("a", "c")
    run = tester.start(three)
    asked(tester, run)
    del broken["a"]
    tester.approve(run, by="it-ops")
    tester.advance_time(hours(2))
    assert tester.get(run).status is RunStatus.FAILED
    broken.clear()
    tester.client.operations.retry(run, by="ann")
    assert tester.result(run)[2] == "c"
    assert sorted(what for what in done if len(what) == 1) == ["a", "b", "c"]


def test_while_people_are_asked_an_operator_goes_back_to_it(tester: ModalTester) -> None:
    """`rewind` takes the question back; `skip` is for after it."""
    operations = tester.client.operations
    breaks("bread")
    run = tester.start(order, "bread")
    asked(tester, run)
    with pytest.raises(OperationRefused, match="rewind RUN --to charge"):
        operations.skip(run, "charge", by="ann")
    broken.clear()
    operations.rewind(run, to="charge", by="ann")
    assert tester.result(run) == f"bread by {run.id}/charge"


declared = load_process("process: {name: paid, stages: [charge, ship]}", registry=registry)


def test_in_yaml_it_is_as_its_stage_says(tester: ModalTester) -> None:
    breaks("bread")
    run = tester.start(declared, "bread")
    asked(tester, run)
    broken.clear()
    tester.approve(run, by="it-ops")
    assert tester.get(run).status is RunStatus.COMPLETED


def test_whom_to_ask_is_looked_at_where_it_is_said() -> None:
    for wrong in (
        ask,
        lambda: ask(["ann", "bob"]),  # type: ignore[arg-type]
        lambda: ask("ann", timeout=hours(1), escalate={hours(2): ["bob"]}),
        lambda: stage(registry=Registry(), on_exhausted="ann")(ship.function),  # type: ignore[call-overload]
    ):
        with pytest.raises(DefinitionError):
            wrong()
