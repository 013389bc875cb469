"""The edits of a year, each made while runs are parked at every point: none is stranded, none goes wrong in silence.

Each takes the door that it is meant for; then people decide, three weeks pass, and every run must have come to the end
that its code says, with each effect once. Workers of the old code and of the new one run side by side.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from orchestrator.core.checking import check_run
from orchestrator.core.versions.plans import Plan
from orchestrator.engine.operations import migrate
from orchestrator.store.reads.loading import load_run
from tests.change import effects
from tests.change.edits import BASE, EDITS, Door, Edit
from tests.change.world import PLACES, Generation, World
from tests.harness import Harness

EACH, EACH_WITH_ALL = 1, 25
"""So many runs at each place."""


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name.replace(" ", "-"))
def test_an_edit_strands_no_run_and_changes_none_in_silence(
    harness: Harness, tmp_path: Path, edit: Edit, request: pytest.FixtureRequest
) -> None:
    each = EACH_WITH_ALL if request.config.getoption("--all") else EACH
    world = World(harness, tmp_path)
    old = world.generation(BASE)
    world.park(old, each=each)
    assert found(world, edit) == {place: edit.found.get(place, "unchanged") for place in PLACES}
    new = world.generation(edit.text)
    go_through(edit, old, new)
    world.finish(new, old)
    assert not world.open()
    assert world.ends() == {
        place: Counter(
            edit.ends(place).replace(f"{place}0", f"{place}{number}") for number in range(each)
        )
        for place in PLACES
    }
    assert world.repeated() == {}
    audits = Counter(key.partition("/")[0] for key in effects.calls if key.endswith("/audit"))
    assert {
        place: sum(audits[str(run.run_id)] for run in world.runs[place]) / each for place in PLACES
    } == {place: edit.calls.get(place, 0) for place in PLACES}


def found(world: World, edit: Edit) -> dict[str, str]:
    """What a check finds at each place, of the new code as if it were of the same version."""
    same = world.generation(edit.text_of_one_version)
    verdicts: dict[str, set[str]] = {}
    for place, runs in world.runs.items():
        for run in runs:
            with same.worker.connection() as connection:
                loaded = load_run(connection, run.run_id)
            assert loaded is not None
            verdict = check_run(
                same.process,
                loaded.context,
                loaded.journal,
                loaded.signals,
                registry=same.registry,
                status=loaded.status,
                needs_turn=loaded.needs_turn,
            )
            verdicts.setdefault(place, set()).add(str(verdict.found))
    return {place: " or ".join(sorted(classes)) for place, classes in verdicts.items()}


def go_through(edit: Edit, old: Generation, new: Generation) -> None:
    """What the author does."""
    match edit.door:
        case Door.DEPLOY | Door.VERSION:
            new.client.processes.deploy(new.process)
        case Door.AMEND:
            new.client.processes.amend(new.process, reason=edit.name)
        case Door.MIGRATE:
            new.client.processes.deploy(new.process)
            plan = Plan.model_validate({"process": "access", "from": 1, "to": 2, **edit.plan})
            shown = migrate.preview(new.worker, plan)
            assert not [group for group in shown.groups if not group.goes_on], shown.groups
            migrate.apply(new.worker, plan, shown, by="ann", reason=edit.name)
