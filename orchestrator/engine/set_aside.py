"""What failed is set aside for a while, at growing intervals: the rest of its kind comes first.

A sweep takes a share of what is due, the oldest first. What can't be done at all would stand at its head for
ever, and be logged at every look.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Item = TypeVar("Item")

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 300.0
SET_ASIDE_MAX = 1000
"""So many are remembered; the one that failed first is forgotten, and tried again at the next look."""


class SetAside:
    """What failed in this process, and when each may be tried again."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._until: dict[Hashable, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._until)

    def failed(self, mark: Hashable) -> None:
        """Leave it for twice as long as before."""
        _, before = self._until.pop(mark, (0.0, FIRST_SECONDS / 2))
        seconds = min(before * 2, LONGEST_SECONDS)
        self._until[mark] = (self._monotonic() + seconds, seconds)
        if len(self._until) > SET_ASIDE_MAX:
            del self._until[next(iter(self._until))]

    def over(self, mark: Hashable) -> None:
        """It was done."""
        self._until.pop(mark, None)

    def share(
        self, found: Sequence[Item], *, of: int, mark: Callable[[Item], Hashable]
    ) -> Sequence[Item]:
        """The first `of` that may be tried now."""
        if not self._until:
            return found[:of]
        now = self._monotonic()
        may = [item for item in found if self._until.get(mark(item), (0.0, 0.0))[0] <= now]
        return may[:of]
