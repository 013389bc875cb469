"""Timers that come due in the same instant: fired together, and as each alone would have been (docs/adr/0021)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

from orchestrator import Flow, Retry, RunStatus, hours, process, stage
from orchestrator.engine.fire import fire, fire_all
from orchestrator.engine.turn import advance
from orchestrator.store.transitions.fire import fire_timers_if_due
from orchestrator.store.transitions.outbox import Handoff
from tests.harness import Harness, Thread, WireTrace, wait_until_blocked
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="the test itself fires what is due")

RECORD = {
    "runs": "SELECT status, revision > turn_revision, waiting_for FROM perennial.run ORDER BY process, business_key",
    "activities": """SELECT r.process, a.key, a.state, a.attempt, a.worker_id, a.claimed_at, a.result, a.settled_at
        FROM perennial.activity a JOIN perennial.run r ON r.id = a.run_id ORDER BY r.process, r.business_key, a.key""",
    "approvals": """SELECT r.process, p.state, p.assignees FROM perennial.approval p
        JOIN perennial.run r ON r.id = p.run_id ORDER BY r.process, r.business_key, p.key""",
    "timers": """SELECT r.process, t.kind, t.state, t.fired_at, t.due_at FROM perennial.timer t
        JOIN perennial.run r ON r.id = t.run_id ORDER BY r.process, r.business_key, t.kind""",
    "outbox": """SELECT r.process, o.key, o.attempt, o.task, o.queue, o.publishes, o.publish_at
        FROM perennial.outbox o JOIN perennial.run r ON r.id = o.run_id ORDER BY r.process, r.business_key, o.key""",
    "history": """SELECT r.process, h.actor, h.event, h.key, h.attempt, h.from_status, h.to_status, h.detail
        FROM perennial.history h JOIN perennial.run r ON r.id = h.run_id
        ORDER BY r.process, r.business_key, h.event, h.key""",
}
EACH = 3


def deploy_every_kind(harness: Harness) -> list[Any]:
    """A process for each kind of timer, and one whose turn has been asked for already."""

    @stage(registry=harness.registry, retry=Retry(delay_seconds=3600, jitter=0))
    def fails() -> None:
        raise ConnectionError

    def refuses() -> None:
        raise ConnectionError

    @process(version=1, registry=harness.registry)
    async def sleeps(flow: Flow) -> None:
        await flow.sleep(hours(1))

    @process(version=1, registry=harness.registry)
    async def sleeps_twice(flow: Flow) -> None:
        await flow.gather(flow.sleep(hours(1)), flow.sleep(hours(1)))

    @process(version=1, registry=harness.registry)
    async def asks(flow: Flow) -> None:
        await flow.approval("m", assign=["bob"], escalate={hours(0.5): ["carol"]}, timeout=hours(1))

    @process(version=1, registry=harness.registry)
    async def listens(flow: Flow) -> None:
        with suppress(TimeoutError):
            await flow.signal("go", timeout=hours(1))

    @process(version=1, registry=harness.registry)
    async def retries(flow: Flow) -> None:
        await flow.stage(fails)

    @process(version=1, registry=harness.registry)
    async def retries_a_step(flow: Flow) -> None:
        await flow.step(refuses, retry=Retry(delay_seconds=3600, jitter=0))

    @process(version=1, registry=harness.registry, expires_after=hours(1))
    async def expires(flow: Flow) -> None:
        await flow.signal("never")

    return [sleeps, sleeps_twice, asks, listens, retries, retries_a_step, expires]


def play(harness: Harness, fire_due: Callable[[list[UUID]], Any]) -> dict[str, list[Any]]:
    """Everything of every kind comes due in one instant; what the record says afterwards."""
    harness.freeze(
        harness.now.replace(year=2031, month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    )
    for flow in deploy_every_kind(harness):
        for number in range(EACH):
            harness.run(flow, key=f"{number}")
    harness.move(hours=1)
    fire_due(harness.due_timers())
    found = {
        what: [tuple(row) for row in harness.database.rows(sql)] for what, sql in RECORD.items()
    }
    harness.drain()
    return found


def test_a_crowd_of_every_kind_leaves_what_each_alone_would_have_left(database, mode):
    """Guards every part of `fire_timers`, and what it leaves to be fired alone."""

    def one_by_one(harness: Harness) -> Callable[[list[UUID]], None]:
        return lambda due: [fire(harness.context, timer_id) for timer_id in due] and None

    def together(harness: Harness) -> Callable[[list[UUID]], None]:
        return lambda due: fire_all(harness.context, due) and None

    found = []
    for way in (one_by_one, together):
        database.empty()
        with Harness(database, mode=mode) as harness:
            found.append(play(harness, way(harness)))
    alone, crowd = found
    assert len(alone["timers"]) == EACH * 9
    for what in RECORD:
        assert crowd[what] == alone[what], what


def sleepers(harness: Harness, count: int) -> list[UUID]:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.sleep(hours(1))

    harness.freeze()
    for _ in range(count):
        harness.run(p)
    harness.move(hours=1)
    return harness.due_timers()


def test_a_crowd_is_fired_once_however_often_it_is_asked_for(harness):
    due = sleepers(harness, 20)
    handoffs, failed = fire_all(harness.context, due)
    assert ({handoff.run_id for handoff in handoffs}, failed) == (
        {row.id for row in harness.database.rows("SELECT id FROM perennial.run")},
        0,
    )
    assert fire_all(harness.context, due) == ([], 0)
    ended = "SELECT count(*) FROM perennial.history WHERE event = 'sleep ended'"
    assert harness.database.value(ended) == 20


def test_a_crowd_that_is_not_due_is_not_fired(harness):
    """A message that comes too early fires nothing. Guards `due_at` in `fire_timers`."""
    due = sleepers(harness, 2)
    harness.move(minutes=-1)
    assert fire_all(harness.context, due) == ([], 0)
    assert harness.database.value("SELECT count(*) FROM perennial.timer WHERE state = 'armed'") == 2


def test_a_timer_alone_takes_one_round_trip(harness):
    due = sleepers(harness, 2)
    trace = WireTrace(harness.context.database)
    fire(harness.context, due[0])  # connected, and its statement planned
    with trace.counting() as count:
        assert len(fire(harness.context, due[1])) == 1
    trace.stop()
    assert count.round_trips == 1


def test_facts_that_come_due_together_keep_their_order(harness):
    """Of two deadlines that have passed, the earlier one's flow goes on first. Guards `place` in `fire_timers`."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[str]:
        order: list[str] = []

        async def branch(seconds: float, name: str) -> None:
            await flow.sleep(seconds)
            order.append(name)

        await flow.gather(branch(7200, "later"), branch(3600, "sooner"))
        return order

    harness.freeze()
    run = harness.run(p)
    harness.move(hours=3)
    handoffs, _ = fire_all(harness.context, harness.due_timers())
    assert len(handoffs) == 1
    advance(harness.context, run.run_id)
    assert harness.client.result(run) == ["sooner", "later"]


def test_signals_that_came_in_time_are_given_to_waits_in_the_order_of_their_deadlines(harness):
    """Each signal answers one wait, and the last wait times out. Guards `turn` in `fire_timers`."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[str]:
        answers: list[str] = []

        async def branch(seconds: float) -> None:
            try:
                answers.append(await flow.signal("go", timeout=seconds))
            except TimeoutError:
                answers.append("late")

        await flow.gather(branch(5400), branch(3600), branch(7200))
        return answers

    harness.freeze()
    run = harness.run(p)
    for payload in ("first", "second"):
        harness.client.signal(run, "go", payload)
        harness.move(seconds=1)
    harness.move(hours=3)
    fire_all(harness.context, harness.due_timers())
    rows = harness.database.rows(
        "SELECT a.result FROM perennial.activity a JOIN perennial.timer t USING (run_id, key) ORDER BY t.due_at"
    )
    assert [row.result for row in rows] == ["first", "second", None]
    harness.drain()
    assert harness.client.result(run) == ["first", "second", "late"]


def test_a_crowd_takes_one_round_trip(harness):
    """As many as one."""
    due = sleepers(harness, 20)
    trace = WireTrace(harness.context.database)
    fire_all(harness.context, due[:2])  # connected, and its statement planned
    with trace.counting() as count:
        fire_all(harness.context, due[2:])
    trace.stop()
    assert count.round_trips == 1
    assert (
        harness.database.value("SELECT count(*) FROM perennial.timer WHERE state = 'fired'") == 20
    )


def test_a_run_that_somebody_has_locked_holds_up_no_other(harness):
    """It is skipped, and fired alone when its lock is free. Guards `SKIP LOCKED`: to wait for one run while
    holding many is how deadlocks are made.
    """
    due = sleepers(harness, 3)
    with harness.database.psycopg() as other:
        other.execute(
            "SELECT FROM perennial.run WHERE id = (SELECT run_id FROM perennial.timer WHERE id = %s) FOR UPDATE",
            [due[0]],
        )
        firing_all = Thread(lambda: fire_all(harness.context, due))
        wait_until_blocked(harness.database)
        fired = "SELECT count(*) FROM perennial.timer WHERE state = 'fired'"
        assert harness.database.value(fired) == 2
        other.commit()
        handoffs, failed = firing_all.outcome()
    assert (len(handoffs), failed) == (3, 0)


def test_two_messages_for_the_same_crowd_fire_each_timer_once(harness):
    due = sleepers(harness, 3)
    with harness.database.psycopg() as first:
        assert len(fire_timers_if_due(first, due, relay_after=5).handoffs) == 3
        second = Thread(lambda: fire_all(harness.context, due))
        wait_until_blocked(harness.database)
        first.commit()
        assert second.outcome() == ([], 0)
    ended = "SELECT count(*) FROM perennial.history WHERE event = 'sleep ended'"
    assert harness.database.value(ended) == 3


def test_what_cannot_be_fired_together_is_fired_one_by_one(harness):
    """One that Postgres refuses must not keep the others from firing; it is told, and counted as not done."""
    due = sleepers(harness, 3)
    poisoned = due[1]
    harness.database.rows(
        f"""CREATE FUNCTION pg_temp_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER poison BEFORE UPDATE ON perennial.timer FOR EACH ROW
            WHEN (OLD.id = '{poisoned}') EXECUTE FUNCTION pg_temp_refuse()"""
    )
    try:
        handoffs, failed = fire_all(harness.context, due)
    finally:
        harness.database.rows("DROP FUNCTION pg_temp_refuse() CASCADE")
    assert (len(handoffs), failed) == (2, 1)


def test_a_turn_that_decides_while_a_crowd_fires_decides_again(harness):
    """Guards `raised` in `fire_timers`: a turn that has read before would commit over the fact."""
    due = sleepers(harness, 2)
    before = [row.revision for row in harness.database.rows("SELECT revision FROM perennial.run")]
    handoffs, _ = fire_all(harness.context, due)
    after = [row.revision for row in harness.database.rows("SELECT revision FROM perennial.run")]
    assert after == [revision + 1 for revision in before]
    for handoff in handoffs:
        assert handoff == Handoff.advance(handoff.run_id, None)
        advance(harness.context, handoff.run_id)
    assert harness.client.operations.counts() == {RunStatus.COMPLETED: 2}
