"""A connection that was cut while it lay in its pool: one verb fails on it, and nothing is lost by that."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, OperationalError

from orchestrator import Flow, process, stage
from orchestrator.engine.database_errors import once_more_if_cut
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.store.statement import Statement


def test_an_hours_result_is_kept_though_postgres_was_restarted_meanwhile(harness):
    """A stage's connection goes back to its pool while it works. When it ends, the pool hands out a
    connection that is dead, and the result is recorded on another. Guards the settling.
    """
    worked = []

    @stage(registry=harness.registry)
    def work() -> str:
        worked.append(1)
        harness.database.cut_connections()
        return "kept"

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        return await flow.stage(work)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    run_stage(harness.context, run.run_id, "work", 1)
    harness.drain()
    assert harness.database.value("SELECT output FROM perennial.run") == "kept"
    assert worked == [1]


def test_an_hours_failure_is_kept_too(harness):
    @stage(registry=harness.registry)
    def work() -> None:
        harness.database.cut_connections()
        raise ConnectionError

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(work)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    run_stage(harness.context, run.run_id, "work", 1)
    assert harness.database.value("SELECT state FROM perennial.activity") == "retrying"


def test_what_fails_for_any_other_reason_is_not_done_again(harness):
    """Nor is what fails on two connections: then Postgres is away."""
    tries = []

    def refused() -> None:
        tries.append(1)
        with harness.context.connection() as connection:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(OperationalError):
        once_more_if_cut(refused)
    assert tries == [1, 1]
    with pytest.raises(ZeroDivisionError):
        once_more_if_cut(lambda: tries.append(1) or 1 // 0)
    assert tries == [1, 1, 1]


def test_a_statement_that_fails_leaves_nothing_in_postgres(harness):
    """psycopg forgets what it had prepared, and Postgres would keep each plan as long as the connection."""
    fails = Statement("fails", "SELECT 1 / %(divisor)s::int")
    sessions = set()
    for _ in range(3):
        with harness.context.connection() as connection:
            sessions.add(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
            with pytest.raises(DataError):
                fails.row(connection, divisor=0)
    with harness.context.connection() as connection:
        kept = connection.execute(
            text(
                "SELECT count(*) FROM pg_prepared_statements WHERE starts_with(statement, :marked)"
            ),
            {"marked": "/* perennial:fails"},
        ).scalar_one()
        sessions.add(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
    assert kept == 0
    assert len(sessions) == 4


def test_a_failure_within_a_transaction_closes_its_connection_too(harness):
    fails = Statement("fails", "SELECT 1 / %(divisor)s::int")
    sessions = set()
    for _ in range(2):
        with harness.context.transaction() as connection:
            sessions.add(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
            with pytest.raises(DataError):
                fails.row(connection, divisor=0)
    assert len(sessions) == 2


def test_a_connection_without_failures_is_kept(harness):
    sessions = set()
    for _ in range(3):
        with harness.context.connection() as connection:
            sessions.add(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
    assert len(sessions) == 1
