"""Fault points: named places of the main path where a test may end, stall or watch this process.

    reach("before", "commit_turn")   decided, and nothing is written yet
    reach("after", "commit_turn")    written, and nobody is told yet

Every named statement of the store has such a pair of places (`store.statement`), every transaction of the
engine (`engine.context`), every word to Redis and the broker (`fleet`), and the work of a stage. In
production nobody listens, and to reach a place costs one comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

When = Literal["before", "after"]
Listener = Callable[[When, str], None]

_listener: Listener | None = None


def reach(when: When, what: str) -> None:
    """This place is reached: tell whoever listens, which is nobody but a test."""
    if _listener is not None:
        _listener(when, what)


def listen(listener: Listener | None) -> None:
    """Call `listener` at every place that this process reaches from now on; None: nobody any more.

    What it raises is raised at that place.
    """
    global _listener  # noqa: PLW0603 - one process has one listener, and the hot path one name to look at
    _listener = listener


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener`, too, at every place that is reached while the block runs."""
    before = _listener

    def both(when: When, what: str) -> None:
        if before is not None:
            before(when, what)
        listener(when, what)

    listen(both)
    try:
        yield
    finally:
        listen(before)


class around:  # noqa: N801 - it reads as a verb; a class costs a third of a generator
    """The two places of a block that is not a statement. The second is reached only if it succeeds."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        reach("before", self._what)

    def __exit__(self, kind: object, _error: object, _traceback: object) -> None:
        if kind is None:
            reach("after", self._what)
