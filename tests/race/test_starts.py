"""Starts that meet: a producer's open transaction holds up neither runs nor other producers."""

from __future__ import annotations

from sqlalchemy import text

from orchestrator import Flow, process
from orchestrator.engine.turn import take_turns
from orchestrator.store import turns
from tests.harness import Thread, wait_until_blocked


def test_a_second_start_in_an_open_transaction_does_not_hold_up_the_run(harness):
    """A start that finds its business key leaves the run there unlocked (ON CONFLICT DO NOTHING),
    so the run's turns go on while the producer's transaction is open. Guards `start_runs`.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    run = harness.start(p, key="REQ-1")
    with harness.database.psycopg() as producer:
        assert harness.client.start(p, key="REQ-1", connection=producer).run_id == run.run_id
        with harness.context.connection() as connection:
            connection.execute(text("SET lock_timeout = '300ms'"))
            loaded = turns.load_run(connection, run.run_id)

            assert take_turns(harness.context, connection, loaded).is_recorded


def test_two_batches_of_starts_in_opposite_order_do_not_deadlock(harness):
    """Runs are inserted in the order of their keys, whatever the callers' order: of two batches
    with the same keys one waits for the other, and Postgres needs to kill neither. Guards the
    ORDER BY of `start_runs`.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    harness.client.deploy(p)
    keys = ["k1", "k2", "k3"]
    # A third caller stands on the middle, so that each of the two has its first and wants the other's.
    with harness.database.psycopg() as standing:
        harness.client.start(p, key="k2", connection=standing)
        forward = Thread(lambda: harness.client.start_many(p, [None] * 3, keys=keys))
        wait_until_blocked(harness.database, 1)
        backward = Thread(lambda: harness.client.start_many(p, [None] * 3, keys=keys[::-1]))
        wait_until_blocked(harness.database, 2)
        standing.rollback()
    ids = [{started.run_id for started in thread.outcome()} for thread in (forward, backward)]
    assert ids[0] == ids[1]
