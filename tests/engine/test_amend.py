"""A version that runs have used gets other content: which runs move to it, which stay, and who says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from orchestrator import Flow, Process, Registry, RunStatus, hours, process, stage
from orchestrator.core.checking import Class
from orchestrator.core.declarative import load_process
from orchestrator.core.schemas import InputSchema
from orchestrator.core.versions.classes import EditClass
from orchestrator.engine.operations import amend
from orchestrator.engine.operations.staying import Staying
from orchestrator.errors import ProcessChanged, StalePreview, UnknownProcess
from orchestrator.store.transitions import capabilities, turns
from orchestrator.store.transitions.amend import AsChecked, amend_if_current, park_if_unchanged
from orchestrator.store.transitions.capabilities import LOCK_CLASS, Registration
from tests.harness import Harness, Thread
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(
    NORMAL, because="an amendment looks at what a commit has left, whoever made it"
)


def of_version(registry: Registry, body: Callable[..., Any]) -> Process:
    """A `p` of version 1 whose flow is `body`."""

    @stage(registry=registry)
    def validate() -> int:
        return 1

    @stage(registry=registry)
    def provision() -> int:
        return 2

    return process(version=1, name="p", registry=registry)(body)


async def deployed(flow: Flow) -> str:
    await flow.stage("validate")
    await flow.approval("manager", assign=["bob"])
    await flow.signal("go")
    return "as deployed"


async def mended(flow: Flow) -> str:
    await flow.stage("validate")
    await flow.approval("manager", assign=["bob"])
    await flow.signal("go")
    return "mended"


async def inserted(flow: Flow) -> str:
    """Runs that have passed their manager contradict it."""
    await flow.stage("validate")
    await flow.approval("manager", assign=["bob"])
    await flow.stage("provision")
    await flow.signal("go")
    return "inserted"


async def asks_beside(flow: Flow) -> str:
    await flow.stage("validate")
    manager = flow.approval("manager", assign=["bob"])
    await flow.gather(manager, flow.signal("budget"))
    await flow.signal("go")
    return "asked beside"


@pytest.fixture
def parked(harness: Harness) -> list[Any]:
    """Of four runs, two wait for their manager, and two for the signal after it."""
    p = of_version(harness.registry, deployed)
    runs = [harness.run(p, key=f"k{number}") for number in range(4)]
    for run in runs[2:]:
        harness.client.approve(run, by="bob")
    harness.drain()
    return runs


def new_code(harness: Harness, body: Callable[..., Any]) -> tuple[Any, Process]:
    """A program with the new code: what amends, and whose workers come."""
    registry = Registry()
    content = of_version(registry, body)
    return harness.worker("new", registry=registry), content


def revisions(harness: Harness) -> dict[str, int]:
    rows = harness.database.rows("SELECT business_key, code_revision FROM perennial.run ORDER BY 1")
    return {row.business_key: row.code_revision for row in rows}


def amended(harness: Harness, run: Any) -> list[dict[str, Any]]:
    return [each.detail for each in harness.client.history(run) if each.event == "amended"]


def end_all(harness: Harness, runs: list[Any], *contexts: Any) -> list[Any]:
    """All that they wait for comes, and the messages go to each of the workers in turn."""
    for run in runs:
        harness.client.signal(run, "go")
    for _ in range(6):
        for run in runs:
            if any(wait.kind == "approval" for wait in harness.client.get(run).waits):
                harness.client.approve(run, by="bob")
        for message in harness.pending():
            for context in contexts:
                harness.deliver(message, context)
        for context in contexts:
            if context is not harness.context:
                harness.messenger.handed_off += context.messenger.handed_off
                context.messenger.handed_off = []
    return [harness.client.result(run) for run in runs]


def test_runs_that_go_on_move_and_the_others_stay_where_they_are(harness: Harness, parked):
    new, content = new_code(harness, inserted)
    seen = amend.preview(new, content)
    assert (seen.code_revision, seen.edit, seen.runs) == (1, EditClass.NEEDS_A_PLAN, 4)
    assert [(each.found, each.becomes, each.runs, each.samples) for each in seen.groups] == [
        (Class.CONTRADICTS, "stays", 2, ("k2", "k3")),
        (Class.UNCHANGED, "moves", 2, ("k0", "k1")),
    ]
    assert '+    await flow.stage("provision")' in seen.diff.splitlines()
    assert set(revisions(harness).values()) == {1}
    told = amend.in_a_sentence(new, [content], content.where)
    assert told == (
        "Of all 4 open run(s), 2 can't go on with this content, and 2 can (class of the edit: needs a plan)."
    )
    done = amend.apply(new, content, seen, by="ann", reason="provision first")
    assert (done.code_revision, done.moved, done.stayed, done.parked, done.busy) == (2, 2, 2, 0, 0)
    assert revisions(harness) == {"k0": 2, "k1": 2, "k2": 1, "k3": 1}
    assert amended(harness, parked[0]) == [
        {"from": 1, "to": 2, "found": "unchanged", "reason": "provision first"}
    ]
    (row,) = harness.database.rows(
        "SELECT deployed_by, reason, diff FROM perennial.process_revision WHERE code_revision = 2"
    )
    assert (row.deployed_by, row.reason) == ("ann", "provision first")
    assert (row.diff["edit"], row.diff["text"]) == ("needs a plan", seen.diff)
    assert not harness.pending(), "who goes on as before needs no turn"
    results = end_all(harness, parked, new, harness.context)
    assert results == ["inserted", "inserted", "as deployed", "as deployed"]
    for run in parked:
        harness.assert_ended_cleanly(run)


def test_the_others_are_parked_if_that_is_chosen_and_move_with_the_next_one(
    harness: Harness, parked
):
    """Guards `_park`: one that rests already is not parked, and stays."""
    harness.client.operations.pause(parked[3])
    new, content = new_code(harness, inserted)
    done = amend.apply(new, content, amend.preview(new, content, others=amend.Others.PARK))
    assert (done.moved, done.stayed, done.parked) == (2, 1, 1)
    view = harness.client.get(parked[2])
    assert (view.status, view.waiting_for, view.code_revision) == (
        RunStatus.INCIDENT,
        "an operator",
        1,
    )
    assert view.error["type"] == "Amended"
    assert view.error["message"].startswith(
        "version 1 was amended to revision 2, and this run can't go on with it (contradiction): "
    )
    assert harness.status(parked[3]) is RunStatus.PAUSED
    fixed, content = new_code(harness, mended)
    seen = amend.preview(fixed, content)
    assert {each.found for each in seen.groups} == {Class.UNCHANGED, Class.RECOVERS}
    assert amend.apply(fixed, content, seen).moved == 4
    for run in parked[2:]:
        harness.client.operations.resume(run)
    assert end_all(harness, parked, fixed) == ["mended"] * 4


def test_one_that_differs_takes_its_turn_with_the_new_code(harness: Harness, parked):
    """Guards `_move`: it is handed off."""
    new, content = new_code(harness, asks_beside)
    seen = amend.preview(new, content)
    assert [(each.found, each.runs) for each in seen.groups] == [
        (Class.CONTRADICTS, 2),
        (Class.DIFFERS, 2),
    ]
    amend.apply(new, content, seen)
    assert amended(harness, parked[0])[0]["differs"] == "it asks for signal budget"
    messages = harness.pending()
    assert {message.run_id for message in messages} == {run.run_id for run in parked[:2]}
    for message in messages:
        harness.deliver(message, new)
    assert [wait.name for wait in harness.client.get(parked[0]).waits] == ["manager", "budget"]


def test_one_that_rests_is_handed_off_when_it_is_resumed(harness: Harness, parked):
    """Guards `_move`."""
    harness.client.operations.pause(parked[0])
    new, content = new_code(harness, asks_beside)
    amend.apply(new, content, amend.preview(new, content))
    assert harness.open_things(parked[0])["handoffs"] == 0
    harness.client.operations.resume(parked[0])
    for message in harness.pending():
        harness.deliver(message, new)
    assert [wait.name for wait in harness.client.get(parked[0]).waits] == ["manager", "budget"]


def test_a_run_that_is_paused_as_it_is_to_be_parked_stays_paused(harness: Harness, parked):
    """Guards `_park`. A pause raises the revision; what is said here holds without that too."""
    harness.client.operations.pause(parked[2])
    (row,) = harness.database.rows(
        "SELECT id, revision FROM perennial.run WHERE business_key = 'k2'"
    )
    as_read = AsChecked(row.id, row.revision, 1, needs_turn=True, error={"type": "Amended"})
    with harness.context.connection() as connection:
        assert park_if_unchanged(connection, [as_read], actor="ann") == set()
    assert harness.status(parked[2]) is RunStatus.PAUSED


def test_a_downgrade_goes_by_the_same_door_to_one_revision_more(harness: Harness, parked):
    new, content = new_code(harness, mended)
    amend.apply(new, content, amend.preview(new, content))
    new_run = harness.client.start("p", key="k9")
    former = harness.registry.process("p", 1)
    with pytest.raises(ProcessChanged, match="perennial deploy --amend") as refusal:
        harness.client.processes.deploy(former)
    assert str(refusal.value).endswith(
        "It moves all 5 open run(s): they go on with this content (class of the edit: compatible)."
    )
    done = harness.client.processes.amend(former, by="ann", reason="back")
    assert (done.code_revision, done.moved) == (3, 5)
    rows = harness.database.rows(
        "SELECT fingerprint FROM perennial.process_revision ORDER BY code_revision"
    )
    assert rows[0] == rows[2] != rows[1]
    assert end_all(harness, [*parked, new_run], harness.context) == ["as deployed"] * 5


def test_a_run_that_moved_since_it_was_checked_is_checked_again(
    harness: Harness, parked, monkeypatch
):
    """Guards `_move`: it would go on with code that its journal contradicts by then."""
    new, content = new_code(harness, inserted)
    seen = amend.preview(new, content)
    write = amend._Applying._write

    def facts_come(self: Any, moves: Any, parks: Any) -> Any:
        monkeypatch.setattr(amend._Applying, "_write", write)
        harness.client.approve(parked[0], by="bob")
        harness.drain()
        return write(self, moves, parks)

    monkeypatch.setattr(amend._Applying, "_write", facts_come)
    done = amend.apply(new, content, seen)
    assert (done.moved, done.stayed, done.busy) == (1, 3, 0)
    assert revisions(harness) == {"k0": 1, "k1": 2, "k2": 1, "k3": 1}


def test_a_run_in_its_turn_is_left_for_a_later_call(harness: Harness, parked):
    """What its worker records next was not checked. Guards `_move`."""
    new, content = new_code(harness, mended)
    revision = harness.client.get(parked[0]).revision
    with harness.context.connection() as connection, harness.context.identity.lease() as worker_id:
        turns.hold_turn(
            connection,
            parked[0].run_id,
            revision=revision,
            turn_token=worker_id,
            worker_id=worker_id,
            dead_after=60,
        )
        done = amend.apply(new, content, amend.preview(new, content))
        assert (done.moved, done.busy) == (3, 1)
        turns.release_turn(connection, parked[0].run_id, turn_token=worker_id)
    seen = amend.preview(new, content)
    assert (seen.is_current, seen.runs) == (True, 1)
    done = amend.apply(new, content, seen)
    assert (done.code_revision, done.moved, done.busy) == (2, 1, 0)


def test_a_command_that_died_in_the_middle_goes_on_where_it_was(
    harness: Harness, parked, monkeypatch
):
    new, content = new_code(harness, mended)
    new.settings = harness.settings.model_copy(update={"batch_size": 1})
    taken = iter(range(2))
    take = amend._Applying.take

    def dies(self: Any, runs: Any) -> Any:
        if next(taken, None) is None:
            raise KeyboardInterrupt
        return take(self, runs)

    seen = amend.preview(new, content)
    monkeypatch.setattr(amend._Applying, "take", dies)
    with pytest.raises(KeyboardInterrupt):
        amend.apply(new, content, seen, reason="first")
    monkeypatch.setattr(amend._Applying, "take", take)
    assert sorted(revisions(harness).values()) == [1, 1, 2, 2]
    done = harness.client.processes.amend(content, reason="again")
    assert (done.code_revision, done.moved) == (2, 2)
    assert [len(amended(harness, run)) for run in parked] == [1] * 4
    assert amend.preview(new, content).does_nothing
    assert not amend.is_due(new, content)
    assert end_all(harness, parked, new) == ["mended"] * 4


def test_two_operators_at_once_make_one_revision_and_move_each_run_once(harness: Harness, parked):
    new, content = new_code(harness, mended)
    seen = amend.preview(new, content)
    threads = [Thread(lambda: amend.apply(new, content, seen)) for _ in range(2)]
    done = [thread.outcome() for thread in threads]
    assert {each.code_revision for each in done} == {2}
    assert sum(each.moved for each in done) == 4
    assert [len(amended(harness, run)) for run in parked] == [1] * 4


def test_what_was_confirmed_is_done_and_nothing_else(harness: Harness, parked):
    """Guards the digest. Runs that go on as others do come and go: they are not in it."""
    new, content = new_code(harness, inserted)
    seen = amend.preview(new, content)
    harness.run(harness.registry.process("p", 1), key="k5")
    assert amend.preview(new, content).digest == seen.digest
    harness.client.approve(parked[0], by="bob")
    harness.drain()
    processes = harness.client.processes
    with pytest.raises(StalePreview, match="Look again") as refusal:
        processes.amend(content, digest=seen.digest)
    assert set(revisions(harness).values()) == {1}
    assert refusal.value.digest == amend.preview(new, content).digest
    assert amend.preview(new, content, others=amend.Others.PARK).digest != refusal.value.digest
    other, its_content = new_code(harness, mended)
    amend.apply(other, its_content, amend.preview(other, its_content))
    with pytest.raises(StalePreview, match="revision 2 is current, where it was 1"):
        amend.apply(new, content, seen)
    with pytest.raises(UnknownProcess, match="nothing to amend"):
        processes.preview_amendment(process(version=7, name="p", registry=Registry())(mended))


def test_a_run_that_has_had_no_turn_takes_the_content_that_is_current(harness: Harness):
    """Its producer started it as the version was amended, or knows of no revisions. Guards `_begin_anew`."""
    p = of_version(harness.registry, deployed)
    ran = harness.run(p, key="k0")
    late = harness.client.start("p", key="k1")
    new, content = new_code(harness, mended)
    for message in harness.pending():
        assert message.run_id == late.run_id
        with harness.context.transaction() as connection:
            amend_if_current(
                connection, content, InputSchema(), current=1, by="", reason="", diff={}
            )
        harness.deliver(message, new)
    assert revisions(harness) == {"k0": 1, "k1": 2}
    assert amended(harness, late) == [{"from": 1, "to": 2, "found": "no turn was taken yet"}]
    harness.client.approve(ran, by="bob")
    (message, *_) = [each for each in harness.pending() if each.run_id == ran.run_id]
    harness.deliver(message, new)
    assert revisions(harness)["k0"] == 1


def test_yaml_is_compared_in_words_and_where_runs_stand_is_counted(harness: Harness):
    for name in ("check", "review", "provision"):
        stage(name=name, registry=harness.registry)(lambda: None)
    text = "process: {{name: d, stages: [{}]}}"
    former, now = (
        load_process(text.format(stages), registry=harness.registry)
        for stages in ("check, review, provision", "check, provision, review")
    )
    run = harness.start(former, key="k")
    (seen,) = [amend.preview(harness.context, now)]
    assert seen.words == ("review now after provision; 1 run stands before it",)
    assert amend.apply(harness.context, now, seen).moved == 1
    harness.drain()
    done = [each.key for each in harness.client.history(run) if each.event == "stage done"]
    assert done == ["check", "provision", "review"]


def p_waiting(hours_: float) -> Any:
    """A version whose content is told apart by its expiry."""

    async def p(flow: Flow) -> None:
        await flow.signal("go")

    return process(version=1, name="p", expires_after=hours(hours_), registry=Registry())(p)


def test_of_two_amendments_of_one_revision_one_is_made(harness: Harness):
    """Guards `amend_process`."""
    harness.client.processes.deploy(p_waiting(24), by="ann")
    first = harness.client.start("p")
    with harness.context.transaction() as connection:
        made = [
            amend_if_current(
                connection,
                p_waiting(hours_),
                InputSchema(),
                current=1,
                by="bob",
                reason="it is slower",
                diff={"words": [str(hours_)]},
            )
            for hours_ in (48, 72)
        ]
    assert made == [2, None]
    rows = harness.database.rows(
        "SELECT code_revision, fingerprint, deployed_by, reason, diff FROM perennial.process_revision ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [
        (1, p_waiting(24).fingerprint, "ann", "", None),
        (2, p_waiting(48).fingerprint, "bob", "it is slower", {"words": ["48"]}),
    ]
    assert harness.client.get(first).code_revision == 1
    assert harness.client.get(harness.client.start("p")).code_revision == 2


def test_who_has_the_code_of_those_that_stay_is_named(harness, parked):
    """So nobody ends the last old worker unknowing."""
    new = of_version(Registry(), inserted)
    seen = harness.client.processes.preview_amendment(new)
    assert seen.staying == (Staying(1, 2, 0, ()),)
    with harness.database.psycopg(autocommit=True) as session:
        for number, can in enumerate(["turn p 1 r1", "turn p 1 r2", "turn p 1 r1"]):
            worker = Registration(
                uuid7(), f"worker-{number}", 1, (can,), ("q",), None, 5_000 + number
            )
            session.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_CLASS, worker.lock))
            with harness.context.connection() as connection:
                capabilities.register(connection, worker)
        again = harness.client.processes.preview_amendment(new)
    assert again.staying == (Staying(1, 2, 2, ("worker-0", "worker-2")),)
    assert again.digest == seen.digest
    harness.client.processes.amend(new)
    assert harness.client.processes.preview_amendment(new).staying[0].runs == 2
    parking = harness.client.processes.preview_amendment(new, others="park")
    assert parking.staying == ()
