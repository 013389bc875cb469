"""Two codes under one version for a while, and then the new one alone: each run ends, or says what it waits for.

The new code contradicts what some runs have recorded, and nobody has amended the version.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.change.edits import BASE, EDITS, as_before
from tests.change.world import PLACES, World
from tests.harness import Harness

(EDIT,) = (edit for edit in EDITS if edit.name == "a bug fixed in the flow behind the cursor")


def test_the_deployed_code_moves_runs_and_the_other_leaves_them(
    harness: Harness, tmp_path: Path
) -> None:
    world = World(harness, tmp_path)
    old = world.generation(BASE)
    world.park(old, each=1)
    world.finish(world.generation(EDIT.text), old)
    assert world.ends() == {place: Counter([as_before(place)]) for place in PLACES}
    assert world.repeated() == {}


def test_the_new_code_alone_lists_what_it_can_not_move_and_an_amendment_lets_go_on_what_can(
    harness: Harness, tmp_path: Path
) -> None:
    world = World(harness, tmp_path)
    old = world.generation(BASE)
    world.park(old, each=1)
    new = world.generation(EDIT.text)
    world.finish(new)  # the old workers are gone, and three weeks pass
    listed = harness.client.list(limit=100)
    assert {run.business_key for run in listed} == {f"{place}-0" for place in PLACES}
    for run in listed:
        assert run.status.is_moving, f"{run.business_key} is {run.status}"
        assert run.waiting_for is not None
        assert run.waiting_for.startswith("a worker that can run access version 1")
    shown = new.client.processes.preview_amendment(new.process)
    assert {group.becomes for group in shown.groups} == {"moves", "stays"}
    done = new.client.processes.amend(new.process, shown=shown, by="ann")
    assert (done.moved, done.stayed, done.parked) == (6, 2, 0)
    world.finish(new)
    moving = [run for run in harness.client.list(limit=100) if run.status.is_moving]
    assert {run.business_key for run in moving} == {f"{place}-0" for place in EDIT.stay}
    world.finish(new, old)  # an old worker is started once more
    assert not world.open()
    assert world.repeated() == {}
