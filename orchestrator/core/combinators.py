"""What a flow awaits of several things together, as objects: `core.branches` drives them, `core.tallies` decides.

Gather    all of them
First     a race
Many      by a completion policy, so many at a time; its branches are started by it
Scoped    one coroutine, whose keys stand under a name, and whose result may be recorded
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

from orchestrator.core.kinds.base import Request
from orchestrator.core.pending import Pending
from orchestrator.core.tallies import CompletionPolicy, Everything, Many, Race, Tally
from orchestrator.core.unawaited import Unawaited

T = TypeVar("T")

Start = Callable[[], Awaitable[Any]]
"""What starts a branch once it is its turn."""


class Combination(ABC, Generic[T]):
    """Several awaitables, awaited together. `branches`: each by its name, or what starts it."""

    __slots__ = ("__weakref__", "branches", "key", "unawaited")

    starts_later: ClassVar[bool] = False
    """The branches are what starts them, each in a scope of its own."""

    def __init__(self, key: str, branches: Sequence[tuple[str, Any]], unawaited: Unawaited) -> None:
        self.key, self.branches, self.unawaited = key, branches, unawaited

    @property
    def max_concurrency(self) -> int | None:
        """So many are under way at a time. None: all."""
        return None

    @property
    def waits_for_all(self) -> bool:
        """Whatever its branches come to, it waits for every one of them."""
        return False

    @property
    def request(self) -> Request | None:
        """What its result is recorded as. None: it isn't."""
        return None

    @property
    def asked(self) -> Request | None:
        """What was asked for already, though it starts later. None: nothing."""
        return None

    @abstractmethod
    def tally(self) -> Tally:
        """A new count of how its branches end."""

    def is_awaited(self) -> None:
        """It is somebody's to wait for, and so is each of its branches."""
        self.unawaited.awaited(self, self.key)
        for _, branch in self.branches:
            each = branch.branch if isinstance(branch, Later) else branch
            if isinstance(each, Pending | Combination):
                each.is_awaited()

    def scope_of(self, index: int, /) -> str:
        """Where the keys of that branch stand."""
        return f"{self.key}/{self.branches[index][0]}"

    def drop_unstarted(self, since: int) -> None:
        """Those from there on are never started: Python is not to say that nobody has awaited them."""
        for _, branch in self.branches[since:]:
            discard(branch)

    def __await__(self) -> Generator[Any, Any, T]:
        self.is_awaited()
        return cast("T", (yield self))


class Gather(Combination[T]):
    """All of them. `shape` rebuilds what the author passed."""

    __slots__ = ("shape",)

    def __init__(
        self,
        key: str,
        branches: list[tuple[str, Awaitable[Any]]],
        shape: Callable[[list[Any]], T],
        unawaited: Unawaited,
    ) -> None:
        super().__init__(key, branches, unawaited)
        self.shape = shape

    @property
    def waits_for_all(self) -> bool:
        """It does."""
        return True

    def tally(self) -> Tally:
        """Of everything."""
        return Everything(len(self.branches), self.shape)


class First(Combination[T]):
    """A race: the first `count` that succeed."""

    __slots__ = ("cancel_rest", "count")

    def __init__(
        self,
        key: str,
        branches: list[tuple[str, Awaitable[Any]]],
        unawaited: Unawaited,
        *,
        count: int,
        cancel_rest: bool,
    ) -> None:
        super().__init__(key, branches, unawaited)
        self.count, self.cancel_rest = count, cancel_rest

    def tally(self) -> Tally:
        """Of a race."""
        names = [name for name, _ in self.branches]
        return Race(names, self.count, key=self.key, leaves_rest=not self.cancel_rest)


class ManyBranches(Combination[T]):
    """Each is started when it is its turn, in a scope of its own."""

    __slots__ = ("policy",)

    starts_later: ClassVar = True

    def __init__(
        self,
        key: str,
        branches: list[tuple[str, Start]],
        unawaited: Unawaited,
        policy: CompletionPolicy,
    ) -> None:
        super().__init__(key, branches, unawaited)
        self.policy = policy

    @property
    def waits_for_all(self) -> bool:
        """Where its policy lets it end no sooner."""
        return self.policy.waits_for_all

    @property
    def max_concurrency(self) -> int | None:
        """By its policy."""
        return self.policy.max_concurrency

    def tally(self) -> Tally:
        """By its policy."""
        return Many([name for name, _ in self.branches], self.policy)


class Scoped(Combination[T]):
    """One coroutine, in a scope of its own. `request`: what its result is recorded as, if it is to be."""

    __slots__ = ("_request",)

    starts_later: ClassVar = True

    def __init__(
        self, key: str, start: Start, unawaited: Unawaited, request: Request | None
    ) -> None:
        super().__init__(key, [("", start)], unawaited)
        self._request = request

    @property
    def request(self) -> Request | None:
        """As it was asked for."""
        return self._request

    def scope_of(self, _index: int, /) -> str:
        """Its key is its scope."""
        return self.key

    def tally(self) -> Tally:
        """Of the one."""
        return Everything(1, _the_one)


def _the_one(values: list[Any]) -> Any:
    return values[0]


class Later:
    """A branch of `Flow.parallel`, which is started when it is its turn: a coroutine, or what gives an awaitable."""

    __slots__ = ("branch",)

    def __init__(self, branch: Any) -> None:
        self.branch = branch

    def __call__(self) -> Any:
        """The awaitable."""
        return self.branch if not callable(self.branch) else self.branch()


def discard(branch: Any) -> None:
    """It was never started."""
    if isinstance(branch, Later):
        branch = branch.branch
    if inspect.iscoroutine(branch):
        branch.close()
    elif isinstance(branch, Combination):
        branch.drop_unstarted(0)
