"""Too much at once, a broker that is away, a queue that nobody serves: nobody else waits for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from orchestrator import Flow, Retry, process, stage
from orchestrator.engine.relay import BACKLOG_MAX, RESENDS_ON_A_BUSY_QUEUE, relay
from orchestrator.engine.stage import run_stage
from orchestrator.engine.sweep import rebuild_index, sweep
from orchestrator.engine.turn import advance
from orchestrator.store.transitions import outbox
from orchestrator.store.transitions.outbox import RESEND_SECONDS_MAX, Handoff
from tests.harness import CollectingMessenger, Harness
from tests.modes import BATCH_OF_ONE, EVICT, all_but, modes_of

FLOOD = 5_000


class Broker(CollectingMessenger):
    """One that may be away, and whose queues keep what nobody takes."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.queues: Counter[str | None] = Counter()

    def hand_off(self, handoffs: Sequence[Handoff]) -> Sequence[Handoff]:
        if self.is_away:
            return handoffs
        self.queues.update(handoff.queue for handoff in handoffs)
        return super().hand_off(handoffs)

    def backlog_of(self, queue: str | None) -> int:
        return self.queues[queue]


@pytest.fixture
def broker(harness: Harness) -> Broker:
    harness.context.messenger = broker = Broker()
    return broker


def one_stage(harness: Harness, name: str, queue: str) -> Any:
    @stage(registry=harness.registry, name=f"work-of-{name}", queue=queue)
    def work() -> None: ...

    @process(version=1, registry=harness.registry, name=name, queue=queue)
    async def p(flow: Flow) -> None:
        await flow.stage(work)

    harness.client.processes.deploy(p)
    return p


def sent(broker: Broker) -> list[UUID]:
    return [handoff.run_id for handoff in broker.handed_off]


# -- a flood -------------------------------------------------------------------------------------


@modes_of(*all_but(BATCH_OF_ONE), because="a share of one has no room for two floods")
def test_a_run_started_after_a_flood_is_handed_off_before_the_flood_is(harness, broker):
    """A relay takes a share from either end: the newest doesn't wait for thousands, and the oldest doesn't
    starve. Each is handed off once. Guards `newest` and `oldest` in `_DUE`.
    """
    flood, other = one_stage(harness, "flood", "flood"), one_stage(harness, "other", "aside")
    many = harness.client.start_many(flood, [None] * FLOOD)
    one = harness.client.start(other)
    share = harness.settings.batch_size
    assert relay(harness.context) == share
    first = sent(broker)
    assert one.run_id in first
    shares = 1
    while relay(harness.context):
        shares += 1
        more = harness.client.start(other)  # others keep coming, and the flood still ends
        harness.database.rows("DELETE FROM perennial.outbox WHERE run_id = :id", id=more.run_id)
    assert shares <= FLOOD / share + 1
    assert sorted(sent(broker)) == sorted([*(run.run_id for run in many), one.run_id])


def test_the_oldest_handoff_is_sent_however_many_come_after_it(harness, broker):
    """New starts at every share, more than it takes: the first of all is still in the first share."""
    flood = one_stage(harness, "flood", "flood")
    first = harness.client.start(flood)
    harness.database.rows(
        "UPDATE perennial.outbox SET publish_at = publish_at - interval '1 second'"
    )
    harness.client.start_many(flood, [None] * FLOOD)
    relay(harness.context)
    assert first.run_id in sent(broker)


def test_one_relay_sends_no_more_than_a_share(harness, broker):
    """Whoever relays looks up in between, and sweeps: a relay that went on until nothing is due kept the
    attempts of dead workers and late timers waiting for as long.
    """
    flood = one_stage(harness, "flood", "flood")
    harness.client.start_many(flood, [None] * FLOOD)
    swept = sweep(harness.context)
    assert swept.handoffs == len(broker.handed_off) == harness.settings.batch_size


@modes_of(*all_but(BATCH_OF_ONE), because="it counts what one share takes")
def test_whoever_rebuilds_the_index_leaves_the_handoffs_to_the_caretakers(harness, broker):
    """The timer dispatcher has timers to move: it makes the handoffs due, and notifies those that wait for it."""
    flood = one_stage(harness, "flood", "flood")
    harness.client.start_many(flood, [None] * 3)
    assert relay(harness.context) == 3
    with harness.database.psycopg(autocommit=True) as listening:
        listening.execute("LISTEN perennial_outbox")
        rebuild_index(harness.context)
        assert list(listening.notifies(timeout=5, stop_after=1))
    assert len(broker.handed_off) == 3
    assert relay(harness.context) == 3


def test_a_rebuild_waits_for_no_producer_and_makes_the_others_handoffs_due(harness, broker):
    """A producer has signalled in a transaction that stays open: its run's handoff is locked for so long."""

    @process(version=1, registry=harness.registry)
    async def waits(flow: Flow) -> None:
        await flow.signal("go")

    first, second = harness.start(waits), harness.start(waits)
    with harness.database.psycopg() as producer:
        harness.client.signal(first, "go", connection=producer)
        with harness.context.connection() as connection:
            connection.execute(text("SET lock_timeout = '300ms'"))
            try:
                outbox.make_all_handoffs_due(connection)
            except OperationalError:
                pytest.fail("it waits for the producer")
    assert relay(harness.context) == 2
    assert {each.run_id for each in broker.handed_off} == {first.run_id, second.run_id}


# -- a broker that is away -----------------------------------------------------------------------


def test_a_long_outage_of_the_broker_is_not_made_longer_by_waiting_for_it(harness, broker):
    """What could not be sent doesn't count as sent: after an outage of any length a handoff is sent within
    `relay_after_seconds`. Guards `put_back_handoffs`.
    """
    p = one_stage(harness, "p", "here")
    harness.freeze()
    broker.is_away = True
    run = harness.client.start(p)
    for _ in range(12):
        harness.move(seconds=5)
        assert relay(harness.context) == 0
    broker.is_away = False
    harness.move(seconds=harness.settings.relay_after_seconds)
    relay(harness.context)
    assert sent(broker) == [run.run_id]
    assert harness.database.value("SELECT publishes FROM perennial.outbox") == 1


def test_a_relay_does_not_go_on_while_the_broker_is_away(harness, broker):
    """A full share that could not be sent asks for no other: each would wait for the broker in vain."""
    flood = one_stage(harness, "flood", "flood")
    harness.client.start_many(flood, [None] * FLOOD)
    broker.is_away = True
    assert sweep(harness.context).largest == 0


def test_a_handoff_that_another_relay_has_taken_meanwhile_is_not_put_back(harness, broker):
    """Who could not send knows nothing about what came after. Guards the count in `_PUT_BACK`."""
    p = one_stage(harness, "p", "here")
    harness.client.start(p)

    def another_takes_it(handoffs: Sequence[Handoff]) -> Sequence[Handoff]:
        harness.database.rows("UPDATE perennial.outbox SET publish_at = perennial.now()")
        relay(harness.worker("worker-2"))
        return handoffs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker, "hand_off", another_takes_it)
        relay(harness.context)
    assert harness.database.value("SELECT publishes FROM perennial.outbox") == 2


# -- a queue that nobody serves ------------------------------------------------------------------


def test_the_messages_on_a_queue_that_nobody_serves_grow_with_the_logarithm_of_time(
    harness, broker
):
    """Two days in which nobody takes it: the broker's memory is not filled with copies of one handoff, and
    a lost one is still sent again. Guards `_is_sent_regardless`.
    """
    harness.client.start(one_stage(harness, "p", "nowhere"))
    broker.queues["nowhere"] = BACKLOG_MAX + 1
    copies = []
    for _ in range(2 * 86_400 // RESEND_SECONDS_MAX):
        relay(harness.context)
        copies.append(len(broker.handed_off))
        harness.database.rows("UPDATE perennial.outbox SET publish_at = perennial.now()")
    assert copies[0] == 1
    assert copies[RESENDS_ON_A_BUSY_QUEUE] == 2
    assert copies[-1] == 8


@modes_of(*all_but(BATCH_OF_ONE), because="it sends two handoffs in each share")
def test_a_run_says_that_its_handoff_is_taken_by_nobody(harness, broker):
    """Of its stage, and of its turn: what is asked, how often, of which queue."""
    p = one_stage(harness, "p", "nowhere")
    harness.freeze()
    unturned, turned = harness.client.start(p), harness.client.start(p)
    advance(harness.context, turned.run_id)
    assert harness.client.get(unturned).untaken_turn == ""
    for _ in range(3):
        harness.move(seconds=RESEND_SECONDS_MAX)
        relay(harness.context)
    view = harness.client.get(unturned)
    assert (view.queue, view.untaken_turn) == (
        "nowhere",
        "handed off 3 times, and no worker took it: is there one on this queue that has this process?",
    )
    (wait,) = harness.client.get(turned).waits
    assert wait.who == ("a worker on queue nowhere",)
    assert wait.detail == (
        "handed off 4 times, and no worker took it: is there one on this queue that has stage work-of-p?"
    )
    harness.client.operations.pause(unturned)
    assert harness.client.get(unturned).untaken_turn == ""


def test_a_turn_that_a_worker_is_in_is_not_called_untaken(harness, broker):
    """A long step of the flow: its `advance` is sent again meanwhile, since the turn isn't over."""
    seen = []

    def long_step() -> None:
        harness.database.rows("UPDATE perennial.outbox SET publishes = 9")
        seen.append(harness.client.get(run).untaken_turn)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.step(long_step)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    assert seen == [""]


# -- who judges the dead -------------------------------------------------------------------------


@modes_of(*all_but(EVICT), because="its worker stays in the turn")
def test_a_fresh_process_takes_no_turn_from_a_living_worker_that_postgres_kept_from_beating(
    harness,
):
    """Postgres was away for long, and nobody could beat. Whoever gets the `advance` then finds the turn
    held, and leaves it: the dead are judged by maintenance alone, and only by those that have watched for
    long enough. So the step isn't called twice. Guards TURN_IS_FREE, and `may_judge` in `relay`.
    """
    called = []

    def charge() -> int:
        called.append(1)
        if len(called) > 1:
            return 2
        harness.move(seconds=60)  # Postgres is back, and nobody has beaten yet
        fresh = harness.worker("fresh")
        assert relay(fresh, may_judge=False) == 0
        advance(fresh, run.run_id)
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.step(charge)

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    assert called == [1]
    assert harness.client.result(run) == 1


@modes_of(*all_but(EVICT), because="its worker stays in the turn")
def test_a_lost_turn_that_may_not_be_judged_yet_is_looked_at_again_soon(harness, broker):
    """Its handoff doesn't count as sent: whoever has just regained contact puts nothing off for minutes."""

    class WorkerKilled(BaseException): ...

    def killed_once() -> int:
        if not called:
            called.append(1)
            raise WorkerKilled
        return 1

    called: list[int] = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.step(killed_once)

    harness.freeze()
    run = harness.start(p)
    with pytest.raises(WorkerKilled):
        advance(harness.context, run.run_id)
    harness.database.rows("UPDATE perennial.outbox SET publishes = 8")
    harness.move(seconds=60)
    assert relay(harness.context, may_judge=False) == 0
    harness.move(seconds=harness.settings.relay_after_seconds)
    assert relay(harness.context) == 1
    assert harness.events(run)[-1] == "turn freed"
    advance(harness.context, run.run_id)
    assert harness.client.result(run) == 1


def test_a_worker_that_died_in_a_turn_is_counted_once_however_many_caretakers_look(harness):
    """Guards TURN_IS_LOST in `free_turn_if_lost`: the second finds nobody in the turn."""

    class WorkerKilled(BaseException): ...

    def kills() -> None:
        raise WorkerKilled

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.step(kills)

    harness.freeze()
    run = harness.start(p)
    with pytest.raises(WorkerKilled):
        advance(harness.context, run.run_id)
    for _ in range(3):
        harness.move(seconds=60)
        relay(harness.worker("maintenance"))
    assert harness.database.value("SELECT turn_losses FROM perennial.run") == 1
    assert harness.events(run).count("turn freed") == 1


# -- one kind of work does not keep another ------------------------------------------------------


def test_a_relay_that_always_fails_keeps_no_lost_attempt_and_no_timer_waiting(harness):
    """A sweep relays last. Guards the order in `sweep`."""

    @stage(registry=harness.registry, retry=Retry(max_attempts=2))
    def work() -> None:
        raise SystemExit

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(work)

    @process(version=1, registry=harness.registry)
    async def sleeps(flow: Flow) -> None:
        await flow.sleep(1)

    harness.freeze()
    sleeping, lost = harness.start(sleeps), harness.start(p)
    for run in (sleeping, lost):
        advance(harness.context, run.run_id)
    with pytest.raises(SystemExit):
        run_stage(harness.context, lost.run_id, "work", 1)
    harness.start(sleeps)
    harness.move(seconds=60)

    def fails(*_: object) -> None:
        raise RuntimeError("a broker like no other")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.engine.relay._worth_sending", fails)
        with pytest.raises(RuntimeError):
            sweep(harness.context)
    assert "sleep ended" in harness.events(sleeping)
    assert "attempt handed out again" in harness.events(lost)
