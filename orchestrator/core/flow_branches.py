"""The methods of `Flow` that await several things together, and those that bound and name parts of a flow.

gather, first, map, parallel    several branches (`core.combinators`)
timeout, scope                  blocks (`core.blocks`)
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any, ParamSpec, TypeVar, overload

from orchestrator.core.blocks import Scope, Timeout
from orchestrator.core.branch_checks import (
    called,
    checked,
    discard_all,
    mapping_of,
    names_and_branches,
    refuse_twice,
    word_of,
)
from orchestrator.core.branch_results import BranchResults, RaceResult
from orchestrator.core.callables import name_of
from orchestrator.core.checks import check_key, composed, due_in
from orchestrator.core.combinators import (
    Combination,
    First,
    Gather,
    Later,
    ManyBranches,
    Scoped,
    Start,
)
from orchestrator.core.definition import Stage
from orchestrator.core.durations import Duration, seconds_of
from orchestrator.core.flow_part import FlowPart
from orchestrator.core.kinds.scope import ScopeCall
from orchestrator.core.pending import Pending
from orchestrator.core.tallies import CompletionPolicy
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
Together = TypeVar("Together", bound=Combination[Any])

_frame = sys._getframe  # noqa: SLF001 - one frame, where `inspect.stack` would take them all


class FlowBranches(FlowPart):
    """The part of `Flow` that is about branches and blocks."""

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
        named = names_and_branches(awaitables, how="flow.gather")
        own_key = self._recorder.gather_key(key)
        if len(awaitables) == 1 and isinstance(awaitables[0], Mapping):
            shape: Callable[[list[Any]], Any] = mapping_of([name for name, _ in named])
        else:
            shape = list
        gather: Gather[Any] = Gather(own_key, named, shape, self._unawaited)
        return self._noted(gather, _frame(1))

    @overload
    def first(
        self,
        awaitables: Mapping[str, Awaitable[T]],
        /,
        *,
        count: int = ...,
        cancel_rest: bool = ...,
        key: str | None = ...,
    ) -> First[RaceResult[T]]: ...
    @overload
    def first(
        self,
        a: Awaitable[A],
        b: Awaitable[B],
        /,
        *,
        count: int = ...,
        cancel_rest: bool = ...,
        key: str | None = ...,
    ) -> First[RaceResult[A | B]]: ...
    @overload
    def first(
        self,
        a: Awaitable[A],
        b: Awaitable[B],
        c: Awaitable[C],
        /,
        *,
        count: int = ...,
        cancel_rest: bool = ...,
        key: str | None = ...,
    ) -> First[RaceResult[A | B | C]]: ...
    @overload
    def first(
        self,
        *awaitables: Awaitable[T],
        count: int = ...,
        cancel_rest: bool = ...,
        key: str | None = ...,
    ) -> First[RaceResult[T]]: ...
    def first(
        self,
        *awaitables: Any,
        count: int = 1,
        cancel_rest: bool = True,
        key: str | None = None,
    ) -> First[Any]:
        """A race: wait for the first `count` branches to succeed; awaiting gives a RaceResult.

        Who comes first is told by the order in which the facts came to the run, the same at each replay. The others are
        cancelled, and that is recorded: a stage at work is cancelled with its late answer, an approval is withdrawn, a
        signal that comes later stays for the next wait of its name. A coroutine of yours is raised BranchCancelled at
        its await, and its `finally` blocks run, awaits in them too, before the race ends. With `cancel_rest=False` they
        go on. A branch that fails has not won. Raises TooFewSucceeded at the await once `count` can't succeed any more.
        """
        named = names_and_branches(awaitables, how="flow.first")
        refuse_twice([branch for _, branch in named], how="flow.first")
        if type(count) is not int or not 1 <= count <= len(named):
            discard_all(branch for _, branch in named)
            raise DefinitionError(
                f"flow.first(count={count!r}) is given {len(named)} branches",
                remedy="Give a whole number from 1 to as many as there are branches.",
            )
        own_key = self._recorder.gather_key(key, "first")
        race: First[Any] = First(
            own_key, named, self._unawaited, count=count, cancel_rest=cancel_rest
        )
        return self._noted(race, _frame(1))

    @overload
    def map(
        self,
        function: Stage[..., R],
        items: Iterable[Any],
        /,
        *,
        max_concurrency: int | None = ...,
        min_successful: int | None = ...,
        tolerated_failures: int | None = ...,
        tolerated_failure_percentage: float | None = ...,
        key: str | None = ...,
    ) -> ManyBranches[BranchResults[R]]: ...
    @overload
    def map(
        self,
        function: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        /,
        *,
        max_concurrency: int | None = ...,
        min_successful: int | None = ...,
        tolerated_failures: int | None = ...,
        tolerated_failure_percentage: float | None = ...,
        key: str | None = ...,
    ) -> ManyBranches[BranchResults[R]]: ...
    def map(
        self,
        function: Any,
        items: Iterable[Any],
        /,
        *,
        max_concurrency: int | None = None,
        min_successful: int | None = None,
        tolerated_failures: int | None = None,
        tolerated_failure_percentage: float | None = None,
        key: str | None = None,
    ) -> ManyBranches[Any]:
        """Do the same with each item; awaiting gives BranchResults, in the order of the items.

        `function`: a stage, or an `async def` of the flow's own that takes the item. Their keys stand under
        `<key>/<position>/`. At most `max_concurrency` are under way at a time. It is over when all have ended, when
        `min_successful` have succeeded, or when more have failed than `tolerated_failures`, or than
        `tolerated_failure_percentage` of all items: then those under way are cancelled, as by `first`, and the others
        not started. What has failed is in the result, and raised by its `raise_if_failed`.
        """
        policy = CompletionPolicy(
            max_concurrency, min_successful, tolerated_failures, tolerated_failure_percentage
        )
        if not isinstance(function, Stage) and not callable(function):
            raise DefinitionError(
                f"flow.map is given {function!r}",
                remedy="Give it a @stage, or an `async def` that takes one item.",
            )
        if isinstance(items, str | bytes) or not isinstance(items, Iterable):
            raise DefinitionError(
                f"flow.map is given a {type(items).__name__} for its items",
                remedy="Give a list, or what can be made one.",
            )
        start = partial(self._start_item, function)
        branches: list[tuple[str, Start]] = [
            (str(index), partial(start, item)) for index, item in enumerate(items)
        ]
        name = function.name if isinstance(function, Stage) else word_of(function)
        return self._many(branches, policy, key, name, _frame(1))

    def _start_item(self, function: Any, item: Any) -> Any:
        if isinstance(function, Stage):
            return self.stage(function, item)
        started = function(item)
        return checked(started, f"{name_of(function)}, which flow.map calls,")

    @overload
    def parallel(
        self,
        branches: Mapping[str, Awaitable[T] | Callable[[], Awaitable[T]]],
        /,
        *,
        max_concurrency: int | None = ...,
        min_successful: int | None = ...,
        tolerated_failures: int | None = ...,
        tolerated_failure_percentage: float | None = ...,
        key: str | None = ...,
    ) -> ManyBranches[BranchResults[T]]: ...
    @overload
    def parallel(
        self,
        branches: Sequence[Awaitable[T] | Callable[[], Awaitable[T]]],
        /,
        *,
        max_concurrency: int | None = ...,
        min_successful: int | None = ...,
        tolerated_failures: int | None = ...,
        tolerated_failure_percentage: float | None = ...,
        key: str | None = ...,
    ) -> ManyBranches[BranchResults[T]]: ...
    def parallel(
        self,
        branches: Any,
        /,
        *,
        max_concurrency: int | None = None,
        min_successful: int | None = None,
        tolerated_failures: int | None = None,
        tolerated_failure_percentage: float | None = None,
        key: str | None = None,
    ) -> ManyBranches[Any]:
        """Different branches, under the same policy as `map`; awaiting gives BranchResults, in their order.

        A branch is a coroutine, an `async def` that takes nothing, or what flow's own methods return; a mapping names
        them. The latter is asked for already, and so can't be held back by `max_concurrency`.
        """
        policy = CompletionPolicy(
            max_concurrency, min_successful, tolerated_failures, tolerated_failure_percentage
        )
        if not isinstance(branches, Mapping | Sequence) or isinstance(branches, str | bytes):
            raise DefinitionError(
                f"flow.parallel is given a {type(branches).__name__}",
                remedy="Give it a list of branches, or a mapping of names to branches.",
            )
        given = (branches,) if isinstance(branches, Mapping) else tuple(branches)
        named = names_and_branches(given, how="flow.parallel", may_be_called=True)
        asked = next((b for _, b in named if isinstance(b, Pending | Combination)), None)
        if asked is not None and max_concurrency is not None:
            discard_all(branch for _, branch in named)
            raise DefinitionError(
                f"flow.parallel(max_concurrency) is given {asked.key}, which is asked for already",
                remedy="Give it an `async def` that asks for it and awaits it.",
            )
        refuse_twice([branch for _, branch in named if not callable(branch)], how="flow.parallel")
        starts: list[tuple[str, Start]] = [(name, Later(branch)) for name, branch in named]
        return self._many(starts, policy, key, "parallel", _frame(1))

    def _many(
        self,
        branches: list[tuple[str, Start]],
        policy: CompletionPolicy,
        key: str | None,
        name: str,
        asked_at: FrameType,
    ) -> ManyBranches[Any]:
        own_key = self._recorder.gather_key(key, name)
        many: ManyBranches[Any] = ManyBranches(own_key, branches, self._unawaited, policy)
        return self._noted(many, asked_at)

    def timeout(self, duration: Duration, *, key: str | None = None) -> Timeout:
        """Put a block under a deadline: `with flow.timeout(hours(2)):`, or `async with`.

        Where it is not done in time, what it awaits and has asked for is cancelled, as by `first`: BranchCancelled is
        raised inside it, so that its `finally` blocks run, and the block is left with BlockTimedOut. `key`: of the
        deadline, in the journal. Blocks may stand in blocks, and in branches.
        """
        seconds = seconds_of(duration, what="flow.timeout")
        return Timeout(self._recorder, due_in(seconds, what="flow.timeout"), key)

    @overload
    def scope(self, name: str, /) -> Scope: ...
    @overload
    def scope(
        self,
        name: str,
        function: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        record: bool,
    ) -> Scoped[R]: ...
    @overload
    def scope(
        self,
        name: str,
        function: Callable[P, Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Scoped[R]: ...
    def scope(self, name: str, function: Any = None, /, *args: Any, **kwargs: Any) -> Any:
        """Let the keys of a part of the flow stand under a name: `with flow.scope("billing"):`, or of a call.

        `await flow.scope("billing", bill, order)` calls an `async def` of yours, and gives what it returns. With
        `record=True` that is recorded as an activity of the name: from then on the function isn't called again at any
        replay, whatever stands in it. The name may come again: its second scope is `billing#2`.
        """
        name = composed(name)
        check_key(name, where="flow.scope")
        if function is None:
            return Scope(self._recorder, name)
        if not callable(function) or isinstance(function, Stage):
            raise DefinitionError(
                f"flow.scope({name!r}) is given {function!r}",
                remedy="Give it an `async def` and its arguments: flow.scope(name, function, …).",
            )
        record = kwargs.pop("record", False)
        start = partial(called, function, args, kwargs)
        if record:
            if kwargs:
                raise DefinitionError(
                    f"flow.scope({name!r}, record=True) is given {', '.join(kwargs)} by name",
                    remedy="Give the arguments of its function by their place.",
                )
            call = ScopeCall(function, args)
            request = self._recorder.request(name, None, call)
            scoped: Scoped[Any] = Scoped(request.key, start, self._unawaited, request)
        else:
            own_key = self._recorder.gather_key(None, name)
            scoped = Scoped(own_key, start, self._unawaited, None)
        return self._noted(scoped, _frame(1))

    def _noted(self, combination: Together, asked_at: FrameType) -> Together:
        """It is to be awaited."""
        self._unawaited.note(combination.key, combination, asked_at, must_be_awaited=True)
        return combination
