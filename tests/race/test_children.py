"""A parent and its child end at once, on two real connections: neither waits for the other in a circle, and the parent
hears of its child's end exactly if it still awaits it. And a worker is lost at each place between the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from orchestrator import ChildFailed, Flow, RunStatus, process, stage
from orchestrator.core.outcome import TurnOutcome
from orchestrator.core.replay import take_turn
from orchestrator.engine.children import with_children
from orchestrator.engine.operations import cancel as cancelling
from orchestrator.faults import listen
from orchestrator.store.reads import loading
from orchestrator.store.transitions.children import children_to_end, forget_children
from orchestrator.store.transitions.commit import commit_turn_if_unchanged
from orchestrator.store.transitions.commit_content import TurnCommit
from tests.harness import Harness, meanwhile
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="two connections, or one place, at a time")

TURNS = {"relay_after": 5.0, "horizon_seconds": 3600.0}


class Family:
    """A parent that waits for one child, or for a signal; both have ended but for their last step."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        done = self.done = Counter[str]()

        @stage(registry=harness.registry)
        def work() -> str:
            done["work"] += 1
            return "done"

        @process(version=1, registry=harness.registry)
        async def child(flow: Flow) -> str:
            await flow.signal("end")
            return await flow.stage(work)

        @process(version=1, registry=harness.registry)
        async def parent(flow: Flow) -> str:
            race = await flow.first({"child": flow.child(child), "signal": flow.signal("enough")})
            if race.name == "signal":
                return "had enough"
            outcome = race.value
            await flow.signal("end")
            return str(outcome)

        @process(version=1, registry=harness.registry)
        async def waits(flow: Flow) -> str:
            try:
                return await flow.child(child)
            except ChildFailed as error:
                return error.status

        harness.client.processes.deploy(child, parent, waits)
        self.parent_process, self.waits = parent, waits

    def start(self, which: Any) -> tuple[UUID, UUID]:
        run = self.harness.run(which).run_id
        return run, self.child_of(run)

    def child_of(self, run: UUID) -> UUID:
        found: UUID = self.harness.database.value(
            "SELECT id FROM perennial.run WHERE parent_id = :run", run=run
        )
        return found

    def turn_of(self, run: UUID) -> TurnCommit:
        """A turn that has read and decided, and is about to commit."""
        with self.harness.context.connection() as connection:
            loaded = loading.load_run(connection, run)
        assert loaded is not None
        outcome: TurnOutcome = take_turn(
            self.harness.registry.process(loaded.context.process),
            loaded.context,
            loaded.journal,
            loaded.signals,
            registry=self.harness.registry,
            perform_step=lambda *_: pytest.fail("no step here"),
        )
        return TurnCommit(run, loaded.revision, loaded.status, outcome, **TURNS)

    def line(self, run: UUID) -> str:
        found: str = self.harness.database.value(
            "SELECT state FROM perennial.activity WHERE run_id = :run AND kind = 'child'", run=run
        )
        return found


def cancel(run: UUID) -> Callable[[Any], None]:
    return lambda connection: cancelling.cancel(connection, run, cancelling.Cancelling("ann", ""))


@pytest.fixture
def family(harness: Harness) -> Family:
    return Family(harness)


def test_a_child_ends_while_its_parent_is_cancelled(harness: Harness, family: Family) -> None:
    run, child = family.start(family.parent_process)
    with harness.database.psycopg() as operator:
        cancel(run)(operator)
        other = meanwhile(harness, cancel(child))
        operator.commit()
        other.outcome()
    assert (harness.status(run), harness.status(child)) == (RunStatus.CANCELLED,) * 2
    assert family.line(run) == "cancelled"
    assert "child cancelled" not in harness.events(run)
    harness.drain()
    assert not harness.database.rows("SELECT FROM perennial.outbox")


def test_a_parent_is_cancelled_while_its_child_ends(harness: Harness, family: Family) -> None:
    run, child = family.start(family.parent_process)
    with harness.database.psycopg() as worker:
        cancel(child)(worker)
        operator = meanwhile(harness, cancel(run))
        worker.commit()
        operator.outcome()
    assert (harness.status(run), harness.status(child)) == (RunStatus.CANCELLED,) * 2
    assert family.line(run) == "failed"  # it was told before it ended
    harness.drain()
    assert not harness.database.rows("SELECT FROM perennial.outbox")


def test_a_child_ends_while_its_parents_turn_needs_it_no_more(
    harness: Harness, family: Family
) -> None:
    """The line is cancelled while the end of the child waits for the parent: nobody is told. Guards
    `a child settles the line that asked for it`, with the rule that what is settled stands."""
    run, child = family.start(family.parent_process)
    harness.client.signal(run, "enough")
    turn = family.turn_of(run)
    with harness.database.psycopg() as worker:
        assert commit_turn_if_unchanged(worker, turn)
        other = meanwhile(harness, cancel(child))
        worker.commit()
        other.outcome()
    assert family.line(run) == "cancelled"
    assert harness.client.result(run) == "had enough"


def test_a_turn_that_has_not_seen_its_childs_end_decides_again(
    harness: Harness, family: Family
) -> None:
    run, child = family.start(family.parent_process)
    harness.client.signal(run, "enough")
    turn = family.turn_of(run)
    with harness.database.psycopg() as worker:
        cancel(child)(worker)
        other = meanwhile(harness, lambda connection: commit_turn_if_unchanged(connection, turn))
        worker.commit()
        assert other.outcome() is None
    assert family.line(run) == "failed"


def test_two_children_end_at_once_and_each_is_counted(harness: Harness, family: Family) -> None:
    @process(version=1, registry=harness.registry)
    async def pair(flow: Flow) -> list[str]:
        return await flow.gather(*(flow.child("child", key=key) for key in "ab"))

    run = harness.run(pair).run_id
    one, other = (
        row.id
        for row in harness.database.rows(
            "SELECT id FROM perennial.run WHERE parent_id = :run", run=run
        )
    )
    with harness.database.psycopg() as first:
        cancel(one)(first)
        second = meanwhile(harness, cancel(other))
        first.commit()
        second.outcome()
    assert harness.database.value("SELECT outstanding FROM perennial.run WHERE id = :r", r=run) == 0
    harness.drain()
    assert harness.status(run) is RunStatus.FAILED


def test_a_child_among_several_runs_ends_in_a_statement_of_its_own(
    harness: Harness, family: Family
) -> None:
    """It waits for its parent, and a statement of many waits for none. Guards `a child ends in a statement
    of its own`."""

    @process(version=1, registry=harness.registry)
    async def short(flow: Flow) -> str:
        return await flow.signal("go")

    @process(version=1, registry=harness.registry)
    async def above(flow: Flow) -> str:
        return await flow.child(short)

    harness.client.processes.deploy(short)
    parent = harness.run(above).run_id
    below, beside = family.child_of(parent), harness.run(short).run_id
    for each in (below, beside):
        harness.client.signal(each, "go", "gone")
    turns = [family.turn_of(each) for each in (below, beside)]
    with harness.database.psycopg() as holder, harness.context.connection() as batch:
        holder.execute("SELECT FROM perennial.run WHERE id = %s FOR NO KEY UPDATE", [parent])
        batch.exec_driver_sql("SET lock_timeout = '1s'")
        answers = commit_turn_if_unchanged.many(batch, turns)
        batch.exec_driver_sql("RESET lock_timeout")
        assert [answer is not None for answer in answers] == [False, True]
        holder.rollback()
    harness.drain()
    assert harness.client.result(parent) == "gone"


def test_children_that_are_needed_no_more_since_are_seen_to(
    harness: Harness, family: Family
) -> None:
    """Somebody has looked, and found nothing; then a turn cancels a line."""
    run, child = family.start(family.parent_process)
    harness.client.signal(run, "enough")
    with harness.context.connection() as connection:
        harness.database.rows(
            "INSERT INTO perennial.outbox (run_id, key, attempt, task, publish_at)"
            " VALUES (:run, '#children', 1, 'perennial.advance', perennial.now())",
            run=run,
        )
        found = children_to_end(connection, run, limit=9)
        assert found is not None
        assert found.ids == ()
        assert commit_turn_if_unchanged(connection, family.turn_of(run))
        forget_children(connection, run, found.attempt)
    harness.drain()
    assert harness.status(child) is RunStatus.CANCELLED


def test_a_child_whose_process_was_changed_since_is_looked_at_again(
    harness: Harness, family: Family
) -> None:
    @process(version=1, registry=harness.registry)
    async def takes_number(flow: Flow, number: int) -> int:
        return number

    @process(version=1, registry=harness.registry)
    async def gives_number(flow: Flow) -> int:
        return await flow.child("takes-number", 3)

    harness.client.processes.deploy(takes_number)
    run = harness.start(gives_number).run_id
    turn = family.turn_of(run)
    with harness.context.connection() as connection:
        outcome, begun = with_children(harness.context, connection, run, turn.outcome)
        harness.database.rows("UPDATE perennial.process SET input_schema_digest = 'another'")
        commit = replace(turn, outcome=outcome, children=begun)
        assert commit_turn_if_unchanged(connection, commit) is None
    assert not harness.database.rows("SELECT FROM perennial.run WHERE parent_id IS NOT NULL")


def test_a_child_of_a_line_that_was_asked_anew_settles_nothing(
    harness: Harness, family: Family
) -> None:
    """A line of the same key waits for another child by now, which the end of the first one does not see."""
    run, child = family.start(family.waits)
    with harness.database.psycopg() as operator:
        operator.execute("SELECT FROM perennial.run WHERE id = %s FOR NO KEY UPDATE", [run])
        other = meanwhile(harness, cancel(child))
        operator.execute(
            "UPDATE perennial.activity SET policy = jsonb_build_object('child', %s::text) WHERE run_id = %s",
            [str(UUID(int=1)), run],
        )
        operator.commit()
        other.outcome()
    assert family.line(run) == "pending"


class Lost(BaseException):
    """The worker ends here."""


def test_a_worker_is_lost_at_each_place_between_a_childs_end_and_its_parents_turn(
    harness: Harness, family: Family
) -> None:
    """At each statement's two sides, in the order in which they come: the parent hears of the end, once."""
    harness.freeze()
    place, names = 0, []
    while True:
        run, child = family.start(family.waits)
        harness.client.signal(child, "end")
        left = [place]

        def end(when: str, what: str, left: list[int] = left) -> None:
            if left[0] == 0:
                names.append(f"{when} {what}")
                left[0] = -1
                raise Lost
            left[0] -= 1

        listen(end)
        try:
            harness.drain()
        except Lost:
            harness.messenger.handed_off.clear()
        finally:
            listen(None)
        if left[0] >= 0:
            break
        harness.recover()
        assert harness.client.result(run) == "done", names[-1]
        told = [each.event for each in harness.client.history(run) if "child" in each.event]
        assert told == ["child started", "child completed"], names[-1]
        place += 1
    assert {name.partition(" ")[2] for name in names} >= {
        "commit_turn",
        "load_run",
        "claim_activity",
    }
    assert not harness.database.rows("SELECT FROM perennial.outbox")
