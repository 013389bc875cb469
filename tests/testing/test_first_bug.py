"""The first bug in a test has words: what, where, and the very exception; and a crash doesn't stay for ever."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from datetime import timedelta

import pytest

from orchestrator import Fail, Flow, Registry, Retry, process, seconds, stage, step
from orchestrator.core.run import RunStatus
from orchestrator.errors import RunFailed, RunNotClosed
from orchestrator.testing import ProcessTester
from tests.unit.hostile import exception_of

HERE = __file__


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def tester(registry: Registry) -> Iterator[ProcessTester]:
    with ProcessTester(registry=registry) as tester:
        yield tester


def raised_here(error: BaseException) -> list[str]:
    names, frame = [], error.__traceback__
    while frame is not None:
        names.append(frame.tb_frame.f_code.co_name)
        frame = frame.tb_next
    return names


def test_a_stage_that_raises_is_told_with_its_line_and_is_the_cause(registry, tester):
    @stage(registry=registry, retry=Retry(max_attempts=2, delay_seconds=60))
    def bad() -> None:
        {}["city"]

    @process(version=1, registry=registry)
    async def p(flow: Flow) -> None:
        await flow.stage(bad)

    run = tester.start(p)
    with pytest.raises(RunNotClosed) as caught:
        tester.result(run)
    assert f"it waits for stage bad, whose attempt 1 failed: KeyError: 'city' (at {HERE}:" in str(
        caught.value
    )
    assert isinstance(caught.value.__cause__, KeyError)
    assert raised_here(caught.value.__cause__)[-1] == "bad"

    tester.advance_time(seconds(60))
    with pytest.raises(RunFailed, match="KeyError: 'city'") as failed:
        tester.result(run)
    assert f"(at {HERE}:" in str(failed.value)
    assert isinstance(failed.value.__cause__, KeyError)
    assert raised_here(failed.value.__cause__)[-1] == "bad"


def test_a_flow_that_raises_waits_for_an_operator_and_says_why(registry, tester):
    """`perennial result` says the same: it is the client's own sentence."""

    @process(version=1, registry=registry)
    async def p(flow: Flow) -> None:
        raise LookupError("no such city")

    run = tester.start(p, key="trip-1")
    with pytest.raises(RunNotClosed) as caught:
        tester.result(run)
    told = str(caught.value)
    assert told.startswith(
        "run trip-1 is an incident, and waits for an operator: LookupError: no such city (at "
    )
    assert told.endswith("Mend that; `perennial resume trip-1` then lets it go on")
    assert told.count(f"{HERE}:") == 1
    assert isinstance(caught.value.__cause__, LookupError)
    assert "p" in raised_here(caught.value.__cause__)
    with pytest.raises(RunNotClosed, match="waits for an operator: LookupError"):
        tester.client.result(run)


def test_an_inline_steps_error_is_the_cause_too(registry, tester):
    def upload() -> None:
        raise OSError("disk")

    @process(version=1, registry=registry)
    async def p(flow: Flow) -> None:
        await flow.step(upload)

    run = tester.start(p)
    with pytest.raises((RunFailed, RunNotClosed), match="disk") as caught:
        tester.result(run)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_run_that_failed_as_it_should_has_its_own_words(registry, tester):
    @process(version=1, registry=registry)
    async def p(flow: Flow) -> None:
        raise Fail("no budget")

    with pytest.raises(RunFailed, match="failed: no budget"):
        tester.result(tester.start(p))


def test_a_paused_run_waits_for_an_operator(registry, tester):
    @process(version=1, registry=registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    run = tester.start(p, key="k")
    tester.client.operations.pause(run)
    with pytest.raises(
        RunNotClosed, match="is paused, and waits for an operator: `perennial resume k`"
    ):
        tester.result(run)


def test_what_was_mended_is_no_cause_any_more(registry, tester):
    calls: list[int] = []

    @stage(registry=registry, retry=Retry(max_attempts=2, delay_seconds=60))
    def flaky() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("first")

    @process(version=1, registry=registry)
    async def p(flow: Flow) -> None:
        await flow.stage(flaky)
        await flow.signal("go")

    run = tester.start(p)
    tester.advance_time(seconds(60))
    with pytest.raises(RunNotClosed, match=r"it waits for signal go$") as caught:
        tester.result(run)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("crash", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["stage", "step of a stage", "inline step"])
def test_a_crash_is_made_good_when_the_clock_moves(registry, tester, crash, place):
    """As a fleet does within seconds. It was "at work" for ever."""
    calls: list[int] = []

    def work() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise crash
        return "done"

    @stage(registry=registry)
    def bad() -> str:
        return step(work) if place == "step of a stage" else work()

    @process(version=1, registry=registry)
    async def p(flow: Flow) -> str:
        return await (flow.step(work) if place == "inline step" else flow.stage(bad))

    with pytest.raises(crash):
        tester.start(p, key="k")
    if place != "inline step":
        with pytest.raises(RunNotClosed, match=r"cut short by .*advance_time") as caught:
            tester.result("k")
        assert isinstance(caught.value.__cause__, crash)
    tester.advance_time(timedelta(seconds=10))
    assert tester.result("k") == "done"
    assert calls == [1, 1]


def test_a_stage_that_crashes_each_time_ends_as_an_incident(registry, tester):
    @stage(registry=registry, retry=Retry(max_attempts=2))
    def bad() -> None:
        raise SystemExit

    @process(version=1, registry=registry)
    async def p(flow: Flow) -> None:
        await flow.stage(bad)

    with pytest.raises(SystemExit):
        tester.start(p, key="k")
    with pytest.raises(SystemExit):
        tester.advance_time(seconds(10))
    tester.advance_time(seconds(10))
    assert tester.get("k").status is RunStatus.INCIDENT
    with pytest.raises(RunNotClosed, match="waits for an operator: WorkerLost"):
        tester.result("k")


@pytest.mark.parametrize("sort", ["attributes-raise", "cause-raises", "class-raises"])
def test_whatever_is_raised_is_told_and_is_a_cause_that_can_be_read(registry, tester, sort):
    """Also an exception whose attributes raise: something that can be printed stands for it then."""

    def bad() -> None:
        raise exception_of(sort)

    once = Retry(max_attempts=1)
    raises = stage(registry=registry, retry=once)(bad)

    @process(version=1, registry=registry)
    async def p(flow: Flow, where: str) -> None:
        if where == "flow":
            bad()
        await (flow.stage(raises) if where == "stage" else flow.step(bad, retry=once))

    for where in ("stage", "step", "flow"):
        run = tester.start(p, where)
        assert run.status is (RunStatus.INCIDENT if where == "flow" else RunStatus.FAILED)
        caught = None
        try:  # `pytest.raises` would read more of a hostile cause than it can bear
            tester.result(run)
        except (RunNotClosed, RunFailed) as error:
            caught = error
        assert caught is not None
        assert "in bad\n" in "".join(traceback.format_exception(caught))
        assert type(exception_of(sort)).__name__ in str(caught.__cause__)
