"""What a flow asked for and never awaited: found at its next await, or at its end.

Asking schedules and awaiting waits, so a forgotten `await` is no error of Python's: the run would complete,
and its stage would run or not by chance. Two rules find it:

at an await   what was asked since the last one, and is kept by nobody: it can't be awaited any more
at the end    a stage, a step or a gather that was never awaited; and whatever was asked since the last await

An approval, a signal or a sleep that the flow kept and needs no more may be let go: nothing is done by chance.
And what an error kept the flow from awaiting is not forgotten: an author who catches the failure of one stage has
decided about the others that were to be awaited after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from types import CodeType, FrameType
from typing import Any
from weakref import ref

NEVER_AWAITED = "NeverAwaited"
"""The incident of a flow that forgot to await."""


class Unawaited:
    """The ledger of one pass of a flow. All its verbs are O(1) where nothing was forgotten.

    Most of what is asked is awaited before anything else is asked: that is only held, and never entered.
    """

    __slots__ = ("_asked", "_fresh", "_last")

    def __init__(self) -> None:
        self._asked: dict[str, tuple[ref[Any], bool, CodeType, int]] = {}
        """By its key, what nobody has awaited yet."""
        self._fresh: list[str] = []
        self._last: tuple[str, Any, bool, CodeType, int] | None = None
        """What was asked last, if it is not entered, and nobody has awaited it yet."""

    def note(self, key: str, awaitable: Any, asked_at: FrameType, *, must_be_awaited: bool) -> None:
        """The flow asked for this. Of the frame, only its place is kept."""
        if self._last is not None:
            self._enter()
        self._last = (key, awaitable, must_be_awaited, asked_at.f_code, asked_at.f_lasti)

    def awaited(self, awaitable: Any, key: str) -> None:
        """It is awaited, by itself or in a gather."""
        last = self._last
        if last is not None and last[1] is awaitable:
            self._last = None
        else:
            self._asked.pop(key, None)

    def excuse(self, scope: str) -> None:
        """An error is thrown into the code of that scope: it may never come to the awaits that were to follow."""
        if self._asked:
            prefix = f"{scope}/" if scope else ""
            for key in [key for key in self._asked if key.startswith(prefix)]:
                del self._asked[key]

    def dropped(self) -> str | None:
        """At an await: what was asked since the last, isn't awaited, and nobody holds. None: all is well."""
        if self._last is not None:
            self._enter()
        if not self._fresh:
            return None
        fresh, self._fresh = self._fresh, []
        for key in fresh:
            asked = self._asked.get(key)
            if asked is not None and asked[0]() is None:
                return _sentence(key, asked)
        return None

    def _enter(self) -> None:
        """From here on it is kept by the flow, or by nobody."""
        assert self._last is not None  # noqa: S101 - its callers have looked
        key, awaitable, must_be_awaited, code, instruction = self._last
        self._last = None
        self._asked[key] = (ref(awaitable), must_be_awaited, code, instruction)
        self._fresh.append(key)

    def forgotten(self, abandoned: AbstractSet[str] = frozenset()) -> str | None:
        """At the flow's end: the first that should have been awaited. None: all is well.

        `abandoned`: scopes of branches that were let go in their middle, and couldn't await what they had asked.
        """
        if self._last is not None:
            self._enter()
        fresh = set(self._fresh)
        for key, asked in self._asked.items():
            if (asked[1] or key in fresh) and not any(
                scope in abandoned for scope in _scopes_of(key)
            ):
                return _sentence(key, asked)
        return None


def _scopes_of(key: str) -> Iterator[str]:
    """`a/0/b/work` stands in `a/0/b`, `a/0` and `a`."""
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


def _sentence(key: str, asked: tuple[ref[Any], bool, CodeType, int]) -> str:
    _, _, code, instruction = asked
    line = next(
        (line for start, end, line in code.co_lines() if start <= instruction < end and line),
        code.co_firstlineno,
    )
    return (
        f"{code.co_filename}:{line}: the flow asked for {key} here and never awaited it, so that it is done "
        "or not by chance. Write `await` before it, or await it in a flow.gather"
    )
