"""A turn's commit that waits for a row which another session is changing finds it again, as it is by then.

Postgres looks at the row once more by the conditions of the statement: those that find it by a list of keys too.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator import Flow, RunStatus, process
from orchestrator.engine.turn import advance
from tests.harness import Database, Harness, Thread, wait_for

CHANGES = {
    "its handoff is sent again": "UPDATE perennial.outbox SET publishes = publishes + 1 WHERE run_id = %s",
    "its timer is indexed": "UPDATE perennial.timer SET indexed = NOT indexed WHERE run_id = %s",
    "its run says what it waits for": "UPDATE perennial.run SET waiting_for = 'x' WHERE id = %s",
    "its run has a new fact": "UPDATE perennial.run SET revision = revision + 1 WHERE id = %s",
}

LEFT_OVER = """
SELECT (SELECT count(*) FROM perennial.outbox WHERE run_id = :run_id)
    + (SELECT count(*) FROM perennial.timer WHERE run_id = :run_id AND state = 'armed')
"""


@pytest.mark.parametrize("change", CHANGES)
def test_a_commit_that_waited_for_a_row_leaves_nothing_of_a_run_that_ends(
    database: Database, change: str
) -> None:
    with Harness(database) as harness:

        @process(version=1, registry=harness.registry)
        async def short(flow: Flow) -> int:
            return 1

        harness.client.processes.deploy(short)
        run_id = harness.client.start(short, expires_in=timedelta(hours=1)).run_id
        with database.psycopg() as other:
            assert other.execute(CHANGES[change].encode(), [run_id]).rowcount == 1
            turn = Thread(lambda: advance(harness.context, run_id))
            wait_for(lambda: _somebody_waits(database), "the commit at the row")
            other.commit()
        turn.outcome()
        assert harness.client.get(run_id).status is RunStatus.COMPLETED
        assert database.value(LEFT_OVER, run_id=run_id) == 0


def _somebody_waits(database: Database) -> bool:
    return (
        database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        > 0
    )
