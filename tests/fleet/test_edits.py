"""The edits of `tests/change`, on real Celery workers: of the old code and of the new one, side by side.

One edit with one run at each place; with `--all` all of them, with 200 runs each.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.versions.plans import Plan
from tests.change.edits import BASE, EDITS, Door, Edit
from tests.change.world import PLACES
from tests.fleet.edited import Code, Edited
from tests.fleet.harness import Fleet

EACH, EACH_WITH_ALL = 1, 25
"""So many runs at each place."""

FEW = ("a helper changed",)
"""What `make test` plays: runs that stay on the code that they have, beside runs that move."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_whole = metafunc.config.getoption("--all")
    edits = EDITS if is_whole else [edit for edit in EDITS if edit.name in FEW]
    metafunc.parametrize("edit", edits, ids=[edit.name.replace(" ", "-") for edit in edits])


@pytest.mark.timeout(900)
def test_an_edit_on_a_real_fleet_strands_no_run_and_changes_none_in_silence(
    fleet: Fleet, tmp_path: Path, edit: Edit, request: pytest.FixtureRequest, record_property: Any
) -> None:
    each = EACH_WITH_ALL if request.config.getoption("--all") else EACH
    edited = Edited(fleet, tmp_path)
    try:
        old, new = edited.code(BASE), edited.code(edit.text)
        began = time.monotonic()
        edited.park(old, each=each)
        parked = time.monotonic()
        record_property("door", go_through(edit, new))
        moved = time.monotonic()
        # Where it is the same content, whichever worker has a stage does it as its own code says.
        edited.finish(new, with_old=edit.door is not Door.DEPLOY)
        ended = time.monotonic()
        record_property(
            "seconds",
            f"parked {parked - began:.0f}, door {moved - parked:.1f}, to their ends {ended - moved:.0f}",
        )
        assert edited.ends() == {
            place: Counter(
                edit.ends(place).replace(f"{place}0", f"{place}{number}") for number in range(each)
            )
            for place in PLACES
        }
        assert fleet.scalar("SELECT coalesce(max(calls), 0) FROM effect") == 1
        assert edited.audits() == {place: edit.calls.get(place, 0) for place in PLACES}
        assert fleet.scalar("SELECT count(*) FROM perennial.run WHERE error IS NOT NULL") == 0
    finally:
        edited.close()


def go_through(edit: Edit, new: Code) -> str:
    """What the author does; and what became of the runs, in words."""
    processes = new.client.processes
    match edit.door:
        case Door.DEPLOY | Door.VERSION:
            processes.deploy(new.process)
            return str(edit.door)
        case Door.AMEND:
            done = processes.amend(new.process, reason=edit.name)
            return f"{edit.door}: {done.moved} moved, {done.stayed} stayed"
        case Door.MIGRATE:
            processes.deploy(new.process)
            plan = Plan.model_validate({"process": "access", "from": 1, "to": 2, **edit.plan})
            shown = processes.preview_migration(plan)
            assert not [group for group in shown.groups if not group.goes_on], shown.groups
            migrated = processes.migrate(plan, shown, by="ann", reason=edit.name)
            return f"{edit.door}: {migrated.migrated} moved"
