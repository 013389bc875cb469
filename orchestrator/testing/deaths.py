"""A worker that dies at the n-th place where it comes to write, or has just written.

    for tester in crashes_at_each_await():         a test's process, once as it is, and once for each place
        run = tester.start(order, "tea")
        tester.run_to_the_end(run)
        assert tester.result(run) == "shipped"

A place stands before each write to the record, when the flow or a stage has done its part and nothing of it is
recorded, and after it, when it is recorded and nobody has been told. These are the awaits of a flow, and the ends of
its stages and steps: between two of them nothing of a run is at stake.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import URL

from orchestrator.core.definition import Registry, default_registry
from orchestrator.faults import When, listening
from orchestrator.testing.errors import TesterError, WorkerDied

if TYPE_CHECKING:
    from orchestrator.testing.tester import ProcessTester

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

PASSES_MAX = 1_000
"""So many places a test's process may have."""


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


def crashes_at_each_await(
    *,
    registry: Registry = default_registry,
    database_url: str | URL | None = None,
    now: datetime | None = None,
) -> Iterator[ProcessTester]:
    """A tester for each pass of the loop's body: first without a crash, then with one at each place in turn.

    Each has a database of its own. An error of the body says at which place the worker had died. What the body keeps
    outside of the tester (a list of mails that were sent) it empties itself. The arguments are those of ProcessTester.
    """
    from orchestrator.testing.tester import ProcessTester

    def tester(crash_at: int | None) -> ProcessTester:
        return ProcessTester(
            registry=registry, database_url=database_url, now=now, crash_at=crash_at
        )

    with tester(None) as undisturbed:
        yield undisturbed
        places = undisturbed.places
    if not places:
        raise TesterError(
            "nothing happened in the loop's body: start a run of the tester that it is given"
        )
    if len(places) > PASSES_MAX:
        raise TesterError(
            f"a run with {len(places)} places to die at is too long for this: test a shorter one"
        )
    for at in range(1, len(places) + 1):
        with tester(at) as dies_once:
            yield dies_once
            if len(dies_once.places) < at:
                raise TesterError(
                    f"the loop's body came to {len(dies_once.places)} places to die at, and to {len(places)} at its "
                    "first pass: let it do the same at each pass, and empty what it keeps outside of the tester"
                )
