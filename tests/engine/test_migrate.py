"""Runs move to another version by a plan: previewed, applied to exactly that set, and undone until their next step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from orchestrator import Flow, Retry, RunStatus, approval, hours, process, stage, step
from orchestrator.core.declarative import load_process
from orchestrator.core.versions.plans import Plan
from orchestrator.engine.operations import migrate
from orchestrator.engine.operations.propose import propose
from orchestrator.engine.operations.undo_migration import undo
from orchestrator.errors import (
    ApprovalChanged,
    DecisionTooLate,
    DefinitionError,
    PerennialError,
    StalePreview,
    UnknownProcess,
)
from orchestrator.store.transitions.migrate import hold_run_to_rewrite
from tests.harness import Harness, Thread, wait_until_blocked
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="an operator's verb is one transaction for each run")

effects: list[str] = []


@pytest.fixture(autouse=True)
def stages(request: pytest.FixtureRequest) -> None:
    """`a`, `b`, `c`, `x`: each notes its effect, and gives its name."""
    effects.clear()
    if "harness" not in request.fixturenames:
        return
    registry = request.getfixturevalue("harness").registry
    for name in "abcx":

        def work(name: str = name) -> str:
            return step(_effect, name)

        stage(name=name, registry=registry)(work)

    @stage(name="flaky", registry=registry, retry=Retry(max_attempts=5, delay_seconds=60))
    def flaky() -> str:
        effects.append("flaky")
        raise ConnectionError


def _effect(name: str) -> str:
    effects.append(name)
    return name


def version(harness: Harness, number: int, body: Callable[[Flow], Any]) -> Any:
    async def p(flow: Flow, _given: Any) -> Any:
        return await body(flow)

    return process(version=number, name="p", registry=harness.registry)(p)


async def asks(flow: Flow) -> Any:
    first = await flow.stage("a")
    boss = await flow.approval(
        "boss", assign=["bob"], escalate={hours(1): ["eve"]}, timeout=hours(5)
    )
    return [first, boss.outcome, boss.by, await flow.stage("b")]


def plan(**says: Any) -> Plan:
    return Plan.model_validate({"process": "p", "from": 1, "to": 2, **says})


def moved(harness: Harness, new: Callable[[Flow], Any], plan_: Plan) -> migrate.AppliedMigration:
    """Deployed, previewed and applied."""
    harness.client.processes.deploy(version(harness, 2, new))
    seen = migrate.preview(harness.context, plan_)
    return migrate.apply(harness.context, plan_, seen.digest, by="ann", reason="better")


def rows(harness: Harness, run: Any, table: str) -> list[Any]:
    return harness.database.rows(
        f"SELECT * FROM perennial.{table} WHERE run_id = :run ORDER BY 1, 2", run=run.run_id
    )


def record(harness: Harness, run: Any) -> dict[str, Any]:
    """All that the record holds of the run, but for what counts and what was cancelled."""
    (it,) = harness.database.rows("SELECT * FROM perennial.run WHERE id = :run", run=run.run_id)
    return {
        "run": {
            name: value
            for name, value in it._mapping.items()
            if name not in ("revision", "turn_revision")
        },
        "activity": rows(harness, run, "activity"),
        "approval": rows(harness, run, "approval"),
        "votes": rows(harness, run, "approval_vote"),
        "timers": sorted(
            (row.key, row.kind, row.level, row.due_at)
            for row in rows(harness, run, "timer")
            if row.state == "armed"
        ),
        "outbox": rows(harness, run, "outbox"),
    }


async def renamed(flow: Flow) -> Any:
    first = await flow.stage("x")
    boss = await flow.approval(
        "chief", assign=["bob"], escalate={hours(1): ["eve"]}, timeout=hours(5)
    )
    return [first, boss.outcome, boss.by, await flow.stage("b")]


RENAMED = plan(map={"a": "x", "boss": "chief"})


def test_a_parked_run_moves_and_what_it_was_promised_stays(harness):
    harness.freeze()
    run = harness.run(version(harness, 1, asks), {"n": 1}, key="K")
    link = harness.client.approvals()[0]
    due = record(harness, run)["timers"]
    applied = moved(harness, renamed, RENAMED)
    assert (applied.migrated, applied.already, applied.refused) == (1, 0, ())
    shown = harness.client.get(run)
    assert (shown.id, shown.version, shown.status) == (run.run_id, 2, "waiting")
    assert (shown.stage, shown.waiting_for) == ("chief", "approval chief")
    assert [(row[1:]) for row in record(harness, run)["timers"]] == [row[1:] for row in due]
    assert {row[0] for row in record(harness, run)["timers"]} == {"chief"}
    (told,) = [each for each in harness.client.history(run) if each.event == "migrated"]
    assert (told.actor, told.detail["reason"]) == ("ann", "better")
    assert (told.detail["plan"], told.detail["from"], told.detail["to"]) == (RENAMED.id, 1, 2)
    assert "stage a is stage x" in told.detail["changes"]
    keys = [row.key for row in rows(harness, run, "activity")]
    assert keys == ["chief", "x", "x/-effect"]
    harness.drain()
    assert effects == ["a"], "nothing is done again"
    harness.client.approve(run, link.key, by="bob")  # a link that was sent before
    harness.drain()
    assert harness.client.result(run) == ["a", "approved", "bob", "b"]
    harness.assert_ended_cleanly(run)


def test_a_plan_moves_a_run_once_and_is_undone_word_for_word_until_the_next_step(harness):
    harness.freeze()
    run = harness.run(version(harness, 1, asks))
    before = record(harness, run)
    moved(harness, renamed, RENAMED)
    again = migrate.preview(harness.context, RENAMED)
    assert (again.runs, again.migrated) == (0, 1)
    applied = migrate.apply(harness.context, RENAMED, again, by="ann")
    assert (applied.migrated, applied.already) == (0, 1)
    assert harness.events(run).count("migrated") == 1
    undone = undo(harness.context, RENAMED.id, by="ann", reason="too early")
    assert (undone.undone, undone.stay) == (1, ())
    assert record(harness, run) == before
    assert harness.events(run)[-1] == "migration undone"
    with pytest.raises(PerennialError, match="no run stands where plan"):
        undo(harness.context, RENAMED.id, by="ann")
    harness.client.approve(run, by="bob")
    harness.drain()
    assert harness.client.result(run) == ["a", "approved", "bob", "b"]
    assert effects == ["a", "b"]


def test_a_run_that_has_made_a_step_stays_where_it_is_and_says_so(harness):
    harness.freeze()
    v1 = version(harness, 1, asks)
    one, two = harness.run(v1, key="one"), harness.run(v1, key="two")
    moved(harness, renamed, RENAMED)
    harness.client.approve(one, by="bob")
    undone = undo(harness.context, RENAMED.id, by="ann")
    assert (undone.undone, undone.stay) == (1, (("one", "it has made a step since"),))
    assert [harness.client.get(each).version for each in (one, two)] == [2, 1]
    harness.drain()
    assert harness.client.result(one) == ["a", "approved", "bob", "b"]


async def asks_others(flow: Flow) -> Any:
    first = await flow.stage("a")
    boss = await flow.approval(
        "boss", assign=["carol"], escalate={hours(1): ["eve"]}, timeout=hours(3)
    )
    return [first, boss.outcome, boss.by]


def test_who_was_shown_what_is_no_longer_so_is_refused_and_sees_what_changed(harness):
    """Guards `an approval is decided as it was shown`."""
    harness.freeze()
    run = harness.run(version(harness, 1, asks))
    (seen,) = harness.client.approvals()
    whole = harness.client.get(run)
    refused = moved(harness, asks_others, plan())
    assert [each.reason for each in refused.refused] == ["timer without decision"]
    moved(harness, asks_others, plan(timers="keep"))
    changed = "it asks carol, and asked bob before"
    for stale in (
        lambda: harness.client.approve(run, seen, by="bob"),
        lambda: harness.client.approve(whole, by="carol"),
        lambda: harness.client.approve(
            run, "boss", by="carol"
        ),  # a link says nothing of what was seen
        lambda: harness.client.approve(run, "boss", by="carol", edition=0),
    ):
        with pytest.raises(ApprovalChanged, match=changed) as refusal:
            stale()
        assert refusal.value.changed == changed
    (now,) = harness.client.approvals()
    assert (now.assignees, now.changed, now.deadline, now.key) == (
        ("carol",),
        changed,
        seen.deadline,
        "boss",
    )
    assert harness.client.get(run).waits[0].changed == changed
    harness.client.approve(run, now, by="carol")
    harness.drain()
    assert harness.client.result(run) == ["a", "approved", "carol"]


def test_deadlines_begin_anew_if_the_plan_says_so_and_an_undone_plan_restores_them(harness):
    harness.freeze()
    run = harness.run(version(harness, 1, asks))
    before = record(harness, run)
    harness.move(minutes=30)
    restart = plan(timers="restart")
    moved(harness, asks_others, restart)
    due = {
        (kind, (at - harness.now).total_seconds())
        for _, kind, _, at in record(harness, run)["timers"]
    }
    assert due == {("escalation", 3600), ("approval-timeout", 3 * 3600)}
    assert (harness.client.approvals()[0].deadline - harness.now).total_seconds() == 3 * 3600
    undo(harness.context, restart.id, by="ann")
    assert record(harness, run) == before
    harness.move(hours=5)
    harness.drain()
    assert harness.client.result(run)[1] == "timed_out"


async def x_first(flow: Flow) -> Any:
    return [await flow.stage("x"), *await asks(flow)]


async def without_people(flow: Flow) -> Any:
    return [await flow.stage("a"), await flow.stage("c")]


def test_what_is_inserted_is_run_or_skipped_and_what_is_removed_is_withdrawn(harness):
    harness.freeze()
    runs = [harness.run(version(harness, 1, asks), key=str(number)) for number in range(2)]
    moved(harness, x_first, plan(insert={"x": "run"}))
    harness.drain()
    assert effects == ["a", "a", "x", "x"]
    for run in runs:
        harness.client.approve(run, by="bob")
    harness.drain()
    assert [harness.client.result(run) for run in runs] == [["x", "a", "approved", "bob", "b"]] * 2

    run = harness.run(version(harness, 1, asks))
    link = harness.client.approvals(run=run)[0]
    harness.client.processes.deploy(version(harness, 3, without_people))
    gone = Plan.model_validate({"process": "p", "from": 1, "to": 3, "remove": ["boss"]})
    seen = migrate.preview(harness.context, gone)
    assert [each.says for each in seen.groups] == [("approval boss is removed",)]
    migrate.apply(harness.context, gone, seen, by="ann")
    with pytest.raises(DecisionTooLate, match="was cancelled"):
        harness.client.approve(run, link.key, by="bob")
    harness.drain()
    assert harness.client.result(run) == ["a", "c"]
    harness.assert_ended_cleanly(run)


async def retries(flow: Flow) -> Any:
    return await flow.stage("flaky")


async def retries_as_x(flow: Flow) -> Any:
    return await flow.stage("x")


async def retries_under_its_key(flow: Flow) -> Any:
    return await flow.stage("x", key="flaky")


@pytest.mark.parametrize(
    ("new", "says", "key"),
    [
        (retries_as_x, {"flaky": "x"}, "x"),
        (retries_under_its_key, {"flaky": "flaky"}, "flaky"),
    ],
)
def test_a_stage_in_its_back_off_is_another_stage_and_keeps_the_time_of_its_retry(
    harness, new, says, key
):
    harness.freeze()
    run = harness.run(version(harness, 1, retries))
    before = record(harness, run)
    due = [row[1:] for row in before["timers"]]
    renamed_by = plan(map=says)
    moved(harness, new, renamed_by)
    assert [row[1:] for row in record(harness, run)["timers"]] == due
    undo(harness.context, renamed_by.id, by="ann")
    assert record(harness, run) == before
    seen = migrate.preview(harness.context, renamed_by)
    migrate.apply(harness.context, renamed_by, seen, by="ann")
    harness.move(seconds=60)
    harness.drain()
    assert harness.client.result(run) == "x"
    assert effects == ["flaky", "x"]
    assert {row.key for row in rows(harness, run, "activity")} == {key, f"{key}/-effect"}


def test_runs_that_are_refused_stay_or_are_parked_with_their_reason(harness):
    harness.freeze()
    run = harness.run(version(harness, 1, asks))
    stays = moved(harness, without_people, plan())
    assert (stays.migrated, stays.parked) == (0, 0)
    assert harness.client.get(run).status is RunStatus.WAITING
    parks = moved(harness, without_people, plan(on_error="park"))
    assert (parks.migrated, parks.parked) == (0, 1)
    shown = harness.client.get(run)
    assert (shown.status, shown.version) == (RunStatus.INCIDENT, 1)
    assert "approval boss" in shown.error["message"]
    assert harness.events(run)[-1] == "parked unmigrated"
    harness.client.operations.resume(run)
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING


def test_an_incident_goes_on_with_the_version_that_mends_it(harness):
    async def broken(flow: Flow) -> Any:
        await flow.stage("a")
        raise KeyError("x")

    run = harness.run(version(harness, 1, broken))
    assert harness.status(run) is RunStatus.INCIDENT
    moved(harness, without_people, plan())
    harness.drain()
    assert harness.client.result(run) == ["a", "c"]
    assert effects == ["a", "c"]


def test_a_digest_is_of_exactly_the_runs_that_were_shown(harness):
    harness.freeze()
    v1 = version(harness, 1, asks)
    harness.run(v1)
    harness.client.processes.deploy(version(harness, 2, renamed))
    seen = migrate.preview(harness.context, RENAMED)
    harness.start(v1, key="another")
    harness.client.start("p", version=1)
    harness.drain()
    with pytest.raises(StalePreview, match=r"out of date: it is \w{12} now, with 3 run"):
        migrate.apply(harness.context, RENAMED, seen.digest, by="ann")
    assert {run.version for run in harness.client.list()} == {1}


def test_nothing_is_moved_to_a_version_that_is_not_deployed(harness):
    harness.run(version(harness, 1, asks))
    version(harness, 2, renamed)
    seen = migrate.preview(harness.context, RENAMED)
    with pytest.raises(UnknownProcess, match="version 2 is not deployed"):
        migrate.apply(harness.context, RENAMED, seen, by="ann")


# -- two at once ---------------------------------------------------------------------------------


def changed_under(harness: Harness, run: Any, *changes: str) -> migrate.AppliedMigration:
    """The plan is applied, by an operator who has read the run before that change."""
    harness.client.processes.deploy(version(harness, 2, renamed))
    seen = migrate.preview(harness.context, RENAMED)
    assert seen.goes_on == 1
    with harness.context.transaction() as connection:
        hold_run_to_rewrite(connection, run.run_id)
        apply = Thread(lambda: migrate.apply(harness.worker("other"), RENAMED, seen, by="bob"))
        wait_until_blocked(harness.database, or_ended=apply)
        for change in changes:
            connection.exec_driver_sql(change)
    applied: migrate.AppliedMigration = apply.outcome()
    return applied


def test_what_came_since_a_run_was_read_is_decided_anew(harness):
    """Guards `revision of a migration`."""
    run = harness.run(version(harness, 1, asks))
    applied = changed_under(
        harness,
        run,
        "INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state)"
        " SELECT id, 'b', 3, 'stage', 'b', 'pending' FROM perennial.run",
        "UPDATE perennial.run SET revision = revision + 1",
    )
    assert [(each.reason, each.runs) for each in applied.refused] == [("not in the new version", 1)]
    assert harness.client.get(run).version == 1


def test_a_turn_that_was_taken_since_is_let_go_on(harness):
    """Guards `a held turn is not migrated`."""
    run = harness.run(version(harness, 1, asks))
    applied = changed_under(
        harness,
        run,
        "UPDATE perennial.run SET turn_token = gen_random_uuid(), turn_worker = gen_random_uuid(),"
        " turn_claimed_at = perennial.now(), turn_lease_seconds = 6",
    )
    assert [(each.reason, each.runs) for each in applied.refused] == [("work in flight", 1)]
    assert harness.client.get(run).version == 1


def test_two_operators_at_once_move_a_run_once(harness):
    run = harness.run(version(harness, 1, asks))
    harness.client.processes.deploy(version(harness, 2, renamed))
    seen = migrate.preview(harness.context, RENAMED)
    operators = [
        Thread(partial(migrate.apply, harness.worker(name), RENAMED, seen, by="ann"))
        for name in ("one", "two")
    ]
    applied = [each.outcome() for each in operators]
    assert sum(each.migrated for each in applied) == 1
    assert harness.events(run).count("migrated") == 1


def test_a_run_that_goes_on_while_it_is_undone_stays(harness):
    """Guards `a migration is undone until the next step`."""
    run = harness.run(version(harness, 1, asks))
    moved(harness, renamed, RENAMED)
    with harness.context.transaction() as connection:
        hold_run_to_rewrite(connection, run.run_id)
        other = Thread(lambda: undo(harness.worker("other"), RENAMED.id, by="bob"))
        wait_until_blocked(harness.database, or_ended=other)
        connection.exec_driver_sql("UPDATE perennial.run SET revision = revision + 1")
    assert other.outcome().stay == ((str(run.run_id), "it has made a step since"),)
    assert harness.client.get(run).version == 2


def test_what_a_worker_claims_while_a_run_is_decided_is_not_moved(harness):
    """Guards `what was claimed since is not migrated`, and `nothing is claimed while its journal is rewritten`."""
    run = harness.start(version(harness, 1, asks))
    (first,) = [each for each in harness.pending() if each.task == "perennial.advance"]
    harness.deliver(first)
    harness.client.processes.deploy(version(harness, 2, renamed))
    seen = migrate.preview(harness.context, RENAMED)
    assert seen.goes_on == 1
    revision = harness.client.get(run).revision
    with harness.database.psycopg() as worker:
        worker.execute(
            "UPDATE perennial.activity SET state = 'claimed', worker_id = gen_random_uuid(), claimed_at = now()"
        )
        apply = Thread(lambda: migrate.apply(harness.context, RENAMED, seen, by="ann"))
        wait_until_blocked(harness.database, or_ended=apply)
        worker.commit()
    applied = apply.outcome()
    assert [(each.reason, each.runs) for each in applied.refused] == [("work in flight", 1)]
    shown = harness.client.get(run)
    assert (shown.version, shown.revision) == (1, revision)


def test_a_plan_is_proposed_for_yaml_in_words_and_moves_the_runs_that_it_was_drawn_from(harness):
    approval("boss", registry=harness.registry)(lambda _given: ["bob"])
    approval("chief", registry=harness.registry)(lambda _given: ["bob"])
    yaml = "process: {{name: p, version: {}, stages: [{}]}}"
    one = load_process(yaml.format(1, "a, boss, b"), registry=harness.registry)
    two = load_process(yaml.format(2, "a, x, boss, b"), registry=harness.registry)
    run = harness.run(one, "ada")
    harness.client.processes.deploy(two)
    drawn = propose(harness.context, "p", from_version=1, to=2)
    assert drawn.plan.insert == {"x": "run"}
    assert "# x is new, after a; 1 runs stand before it, 0 have passed it\n" in drawn.text
    seen = migrate.preview(harness.context, drawn.plan)
    assert migrate.apply(harness.context, drawn.plan, seen, by="ann").migrated == 1
    wrong = plan(map={"a": "nowhere"})
    with pytest.raises(DefinitionError, match="'nowhere'"):
        migrate.preview(harness.context, wrong)
    harness.drain()
    harness.client.approve(run, by="bob")
    harness.drain()
    assert harness.client.result(run)["outcome"] == "completed"
