"""Hooks are called here (`core.hooks`): in their order, each by itself, and none of them changes an outcome.

    HookCalls.around            a call that blocks: before, the call, after
    HookCalls.around_awaited    one that is awaited
    HookCalls.attempt           one that begins here and ends elsewhere
    HookCalls.turn_committed …  what is recorded is told

An attempt has a copy of its caller's context (`contextvars`), in which its hooks and its function are called: what a
hook sets is seen there, and nowhere else afterwards. What ends the process (SystemExit, Ctrl-C) is no hook's error
and goes on its way, as from a stage; and an attempt that overruns its timeout in `before_attempt` has overrun it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextvars import Context, copy_context
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from itertools import count
from types import MappingProxyType, coroutine
from typing import Any, NoReturn, TypeVar

from orchestrator.core.failures import (
    FAILURES,
    LINE_LENGTH_MAX,
    frames_of,
    message_of,
    presentable,
    type_of,
)
from orchestrator.core.hooks import (
    ActivityEnd,
    ActivityInfo,
    AttemptEnd,
    AttemptInfo,
    AttemptOutcome,
    Hooks,
    RunInfo,
)
from orchestrator.core.journal import ActivityKind
from orchestrator.core.outcome import RunContext, TurnOutcome
from orchestrator.core.retries import RetryAsked
from orchestrator.core.run_report import RunReport
from orchestrator.engine.attempt_errors import is_overrun
from orchestrator.errors import DefinitionError
from orchestrator.store.reads.loading import LoadedRun
from orchestrator.store.transitions.claim import Claim

log = logging.getLogger(__name__)

T = TypeVar("T")

_TRACEBACK = BaseException.__dict__["__traceback__"]

PLACES = tuple(name for name in vars(Hooks) if not name.startswith("_"))
"""Where a hook may be called."""

_ENDS = ("after_attempt", "activity_settled", "run_ended")
"""There the first is called last."""


def run_info(run: RunContext) -> RunInfo:
    """Of that run what a hook may know."""
    return RunInfo(run.id, run.business_key, run.process, run.version)


def attempt_info(
    run: RunContext, kind: ActivityKind, *, key: str, name: str, attempt: int
) -> AttemptInfo:
    """Of that attempt what a hook may know."""
    return AttemptInfo(run_info(run), key, kind, name, attempt)


def info_of(claim: Claim) -> AttemptInfo:
    """Of that attempt of a stage what a hook may know."""
    return attempt_info(
        claim.run.context,
        ActivityKind.STAGE,
        key=claim.key,
        name=claim.name,
        attempt=claim.attempt,
    )


class _Method:
    """One place of one hook."""

    __slots__ = ("call", "name", "numbers", "times")

    def __init__(self, name: str, call: Callable[..., object]) -> None:
        self.name, self.call = name, call
        self.times = 0
        """So often it has raised."""
        self.numbers = count(1)
        """Whichever thread takes one, nobody else has it."""


class _Pair:
    """What one hook has around an attempt."""

    __slots__ = ("after", "before")

    def __init__(self, before: _Method | None, after: _Method | None) -> None:
        self.before, self.after = before, after


class HookCalls:
    """The hooks of one app. Raises DefinitionError for what can't be one."""

    def __init__(
        self, hooks: Sequence[Hooks], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.monotonic = monotonic
        found = [_methods_of(hook) for hook in hooks]
        self._methods = [method for each in found for method in each.values()]
        self._at = {
            place: tuple(
                each[place]
                for each in (reversed(found) if place in _ENDS else found)
                if place in each
            )
            for place in PLACES
        }
        self.pairs = tuple(
            _Pair(each.get("before_attempt"), each.get("after_attempt"))
            for each in found
            if "before_attempt" in each or "after_attempt" in each
        )

    @classmethod
    def of(
        cls, hooks: Sequence[Hooks], *, monotonic: Callable[[], float] = time.monotonic
    ) -> HookCalls | None:
        """None where there is none: then nothing of this is called."""
        return cls(hooks, monotonic=monotonic) if hooks else None

    @property
    def errors(self) -> dict[str, int]:
        """How often each has raised in this process: `Tracing.before_attempt` → 3."""
        found: dict[str, int] = {}
        for method in self._methods:
            if method.times:
                found[method.name] = found.get(method.name, 0) + method.times
        return found

    # -- an attempt --------------------------------------------------------------------------

    def attempt(self, info: AttemptInfo) -> HookedAttempt:
        """One that is to begin, in a copy of the context of who calls this."""
        return HookedAttempt(self, info)

    def around(self, info: AttemptInfo, function: Callable[[], T]) -> T:
        """Call it, between its hooks; its result, or what it raises."""
        if not self.pairs:
            return function()
        attempt = HookedAttempt(self, info)
        attempt.begin()
        return attempt.end(partial(attempt.context.run, function))

    async def around_awaited(self, info: AttemptInfo, function: Callable[[], Awaitable[T]]) -> T:
        """As `around`, on an event loop."""
        if not self.pairs:
            return await function()
        attempt = HookedAttempt(self, info)
        attempt.begin()
        try:
            value: T = await _in_context(_awaiting(function), attempt.context)
        except BaseException as raised:  # noqa: BLE001 - it goes on its way below
            error = raised
        else:
            attempt.over(None)
            return value
        try:
            attempt.failed(error)
        finally:
            del error  # its traceback leads here

    # -- what is recorded --------------------------------------------------------------------

    def turn_committed(self, loaded: LoadedRun, outcome: TurnOutcome) -> None:
        """What a turn has begun and opened."""
        run = loaded.context
        is_first = loaded.turn_revision < 0 and not loaded.journal and run.chapter == 1
        if is_first and self._at["run_started"]:
            self._tell("run_started", run_info(run))
        if outcome.opened and self._at["activity_opened"]:
            info = run_info(run)
            for each in outcome.opened:
                of = each.request
                self._tell("activity_opened", ActivityInfo(info, of.key, of.kind, of.name))

    def settled(
        self,
        run: RunContext,
        kind: ActivityKind,
        *,
        key: str,
        name: str,
        error: dict[str, Any] | None,
    ) -> None:
        """That activity has its end in the record."""
        if self._at["activity_settled"]:
            self._tell(
                "activity_settled",
                ActivityInfo(run_info(run), key, kind, name),
                ActivityEnd("done") if error is None else _failed_by(error),
            )

    def settling(
        self, claim: Claim, error: dict[str, Any] | None, *, then: Callable[[], None]
    ) -> Callable[[], None]:
        """What is to be called once that stage has its end in the record. `then`: before the hooks."""

        def settled() -> None:
            then()
            self.settled(
                claim.run.context, ActivityKind.STAGE, key=claim.key, name=claim.name, error=error
            )

        return settled

    def run_ended(self, report: RunReport) -> None:
        """A run has come to its end, or to an operator."""
        self._tell("run_ended", report)

    def _tell(self, place: str, *what: object) -> None:
        for method in self._at[place]:
            self.call(method, *what)

    def call(self, method: _Method, *what: object, may_overrun: bool = False) -> bool:
        """Whether it has come to its end. `may_overrun`: a timeout that comes in it is none of its errors."""
        try:
            method.call(*what)
        except FAILURES as error:  # guard: a hook's error changes no outcome
            if may_overrun and is_overrun(error):
                raise
            self._failed(method, error)
            return False
        return True

    def _failed(self, method: _Method, error: BaseException) -> None:
        times = method.times = next(method.numbers)
        if times == 1:
            log.error(
                "hook %s raised %s: it changes nothing, and from now on it is counted: %s",
                method.name,
                type_of(error),
                message_of(error)[:LINE_LENGTH_MAX],
                exc_info=presentable(error),
                extra={"action": "hook", "hook": method.name},
            )
        elif str(times).strip("0") == "1":  # the tenth, the hundredth
            log.error(
                "hook %s has raised %s times, the last time %s: %s",
                method.name,
                times,
                type_of(error),
                message_of(error)[:LINE_LENGTH_MAX],
                extra={"action": "hook", "hook": method.name},
            )


class HookedAttempt:
    """An attempt between its hooks. `context`: its function is to be called there."""

    __slots__ = ("_calls", "_entered", "_info", "_started", "context")

    def __init__(self, calls: HookCalls, info: AttemptInfo) -> None:
        self._calls, self._info = calls, info
        self._entered: list[_Pair] = []
        self._started = 0.0
        self.context: Context = copy_context()

    def begin(self) -> None:
        """Call what comes before. Raises what ends the process, and the attempt's own timeout."""
        self._started = self._calls.monotonic()
        try:
            self.context.run(self._before)
        except BaseException as raised:  # noqa: BLE001 - it goes on its way below
            error = raised
        else:
            return
        try:
            self.failed(error)
        finally:
            del error  # its traceback leads here

    def end(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises is what the attempt came to."""
        try:
            value = function()
        except BaseException as raised:  # noqa: BLE001 - it goes on its way below
            error = raised
        else:
            self.over(None)
            return value
        try:
            self.failed(error)
        finally:
            del error  # its traceback leads here

    def failed(self, error: BaseException) -> NoReturn:
        """Raise it, after its hooks. Not where it is in hand: what they raise would have it as its context."""
        traceback = frames_of(error)
        self.over(error)
        # guard: a hook that raises what it was given leaves it as it was
        _TRACEBACK.__set__(error, traceback)
        raise error

    def over(self, error: BaseException | None) -> None:
        """Call what comes after."""
        outcome = _outcome_of(error)
        if type(error) is RetryAsked:
            error = error.cause
        seconds = self._calls.monotonic() - self._started
        self.context.run(self._after, AttemptEnd(outcome, error, seconds))

    def given_back(self) -> None:
        """It was cancelled, and is another worker's."""
        seconds = self._calls.monotonic() - self._started
        self.context.run(self._after, AttemptEnd("lost", None, seconds))

    def _before(self) -> None:
        for pair in self._calls.pairs:
            if pair.before is None or self._calls.call(pair.before, self._info, may_overrun=True):
                self._entered.append(pair)

    def _after(self, end: AttemptEnd) -> None:
        entered, self._entered = self._entered, []
        for pair in reversed(entered):
            if pair.after is not None:
                self._calls.call(pair.after, self._info, end)


def _failed_by(error: dict[str, Any]) -> ActivityEnd:
    """To be read: a flow that is kept has the very same."""
    return ActivityEnd("failed", MappingProxyType(error))


def _outcome_of(error: BaseException | None) -> AttemptOutcome:
    if error is None:
        return "done"
    return "failed" if issubclass(type(error), FAILURES) else "lost"


def _methods_of(hook: object) -> dict[str, _Method]:
    """What it overrides, by place."""
    if not isinstance(hook, Hooks):
        shown, remedy = f"a {type(hook).__qualname__}", "Derive its class from Hooks."
        if isinstance(hook, type):
            shown, remedy = (
                f"the class {hook.__qualname__}",
                f"Give an instance: {hook.__name__}().",
            )
        raise DefinitionError(
            f"a hook is an instance of a class derived from Hooks, and not {shown}",
            where="hooks",
            remedy=remedy,
        )
    name = type(hook).__qualname__
    found = {}
    for place in PLACES:
        method = getattr(hook, place)
        if getattr(method, "__func__", method) is not getattr(Hooks, place):
            _check_plain(f"{name}.{place}", method)
            found[place] = _Method(f"{name}.{place}", method)
    if not found:
        raise DefinitionError(
            f"the hook {name} overrides nothing, so that it would never be called",
            where="hooks",
            remedy=f"It may have: {', '.join(PLACES)}.",
        )
    return found


def _check_plain(name: str, method: Callable[..., object]) -> None:
    for is_other, what in (
        (iscoroutinefunction, "an `async def`"),
        (isgeneratorfunction, "a generator"),
        (isasyncgenfunction, "an async generator"),
    ):
        if is_other(method):
            raise DefinitionError(
                f"the hook {name} is {what}, which nobody would run",
                where="hooks",
                remedy="Write it as a plain `def`.",
            )


async def _awaiting(function: Callable[[], Awaitable[T]]) -> T:
    return await function()


@coroutine
def _in_context(work: Any, context: Context) -> Generator[Any, Any, Any]:
    """Await that coroutine with each of its steps in `context`. In this very task: it is cancelled as ever."""
    go_on: Callable[[], Any] = partial(work.send, None)
    while True:
        try:
            asked = context.run(go_on)
        except StopIteration as end:
            return end.value
        try:
            answer = yield asked
        except GeneratorExit:
            context.run(work.close)
            raise
        except BaseException as error:  # noqa: BLE001 - it is the coroutine's to judge
            go_on = partial(work.throw, error)
        else:
            go_on = partial(work.send, answer)
