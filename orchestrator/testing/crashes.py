"""A test's process once as it is, and then once for each place where its worker may die.

for tester in crashes_at_each_await():
    run = tester.start(order, "tea")
    tester.run_to_the_end(run)
    assert tester.result(run) == "shipped"
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import URL

from orchestrator.core.definition import Registry, default_registry
from orchestrator.testing.errors import TesterError
from orchestrator.testing.tester import ProcessTester

PASSES_MAX = 1_000
"""So many places a test's process may have."""


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
