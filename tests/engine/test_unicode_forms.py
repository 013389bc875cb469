"""What looks the same is the same: keys, names and people in Unicode's two forms, in whichever they are typed."""

from __future__ import annotations

from unicodedata import normalize

from orchestrator import Flow, process
from tests.modes import NORMAL, modes_of

COMPOSED = normalize("NFC", "café-é")
DECOMPOSED = normalize("NFD", COMPOSED)
assert COMPOSED != DECOMPOSED


@modes_of(NORMAL, because="starts are no matter of modes")
def test_one_business_key_starts_one_run_and_finds_it(harness):
    """Guards `composed` in `_checked_key` and `find_runs`."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    harness.client.processes.deploy(p)
    first = harness.client.start(p, key=DECOMPOSED)
    second = harness.client.start(p, key=COMPOSED)
    third, fourth = harness.client.start_many(p, [None, None], keys=[DECOMPOSED, COMPOSED])
    assert {run.run_id for run in (first, second, third, fourth)} == {first.run_id}
    for key in (COMPOSED, DECOMPOSED):
        view = harness.client.get(key)
        assert (view.id, view.business_key) == (first.run_id, COMPOSED)
        assert [run.id for run in harness.client.list(key=key)] == [first.run_id]


@modes_of(NORMAL, because="it reads what another release has written")
def test_a_key_that_an_earlier_release_took_as_it_came_is_still_found(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    run = harness.start(p, key="old")
    harness.database.rows("UPDATE perennial.run SET business_key = :key", key=DECOMPOSED)
    assert harness.client.get(DECOMPOSED).id == run.run_id
    assert [found.id for found in harness.client.list(key=DECOMPOSED)] == [run.run_id]


def test_signals_meet_their_wait_and_their_own_ids(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[int]:
        return [await flow.signal(DECOMPOSED), await flow.signal(COMPOSED)]

    run = harness.run(p)
    assert harness.client.signal(run, COMPOSED, 1, signal_id=COMPOSED)
    assert not harness.client.signal(run, COMPOSED, 3, signal_id=DECOMPOSED)
    assert harness.client.signal(run, DECOMPOSED, 2)
    harness.drain()
    assert harness.client.result(run) == [1, 2]


def test_a_person_decides_under_either_form_of_the_name(harness):
    """Assignees, those that an escalation adds, and the approval's own name."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[str | None]:
        first = await flow.approval(DECOMPOSED, assign=[DECOMPOSED, COMPOSED])
        second = await flow.approval("boss", assign=[COMPOSED])
        return [first.by, second.by]

    run = harness.run(p)
    (asked,) = harness.client.approvals(assignee=DECOMPOSED)
    assert asked.assignees == (COMPOSED,)
    harness.client.approve(run, COMPOSED, by=COMPOSED)
    harness.drain()
    harness.client.approve(run, "boss", by=DECOMPOSED)
    harness.drain()
    assert harness.client.result(run) == [COMPOSED, COMPOSED]


@modes_of(NORMAL, because="a flow is wrong in every mode")
def test_two_journal_keys_that_look_the_same_are_one_key_used_twice(harness):
    """Guards `composed` where a request gets its key."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        kept = [flow.sleep(60, key=COMPOSED)]
        kept.append(flow.sleep(60, key=DECOMPOSED))
        await flow.gather(*kept)

    run = harness.run(p)
    assert "is used twice" in harness.client.get(run).error["message"]


@modes_of(NORMAL, because="a flow is wrong in every mode")
def test_so_are_two_branches_of_a_gather(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.gather({COMPOSED: flow.sleep(1), DECOMPOSED: flow.sleep(2), "1": flow.sleep(3)})

    @process(version=1, registry=harness.registry)
    async def q(flow: Flow) -> None:
        await flow.gather({1: flow.sleep(1), "1": flow.sleep(2)})  # type: ignore[dict-item]

    for each in (p, q):
        run = harness.run(each)
        assert "two branches of one name" in harness.client.get(run).error["message"]
