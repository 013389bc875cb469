"""Runs in a later chapter move to other code as any others do: one plan, or one amendment, is for all chapters."""

from __future__ import annotations

from typing import Any

from orchestrator import Flow, Process, Registry, hours, process, stage
from orchestrator.core.checking import Class
from orchestrator.core.versions.plans import Plan
from orchestrator.engine.operations import amend, migrate
from orchestrator.engine.operations.propose import propose
from orchestrator.engine.operations.undo_migration import undo
from tests.harness import Harness
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="an operator's verb is one transaction for each run")

PLAN = {"process": "p", "from": 1, "to": 2}
RENAMED = Plan.model_validate({**PLAN, "map": {"charge": "collect", "boss": "chief"}})


def months(registry: Registry, version: int, charge: str, boss: str) -> Process:
    """A stage and an approval in each of three chapters."""
    if charge not in registry.stages:
        stage(registry=registry, name=charge)(lambda month: f"{charge} {month}")

    @process(version=version, name="p", registry=registry)
    async def p(flow: Flow, so_far: list[str]) -> list[str]:
        month = len(so_far) + 1
        paid = await flow.stage(charge, month)
        decided = await flow.approval(boss, assign=["bob"], timeout=hours(5))
        so_far = [*so_far, f"{paid}, {decided.approval}"]
        return so_far if month == 3 else await flow.continue_as_new(so_far)

    return p


def amended(registry: Registry) -> Process:
    """Other code of the first version, which asks for the same."""
    stage(registry=registry, name="charge")(lambda month: f"charge {month}")

    @process(version=1, name="p", registry=registry)
    async def p(flow: Flow, so_far: list[str]) -> list[str]:
        paid = await flow.stage("charge", len(so_far) + 1)
        decided = await flow.approval("boss", assign=["bob"], timeout=hours(5))
        return await flow.continue_as_new([*so_far, f"{paid}, {decided.approval}, amended"])

    return p


def in_two_chapters(harness: Harness) -> list[Any]:
    """One run in its first, and one in its second."""
    harness.freeze()
    definition = months(harness.registry, 1, "charge", "boss")
    runs = [harness.run(definition, [], key=key) for key in ("first", "second")]
    harness.client.approve(runs[1], by="bob")
    harness.drain()
    assert [harness.client.get(run).chapter for run in runs] == [1, 2]
    return runs


def record(harness: Harness, run: Any) -> list[Any]:
    return [
        harness.database.rows(
            f"SELECT {what} FROM perennial.{table} WHERE run_id = :run ORDER BY 1", run=run.run_id
        )
        for table, what in (
            ("activity", "key, scope, ordinal, name, state, result"),
            ("approval", "key, state, assignees"),
            ("timer", "due_at, key, kind, state"),
        )
    ]


def test_one_plan_moves_runs_in_each_chapter_and_is_undone(harness):
    runs = in_two_chapters(harness)
    harness.client.processes.deploy(months(harness.registry, 2, "collect", "chief"))
    before = [record(harness, run) for run in runs]
    links = {each.run_id: each for each in harness.client.approvals(assignee="bob")}
    for is_undone in (True, False):
        seen = migrate.preview(harness.context, RENAMED)
        applied = migrate.apply(harness.context, RENAMED, seen, by="ann")
        assert (applied.migrated, applied.refused) == (2, ())
        keys = [[row.key for row in record(harness, run)[0]] for run in runs]
        assert keys == [["chief", "collect"], ["2#/chief", "2#/collect"]]
        assert [harness.client.get(run).version for run in runs] == [2, 2]
        if is_undone:
            assert undo(harness.context, RENAMED.id, by="ann", reason="too early").undone == 2
            assert [record(harness, run) for run in runs] == before
    for run in runs:  # by the links that were sent before
        harness.client.approve(run, links[run.run_id], by="bob")
        harness.drain()
    assert [harness.client.get(run).chapter for run in runs] == [2, 3]
    for run in (*runs, runs[0]):
        harness.client.approve(harness.client.get(run), by="bob")
        harness.drain()
    assert harness.client.result(runs[0]) == [
        "charge 1, chief",
        "collect 2, chief",
        "collect 3, chief",
    ]
    assert harness.client.result(runs[1]) == [
        "charge 1, boss",
        "charge 2, chief",
        "collect 3, chief",
    ]
    for run in runs:
        harness.assert_ended_cleanly(run)


def test_a_plan_that_is_proposed_says_nothing_of_chapters(harness):
    """And one that names a chapter, as `show` has the key, is meant for all of them."""
    in_two_chapters(harness)
    harness.client.processes.deploy(months(harness.registry, 2, "charges", "boss"))
    drawn = propose(harness.context, "p", from_version=1, to=2).plan
    assert drawn.map == {"charge": "charges"}
    as_shown = {**PLAN, "map": {"2#/charge": "2#/charges"}}
    assert Plan.model_validate(as_shown) == drawn
    assert migrate.preview(harness.context, drawn).groups


def test_what_a_plan_does_not_say_of_a_later_chapter_is_refused_in_words(harness):
    runs = in_two_chapters(harness)
    harness.client.processes.deploy(months(harness.registry, 2, "collect", "boss"))
    bare = Plan.model_validate(PLAN)
    seen = migrate.preview(harness.context, bare)
    applied = migrate.apply(harness.context, bare, seen, by="ann")
    assert applied.migrated == 0
    says = "stage collect (key 2#/collect) stands before approval boss (key 2#/boss), which is open"
    assert says in {each for group in applied.refused for each in group.says}
    assert {harness.client.get(run).version for run in runs} == {1}


def test_an_amendment_moves_a_run_in_a_later_chapter_and_tells_who_contradicts_it(harness):
    runs = in_two_chapters(harness)
    registry = Registry()
    new = harness.worker("new", registry=registry)
    content = amended(registry)
    seen = amend.preview(new, content)
    assert [(each.found, each.becomes, each.runs) for each in seen.groups] == [
        (Class.UNCHANGED, "moves", 2)
    ]
    done = amend.apply(new, content, seen, by="ann", reason="better")
    assert (done.moved, done.stayed, done.parked, done.busy) == (2, 0, 0, 0)
    registry = Registry()
    seen = amend.preview(
        harness.worker("newer", registry=registry), months(registry, 1, "collect", "boss")
    )
    assert [(each.found, each.becomes, each.runs) for each in seen.groups] == [
        (Class.CONTRADICTS, "stays", 1)
    ] * 2, "one for each chapter, whose keys are in the reason"
    harness.client.approve(harness.client.get(runs[1]), by="bob")
    for message in harness.pending():
        harness.deliver(message, new)
    assert harness.client.get(runs[1]).chapter == 3
    assert harness.client.get(runs[1]).input == ["charge 1, boss", "charge 2, boss, amended"]
