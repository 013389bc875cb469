"""Which version new runs take: the newest that is served, or the one that a team has set; and none that is retired."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from orchestrator import Flow, Registry, process
from orchestrator.core.definition import Process
from orchestrator.core.views import DeployedVersion
from orchestrator.errors import UnknownProcess, VersionRefused
from orchestrator.store.transitions import capabilities, serving
from orchestrator.store.transitions.capabilities import LOCK_CLASS, Registration
from tests.harness import Thread, WireTrace, wait_until_blocked
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="it is about which version a start takes, whatever the mode")


@pytest.fixture
def fleet(harness) -> Iterator[Workers]:
    harness.freeze()
    with ExitStack() as sessions:
        yield Workers(harness, sessions)


class Workers:
    """Celery workers as the record knows them; whoever comes or leaves marks what is served, as maintenance does."""

    def __init__(self, harness, sessions: ExitStack) -> None:
        self._harness, self._sessions, self._locks = harness, sessions, iter(range(1001, 1100))

    def come(
        self, *can: str, name: str = "worker", queues: tuple[str, ...] = ("q",)
    ) -> Callable[[], None]:
        session = self._sessions.enter_context(self._harness.database.psycopg(autocommit=True))
        worker = Registration(uuid7(), name, 1, can, queues, "code", next(self._locks))
        session.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_CLASS, worker.lock))
        with self._harness.context.connection() as connection:
            capabilities.register(connection, worker)
        self.mark()

        def leave() -> None:
            with self._harness.context.connection() as connection:
                capabilities.leave(connection, worker.id)
            self.mark()

        return leave

    def mark(self) -> None:
        with self._harness.context.connection() as connection:
            serving.mark_served(connection)

    def later(self, seconds: float) -> None:
        """Time passes; whoever lives beats."""
        self._harness.move(seconds=seconds)
        self._harness.database.rows(
            "UPDATE perennial.worker SET heartbeat_at = perennial.now() WHERE can <> '{}'"
        )
        self.mark()


def version(number: int, name: str = "p", **options: Any) -> Process[Any, Any]:
    async def flow(flow: Flow) -> None:
        await flow.signal("go")

    return process(version=number, name=name, registry=Registry(), **options)(flow)


def started(harness) -> int:
    return harness.client.start("p").version


ONE, TWO = "turn p 1 r1", "turn p 2 r1"


def test_new_runs_take_the_newest_version_that_is_served_if_any_is(harness, fleet):
    """In a rolling deploy none waits for the first new worker; after a downgrade none waits for ever."""
    harness.client.processes.deploy(version(1))
    assert started(harness) == 1
    harness.client.processes.deploy(version(2))
    assert started(harness) == 2  # nobody is there: who knows who comes
    fleet.come(ONE)
    assert started(harness) == 1
    newer = fleet.come(ONE, TWO)
    assert started(harness) == 2
    newer()
    assert started(harness) == 2  # it may just be started again
    fleet.later(serving.GRACE_SECONDS - 1)
    assert started(harness) == 2
    fleet.later(1)
    assert started(harness) == 1
    fleet.come(TWO)
    assert started(harness) == 2
    assert harness.client.start("p", version=1).version == 1


def test_a_fleet_that_is_all_down_changes_nothing(harness, fleet):
    harness.client.processes.deploy(version(1), version(2), version(1, "other"))
    older = fleet.come(ONE)
    assert started(harness) == 1
    older()
    fleet.come("turn other 1 r1")  # somebody is there, and has nothing to do with it
    for _ in range(3):
        fleet.later(serving.GRACE_SECONDS + 1)
        assert started(harness) == 1


def test_a_process_on_a_queue_of_its_own_is_served_by_those_who_take_from_it(harness, fleet):
    harness.client.processes.deploy(version(1, queue="q"), version(2, queue="far"))
    fleet.come(ONE, TWO)
    assert started(harness) == 1
    fleet.come(ONE, TWO, queues=("far",))
    assert started(harness) == 2


def test_what_has_not_changed_is_not_written(harness, fleet):
    harness.client.processes.deploy(version(1), version(2))
    fleet.come(ONE)
    marks = "SELECT array_agg(xmin::text ORDER BY version) FROM perennial.process"
    before = harness.database.value(marks)
    for _ in range(3):
        fleet.later(serving.GRACE_SECONDS)
    assert harness.database.value(marks) == before


def test_a_start_is_one_round_trip_whichever_version_it_takes(harness, fleet):
    """Guards what a start costs: that a version is served stands in its row."""
    harness.client.processes.deploy(version(1), version(2))
    fleet.come(ONE)
    started(harness)
    trace = WireTrace(harness.client._context.database)
    try:
        started(harness)
        with trace.counting() as count:
            assert started(harness) == 1
    finally:
        trace.stop()
    assert count.round_trips == 1


def test_a_team_sets_which_version_new_runs_take(harness, fleet):
    harness.client.processes.deploy(version(1), version(2), version(3))
    fleet.come(TWO)
    harness.client.processes.set_current("p", 1, by="ann")
    assert started(harness) == 1
    (_, second, first) = harness.client.processes.list("p")
    assert (first.is_current, first.set_by, second.is_current) == (True, "ann", False)
    harness.client.processes.set_current("p", 3, by="bob")
    assert started(harness) == 3
    assert [each.set_by for each in harness.client.processes.list("p")] == ["bob", None, None]
    harness.client.processes.set_current("p", None)
    assert started(harness) == 2


def test_a_retired_version_gets_no_new_run_and_those_that_are_there_go_on(harness):
    processes = harness.client.processes
    processes.deploy(version(1), version(2))
    there = harness.client.start("p", key="k")
    processes.set_current("p", 2)
    processes.retire("p", 2, by="ann")
    assert started(harness) == 1
    assert harness.client.start("p", key="k").run_id == there.run_id
    with pytest.raises(UnknownProcess, match="version 2 of process 'p' was retired by ann: no new"):
        harness.client.start("p", version=2)
    with pytest.raises(VersionRefused, match="p version 2 is retired already by ann"):
        processes.retire("p", 2)
    with pytest.raises(VersionRefused, match=r"was retired by ann.*retire p 2 --undo"):
        processes.set_current("p", 2)
    with pytest.raises(VersionRefused, match="p version 1 is the only version that new runs can"):
        processes.retire("p", 1)
    processes.retire("p", 1, even_the_last=True)
    with pytest.raises(UnknownProcess, match=r"each version of process 'p' was retired.*--undo"):
        harness.client.start("p")
    processes.unretire("p", 2)
    assert started(harness) == 2
    with pytest.raises(VersionRefused, match="p version 2 is not retired"):
        processes.unretire("p", 2)
    harness.client.signal(there, "go")


def test_what_was_said_of_a_process_stays_with_who_when_from_what_and_why(harness):
    harness.freeze()
    processes = harness.client.processes
    processes.deploy(version(1), version(2), version(1, "other"), by="ann")
    harness.move(hours=1)
    processes.set_current("p", 2, by="bob", reason="1 is slow")
    processes.set_current("p", 1, by="cleo")
    harness.move(hours=1)
    processes.set_current("p", None, by="dan", reason="as ever")
    processes.set_current("p", None, by="eve")  # nothing was set: nothing is changed
    processes.set_current("p", 2, by="fay")
    processes.retire("p", 2, by="gus", reason="it is wrong")
    for refused in (
        lambda: processes.retire("p", 2, by="hal"),
        lambda: processes.set_current("p", 2, by="hal"),
        lambda: processes.unretire("p", 1, by="hal"),
    ):
        with pytest.raises(VersionRefused):
            refused()
    processes.unretire("p", 2, by="ida")
    told = processes.history("p")
    assert [
        (each.by, each.event, each.former_version, each.version, each.reason) for each in told
    ] == [
        ("ida", "unretired", None, 2, ""),
        ("gus", "retired", None, 2, "it is wrong"),
        ("gus", "current", 2, None, "it is wrong"),
        ("fay", "current", None, 2, ""),
        ("dan", "current", 1, None, "as ever"),
        ("cleo", "current", 2, 1, ""),
        ("bob", "current", None, 2, "1 is slow"),
        ("ann", "deployed", None, 2, ""),
        ("ann", "deployed", None, 1, ""),
    ]
    assert [(harness.now - each.at).total_seconds() / 3600 for each in told[-4:]] == [1, 1, 2, 2]
    assert [each.by for each in processes.history("p", limit=1)] == ["ida"]


def test_of_two_who_set_the_current_version_at_once_the_second_says_what_the_first_has_set(harness):
    processes = harness.client.processes
    processes.deploy(version(1), version(2))
    with harness.database.psycopg() as holder:
        holder.execute("SELECT FROM perennial.process FOR UPDATE")
        threads = [
            Thread(lambda number=number: processes.set_current("p", number, by="ann"))
            for number in (1, 2)
        ]
        wait_until_blocked(harness.database, 2)
        holder.rollback()
    for thread in threads:
        thread.outcome()
    said = [each for each in processes.history("p") if each.event == "current"]
    (first,) = [each.version for each in said if each.former_version is None]
    (second,) = [each.version for each in said if each.former_version == first]
    assert {first, second} == {1, 2}
    assert [each.version for each in processes.list("p") if each.is_current] == [second]


def test_what_is_not_deployed_is_named(harness):
    processes = harness.client.processes
    processes.deploy(version(1, "parcel"))
    with pytest.raises(
        UnknownProcess, match=r"no process 'parcl' is deployed. Did you mean 'parcel'"
    ):
        processes.set_current("parcl", 1)
    with pytest.raises(UnknownProcess, match="parcel version 2 is not deployed; deployed: 1"):
        processes.retire("parcel", 2)
    with pytest.raises(UnknownProcess, match="no process 'x' is deployed"):
        processes.set_current("x", None)


def test_of_two_who_retire_the_last_two_versions_at_once_one_is_refused(harness):
    processes = harness.client.processes
    processes.deploy(version(1), version(2))
    with harness.database.psycopg() as holder:
        holder.execute("SELECT FROM perennial.process FOR UPDATE")
        threads = [Thread(lambda number=number: processes.retire("p", number)) for number in (1, 2)]
        wait_until_blocked(harness.database, 2)
        holder.rollback()
    outcomes = []
    for thread in threads:
        try:
            outcomes.append(thread.outcome())
        except VersionRefused as refused:
            outcomes.append(str(refused)[:20])
    assert None in outcomes
    assert len({str(each) for each in outcomes}) == 2


def by_name(versions: list[DeployedVersion]) -> dict[str, Any]:
    return {
        f"{each.name} {each.version}": [
            (revision.code_revision, revision.open_runs, revision.workers)
            for revision in each.revisions
        ]
        for each in versions
    }


def test_the_list_tells_open_runs_by_revision_and_who_can_run_them(harness, fleet):
    """So a team knows when old code may go."""
    harness.client.processes.deploy(version(1), version(2), version(1, "other"), by="ann")
    runs = [harness.client.start("p", version=1) for _ in range(3)]
    harness.client.cancel(runs[0])
    harness.database.rows("UPDATE perennial.process SET code_revision = 2 WHERE version = 2")
    harness.database.rows("UPDATE perennial.process SET code_revision = 2 WHERE name = 'p'")
    fleet.come(TWO, "turn p 2 r2", name="b")
    fleet.come("turn p 2 r2", name="a")
    assert by_name(harness.client.processes.list()) == {
        "other 1": [(1, 0, ())],
        "p 2": [(2, 0, ("a", "b"))],
        "p 1": [(2, 0, ()), (1, 2, ())],
    }
    (newer, older) = harness.client.processes.list("p")
    assert (newer.is_current, older.is_current) == (True, False)
    assert (newer.unserved, older.unserved) == ((), (1,))
    assert older.open_runs == 2
    assert older.deployed_by == "ann"
