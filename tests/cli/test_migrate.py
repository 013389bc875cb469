"""`perennial migrate`: what is shown before, what is moved, and what stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.outcome import RunContext
from orchestrator.core.run import RunStatus
from orchestrator.core.versions.histories import written_history
from orchestrator.core.versions.plans import read_plan
from orchestrator.engine.operations.migrate import (
    AppliedMigration,
    MigrationGroup,
    MigrationPreview,
)
from orchestrator.engine.operations.propose import MigrationProposal
from orchestrator.engine.operations.undo_migration import UndoneMigration
from orchestrator.errors import StalePreview
from tests.cli.samples import APPROVAL, NOW, RUN_ID, WAITING

APP = ("--app", "orchestrator.cli.empty_app")
PLAN = "process: trip\nfrom: 1\nto: 2\nmap: {book: reserve}\n"
GOING = MigrationGroup("", ("stage book is stage reserve",), "", 2, ("trip-1", "trip-2"))
REFUSED = MigrationGroup(
    "insertion behind the cursor",
    ("stage scan stands before stage book, which is done",),
    "Say under `insert` whether to `run` or to `skip` it",
    4,
    ("trip-3", "trip-4", "trip-5"),
)
PREVIEW = MigrationPreview(
    "0a1b2c3d4e5f", "trip", 1, 2, 6, 1, (GOING, REFUSED), "3f2a91c04b7d", (RUN_ID, RUN_ID)
)


@pytest.fixture
def plan(client, tmp_path) -> str:
    (tmp_path / "plan.yaml").write_text(PLAN)
    client.answers["preview_migration"] = PREVIEW
    client.answers["migrate"] = AppliedMigration(PREVIEW.plan_id, 2, 1, 4, (REFUSED,))
    client.answers["undo_migration"] = UndoneMigration(
        PREVIEW.plan_id, 1, (("trip-2", "it has made a step since"),)
    )
    return "plan.yaml"


def test_a_preview_says_who_goes_on_who_is_refused_and_what_to_type_next(perennial, plan):
    told = perennial("migrate", "preview", plan, *APP)
    assert told.exit_code == 0, told.stderr
    for line in (
        "Plan 0a1b2c3d4e5f: trip v1 → v2",
        "goes on  2 runs",
        "stage book is stage reserve",
        "insertion behind the cursor  4 runs",
        "trip-3, trip-4, trip-5 and 1 more",
        "→ Say under `insert`",
        "2 of 6 run(s) go on. 1 were moved by this plan before.",
        "perennial migrate apply plan.yaml --yes 3f2a91c04b7d",
    ):
        assert line in told.stdout
    document = perennial.json("migrate", "preview", plan, *APP)
    assert (document["digest"], document["goes_on"], document["migrated"]) == ("3f2a91c04b7d", 2, 1)
    assert set(document["groups"][0]) == {"reason", "says", "remedy", "runs", "samples"}


def test_a_plan_is_applied_to_what_was_seen(perennial, client, plan):
    told = perennial(
        "migrate", "apply", plan, *APP, "--yes", "3f2a91c04b7d", "--by", "ann", "--reason", "so"
    )
    assert told.exit_code == 0, told.stderr
    assert "2 run(s) moved. 1 were moved before. 4 of the others are incidents now." in told.stdout
    assert "perennial migrate undo 0a1b2c3d4e5f" in told.stdout
    ((verb, (read, seen), said),) = client.calls
    assert (verb, read.map, seen) == ("migrate", {"book": "reserve"}, "3f2a91c04b7d")
    assert (said["by"], said["reason"]) == ("ann", "so")


def test_nothing_is_moved_unasked_or_unseen(perennial, client, plan):
    told = perennial("migrate", "apply", plan, *APP)
    assert (told.exit_code, [verb for verb, _, _ in client.calls]) == (2, ["preview_migration"])
    assert "Give --yes DIGEST" in told.stderr
    client.answers["migrate"] = StalePreview("the preview is out of date", digest="aa")
    assert perennial("migrate", "apply", plan, *APP, "--yes", "feed0000beef").exit_code == 1


def test_an_undoing_lists_what_stays_and_why(perennial, client, plan):
    told = perennial("migrate", "undo", "0a1b2c3d4e5f", "--yes", "--by", "ann")
    assert "trip-2: it has made a step since" in told.stdout
    assert "1 run(s) moved back; 1 stay." in told.stdout
    assert client.calls[0][1] == ("0a1b2c3d4e5f",)
    assert perennial("migrate", "undo", "0a1b2c3d4e5f").exit_code == 2


def test_what_is_no_plan_is_refused_with_its_place(perennial, plan, tmp_path):
    (tmp_path / "plan.yaml").write_text("process: trip\nfrom: 1\n")
    told = perennial("migrate", "preview", plan, *APP)
    assert told.exit_code == 1
    assert "plan.yaml: is no plan of migration: `to` is missing" in told.stderr
    assert perennial("migrate", "preview", "nowhere.yaml", *APP).exit_code == 2


def test_a_proposal_is_a_plan_in_yaml_with_its_notes_above(perennial, client):
    drawn = MigrationProposal(read_plan(PLAN), ("scan is new, after book; 2 runs stand before it",))
    client.answers["propose_migration"] = drawn
    words = ("migrate", "propose", "trip", "--from", "1", "--to", "2", *APP)
    told = perennial(*words)
    assert told.exit_code == 0, told.stderr
    assert told.stdout.startswith("# scan is new, after book; 2 runs stand before it\n")
    assert read_plan(told.stdout) == read_plan(PLAN)
    assert perennial.json(*words) == {
        "plan": {"process": "trip", "from": 1, "to": 2, "map": {"book": "reserve"}},
        "notes": list(drawn.notes),
    }


def test_people_see_what_was_changed_of_what_they_were_asked(perennial, client):
    changed = "it asks carol, and asked bob before"
    client.answers["approvals"] = [replace(APPROVAL, changed=changed)]
    (wait,) = WAITING.waits
    client.answers["get"] = replace(WAITING, waits=(replace(wait, changed=changed),))
    perennial.width = 220
    assert changed in perennial("approvals").stdout
    assert f"changed since it was asked: {changed}" in perennial("show", "permit-17").stdout


def test_histories_are_printed_line_by_line_and_checked_without_a_database(
    perennial, client, tmp_path
):
    line = written_history(
        RunContext(RUN_ID, "trip", 1, "trip-1", {"to": "Oslo"}, NOW),
        (),
        (),
        status=RunStatus.WAITING,
        needs_turn=False,
    )
    client.answers["export"] = [line]
    told = perennial("export", "trip-1", "--process", "trip")
    assert told.stdout == f"{line}\n"
    assert client.calls == [("export", (["trip-1"],), {"process": "trip", "values": False})]
    assert "Oslo" not in line
    (tmp_path / "h.jsonl").write_text(told.stdout)
    checked = perennial("check", "--histories", "h.jsonl", *APP, PERENNIAL_DATABASE_URL="")
    assert checked.exit_code == 1
    assert "lacks code  1 run of trip v1" in checked.stdout
    assert perennial("check", "--histories", "nowhere", *APP).exit_code == 2
