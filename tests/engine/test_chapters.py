"""A flow that continues as new: the same run, another chapter, and nothing of the last one can touch it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator import (
    DecisionRefused,
    Flow,
    OperationRefused,
    Registry,
    RunStatus,
    days,
    hours,
    idempotency_key,
    process,
    stage,
)
from orchestrator.engine.stage import claim_stage, work_and_settle
from orchestrator.engine.turn import advance, take_turns
from orchestrator.store.reads.loading import load_run
from orchestrator.store.transitions import processes
from tests.harness import Harness
from tests.modes import EAGER, EVICT, NORMAL, SWEEPS_ONLY, TWICE, modes_of

pytestmark = modes_of(
    NORMAL, EVICT, TWICE, SWEEPS_ONLY, EAGER, because="a chapter's end must hold in them"
)


def counting(harness: Harness) -> Any:
    """Takes three signals in each chapter, and ends with those of the third."""

    @stage(registry=harness.registry)
    def add(total: int, each: int) -> int:
        return total + each

    @process(version=1, registry=harness.registry)
    async def counts(flow: Flow, so_far: tuple[int, int]) -> int:
        chapter, total = so_far
        flow.attributes({f"in chapter {chapter}": total, "chapter": chapter})
        for _ in range(3):
            total = await flow.stage(add, total, await flow.signal("reading", type=int))
        if chapter == 3:
            return total
        return await flow.continue_as_new((chapter + 1, total))

    return counts


def test_signals_that_nobody_has_taken_come_along(harness):
    definition = counting(harness)
    harness.client.processes.deploy(definition)
    run = harness.client.start(definition, (1, 0), key="S-1", attributes={"from": "its start"})
    for number in range(1, 10):  # all of them before its first turn
        harness.client.signal(run, "reading", number, signal_id=str(number % 9))
    harness.drain()
    client = harness.client
    assert client.result(run) == 45
    view = client.get("S-1")
    assert (view.id, view.chapter, view.input) == (run.run_id, 3, [3, 21])
    assert view.attributes == {
        "from": "its start",
        "chapter": 3,
        "in chapter 1": 0,
        "in chapter 2": 6,
        "in chapter 3": 21,
    }
    told = [each for each in client.history(run) if each.event == "continued as new"]
    assert [each.detail for each in told] == [
        {"chapter": 2, "version": 1},
        {"chapter": 3, "version": 1},
    ]
    harness.assert_ended_cleanly(run)


def test_the_journal_is_of_one_chapter_alone(harness):
    run = harness.run(counting(harness), (1, 0))
    for number in range(1, 5):
        harness.client.signal(run, "reading", number)
        harness.drain()
    journal = harness.database.rows("SELECT key FROM perennial.activity ORDER BY ordinal")
    assert [row.key for row in journal] == ["2#/reading", "2#/add", "2#/reading#2"]
    for table, rows in (("signal", 1), ("timer", 0), ("approval", 0)):
        assert harness.database.value(f"SELECT count(*) FROM perennial.{table}") == rows
    assert harness.client.get(run).waits[0].key == "2#/reading#2"


def with_open_ends(harness: Harness, seen: list[Any]) -> Any:
    """Goes on while a stage is at work, an approval and a sleep are open, and one more stage waits for a worker."""

    @stage(registry=harness.registry)
    def work(chapter: int) -> str | None:
        seen.append(idempotency_key())
        return f"of chapter {chapter}"

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, chapter: int) -> Any:
        seen.append(str(flow.uuid()))
        at_work = flow.stage(work, chapter)
        asked = flow.approval("boss", assign=["ann"], timeout=days(9))
        later = flow.sleep(days(9))
        if chapter == 1:
            await flow.signal("on")
            await flow.continue_as_new(2)
        await flow.first(later, at_work)
        return [await at_work, (await asked).approved]

    return p


@modes_of(NORMAL, because="it plays the messages itself")
def test_what_comes_late_from_the_last_chapter_touches_nothing_of_the_next(harness):
    """Keys are named alike in both, and their numbers of attempts are the same."""
    seen: list[Any] = []
    run = harness.start(with_open_ends(harness, seen), 1).run_id
    advance(harness.context, run)
    before = harness.client.get(run)
    (approval,) = harness.client.approvals(assignee="ann")
    worker = harness.worker("late")
    with worker.identity.lease() as worker_id:
        claim = claim_stage(worker, run, "work", 1, worker_id=worker_id)
        assert claim is not None
        harness.client.signal(run, "on")
        advance(harness.context, run)
        advance(harness.context, run)
        view = harness.client.get(run)
        assert (view.chapter, {wait.key for wait in view.waits}) == (
            2,
            {"2#/work", "2#/boss", "2#/sleep"},
        )
        work_and_settle(worker, claim)
    assert {wait.detail for wait in harness.client.get(run).waits} == {""}
    with worker.identity.lease() as worker_id:
        assert claim_stage(worker, run, "work", 1, worker_id=worker_id) is None
    for meant in (approval, "boss", None):
        with pytest.raises(DecisionRefused):
            harness.client.decide(run, meant, "approved", by="ann")
    with pytest.raises(DecisionRefused):
        harness.client.approve(before, "boss", by="ann")
    assert [each.key for each in harness.client.approvals(assignee="ann")] == ["2#/boss"]
    harness.drain()
    harness.client.approve(harness.client.get(run), "boss", by="ann")
    harness.drain()
    assert harness.client.result(run) == ["of chapter 2", True]
    ids, keys = (
        {each for each in seen if "/" not in each},
        {each for each in seen if "/" in each},
    )
    assert len(ids) == 2
    assert keys == {f"{run}/work", f"{run}/2#/work"}
    (told,) = [
        each.detail for each in harness.client.history(run) if each.event == "continued as new"
    ]
    assert told["cancelled"] == ["stage work", "approval boss", "sleep sleep"]


@modes_of(NORMAL, because="it plays the messages itself")
def test_a_chapter_is_ended_once(harness):
    """Guards `a chapter begins on the revision that was read`."""
    run = harness.run(with_open_ends(harness, []), 1).run_id
    harness.client.signal(run, "on")
    with harness.context.asking() as connection:
        read = load_run(connection, run)
        assert read is not None
        take_turns(harness.context, connection, read)
        take_turns(harness.context, connection, read)
    assert harness.client.get(run).chapter == 2


@modes_of(NORMAL, because="it comes between two statements")
def test_a_version_that_is_deployed_meanwhile_judges_the_input(harness, monkeypatch):
    """Guards `a chapter's input is checked by what is deployed now`."""

    @process(name="p", version=1, registry=harness.registry)
    async def first(flow: Flow, number: int) -> int:
        await flow.signal("on")
        await flow.continue_as_new(number)

    @process(name="p", version=2, registry=Registry())
    async def second(flow: Flow, text: str) -> str:
        return text

    run = harness.run(first, 1)
    read_input, deployed = processes.read_input, []

    def read_and_deploy(*asked: Any) -> Any:
        found = read_input(*asked)
        if not deployed:
            deployed.append(harness.client.processes.deploy(second))
        return found

    monkeypatch.setattr(processes, "read_input", read_and_deploy)
    harness.client.signal(run, "on")
    harness.drain()
    harness.recover()
    view = harness.client.get(run)
    assert (view.status, view.chapter) == (RunStatus.INCIDENT, 1)
    assert "flow.continue_as_new: input of p version 2" in view.error["message"]


@modes_of(NORMAL, TWICE, because="it is about what is known of a signal")
def test_a_signal_that_is_sent_twice_is_taken_once_over_the_end_of_a_chapter(harness):
    run = harness.run(counting(harness), (1, 0))
    for number in (1, 2, 3):
        harness.client.signal(run, "reading", number, signal_id=f"bank-{number}")
        harness.drain()
    assert harness.client.get(run).chapter == 2
    assert not harness.client.signal(run, "reading", 3, signal_id="bank-3")


@modes_of(NORMAL, EAGER, because="it is about versions")
def test_a_chapter_goes_on_in_the_version_that_new_runs_take(harness):
    @process(name="p", version=1, registry=harness.registry)
    async def first(flow: Flow, pinned: int | None) -> str:
        await flow.signal("on")
        await flow.continue_as_new({"pinned": pinned}, version=pinned)

    pinned, free = harness.run(first, 2), harness.run(first)
    for number in (2, 3):

        @process(name="p", version=number, registry=harness.registry, queue=f"q{number}")
        async def later(flow: Flow, value: dict[str, int | None]) -> str:
            await flow.signal("on")
            return f"{value['pinned']} in {flow.version}"

        harness.client.processes.deploy(later)
    for _ in range(2):
        for run in (pinned, free):
            harness.client.signal(run, "on")
        harness.drain()
    assert [harness.client.result(run) for run in (pinned, free)] == ["2 in 2", "None in 3"]
    assert harness.client.get(free).queue == "q3"


@modes_of(NORMAL, EAGER, because="it is about what is refused")
@pytest.mark.parametrize(
    ("value", "version", "words"),
    [
        ("text", None, "flow.continue_as_new: input of p"),
        (object(), None, "flow.continue_as_new: input of p"),
        (1, 7, "flow.continue_as_new: p version 7 is not deployed, or was retired"),
    ],
    ids=["unfit", "unwritable", "version"],
)
def test_a_chapter_that_could_not_begin_parks_the_run(harness, value, version, words):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, _: int) -> None:
        await flow.signal("on")
        await flow.continue_as_new(value, version=version)

    run = harness.run(p, 1)
    harness.client.signal(run, "on")
    harness.drain()
    view = harness.client.get(run)
    assert (view.status, view.chapter) == (RunStatus.INCIDENT, 1)
    assert words in view.error["message"]


@modes_of(NORMAL, because="it is about what is refused")
def test_wrong_calls_park_the_run_in_words(harness):
    """Guards `a chapter awaits something`."""

    async def branch(flow: Flow) -> None:
        await flow.signal("on")
        await flow.continue_as_new()

    @process(version=1, registry=harness.registry)
    async def for_ever(flow: Flow) -> None:
        await flow.continue_as_new()

    @process(version=1, registry=harness.registry)
    async def in_a_branch(flow: Flow) -> None:
        await flow.gather(branch(flow), flow.signal("b"))

    @process(version=1, registry=harness.registry)
    async def catching(flow: Flow) -> None:
        await flow.signal("on")
        try:
            await flow.continue_as_new()
        except BaseException:  # noqa: BLE001 - that is it
            return

    @process(version=1, registry=harness.registry)
    async def with_a_child(flow: Flow) -> None:
        child = flow.child(catching, business_key="c")
        await flow.signal("on")
        await flow.continue_as_new()
        await child

    said = []
    for definition in (for_ever, in_a_branch, catching, with_a_child):
        run = harness.run(definition)
        if harness.status(run) is RunStatus.WAITING:
            harness.client.signal(run, "on")
            harness.drain()
        view = harness.client.get(run)
        assert view.status is RunStatus.INCIDENT
        said.append(view.error["message"])
    assert "continues as new without having awaited anything" in said[0]
    assert "called in a branch: it ends the flow" in said[1]
    assert "has caught what flow.continue_as_new raises" in said[2]
    assert "continues as new while child catching is open" in said[3]


def test_clean_up_is_done_before_the_chapter_ends(harness):
    done = []

    @stage(registry=harness.registry)
    def clean(chapter: int) -> None:
        done.append(chapter)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, chapter: int) -> int:
        try:
            async with flow.undo():
                await flow.step(abs, -chapter)
                if chapter == 1:
                    await flow.continue_as_new(2)
        finally:
            await flow.stage(clean, chapter)
        return chapter

    run = harness.run(p, 1)
    assert harness.client.result(run) == 2
    assert done == [1, 2]


@modes_of(NORMAL, because="it moves the clock")
def test_each_chapter_has_its_time_in_full(harness):
    @process(version=1, registry=harness.registry, expires_after=hours(2))
    async def p(flow: Flow) -> None:
        await flow.sleep(hours(1.5))
        await flow.continue_as_new()

    began = harness.freeze()
    run = harness.run(p)
    for chapter in (2, 3):
        harness.move(hours=1.5)
        harness.drain()
        view = harness.client.get(run)
        assert (view.status, view.chapter) == (RunStatus.WAITING, chapter)
        assert view.expires_at == began + timedelta(hours=1.5 * (chapter - 1) + 2)
    assert harness.database.value("SELECT count(*) FROM perennial.timer") == 2


@modes_of(NORMAL, TWICE, because="it is about the operator's verbs")
def test_a_rewind_and_a_copy_reach_the_chapter_that_is_there(harness):
    @stage(registry=harness.registry)
    def work(chapter: int) -> int:
        return chapter

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, chapter: int) -> list[Any]:
        await flow.stage(work, chapter)
        said = await flow.signal("on")
        if chapter == 1:
            await flow.continue_as_new(2)
        return [said, str(flow.uuid())]

    run = harness.run(p, 1)
    for said in "ab":
        harness.client.signal(run, "on", said)
        harness.drain()
    was = harness.client.result(run)
    verbs = harness.client.operations
    with pytest.raises(OperationRefused, match="It is of chapter 2 alone"):
        verbs.rewind(run, "work", even_if_completed=True)
    copy = verbs.fork(run, at="2#/on").new_run_id
    verbs.rewind(run, "2#/work", even_if_completed=True)
    harness.drain()
    assert [harness.client.result(each) for each in (run, copy)] == [was, was]
    assert [harness.client.get(each).chapter for each in (run, copy)] == [2, 2]
