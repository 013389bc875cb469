"""From 0001 to 0002 and back, on a database where work goes on."""

from __future__ import annotations

from importlib.resources import as_file, files

import pytest
from alembic import command

from orchestrator import Flow, RunStatus, hours, process, stage
from orchestrator.engine.turn import advance
from orchestrator.store.schema import migrate
from tests.harness import Database, Harness, Thread, wait_until_blocked
from tests.store.catalog import catalog


def downgrade(database: Database, revision: str) -> None:
    with database.engine.begin() as connection, as_file(files("orchestrator.store.schema")) as home:
        config = migrate._config(str(home / "migrations"))
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


@pytest.fixture
def harness(empty_database: Database) -> Harness:
    migrate.upgrade(empty_database.engine)
    with Harness(empty_database) as harness:
        yield harness


@pytest.fixture
def p(harness: Harness):
    @stage(registry=harness.registry)
    def work() -> int:
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> bool:
        await flow.stage(work)
        manager = await flow.approval("m", assign=["bob"], timeout=hours(1))
        return manager.approved

    return p


def test_a_downgrade_leaves_the_schema_as_it_was(empty_database):
    migrate.upgrade(empty_database.engine, "0001")
    before = catalog(empty_database)
    migrate.upgrade(empty_database.engine)
    assert catalog(empty_database) != before
    downgrade(empty_database, "0001")
    assert catalog(empty_database) == before


def test_runs_under_way_go_on_after_an_upgrade(harness, p):
    """Among them one whose turn is held by a worker that had no lease to tell of."""
    started, waits = harness.start(p), harness.run(p)
    advance(harness.context, started.run_id)
    harness.database.rows(
        """UPDATE perennial.run SET turn_token = id, turn_worker = id,
        turn_claimed_at = perennial.now() - interval '1 minute'"""
    )
    downgrade(harness.database, "0001")
    harness.database.close()
    assert migrate.upgrade(harness.database.engine) == migrate.head()
    harness.drain()
    for run in (started, waits):
        harness.client.approve(run, by="bob")
    harness.drain()
    for run in (started, waits):
        assert harness.client.result(run) is True
        harness.assert_ended_cleanly(run)


def test_what_an_ended_run_had_left_open_is_let_go(harness, p):
    """So 0.1 left a run that was cancelled as its turn committed. What is open elsewhere stays so."""
    ended, going_on = harness.run(p), harness.run(p)
    open_things = harness.open_things(going_on)
    downgrade(harness.database, "0001")
    harness.database.rows(
        """UPDATE perennial.run SET status = 'cancelled', closed_at = perennial.now() WHERE id = :id""",
        id=ended.run_id,
    )
    harness.database.rows(
        "INSERT INTO perennial.outbox (run_id, key, attempt, task, publish_at)"
        " VALUES (:id, '', 1, 'x', perennial.now())",
        id=ended.run_id,
    )
    assert harness.open_things(ended) == {
        "activities": 1,
        "timers": 1,
        "approvals": 1,
        "handoffs": 1,
        "turns": 0,
    }
    harness.database.close()
    migrate.upgrade(harness.database.engine)
    harness.assert_ended_cleanly(ended)
    assert harness.status(ended) is RunStatus.CANCELLED
    assert harness.open_things(going_on) == open_things


def test_an_upgrade_gives_way_to_a_writer_that_holds_one_table_and_wants_another(harness, p):
    """Else Postgres would have to end one of the two."""
    run = harness.run(p)
    downgrade(harness.database, "0001")
    harness.database.close()
    with harness.database.psycopg() as writer:
        writer.execute("UPDATE perennial.activity SET queue = 'slow'")
        upgrading = Thread(lambda: migrate.upgrade(harness.database.engine))
        wait_until_blocked(harness.database)
        writer.execute("UPDATE perennial.run SET queue = 'slow'")
        writer.commit()
    assert upgrading.outcome() == migrate.head()
    harness.client.approve(run, by="bob")
    harness.drain()
    assert harness.client.result(run) is True


def test_what_is_deployed_is_revision_one_and_who_worked_on_it_may_read_that(harness, p):
    """A client of the release before deploys into `process` alone: that row is the current revision."""
    run = harness.run(p)
    downgrade(harness.database, "0008")
    harness.database.rows("GRANT SELECT, INSERT, UPDATE ON perennial.process TO pg_monitor")
    harness.database.close()
    migrate.upgrade(harness.database.engine)
    (row,) = harness.database.rows(
        """SELECT v.code_revision, v.fingerprint = p.fingerprint AND v.spec = p.spec AS is_same,
        has_table_privilege('pg_monitor', 'perennial.process_revision', 'UPDATE') AS may_change,
        has_table_privilege('pg_monitor', 'perennial.process_revision', 'DELETE') AS may_delete
        FROM perennial.process p JOIN perennial.process_revision v ON v.process = p.name AND v.version = p.version"""
    )
    assert (row.code_revision, row.is_same, row.may_change, row.may_delete) == (
        1,
        True,
        True,
        False,
    )
    assert harness.client.get(run).code_revision == 1
    (row,) = harness.database.rows(
        """SELECT has_table_privilege('pg_monitor', 'perennial.process_history', 'INSERT') AS may_add,
        has_table_privilege('pg_monitor', 'perennial.process_history', 'UPDATE') AS may_change"""
    )
    assert (row.may_add, row.may_change) == (True, False)
