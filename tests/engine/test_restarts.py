"""A business key whose run has ended: who asks is told, and may start anew under it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator import Client, Fail, Flow, Registry, RunStatus, hours, process
from orchestrator.errors import (
    InvalidInput,
    PayloadError,
    RunCompleted,
    RunNotClosed,
    RunNotFound,
)
from tests.harness import Harness, Thread, wait_until_blocked
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="what ends a run, and how, has no part in it")

ENDED = [RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.EXPIRED]


@pytest.fixture
def p(harness: Harness) -> Any:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, how: str) -> str:
        if how == "fail":
            raise Fail("as asked")
        if how == "wait":
            await flow.signal("go")
        return how

    harness.client.processes.deploy(p)
    return p


def ended(harness: Harness, p: Any, status: RunStatus, key: str | None = "k") -> Any:
    how = {RunStatus.FAILED: "fail", RunStatus.COMPLETED: "done"}.get(status, "wait")
    expires_in = timedelta(hours=1) if status is RunStatus.EXPIRED else None
    run = harness.client.start(
        p, how, key=key, attributes={"team": "a"}, expires_in=expires_in, by="ann"
    )
    harness.drain()
    if status is RunStatus.CANCELLED:
        harness.client.cancel(run)
    if status is RunStatus.EXPIRED:
        harness.freeze()
        harness.move(hours=2)
        harness.drain()
    assert harness.client.get(run).status is status
    return run


def facts(harness: Harness, run: Any) -> list[tuple[str, str, dict[str, Any]]]:
    return [(each.event, each.actor, each.detail) for each in harness.client.history(run)]


@pytest.mark.parametrize("status", [*ENDED, RunStatus.COMPLETED])
def test_a_start_by_the_key_of_a_run_that_has_ended_says_so(harness, p, status):
    run = ended(harness, p, status)
    for again in (
        harness.client.start(p, "wait", key="k"),
        harness.client.start_many(p, ["wait"], keys=["k"])[0],
    ):
        assert (again.run_id, again.created, again.status) == (run.run_id, False, status)
    assert harness.client.start(p, "wait", key="l").status is RunStatus.RUNNING


@pytest.mark.parametrize("status", ENDED)
def test_it_starts_anew_where_its_caller_says_so(harness, p, status):
    """And each of the two knows the other."""
    run = ended(harness, p, status)
    new = harness.client.start(p, "done", key="k", if_closed="again", by="bob")
    assert (new.created, new.status) == (True, RunStatus.RUNNING)
    assert new.run_id != run.run_id
    before, after = harness.client.get(run), harness.client.get(new)
    assert (before.business_key, before.former_key, before.followed_by) == (None, "k", new.run_id)
    assert (after.business_key, after.former_key, after.follows) == ("k", None, run.run_id)
    assert before.status is status
    assert facts(harness, run)[-1] == ("followed", "bob", {"by": str(new.run_id)})
    assert facts(harness, new) == [("started", "bob", {"follows": str(run.run_id)})]
    assert harness.client.get("k").id == new.run_id
    assert {each.id for each in harness.client.list(key="k")} == {run.run_id, new.run_id}
    harness.drain()
    assert harness.client.result("k") == "done"
    harness.assert_ended_cleanly(new)


def test_one_that_completed_is_done_again_only_by_who_says_that(harness, p):
    run = ended(harness, p, RunStatus.COMPLETED)
    again = harness.client.start(p, "done", key="k", if_closed="again")
    assert (again.run_id, again.created, again.status) == (
        run.run_id,
        False,
        RunStatus.COMPLETED,
    )
    assert harness.client.start(p, "done", key="k", if_closed="always").created


@pytest.mark.parametrize("if_closed", ["again", "always"])
def test_one_that_is_open_goes_on(harness, p, if_closed):
    run = harness.client.start(p, "wait", key="k")
    again = harness.client.start(p, "wait", key="k", if_closed=if_closed)
    assert (again.run_id, again.created) == (run.run_id, False)
    assert harness.client.start(p, "wait", if_closed=if_closed).created


def test_many_start_anew_each_under_its_own_key(harness, p):
    """Among new ones, ones without a key, one that is open, and one of a key that comes twice."""
    olds = [ended(harness, p, RunStatus.FAILED, key) for key in ("a", "b")]
    going = harness.client.start(p, "wait", key="c")
    started = harness.client.start_many(
        p, ["done"] * 6, keys=["b", "new", None, "c", "a", "b"], if_closed="again"
    )
    assert [each.created for each in started] == [True, True, True, False, True, True]
    assert started[0] == started[5]
    assert started[3].run_id == going.run_id
    views = [harness.client.get(each) for each in started]
    assert [view.business_key for view in views] == ["b", "new", None, "c", "a", "b"]
    assert [view.follows for view in views[:5]] == [
        olds[1].run_id,
        None,
        None,
        None,
        olds[0].run_id,
    ]


def test_a_key_is_started_anew_in_its_callers_transaction_or_not_at_all(harness, p):
    run = ended(harness, p, RunStatus.FAILED)
    with harness.database.psycopg() as connection:
        assert harness.client.start(
            p, "done", key="k", if_closed="again", connection=connection
        ).created
        connection.rollback()
    view = harness.client.get("k")
    assert (view.id, view.followed_by) == (run.run_id, None)


def test_a_word_that_is_none_is_refused(harness, p):
    with pytest.raises(PayloadError, match="'existing', 'again', 'always', not 'anew'"):
        harness.client.start(p, "done", key="k", if_closed="anew")


@pytest.mark.parametrize("key", ["k", None])
@pytest.mark.parametrize("status", ENDED)
def test_a_run_that_ended_is_started_once_more(harness, p, status, key):
    run = ended(harness, p, status, key)
    new = harness.client.operations.restart(run, by="bob")
    assert (new.created, new.status) == (True, RunStatus.RUNNING)
    before, after = harness.client.get(run), harness.client.get(new)
    assert (after.business_key, after.input, after.attributes) == (
        key,
        before.input,
        {"team": "a"},
    )
    assert (before.followed_by, after.follows) == (new.run_id, run.run_id)
    assert (before.business_key, before.former_key) == (None, key)
    span = after.expires_at and after.expires_at - after.created_at
    assert span == (hours(1) if status is RunStatus.EXPIRED else None)
    assert facts(harness, new) == [("started", "bob", {"follows": str(run.run_id)})]
    again = harness.client.operations.restart(run)
    assert (again.run_id, again.created) == (new.run_id, False)
    assert len(harness.client.list()) == 2


def test_a_run_started_anew_may_fail_and_be_started_once_more(harness, p):
    runs = [ended(harness, p, RunStatus.FAILED)]
    for _ in range(2):
        runs.append(harness.client.operations.restart("k"))
        harness.drain()
    views = [harness.client.get(run) for run in runs]
    assert [view.follows for view in views] == [None, runs[0].run_id, runs[1].run_id]
    assert [view.former_key for view in views] == ["k", "k", None]
    assert [each.id for each in harness.client.list(key="k")] == [
        run.run_id for run in reversed(runs)
    ]
    assert harness.client.operations.restart(runs[0]).run_id == runs[1].run_id


def test_one_that_goes_on_or_has_completed_is_not_started_once_more(harness, p):
    going, done = harness.client.start(p, "wait", key="g"), ended(harness, p, RunStatus.COMPLETED)
    with pytest.raises(RunNotClosed, match="run g is waiting: only a run that has ended"):
        harness.client.operations.restart(going)
    with pytest.raises(RunCompleted, match="run k has completed"):
        harness.client.operations.restart("k")
    with pytest.raises(RunNotFound):
        harness.client.operations.restart("nobody")
    assert harness.client.operations.restart(done, even_if_completed=True).created


def test_it_is_of_the_newest_version_whose_input_is_checked_or_of_the_one_that_is_named(harness, p):
    run = ended(harness, p, RunStatus.FAILED)

    async def newer(flow: Flow, how: int) -> None: ...

    harness.client.processes.deploy(process(version=2, name="p", registry=Registry())(newer))
    with Client(harness.settings, registry=Registry()) as client:
        with pytest.raises(InvalidInput, match="version 2: Input should be an integer"):
            client.operations.restart(run)
        assert client.get(run).followed_by is None
        assert client.operations.restart(run, version=1).version == 1


def test_an_expiry_of_the_version_is_the_newer_versions_at_a_restart(harness):
    def version(number: int) -> Any:
        async def q(flow: Flow) -> None:
            await flow.signal("go")

        define = process(version=number, registry=harness.registry, expires_after=hours(number))
        return define(q)

    harness.client.processes.deploy(version(1))
    run = harness.client.start("q", key="k")
    harness.client.cancel(run)
    harness.client.processes.deploy(version(2))
    view = harness.client.get(harness.client.operations.restart("k"))
    assert view.expires_at - view.created_at == hours(2)


@pytest.mark.parametrize(
    "verb",
    [
        lambda client: client.start("p", "done", key="k", if_closed="again"),
        lambda client: client.start_many("p", ["done"], keys=["k"], if_closed="again")[0],
        lambda client: client.operations.restart("k"),
    ],
    ids=["start", "start_many", "restart"],
)
def test_of_two_that_start_anew_at_once_one_does(harness, p, verb):
    """The second waits for the first, and is told of its run: its own statement sees the old one still."""
    run = ended(harness, p, RunStatus.FAILED)
    with Client(harness.settings, registry=Registry()) as other:
        with harness.database.psycopg() as holder:
            holder.execute("SELECT FROM perennial.run FOR UPDATE")
            threads = [
                Thread(lambda client=client: verb(client)) for client in (harness.client, other)
            ]
            wait_until_blocked(harness.database, 2)
            holder.rollback()
        started = [thread.outcome() for thread in threads]
    assert sorted(each.created for each in started) == [False, True]
    assert len({each.run_id for each in started}) == 1
    assert len(harness.client.list()) == 2
    assert harness.client.get(run).followed_by == started[0].run_id


def test_two_batches_that_start_anew_in_opposite_order_do_not_deadlock(harness, p):
    """Keys are given up in their own order, whatever the callers', and whatever the planner makes of it."""
    keys = ["k1", "k2", "k3"]
    for key in keys:
        ended(harness, p, RunStatus.FAILED, key)

    def start(order: list[str]) -> Any:
        with harness.database.psycopg() as connection:
            for way in ("hashjoin", "mergejoin", "seqscan"):
                connection.execute(f"SET enable_{way} TO off")
            return harness.client.start_many(
                p, ["done"] * 3, keys=order, if_closed="again", connection=connection
            )

    with harness.database.psycopg() as standing:
        standing.execute("SELECT FROM perennial.run WHERE business_key = 'k2' FOR UPDATE")
        forward = Thread(lambda: start(keys))
        wait_until_blocked(harness.database, 1)
        backward = Thread(lambda: start(keys[::-1]))
        wait_until_blocked(harness.database, 2)
        standing.rollback()
    ids = [{each.run_id for each in thread.outcome()} for thread in (forward, backward)]
    assert ids[0] == ids[1]
