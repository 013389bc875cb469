"""`Flow`: everything a process author may await.

Calling a method schedules; awaiting waits. So `a = flow.stage(x); b = flow.stage(y)` runs both at
once, and `await flow.gather(a, b)` waits for them. Between awaits a flow is pure: no clock
(`flow.now`), no randomness, no I/O outside a stage or a step, since it is replayed from its journal.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from datetime import datetime
from typing import (
    Any,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)
from uuid import UUID

from orchestrator.core.approvals import Decision, Escalate, request_approval
from orchestrator.core.callables import check_step, name_of, own_names
from orchestrator.core.checks import check_key, check_moment, composed, due_in
from orchestrator.core.definition import Stage
from orchestrator.core.durations import Duration, seconds_of, seconds_or_none
from orchestrator.core.kinds import (
    KINDS,
    AskPeople,
    Request,
    SignalWait,
    Sleep,
    StageCall,
    StepCall,
)
from orchestrator.core.kinds.base import Ask
from orchestrator.core.kinds.signal import OnUnfit
from orchestrator.core.retries import Retry
from orchestrator.core.unawaited import Unawaited
from orchestrator.errors import DefinitionError

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")

_ONCE = Retry()
_frame = sys._getframe  # noqa: SLF001 - one frame, where `inspect.stack` would take them all


class Pending(Generic[T]):
    """A requested activity. Await it for its answer."""

    __slots__ = ("__weakref__", "request", "unawaited")

    def __init__(self, request: Request, unawaited: Unawaited) -> None:
        self.request, self.unawaited = request, unawaited

    @property
    def key(self) -> str:
        """Its key in the journal. Of an approval it is the asking: what a link that decides it must name."""
        return self.request.key

    def is_awaited(self) -> None:
        """It is somebody's to wait for."""
        self.unawaited.awaited(self, self.request.key)

    def __await__(self) -> Generator[Any, Any, T]:
        self.unawaited.awaited(self, self.request.key)
        return cast("T", (yield self))


class Gather(Generic[T]):
    """Several awaitables, awaited together. `shape` rebuilds what the author passed."""

    __slots__ = ("__weakref__", "branches", "key", "shape", "unawaited")

    def __init__(
        self,
        key: str,
        branches: list[tuple[str, Awaitable[Any]]],
        shape: Callable[[list[Any]], T],
        unawaited: Unawaited,
    ) -> None:
        self.key, self.branches, self.shape, self.unawaited = key, branches, shape, unawaited

    def is_awaited(self) -> None:
        """It is somebody's to wait for, and so is each of its branches."""
        self.unawaited.awaited(self, self.key)
        for _, branch in self.branches:
            if isinstance(branch, Pending | Gather):
                branch.is_awaited()

    def __await__(self) -> Generator[Any, Any, T]:
        self.is_awaited()
        return cast("T", (yield self))


class Recorder(Protocol):
    """The turn behind a flow: it gives each request its place in the journal."""

    @property
    def unawaited(self) -> Unawaited:
        """The ledger of what this flow asked for and has not awaited."""

    @property
    def now(self) -> datetime:
        """The time of the last fact that the code now running has seen."""

    def request(self, name: str, key: str | None, ask: Ask) -> Request:
        """Place a request in the current scope."""

    def patched(self, name: str) -> bool:
        """Whether the run has come to this code of its flow first with this code."""

    def gather_key(self, key: str | None) -> str:
        """The key of a gather in the current scope."""

    def find_stage(self, name: str) -> Stage[..., Any]:
        """The registered stage of that name."""


class Flow:
    """Handed to a process's `async def`. Everything it returns can be awaited, and may take weeks."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        run_id: UUID,
        business_key: str | None,
        process: str,
        version: int,
    ) -> None:
        self._recorder = recorder
        self.run_id = run_id
        self.business_key = business_key
        self.process = process
        self.version = version
        self._unawaited = recorder.unawaited

    @property
    def now(self) -> datetime:
        """The time of the last fact this flow has seen; the same on every replay."""
        return self._recorder.now

    @overload
    def stage(
        self, stage: Stage[..., R], /, *args: Any, key: str | None, **kwargs: Any
    ) -> Pending[R]: ...
    @overload
    def stage(self, stage: Stage[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Pending[R]: ...
    @overload
    def stage(
        self, stage: str, /, *args: Any, key: str | None = ..., **kwargs: Any
    ) -> Pending[Any]: ...
    def stage(self, stage: Any, /, *args: Any, **kwargs: Any) -> Pending[Any]:
        """Hand off to a stage; awaiting gives its result.

        `key`: its name in the journal, by default the stage's; where the stage has a parameter `key`, that
        is meant. Raises InvalidArguments here, and ActivityFailed at the await when its attempts are used up.
        """
        found = self._recorder.find_stage(stage) if isinstance(stage, str) else stage
        if not isinstance(found, Stage):
            raise DefinitionError(
                f"flow.stage takes a @stage, not {found!r}",
                remedy="Decorate it, or use flow.step for a function.",
            )
        key = None if "key" in found.parameters else kwargs.pop("key", None)
        call = StageCall(found, found.bind(args, kwargs))
        return self._asked(found.name, key, call)

    @overload
    def step(
        self,
        function: Callable[..., R],
        /,
        *args: Any,
        key: str | None,
        retry: Retry = ...,
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def step(
        self, function: Callable[..., R], /, *args: Any, retry: Retry, **kwargs: Any
    ) -> Pending[R]: ...
    @overload
    def step(
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Pending[R]: ...
    def step(self, function: Any, /, *args: Any, **kwargs: Any) -> Pending[Any]:
        """Call a short function in the turn itself, once; awaiting gives its remembered result.

        `key`: its name in the journal, by default the function's. `retry`: a Retry. Where the function has
        parameters of these names, they are meant. Raises ActivityFailed at the await when its attempts are
        used up.
        """
        check_step(function, how="flow.step")
        theirs = own_names(function) if "key" in kwargs or "retry" in kwargs else ()
        key = None if "key" in theirs else kwargs.pop("key", None)
        retry = _ONCE if "retry" in theirs else kwargs.pop("retry", _ONCE)
        if not isinstance(retry, Retry):
            raise DefinitionError(
                f"flow.step is given retry={retry!r}", remedy="Give a Retry(max_attempts=…)."
            )
        call = StepCall(function, args, kwargs, retry)
        return self._asked(name_of(function), key, call)

    def sleep(self, duration: Duration, *, key: str | None = None) -> Pending[None]:
        """Wait for a timedelta, or for seconds; what is over already is over. Costs a few rows, however long."""
        delay = seconds_of(duration, what="flow.sleep")
        ask = Sleep(delay_seconds=due_in(delay, what="flow.sleep"))
        return self._asked("sleep", key, ask)

    def sleep_until(self, at: datetime, *, key: str | None = None) -> Pending[None]:
        """Wait until a moment, which must carry a time zone."""
        if not isinstance(at, datetime):
            raise DefinitionError(
                f"flow.sleep_until is given {at!r}, a {type(at).__name__}",
                remedy="Give a datetime with a time zone, or use flow.sleep for a duration.",
            )
        check_moment(at, what="flow.sleep_until")
        return self._asked("sleep", key, Sleep(at=at))

    @overload
    def signal(
        self,
        name: str,
        *,
        type: type[T],
        timeout: Duration | None = ...,
        on_unfit: OnUnfit = ...,
        key: str | None = ...,
    ) -> Pending[T]: ...
    @overload
    def signal(
        self,
        name: str,
        *,
        timeout: Duration | None = ...,
        type: Any = ...,
        on_unfit: OnUnfit = ...,
        key: str | None = ...,
    ) -> Pending[Any]: ...
    def signal(
        self,
        name: str,
        *,
        timeout: Duration | None = None,
        type: Any = Any,  # noqa: A002 - the natural word
        on_unfit: OnUnfit = "set_aside",
        key: str | None = None,
    ) -> Pending[Any]:
        """Wait for the next unconsumed signal of that name; awaiting gives its payload as `type`.

        A signal that came before the wait counts, also where `timeout` is over at once. One that does not fit `type`
        is set aside, in sight (`show`, `history`), and the next one is taken; with `on_unfit="raise"` it is taken, and
        PayloadError raised at the await, the same at each replay. Raises SignalTimedOut at the await.
        """
        if on_unfit not in ("set_aside", "raise"):
            raise DefinitionError(
                f'flow.signal(on_unfit) is "set_aside" or "raise", not {on_unfit!r}'
            )
        timeout_seconds = seconds_or_none(timeout, what=f"the timeout of signal {name!r}")
        if timeout_seconds is not None:
            timeout_seconds = due_in(timeout_seconds, what=f"the timeout of signal {name!r}")
        wait = SignalWait(timeout_seconds, type, on_unfit)
        return self._asked(composed(name), key, wait)

    def approval(
        self,
        name: str,
        *,
        assign: Sequence[str],
        escalate: Escalate | None = None,
        timeout: Duration | None = None,
        key: str | None = None,
    ) -> Pending[Decision]:
        """Ask people to decide; awaiting gives a Decision: approved, rejected or timed out.

        Any one of `assign` decides. After each duration of `escalate` its people may decide too. A time that
        is over already is over now: an approval with such a `timeout` times out without a decision.
        """
        name = composed(name)
        ask = request_approval(name, assign=assign, escalate=escalate, timeout=timeout)
        return self._asked(name, key, AskPeople(ask))

    def patched(self, name: str) -> bool:
        """Guard changed code: True for a run that comes here first with this code, False for one that was further.

        `if flow.patched("two-reviews"): … else: …`, with the new code above and the former below. The answer is the
        same at each replay: the first True is marked in the journal. Once `perennial check` says that no open run needs
        the former code, take it away with the question: marks that nobody asks for count for nothing.
        """
        return self._recorder.patched(composed(name))

    def ask(self, ask: Ask, name: str, *, key: str | None = None) -> Pending[Any]:
        """Ask for something of a kind that is registered (`core.kinds.register`); awaiting gives its answer.

        `name` is what people read, and `key` its name in the journal. The kinds that come with Perennial have methods
        of their own.
        """
        if KINDS.get(getattr(ask, "kind", None)) is not type(ask):  # type: ignore[arg-type]  # it may be anything
            raise DefinitionError(
                f"flow.ask is given {ask!r}, which is of no registered kind",
                remedy="Define it as a subclass of Ask, and call core.kinds.register with that class.",
            )
        return self._asked(composed(name), key, ask)

    @overload
    def gather(  # type: ignore[overload-overlap]  # a list where all are of one type, as it always was
        self, *awaitables: Pending[T], key: str | None = ...
    ) -> Gather[list[T]]: ...
    @overload
    def gather(
        self, awaitables: Mapping[str, Awaitable[T]], /, *, key: str | None = ...
    ) -> Gather[dict[str, T]]: ...
    @overload
    def gather(
        self, a: Awaitable[A], b: Awaitable[B], /, *, key: str | None = ...
    ) -> Gather[tuple[A, B]]: ...
    @overload
    def gather(
        self, a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /, *, key: str | None = ...
    ) -> Gather[tuple[A, B, C]]: ...
    @overload
    def gather(
        self,
        a: Awaitable[A],
        b: Awaitable[B],
        c: Awaitable[C],
        d: Awaitable[D],
        /,
        *,
        key: str | None = ...,
    ) -> Gather[tuple[A, B, C, D]]: ...
    @overload
    def gather(
        self,
        a: Awaitable[A],
        b: Awaitable[B],
        c: Awaitable[C],
        d: Awaitable[D],
        e: Awaitable[E],
        /,
        *,
        key: str | None = ...,
    ) -> Gather[tuple[A, B, C, D, E]]: ...
    @overload
    def gather(
        self,
        a: Awaitable[A],
        b: Awaitable[B],
        c: Awaitable[C],
        d: Awaitable[D],
        e: Awaitable[E],
        f: Awaitable[F],
        /,
        *,
        key: str | None = ...,
    ) -> Gather[tuple[A, B, C, D, E, F]]: ...
    @overload
    def gather(self, *awaitables: Awaitable[T], key: str | None = ...) -> Gather[list[T]]: ...
    def gather(self, *awaitables: Any, key: str | None = None) -> Gather[Any]:
        """Wait for all; awaiting gives a list, or a dict for a mapping.

        Branches may be requested activities or coroutines of your own, which then run side by side,
        their keys under `<key>/<position or name>/`. When some fail, all are waited for, and the first
        by position is raised. To type checkers two to six of different types are a tuple, so that each
        keeps its type; it is a list all the same.
        """
        if not (len(awaitables) == 1 and isinstance(awaitables[0], Mapping)):
            _check_branches(awaitables)
        own_key = self._recorder.gather_key(key)
        branches: list[tuple[str, Awaitable[Any]]]
        if len(awaitables) == 1 and isinstance(awaitables[0], Mapping):
            names = [composed(str(name)) for name in awaitables[0]]
            for name in names:
                check_key(name, where="flow.gather")
            if len(set(names)) < len(names):
                raise DefinitionError(
                    f"flow.gather was given two branches of one name: {', '.join(sorted(names))}",
                    remedy="Name each otherwise; 1 and '1' are one name, and so is é however it is typed.",
                )
            branches = list(zip(names, awaitables[0].values(), strict=True))
            shape: Callable[[list[Any]], Any] = _mapping_of(names)
        else:
            branches = [(str(index), branch) for index, branch in enumerate(awaitables)]
            shape = list
        gather = Gather(own_key, branches, shape, self._unawaited)
        self._unawaited.note(own_key, gather, _frame(1), must_be_awaited=True)
        return gather

    def _asked(self, name: str, key: str | None, ask: Ask) -> Pending[Any]:
        """Called by the very method that the flow calls, whose line is remembered."""
        if key is not None and not isinstance(key, str):
            raise DefinitionError(
                f"{ask.kind} {name} is given the key {key!r}", remedy="Keys are text: str(…)."
            )
        request = self._recorder.request(name, key, ask)
        pending: Pending[Any] = Pending(request, self._unawaited)
        self._unawaited.note(request.key, pending, _frame(2), must_be_awaited=ask.is_work)
        return pending


def _check_branches(branches: Sequence[Any]) -> None:
    for branch in branches:
        if not isinstance(branch, Pending | Gather) and not inspect.iscoroutine(branch):
            is_bundle = isinstance(branch, list | tuple | set | Generator)
            for each in branches:
                if inspect.iscoroutine(each):
                    each.close()
            raise DefinitionError(
                f"flow.gather is given a {type(branch).__name__}",
                remedy="Unpack it: flow.gather(*branches)."
                if is_bundle
                else "Give it what flow's own methods return, or coroutines of `async def`s of yours.",
            )


def _mapping_of(names: Sequence[str]) -> Callable[[list[Any]], dict[str, Any]]:
    return lambda results: dict(zip(names, results, strict=True))


FlowCoroutine = Coroutine[Any, Any, Any]
