"""A worker that dies at the n-th place where it comes to write, or has just written.

A place stands before each write to the record, when the flow or a stage has done its part and nothing of it is
recorded, and after it, when it is recorded and nobody has been told. These are the awaits of a flow, and the ends of
its stages and steps: between two of them nothing of a run is at stake.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

from orchestrator.faults import When, listening
from orchestrator.testing.errors import TesterError, WorkerDied

_PASSED_OVER = frozenset(
    {
        "load_run",
        "take_due_handoffs",
        "read_revisions",
        "lost_attempts",
        "transaction",
        "work",
        "hand_token",  # while a stage's arguments are read, and pydantic takes a death for a value that doesn't fit
        "forget_token",  # right before the stage's end is written
    }
)
"""Where a death would leave nothing that one at another place doesn't."""
_TAKING = frozenset({"claim_activity", "hold_turn"})
"""Before these nothing has been done yet."""


class Deaths:
    """Of one tester's worker. `places`: those that it has come to."""

    def __init__(self, at: int | None) -> None:
        if at is not None and at < 1:
            raise TesterError(f"crash_at={at}: the first place is 1")
        self._at, self._thread = at, threading.get_ident()
        self.places: list[str] = []

    def may_come(self) -> AbstractContextManager[None]:
        """While the block runs, the worker is at work."""
        return listening(self._reached)

    def _reached(self, when: When, what: str) -> None:
        if threading.get_ident() != self._thread or what in _PASSED_OVER:
            return
        if when == "before" and what in _TAKING:
            return
        self.places.append(f"{when} {what}")
        if len(self.places) == self._at:
            raise WorkerDied
