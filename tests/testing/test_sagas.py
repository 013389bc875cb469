"""Sagas: what a flow has done is undone when it fails, the last first, whatever else goes wrong.

Each in three modes: as it is, evicted at each await, and with every message twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import (
    ActivityFailed,
    BlockTimedOut,
    Fail,
    Flow,
    OperationRefused,
    Registry,
    Retry,
    RunStatus,
    days,
    hours,
    minutes,
    process,
    stage,
)
from orchestrator.core.views import RunView
from tests.modes import EVICT, NORMAL, TWICE
from tests.testing.test_each_awaitable import ModalTester

registry = Registry()
done: list[str] = []
broken: set[str] = set()


def do(what: str) -> None:
    """Note that it was done; or fail, while that is broken."""
    if what in broken:
        done.append(f"{what}!")
        error = ConnectionError if what.startswith("refund") else Fail  # refunds are retried
        raise error(f"{what} is broken")
    done.append(what)


@stage(registry=registry)
def reserve(item: str) -> None:
    do(f"reserve {item}")


@stage(registry=registry)
def release(item: str) -> None:
    do(f"release {item}")


@stage(registry=registry)
def charge(amount: int) -> str:
    do(f"charge {amount}")
    return f"charge-{amount}"


@stage(registry=registry, retry=Retry(max_attempts=2, delay_seconds=60, jitter=0))
def refund(payment: str) -> None:
    do(f"refund {payment}")


def number_it() -> int:
    do("number 7")
    return 7


@stage(registry=registry)
def void(number: int) -> None:
    do(f"void {number}")


@stage(registry=registry)
async def ship(item: str) -> str:
    do(f"ship {item}")
    return f"parcel of {item}"


@process(version=1, registry=registry)
async def order(flow: Flow) -> str:
    await flow.stage(reserve, "chair", compensate=release)
    payment = await flow.stage(charge, 90, compensate=refund)
    await flow.step(number_it, compensate=void)
    await flow.sleep(hours(1))
    await flow.stage(ship, "chair")
    return payment


DOES = ["reserve chair", "charge 90", "number 7", "ship chair"]
UNDOES = ["release chair", "refund charge-90", "void 7"]


@pytest.fixture(scope="module", params=[NORMAL, EVICT, TWICE], ids=lambda mode: mode.name)
def tester(request: pytest.FixtureRequest) -> Iterator[ModalTester]:
    with ModalTester(request.param, registry) as tester:
        yield tester


@pytest.fixture(autouse=True)
def _afresh() -> None:
    done.clear()
    broken.clear()


def ended(tester: ModalTester, run: RunView) -> RunView:
    tester.advance_time(days(1))
    return tester.get(run)


def test_what_was_done_is_undone_whichever_step_fails(tester: ModalTester) -> None:
    """The last first; what has failed itself, or was never done, is not."""
    for failing, what in enumerate(DOES):
        done.clear()
        broken.clear()
        broken.add(what)
        run = ended(tester, tester.start(order))
        assert run.status is RunStatus.FAILED
        assert run.error is not None
        assert f"{what} is broken" in run.error["message"]
        assert done == [*DOES[:failing], f"{what}!", *reversed(UNDOES[: min(failing, 3)])]
    done.clear()
    broken.clear()
    assert tester.result(ended(tester, tester.start(order))) == "charge-90"
    assert done == DOES


def test_a_compensation_that_fails_keeps_no_other_back_and_can_be_gone_on_with(
    tester: ModalTester,
) -> None:
    """Each of them, alone and with another; tried again, or left out: then the run ends as it failed."""
    for fails in ([0], [1], [2], [0, 1]):
        done.clear()
        broken.clear()
        broken.update({"ship chair", *(UNDOES[each] for each in fails)})
        run = ended(tester, tester.start(order))
        assert run.status is RunStatus.INCIDENT
        assert run.error is not None
        assert run.error["type"] == "CompensationFailed"
        for each in fails:
            assert UNDOES[each] in run.error["message"]
        assert [UNDOES[at] for at in (2, 1, 0) if at not in fails] == [
            what for what in done if what in UNDOES
        ]
        broken.clear()
        done.clear()
        keys = [["undo/release"], ["undo/refund"], ["undo/void"]]
        if len(fails) == 1:
            tester.client.operations.retry(run, by="ann")
            run = ended(tester, run)
            assert done == [UNDOES[fails[0]]]
        else:
            for each in fails:
                tester.client.operations.skip(run, keys[each][0], by="ann")
                run = ended(tester, run)
            assert done == []
        assert run.status is RunStatus.FAILED
        assert run.error is not None
        assert "ship chair is broken" in run.error["message"]


def test_what_was_undone_is_not_built_on(tester: ModalTester) -> None:
    """A run that has failed and undone what it did goes back to before that, or starts anew."""
    broken.add("ship chair")
    run = ended(tester, tester.start(order))
    broken.clear()
    operations = tester.client.operations
    for refused in (
        lambda: operations.retry(run),
        lambda: operations.skip(run, "ship"),
        lambda: operations.rewind(run, to="sleep"),
        lambda: operations.rewind(run, to="charge"),
    ):
        with pytest.raises(OperationRefused, match="rewind RUN --to reserve` goes back"):
            refused()
    done.clear()
    operations.rewind(run, to="reserve")
    assert tester.result(ended(tester, run)) == "charge-90"
    assert done == DOES


@process(version=1, registry=registry)
async def blocks(flow: Flow, fails: str) -> list[str]:
    seen = []
    await flow.stage(charge, 1, compensate=refund)
    try:
        async with flow.undo() as undo:
            await flow.stage(charge, 2, compensate=refund, key="two")
            undo.add(release, "by hand")
            async with flow.undo() as inner:
                await flow.stage(reserve, "inner", compensate=release)
                inner.add(void, 1)
                if fails == "inner":
                    raise Fail(fails)  # noqa: TRY301 - as an author writes it
            await flow.gather(
                flow.stage(charge, 3, compensate=refund, key="three"), branch(flow, fails)
            )
    except (Fail, ActivityFailed) as error:
        seen.append(type(error).__name__)
    if fails == "all":
        raise Fail(fails)
    return seen


async def branch(flow: Flow, fails: str) -> None:
    await flow.stage(reserve, "branch", compensate=release)
    if fails == "branch":
        raise Fail(fails)


def test_a_block_is_undone_where_an_error_leaves_it(tester: ModalTester) -> None:
    """One that is left well is undone with what is around it."""
    assert tester.result(tester.start(blocks, "nothing")) == []
    assert not [each for each in done if each.split()[0] in {"refund", "release", "void"}]
    done.clear()
    assert tester.result(tester.start(blocks, "inner")) == ["Fail"]
    assert done[3:] == ["void 1", "release inner", "release by hand", "refund charge-2"]
    done.clear()
    assert tester.result(tester.start(blocks, "branch")) == ["Fail"]
    assert sorted(done[5:7]) == ["refund charge-3", "release branch"]
    assert done[7:] == ["void 1", "release inner", "release by hand", "refund charge-2"]
    done.clear()
    run = tester.start(blocks, "all")
    assert run.status is RunStatus.FAILED
    assert done[-1] == "refund charge-1"
    assert len(done) == 12


@process(version=1, registry=registry)
async def late(flow: Flow) -> None:
    async with flow.undo():
        asked = flow.stage(charge, 5, compensate=refund)
        nobody = flow.approval("nobody", assign=["ann"])
        await flow.first(nobody, flow.sleep(minutes(1)))
        if not asked.key:
            await asked
        raise Fail("without looking at the charge")


def test_what_is_at_work_as_the_flow_fails_is_waited_for_and_undone(tester: ModalTester) -> None:
    """Nobody has awaited it: it may be done all the same."""
    run = tester.start(late)
    tester.advance_time(minutes(1))
    assert tester.get(run).status is RunStatus.FAILED
    assert done == ["charge 5", "refund charge-5"]


@process(version=1, registry=registry)
async def bounded(flow: Flow) -> str:
    try:
        with flow.timeout(minutes(5)):
            async with flow.undo():
                await flow.stage(charge, 6, compensate=refund)
                await flow.sleep(minutes(4.5))
                await flow.stage(ship, "lamp")
    except BlockTimedOut:
        return "not in time"
    return "in time"


def test_nothing_interrupts_what_is_undone(tester: ModalTester) -> None:
    """The deadline of the block around it comes while a compensation rests until its retry."""
    broken.update({"ship lamp", "refund charge-6"})
    run = tester.start(bounded)
    tester.advance_time(minutes(5))
    broken.clear()
    assert tester.get(run).status is RunStatus.RUNNING
    tester.advance_time(minutes(1))
    assert tester.result(run) == "not in time"
    assert done == ["charge 6", "ship lamp!", "refund charge-6!", "refund charge-6"]


@process(version=1, registry=registry)
async def hurried(flow: Flow) -> str:
    race = await flow.first(
        {
            "slow": flow.stage(slow, "hotel", compensate=release_by_result),
            "late": flow.sleep(minutes(1)),
        }
    )
    return race.name


@stage(registry=registry, retry=Retry(max_attempts=3, delay_seconds=600, jitter=0))
def slow(what: str) -> str:
    if len(done) < 2:
        done.append("busy")
        raise TimeoutError("try again")
    done.append(f"booked {what}")
    return what


@stage(registry=registry)
def release_by_result(what: str) -> None:
    done.append(f"released {what}")


def test_a_loser_that_can_be_undone_is_waited_for_and_undone(tester: ModalTester) -> None:
    """It may be done, and nobody would know of it: the run ends after that."""
    run = tester.start(hurried)
    tester.advance_time(minutes(2))
    run = tester.get(run)
    assert run.status is RunStatus.RUNNING
    tester.advance_time(hours(1))
    assert tester.result(run) == "late"
    assert done == ["busy", "busy", "booked hotel", "released hotel"]


@process(version=1, registry=registry)
async def buggy(flow: Flow, how: str) -> None:
    await flow.stage(charge, 9, compensate=refund)
    if how == "bug":
        raise KeyError(how)
    if how == "no stage":
        await flow.stage(charge, 8, compensate=number_it, key="other")  # type: ignore[call-overload]
    if how == "other arguments":
        await flow.stage(charge, 8, compensate=reserve_two, key="other")  # type: ignore[call-overload]


@stage(registry=registry)
def reserve_two(item: str, other: str) -> None:
    raise AssertionError(item, other)


@process(version=1, registry=registry, on_error="fail")
async def strict(flow: Flow) -> None:
    async with flow.undo():
        await flow.stage(charge, 7, compensate=refund)
        raise KeyError("strict")


def test_any_error_undoes_where_it_fails_the_run(tester: ModalTester) -> None:
    """The process has said so: `on_error="fail"`."""
    assert tester.start(strict).status is RunStatus.FAILED
    assert done == ["charge 7", "refund charge-7"]


def test_a_bug_undoes_nothing_and_what_cannot_undo_is_refused(tester: ModalTester) -> None:
    """The run is parked, and goes on once its code is mended."""
    for how, why in (
        ("bug", "KeyError"),
        ("no stage", "which is no stage. Give it a @stage"),
        ("other arguments", "the result of charge, and stage 'reserve-two' can't be called so"),
    ):
        done.clear()
        run = tester.start(buggy, how)
        assert run.status is RunStatus.INCIDENT
        assert run.error is not None
        assert why in f"{run.error['type']}: {run.error['message']}"
        assert done == ["charge 9"]
