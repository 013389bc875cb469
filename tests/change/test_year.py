"""A year of edits, each deployed by the tool's own advice while runs are open: every run ends as the edits say.

`make test` plays some weeks of it. With `--all` it is 2,000 runs and 200 deploys; PERENNIAL_YEAR_LOG names an event log
whose people answer in it, as slowly as they did.
"""

from __future__ import annotations

import os
import random
from datetime import timedelta
from pathlib import Path

import pytest

from demo.log import read_log
from tests.change.world import World
from tests.change.year import Year
from tests.harness import Harness


def delays_of_people() -> list[tuple[timedelta, bool]]:
    """How long people took, and whether they said yes: of a log, or of the bundled sample."""
    named = os.environ.get("PERENNIAL_YEAR_LOG")
    requests = read_log(Path(named) if named else None).requests
    decisions = [
        each for request in requests for each in (request.manager, request.security) if each
    ]
    return [(decision.delay, decision.approved) for decision in decisions]


@pytest.mark.timeout(7200)
def test_every_run_of_a_year_of_edits_ends_as_the_edits_say(
    harness: Harness, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    is_whole = request.config.getoption("--all")
    year = Year(World(harness, tmp_path), random.Random(2026), delays_of_people())
    year.live(deploys=200 if is_whole else 6, starts=4 if is_whole else 1)
    print(year.doors, year.moved)
    assert not list(year.wrong())
