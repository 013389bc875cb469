"""Hooks: around each attempt as middleware is, told of what is recorded, and no error of theirs changes an outcome."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any

import pytest

from orchestrator import (
    ActivityEnd,
    ActivityInfo,
    AttemptEnd,
    AttemptInfo,
    DefinitionError,
    Fail,
    Flow,
    Hooks,
    Registry,
    Retry,
    RunInfo,
    RunReport,
    hours,
    process,
    seconds,
    stage,
    step,
)
from orchestrator.core.run import RunStatus
from orchestrator.engine.hooks import PLACES, HookCalls
from orchestrator.testing import ProcessTester
from tests.unit.hostile import HOSTILE, exception_of

TENANT: ContextVar[str] = ContextVar("tenant", default="nobody's")
registry = Registry()
seen: list[Any] = []
raises: dict[str, Any] = {}
"""What the hook in the middle raises, by place."""


class Watching(Hooks):
    """Notes what it is called with, and sets a context variable for the attempt."""

    def __init__(self, name: str) -> None:
        self.name = name

    def before_attempt(self, attempt: AttemptInfo) -> None:
        TENANT.set(f"{attempt.run.business_key} {attempt.key}")
        seen.append((self.name, "before", attempt.key, attempt.attempt))

    def after_attempt(self, attempt: AttemptInfo, end: AttemptEnd) -> None:
        assert TENANT.get() == f"{attempt.run.business_key} {attempt.key}"
        error = "" if end.error is None else f"{end.error}"
        seen.append((self.name, "after", attempt.key, attempt.attempt, end.outcome, error))

    def run_started(self, run: RunInfo) -> None:
        seen.append((self.name, "started", run.process))

    def activity_opened(self, activity: ActivityInfo) -> None:
        seen.append((self.name, "opened", activity.key, activity.kind))

    def activity_settled(self, activity: ActivityInfo, end: ActivityEnd) -> None:
        error = end.error or {}
        seen.append((self.name, "settled", activity.key, end.outcome, error.get("type")))

    def run_ended(self, report: RunReport) -> None:
        seen.append((self.name, "ended", report.status))


class Broken(Hooks):
    """Between the two others; what it raises says the test."""

    def before_attempt(self, attempt: AttemptInfo) -> None:
        self._fail("before_attempt")

    def after_attempt(self, attempt: AttemptInfo, end: AttemptEnd) -> None:
        self._fail("after_attempt", end.error)

    def run_started(self, run: RunInfo) -> None:
        self._fail("run_started")

    def activity_opened(self, activity: ActivityInfo) -> None:
        self._fail("activity_opened")

    def activity_settled(self, activity: ActivityInfo, end: ActivityEnd) -> None:
        self._fail("activity_settled")

    def run_ended(self, report: RunReport) -> None:
        self._fail("run_ended", report.exception)

    def _fail(self, place: str, given: BaseException | None = None) -> None:
        error = raises.get(place)
        if error == "what it was given":
            if given is not None:
                raise given
        elif error is not None:
            raise error


@pytest.fixture(scope="module")
def tester() -> Iterator[ProcessTester]:
    hooks = [Watching("outer"), Broken(), Watching("inner")]
    with ProcessTester(registry=registry, hooks=hooks) as tester:
        yield tester


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()
    raises.clear()


def of(name: str, *places: str) -> list[tuple[Any, ...]]:
    """What that hook was called with."""
    return [each[1:] for each in seen if each[0] == name and (not places or each[1] in places)]


def look(where: str) -> str:
    seen.append((where, TENANT.get()))
    return where


async def look_and_wait(where: str) -> str:
    seen.append((where, TENANT.get()))
    await asyncio.sleep(0)
    seen.append((f"{where} later", TENANT.get()))
    return where


@stage(registry=registry, retry=Retry(max_attempts=2, delay_seconds=1))
def charge(fails: int) -> str:
    step(look, "step")
    seen.append(("stage", TENANT.get()))
    seen.append(("try", 0))
    if sum(each[0] == "try" for each in seen) <= fails:
        raise ConnectionError("the bank is away")
    return "charged"


@stage(registry=registry)
async def send(fails: int) -> list[str]:
    both = await asyncio.gather(step(look_and_wait, "one"), step(look_and_wait, "two"))
    last = await step(look_and_wait, "last")
    seen.append(("async stage", TENANT.get()))
    return [*both, last]


@process(version=1, registry=registry)
async def order(flow: Flow, fails: int) -> str:
    await flow.step(look, "flow")
    return await flow.stage(charge, fails)


@process(version=1, registry=registry)
async def mail(flow: Flow) -> list[str]:
    await flow.step(look_and_wait, "flow")
    return await flow.stage(send, 0)


@process(version=1, registry=registry, expires_after=hours(1))
async def ends(flow: Flow, how: str) -> None:
    if how == "failed":
        raise Fail("no stock")
    if how == "incident":
        raise ValueError("a bug")
    if how != "completed":
        await flow.signal("never")


@process(version=1, registry=registry)
async def cleans(flow: Flow, how: str) -> None:
    try:
        await flow.signal("never")
    finally:
        if how == "hangs":
            await flow.signal("nor this")
        await flow.stage(charge, 0)


def test_hooks_nest_around_each_attempt_and_are_told_what_is_recorded(tester):
    """The first is the outermost. What was recorded before isn't called again, so it has no attempt."""
    run = tester.start(order, 1, key="o-1")
    tester.advance_time(seconds(1))
    assert tester.result(run) == "charged"
    away = "the bank is away"
    assert of("inner") == [
        ("before", "look", 1),
        ("after", "look", 1, "done", ""),
        ("settled", "look", "done", None),
        ("started", "order"),
        ("opened", "charge", "stage"),
        ("before", "charge", 1),
        ("before", "charge/look", 1),
        ("after", "charge/look", 1, "done", ""),
        ("after", "charge", 1, "failed", away),
        ("before", "charge", 2),
        ("after", "charge", 2, "done", ""),
        ("settled", "charge", "done", None),
        ("ended", RunStatus.COMPLETED),
    ]
    assert of("outer") == of("inner")
    names = [(each[0], each[1]) for each in seen if each[0] in ("outer", "inner")]
    for place, first in (("before", "outer"), ("after", "inner"), ("ended", "inner")):
        found = [name for name, at in names if at == place]
        assert found[::2] == [first] * (len(found) // 2)
    assert tester.hook_errors == {}


def test_context_variables_of_a_hook_are_its_attempts_alone(tester):
    tester.start(order, 0, key="o-2")
    assert [each for each in seen if each[0] in ("flow", "step", "stage")] == [
        ("flow", "o-2 look"),
        ("step", "o-2 charge/look"),
        ("stage", "o-2 charge"),
    ]
    assert TENANT.get() == "nobody's"


def test_so_it_is_with_async_stages_and_steps_side_by_side(tester):
    run = tester.start(mail, key="m-1")
    assert tester.result(run) == ["one", "two", "last"]
    found = dict(each for each in seen if each[0] not in ("outer", "inner"))
    within = {
        "one": "m-1 send/look-and-wait",
        "two": "m-1 send/look-and-wait#2",
        "last": "m-1 send/look-and-wait#3",
    }
    assert found == {
        "flow": "m-1 look-and-wait",
        "flow later": "m-1 look-and-wait",
        **within,
        **{f"{where} later": tenant for where, tenant in within.items()},
        "async stage": "m-1 send",
    }
    began, ended = of("inner", "before"), of("inner", "after")
    assert Counter(each[1] for each in began) == Counter(each[1] for each in ended)
    assert {each[3] for each in ended} == {"done"}
    assert TENANT.get() == "nobody's"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [asyncio.CancelledError, "what it was given"])
def test_what_a_hook_raises_changes_no_outcome_and_is_counted(tester, caplog, place, error):
    """The others are called as ever, and an attempt's error keeps its traceback."""
    before = tester.hook_errors.get(f"Broken.{place}", 0)
    raises[place] = error
    run = tester.start(order, 2)
    tester.advance_time(seconds(1))
    (failure,) = tester.get(run).failures
    assert (failure.type, failure.attempt) == ("ConnectionError", 2)
    assert "in charge" in failure.traceback
    assert "_fail" not in failure.traceback
    assert "During handling" not in failure.traceback
    assert of("outer") == of("inner")
    raised = tester.hook_errors.get(f"Broken.{place}", 0) - before
    gives = place in ("after_attempt", "run_ended")
    assert raised > 0 or (error == "what it was given" and not gives)
    told = [each for each in caplog.records if getattr(each, "action", "") == "hook"]
    assert [each.exc_info is not None for each in told if "changes nothing" in each.message] == (
        [True] if raised and not before else []
    )


@pytest.mark.parametrize("sort", HOSTILE)
def test_a_hook_may_raise_whatever_it_likes(sort):
    calls, end = HookCalls([Broken()]), AttemptEnd("done")
    raises["after_attempt"] = exception_of(sort)
    try:
        was_called = calls.call(calls.pairs[0].after, None, end)
    except Exception:  # noqa: BLE001 - pytest can't print all of these
        was_called = None
    assert was_called is False
    assert calls.errors == {"Broken.after_attempt": 1}


def test_a_hook_that_goes_on_raising_is_logged_ever_more_seldom(tester, caplog):
    raises["after_attempt"] = RuntimeError
    calls = HookCalls([Broken()])
    for _ in range(101):
        calls.call(calls.pairs[0].after, *[AttemptEnd("done")] * 2)
    assert calls.errors == {"Broken.after_attempt": 101}
    assert [(each.levelno, bool(each.exc_info)) for each in caplog.records] == [
        (logging.ERROR, True),
        (logging.ERROR, False),
        (logging.ERROR, False),
    ]
    assert "has raised 100 times, the last time RuntimeError" in caplog.messages[-1]


@pytest.mark.parametrize("place", ["before_attempt", "after_attempt"])
def test_a_hook_that_ends_the_process_is_the_end_of_a_worker_and_no_attempt_is_lost(tester, place):
    raises[place] = SystemExit
    with pytest.raises(SystemExit):
        tester.start(order, 0, key=place)
    raises.clear()
    assert ("after", "look", 1, "lost", "") in of("outer", "after") or place == "after_attempt"
    tester.advance_time(hours(1))
    assert tester.result(place) == "charged"


def test_a_timeout_that_comes_in_a_hook_is_the_attempts(tester):
    """Celery raises it wherever the process is."""
    raises["before_attempt"] = type("SoftTimeLimitExceeded", (Exception,), {})
    run = tester.start(order, 0)
    assert of("outer", "after")[0][1:4] == ("look", 1, "failed")
    assert of("inner", "before") == []
    raises.clear()
    tester.advance_time(seconds(10))
    assert tester.result(run) == "charged"


@pytest.mark.parametrize("how", ["completed", "failed", "incident", "expired"])
def test_the_end_of_a_run_is_told_once(tester, how):
    """So is that it needs an operator; if none comes, it ends after that."""
    tester.start(ends, how)
    tester.advance_time(hours(2))
    told = [how, "expired"] if how == "incident" else [how]
    assert of("outer", "ended") == [("ended", RunStatus(status)) for status in told]


@pytest.mark.parametrize(
    ("clean_up", "now", "told"), [("done", False, 1), ("hangs", False, 1), ("done", True, 0)]
)
def test_a_cancellation_is_told_where_a_worker_records_it(tester, clean_up, now, told):
    """By the turn that ends its clean-up, or by the timer of one that hangs; not where a client ends the run."""
    run = tester.start(cleans, clean_up)
    tester.cancel(run, now=now, clean_up_within=None if now else seconds(60))
    tester.advance_time(hours(2))
    assert tester.get(run).status is RunStatus.CANCELLED
    assert of("outer", "ended") == [("ended", RunStatus.CANCELLED)] * told


def test_without_hooks_nothing_of_theirs_is_called_or_made(tester):
    """By count, of all calls of Python's in a run: so nothing is allocated for them either."""

    def called_of_hooks(tester: ProcessTester) -> Counter[str]:
        found: Counter[str] = Counter()

        def profile(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename.endswith("/hooks.py"):
                found[frame.f_code.co_qualname] += 1

        sys.setprofile(profile)
        try:
            run = tester.start(order, 0)
            assert tester.result(run) == "charged"
        finally:
            sys.setprofile(None)
        return found

    with ProcessTester(registry=registry) as plain:
        assert called_of_hooks(plain) == {}
        assert plain.hook_errors == {}
    found = called_of_hooks(tester)
    assert found["HookCalls.around"] == found["HookedAttempt.__init__"] == 3


class Misspelt(Hooks):
    def before_attempts(self, attempt: AttemptInfo) -> None: ...


class Asynchronous(Hooks):
    async def before_attempt(self, attempt: AttemptInfo) -> None: ...


class Managing(Hooks):
    def after_attempt(self, attempt: AttemptInfo, end: AttemptEnd) -> Any:
        yield


@pytest.mark.parametrize(
    ("hook", "says"),
    [
        (Broken, r"not the class Broken.*Give an instance: Broken\(\)"),
        (print, r"not a builtin_function_or_method.*Derive its class from Hooks"),
        (Misspelt(), r"Misspelt overrides nothing.*before_attempt, after_attempt"),
        (Asynchronous(), r"Asynchronous.before_attempt is an `async def`.*plain `def`"),
        (Managing(), r"Managing.after_attempt is a generator.*plain `def`"),
    ],
)
def test_what_cannot_be_a_hook_is_refused(hook, says):
    with pytest.raises(DefinitionError, match=f"(?s){says}"):
        ProcessTester(registry=registry, hooks=[hook])
