"""`Flow`: everything a process author may await.

Calling a method schedules; awaiting waits. So `a = flow.stage(x); b = flow.stage(y)` runs both at
once, and `await flow.gather(a, b)` waits for them. Between awaits a flow is pure: no clock
(`flow.now`), no randomness, no I/O outside a stage or a step, since it is replayed from its journal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, overload
from uuid import UUID

from orchestrator.core.approvals import ApprovalRequest, Decision, request_approval
from orchestrator.core.checks import check_key, check_moment, composed, due_in
from orchestrator.core.definition import Stage, name_of
from orchestrator.core.journal import ActivityKind, describe
from orchestrator.core.retries import Retry
from orchestrator.errors import DefinitionError

T = TypeVar("T")
R = TypeVar("R")

OnUnfit = Literal["set_aside", "raise"]
"""What becomes of a signal that does not fit the type of its wait."""


@dataclass(frozen=True, slots=True)
class StageCall:
    """A stage and its arguments by name."""

    stage: Stage[..., Any]
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StepCall:
    """A call made inline, in the turn."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retry: Retry


@dataclass(frozen=True, slots=True)
class SignalWait:
    """A wait for the next signal of a name; `type` is what its payload must fit, and `on_unfit` what becomes of
    one that doesn't.
    """

    timeout_seconds: float | None
    type: Any
    on_unfit: OnUnfit = "set_aside"


@dataclass(frozen=True, slots=True)
class Sleep:
    """Until `at`, or for `delay_seconds` from the moment it is recorded."""

    delay_seconds: float | None = None
    at: datetime | None = None


Ask = StageCall | StepCall | SignalWait | Sleep | ApprovalRequest


@dataclass(frozen=True, slots=True)
class Request:
    """One thing a flow asked for, with its place in the journal."""

    key: str
    scope: str
    ordinal: int
    kind: ActivityKind
    name: str
    ask: Ask
    asked: str = ""
    """A digest of its arguments, to be compared at each replay (`core.asked`)."""

    def describe(self) -> str:
        """As an activity's."""
        return describe(self.kind, self.name, self.key)


class Pending(Generic[T]):
    """A requested activity. Await it for its answer."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request

    def __await__(self) -> Generator[Any, Any, T]:
        return cast("T", (yield self))


class Gather(Generic[T]):
    """Several awaitables, awaited together. `shape` rebuilds what the author passed."""

    __slots__ = ("branches", "key", "shape")

    def __init__(
        self, key: str, branches: list[tuple[str, Awaitable[Any]]], shape: Callable[[list[Any]], T]
    ) -> None:
        self.key, self.branches, self.shape = key, branches, shape

    def __await__(self) -> Generator[Any, Any, T]:
        return cast("T", (yield self))


class Recorder(Protocol):
    """The turn behind a flow: it gives each request its place in the journal."""

    @property
    def now(self) -> datetime:
        """The time of the last fact that the code now running has seen."""

    def request(self, kind: ActivityKind, name: str, key: str | None, ask: Ask) -> Request:
        """Place a request in the current scope."""

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

    @property
    def now(self) -> datetime:
        """The time of the last fact this flow has seen; the same on every replay."""
        return self._recorder.now

    @overload
    def stage(
        self, stage: Stage[..., R], /, *args: Any, key: str | None = ..., **kwargs: Any
    ) -> Pending[R]: ...
    @overload
    def stage(
        self, stage: str, /, *args: Any, key: str | None = ..., **kwargs: Any
    ) -> Pending[Any]: ...
    def stage(
        self, stage: Any, /, *args: Any, key: str | None = None, **kwargs: Any
    ) -> Pending[Any]:
        """Hand off to a stage; awaiting gives its result.

        Raises ActivityFailed at the await when its attempts are used up.
        """
        found = self._recorder.find_stage(stage) if isinstance(stage, str) else stage
        if not isinstance(found, Stage):
            raise DefinitionError(
                f"flow.stage takes a @stage, not {found!r}",
                remedy="Decorate it, or use flow.step for a function.",
            )
        call = StageCall(found, found.bind(args, kwargs))
        return Pending(self._recorder.request(ActivityKind.STAGE, found.name, key, call))

    def step(
        self,
        function: Callable[..., R],
        /,
        *args: Any,
        key: str | None = None,
        retry: Retry = Retry(),  # noqa: B008 - frozen
        **kwargs: Any,
    ) -> Pending[R]:
        """Call a short function in the turn itself, once; awaiting gives its remembered result.

        Raises ActivityFailed at the await when its attempts are used up.
        """
        call = StepCall(function, args, kwargs, retry)
        return Pending(self._recorder.request(ActivityKind.STEP, name_of(function), key, call))

    def sleep(self, duration: timedelta | float, *, key: str | None = None) -> Pending[None]:
        """Wait for a timedelta, or for seconds; what is over already is over. Costs a few rows, however long."""
        delay = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
        ask = Sleep(delay_seconds=due_in(delay, what="flow.sleep"))
        return Pending(self._recorder.request(ActivityKind.SLEEP, "sleep", key, ask))

    def sleep_until(self, at: datetime, *, key: str | None = None) -> Pending[None]:
        """Wait until a moment, which must carry a time zone."""
        check_moment(at, what="flow.sleep_until")
        return Pending(self._recorder.request(ActivityKind.SLEEP, "sleep", key, Sleep(at=at)))

    def signal(
        self,
        name: str,
        *,
        timeout: timedelta | None = None,
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
        timeout_seconds = timeout.total_seconds() if timeout is not None else None
        if timeout_seconds is not None:
            timeout_seconds = due_in(timeout_seconds, what=f"the timeout of signal {name!r}")
        wait = SignalWait(timeout_seconds, type, on_unfit)
        return Pending(self._recorder.request(ActivityKind.SIGNAL, composed(name), key, wait))

    def approval(
        self,
        name: str,
        *,
        assign: Sequence[str],
        escalate: Mapping[timedelta, Sequence[str]] | None = None,
        timeout: timedelta | None = None,
        key: str | None = None,
    ) -> Pending[Decision]:
        """Ask people to decide; awaiting gives a Decision: approved, rejected or timed out.

        Any one of `assign` decides. After each duration of `escalate` its people may decide too. A time that
        is over already is over now: an approval with such a `timeout` times out without a decision.
        """
        name = composed(name)
        ask = request_approval(name, assign=assign, escalate=escalate, timeout=timeout)
        return Pending(self._recorder.request(ActivityKind.APPROVAL, name, key, ask))

    @overload
    def gather(self, *awaitables: Awaitable[Any], key: str | None = ...) -> Gather[list[Any]]: ...
    @overload
    def gather(
        self, awaitables: Mapping[str, Awaitable[Any]], /, *, key: str | None = ...
    ) -> Gather[dict[str, Any]]: ...
    def gather(self, *awaitables: Any, key: str | None = None) -> Gather[Any]:
        """Wait for all; awaiting gives a list, or a dict for a mapping.

        Branches may be requested activities or coroutines of your own, which then run side by side,
        their keys under `<key>/<position or name>/`. When some fail, all are waited for, and the first
        by position is raised.
        """
        own_key = self._recorder.gather_key(key)
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
            return Gather(own_key, branches, lambda results: dict(zip(names, results, strict=True)))
        return Gather(
            own_key, [(str(index), branch) for index, branch in enumerate(awaitables)], list
        )


FlowCoroutine = Coroutine[Any, Any, Any]
