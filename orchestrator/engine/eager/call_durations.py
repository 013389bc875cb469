"""How long calls take here, so that what is known to be short may be done while others wait for it."""

from __future__ import annotations

from orchestrator.engine.context import UntimedCalls

SHORT_SECONDS = 0.005
"""A call that takes no longer than this on average is short."""

_WEIGHT = 0.1


class CallDurations(UntimedCalls):
    """The calls of this process: stages and inline steps, by name. What has never been called isn't short."""

    def __init__(self) -> None:
        self._average: dict[str, float] = {}

    def note(self, name: str, seconds: float) -> None:
        """A call has ended. Each weighs a tenth of the average: one hiccup makes no short call a long one."""
        before = self._average.get(name, seconds)
        self._average[name] = before + _WEIGHT * (seconds - before)

    def is_short(self, name: str) -> bool:
        """Whether others may wait for a call of it."""
        average = self._average.get(name)
        return average is not None and average <= SHORT_SECONDS
