"""What a flow awaits of several things together: `Flow.gather`.

The flow gets an object that says what is to be awaited, and `core.branches` drives it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast, overload

from orchestrator.core.checks import check_key, composed
from orchestrator.core.pending import Pending, Recorder
from orchestrator.core.unawaited import Unawaited
from orchestrator.errors import DefinitionError

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")

_frame = sys._getframe  # noqa: SLF001 - one frame, where `inspect.stack` would take them all


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


class Combinators:
    """The methods of `Flow` that await several things together."""

    _recorder: Recorder
    _unawaited: Unawaited

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
