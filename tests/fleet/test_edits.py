"""The edits of `tests/change`, on real Celery workers: of the old code and of the new one, side by side.

One edit with one run at each place; with `--all` all of them, with 200 runs each.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.versions.plans import Plan
from tests.change.edits import BASE, EDITS, Door, Edit, as_before
from tests.change.world import PLACES
from tests.fleet.edited import Code, Edited, Old
from tests.fleet.harness import Fleet

EACH, EACH_WITH_ALL = 1, 25
"""So many runs at each place."""

FEW = ("a helper changed",)
"""What `make test` plays: runs that stay on the code that they have, beside runs that move."""

OTHER_RESULTS = ("a result type changed",)
"""Edits of what a stage comes to: an old worker would give a run that has moved a result that its flow can't read."""

BY_EITHER = ("a field removed from the input",)
"""Edits that change what a stage comes to, too: of runs that stay, whichever worker takes the stage does it."""


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
        edited.finish(new, old=old_worker_of(edit), stay=edit.stay)
        ended = time.monotonic()
        record_property(
            "seconds",
            f"parked {parked - began:.0f}, door {moved - parked:.1f}, to their ends {ended - moved:.0f}",
        )
        for place, ends in edited.ends().items():
            for number, end in enumerate(ends):
                assert end in expected_of(edit, place, number), (place, number, end)
        assert fleet.scalar("SELECT coalesce(max(calls), 0) FROM effect") == 1
        assert edited.audits() == {place: edit.calls.get(place, 0) for place in PLACES}
        assert fleet.scalar("SELECT count(*) FROM perennial.run WHERE error IS NOT NULL") == 0
    finally:
        edited.close()


def old_worker_of(edit: Edit) -> Old:
    """Beside the new one, unless it would do stages of runs that have moved in a way that their code can't read.

    Where it is the same content, nothing needs it; and whichever worker has a stage does it as its own code says.
    """
    if edit.door is Door.DEPLOY:
        return Old.GONE
    return Old.AFTERWARDS if edit.name in OTHER_RESULTS else Old.BESIDE


def expected_of(edit: Edit, place: str, number: int) -> set[str]:
    """What a run comes to: one end, or two where the edit changes a stage that old runs go through too."""
    ends = {edit.ends(place)} | ({as_before(place)} if edit.name in BY_EITHER else set())
    return {end.replace(f"{place}0", f"{place}{number}") for end in ends}


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
