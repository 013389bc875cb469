"""A run that is cancelled, or expires, cleans up first where somebody asks for it; and then what it did is undone.

Each in three modes: as it is, evicted at each await, and with every message twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import (
    BlockTimedOut,
    Fail,
    Flow,
    OperationRefused,
    Registry,
    RunCancelled,
    RunCancelling,
    RunClosed,
    RunStatus,
    days,
    hours,
    minutes,
    process,
    stage,
)
from tests.modes import EVICT, NORMAL, TWICE
from tests.testing.test_each_awaitable import ModalTester

registry = Registry()
done: list[str] = []
broken: set[str] = set()


def do(what: str) -> str:
    if what in broken:
        raise Fail(f"{what} is broken")
    done.append(what)
    return what


@stage(registry=registry)
def make(what: str) -> str:
    return do(what)


@stage(registry=registry)
def unmake(what: str) -> str:
    return do(f"un-{what}")


@pytest.fixture(scope="module", params=[NORMAL, EVICT, TWICE], ids=lambda mode: mode.name)
def tester(request: pytest.FixtureRequest) -> Iterator[ModalTester]:
    with ModalTester(request.param, registry) as tester:
        yield tester


@pytest.fixture(autouse=True)
def _afresh() -> None:
    done.clear()
    broken.clear()


@process(version=1, registry=registry)
async def trip(flow: Flow) -> None:
    await flow.sleep(hours(1))
    await flow.stage(make, "a", compensate=unmake, key="a")
    await flow.signal("go", timeout=hours(1), default=None)
    await flow.step(do, "b", compensate=unmake)
    await flow.approval("boss", assign=["ann"], timeout=hours(1))
    async with flow.undo() as undo:
        await flow.stage(make, "c", key="c")
        undo.add(unmake, "c")
        await flow.gather(flow.sleep(hours(1)), flow.signal("x", timeout=hours(1), default=1))
    await flow.sleep(hours(1))


def test_what_was_done_is_undone_at_whichever_await_it_is_cancelled(tester: ModalTester) -> None:
    """And stays, where nobody asks for that."""
    for count in range(5):
        done.clear()
        run = tester.start(trip)
        tester.advance_time(hours(count + 0.5))
        was = [*done]
        assert was == ["a", "b", "c"][:count]
        run = tester.cancel(run, by="ann", reason="no more", compensate=True)
        assert run.status is RunStatus.CANCELLED
        assert run.error == {"type": "Cancelled", "message": "no more"}
        assert done == [*was, *(f"un-{what}" for what in reversed(was))]
        assert not tester.client.approvals(assignee="ann")
        tester.advance_time(days(1))
        done.clear()
        stays = tester.start(trip)
        tester.advance_time(hours(count + 0.5))
        assert tester.cancel(stays).status is RunStatus.CANCELLED
        assert done == was
    for each in (run, stays):
        with pytest.raises(RunClosed):
            tester.client.cancel(each, compensate=True)


def test_what_cannot_be_undone_is_an_incident_of_a_cancelled_run(tester: ModalTester) -> None:
    """It ends as cancelled once it was seen to; meanwhile it is cancelled already."""
    broken.add("un-a")
    run = tester.start(trip)
    tester.advance_time(hours(2.5))
    run = tester.cancel(run, compensate=True)
    assert run.status is RunStatus.INCIDENT
    assert done == ["a", "b", "un-b"]
    with pytest.raises(RunCancelling, match="--now` ends it at once"):
        tester.client.cancel(run, compensate=True)
    with pytest.raises(OperationRefused, match="is being cancelled"):
        tester.client.operations.rewind(run, to="a")
    broken.clear()
    tester.client.operations.retry(run, by="ann")
    assert tester.get(run).status is RunStatus.CANCELLED
    assert done[-1] == "un-a"


@process(version=1, registry=registry, clean_up_within=minutes(10), expires_after=days(1))
async def tidy(flow: Flow, how: str) -> str:
    await flow.stage(make, "first", compensate=unmake)
    try:
        await flow.gather(branch(flow, "one"), branch(flow, "two"), flow.signal("never"))
    except RunCancelled as cancelled:
        do(f"expired {cancelled.is_expired}")
        if how == "returns":
            return "for nothing"
        raise
    finally:
        await flow.sleep(minutes(1))
        await flow.stage(make, "tidied", key="tidied")
        if how == "waits":
            await flow.signal("never", key="for ever")
        if how == "fails":
            raise Fail("its clean-up")
    return "unreachable"


async def branch(flow: Flow, name: str) -> None:
    try:
        await flow.signal(name)
    finally:
        await flow.step(do, f"closed {name}")


def in_order(lines: list[str]) -> list[str]:
    """Flow code notes what it comes past at each replay."""
    return [*dict.fromkeys(lines)]


def test_its_clean_up_runs_before_it_is_closed(tester: ModalTester) -> None:
    """Branches first; whatever it returns or raises, it is cancelled."""
    for how in ("raises", "returns", "fails"):
        done.clear()
        run = tester.cancel(tester.start(tidy, how), reason="no more")
        assert run.status.is_moving
        assert run.waiting_for is not None
        assert "cleaning up" in run.waiting_for
        tester.advance_time(minutes(1))
        run = tester.get(run)
        assert run.status is RunStatus.CANCELLED
        assert run.error is not None
        assert run.error["message"].startswith("no more")
        assert ("its clean-up failed: Fail: its clean-up" in run.error["message"]) is (
            how == "fails"
        )
        assert in_order(done) == ["first", "closed one", "closed two", "expired False", "tidied"]


def test_a_clean_up_that_takes_too_long_is_closed(tester: ModalTester) -> None:
    """At its deadline; or when somebody says so."""
    run = tester.cancel(tester.start(tidy, "waits"), reason="no more")
    tester.advance_time(minutes(9))
    assert tester.get(run).status is RunStatus.WAITING
    tester.advance_time(minutes(1))
    run = tester.get(run)
    assert (run.status, run.error) == (
        RunStatus.CANCELLED,
        {"type": "Cancelled", "message": "no more"},
    )
    again = tester.cancel(tester.start(tidy, "waits"))
    with pytest.raises(RunCancelling):
        tester.client.cancel(again)
    assert tester.cancel(again, now=True).status is RunStatus.CANCELLED
    other = tester.start(tidy, "waits")
    assert tester.cancel(other, now=True).status is RunStatus.CANCELLED


def test_what_was_done_is_undone_after_a_clean_up_that_takes_too_long(tester: ModalTester) -> None:
    """The flow's own code is let go; what is undone has as long as its stages take."""
    run = tester.cancel(tester.start(tidy, "waits"), compensate=True)
    assert any(wait.key == "cancel#clean-up" for wait in run.waits)
    tester.advance_time(minutes(10))
    assert tester.get(run).status is RunStatus.CANCELLED
    assert in_order(done)[-2:] == ["tidied", "un-first"]


def test_a_run_that_rests_cleans_up_too(tester: ModalTester) -> None:
    """Paused, or an incident."""
    run = tester.pause(tester.start(tidy, "returns"))
    run = tester.cancel(run)
    tester.advance_time(minutes(1))
    assert tester.get(run).status is RunStatus.CANCELLED
    assert "tidied" in done


def test_a_run_that_expires_cleans_up_as_its_author_chose(tester: ModalTester) -> None:
    """Its process says so, and whether what it did is undone."""
    run = tester.start(tidy, "returns")
    undone = tester.start(undone_when_expired)
    tester.advance_time(days(1) + minutes(1))
    run, undone = tester.get(run), tester.get(undone)
    assert (run.status, undone.status) == (RunStatus.EXPIRED, RunStatus.EXPIRED)
    assert run.error is not None
    assert run.error["type"] == "Expired"
    assert "expired True" in done
    assert "un-first" not in done
    assert done.count("un-rare") == 1


@process(version=1, registry=registry, expires_after=days(1), compensate_when_expired=True)
async def undone_when_expired(flow: Flow) -> None:
    await flow.stage(make, "rare", compensate=unmake)
    await flow.signal("never")


@process(version=1, registry=registry)
async def fails_slowly(flow: Flow) -> None:
    await flow.stage(make, "a", compensate=wait_and_unmake)
    raise Fail("at once")


@stage(registry=registry)
def wait_and_unmake(what: str) -> str:
    return do(f"un-{what}")


def test_a_run_that_undoes_goes_on_when_it_is_cancelled(tester: ModalTester) -> None:
    """What has begun is not interrupted; then it is cancelled."""
    broken.add("un-a")
    run = tester.start(fails_slowly)
    assert run.status is RunStatus.INCIDENT
    run = tester.cancel(run, compensate=True)
    assert run.status is RunStatus.INCIDENT
    broken.clear()
    tester.client.operations.retry(run)
    assert tester.get(run).status is RunStatus.CANCELLED
    assert done == ["a", "un-a"]


@process(version=1, registry=registry)
async def raced(flow: Flow) -> list[str]:
    try:
        with flow.timeout(hours(1)):
            race = await flow.first(
                {"paid": cleans_up(flow, "paid"), "refused": cleans_up(flow, "refused")}
            )
    except BlockTimedOut:
        return ["late"]
    return [race.name]


async def cleans_up(flow: Flow, name: str) -> str:
    try:
        return await flow.signal(name, type=str)
    finally:
        await flow.sleep(minutes(1))
        await flow.step(do, f"closed {name}", key="close")


def test_two_signals_race_a_timeout_and_each_cleans_up(tester: ModalTester) -> None:
    """Whoever loses, and both where the time is over; a cancel as well."""
    run = tester.signal(tester.start(raced), "refused", "no")
    tester.advance_time(minutes(2))
    assert tester.result(run) == ["refused"]
    assert done == ["closed refused", "closed paid"]
    done.clear()
    late = tester.start(raced)
    tester.advance_time(hours(1) + minutes(1))
    assert tester.result(late) == ["late"]
    assert sorted(done) == ["closed paid", "closed refused"]
    done.clear()
    gone = tester.cancel(tester.start(raced), clean_up_within=minutes(5))
    tester.advance_time(minutes(1))
    assert tester.get(gone).status is RunStatus.CANCELLED
    assert sorted(done) == ["closed paid", "closed refused"]
