"""Two records in one database, with the same processes and business keys: each app sees its own alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from orchestrator import Flow, RunStatus, hours, process
from orchestrator.engine.relay import relay
from orchestrator.errors import RunNotFound
from orchestrator.store.reads.identity import is_another, record_identity
from orchestrator.store.schema import channel_of, migrate
from orchestrator.store.schema.rights import grants_of
from orchestrator.store.transitions.outbox import make_all_handoffs_due
from orchestrator.testing import ProcessTester
from tests.harness import Database, Harness
from tests.modes import EAGER, NORMAL, SWEEPS_ONLY, Mode
from tests.store.test_rights import As, do_all, role

__all__ = ["role"]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def usual(empty_database: Database) -> Database:
    """In `perennial`."""
    migrate.upgrade(empty_database.engine)
    return empty_database


@pytest.fixture
def billing(usual: Database) -> Iterator[Database]:
    """The same database; another record."""
    database = Database(usual.name, usual.url, "billing")
    migrate.upgrade(database.engine)
    yield database
    database.close()


def asks_and_waits(harness: Harness) -> Any:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, whose: str) -> str:
        await flow.approval("boss", assign=["bob"], timeout=hours(5))
        await flow.sleep(hours(1))
        return whose

    harness.client.processes.deploy(p)
    return p


def test_neither_app_sees_runs_handoffs_or_people_of_the_other(usual, billing):
    with Harness(usual) as one, Harness(billing) as other:
        for harness in (one, other):
            asks_and_waits(harness)
        mine = one.client.start("p", "one", key="k")
        theirs = other.client.start("p", "other", key="k")
        assert mine.created
        assert theirs.created
        assert relay(one.context) == relay(other.context) == 1
        assert [each.run_id for each in one.pending()] == [mine.run_id]
        assert [each.run_id for each in other.pending()] == [theirs.run_id]
        for harness in (one, other):
            with harness.context.connection() as connection:
                make_all_handoffs_due(connection)
            harness.drain()
        for harness, own, foreign in ((one, mine, theirs), (other, theirs, mine)):
            client = harness.client
            assert [run.id for run in client.list()] == [own.run_id]
            assert [each.run_id for each in client.approvals(assignee="bob")] == [own.run_id]
            assert {entry.event for entry in client.history(own)} >= {"started"}
            assert client.history(foreign) == []
            with pytest.raises(RunNotFound):
                client.get(foreign)
            with pytest.raises(RunNotFound):
                client.cancel(foreign.run_id)
        one.client.approve("k", by="bob")
        one.drain()
        assert one.client.get("k").waiting_for != other.client.get("k").waiting_for
        assert one.due_timers() == other.due_timers() == []
        one.move(hours=2)
        other.database.moved_to = one.database.moved_to  # it is one database's clock
        one.drain()
        assert one.client.result("k") == "one"
        assert other.status(theirs) is RunStatus.WAITING


def test_neither_relay_is_woken_by_the_other(usual, billing):
    with (
        Harness(usual) as one,
        Harness(billing) as other,
        closing(usual.psycopg(autocommit=True)) as listening,
    ):
        for schema in ("perennial", "billing"):
            listening.execute(f"LISTEN {channel_of(schema)}".encode())
        for harness in (one, other):
            asks_and_waits(harness)
            harness.client.start("p", "x", key="k")
            harness.client.operations.pause("k")
            harness.client.operations.resume("k")
            harness.client.signal("k", "early")
            harness.client.cancel("k")
            heard = {each.channel for each in listening.notifies(timeout=0.2)}
            assert heard == {channel_of(harness.database.schema)}


def test_each_has_an_identity_of_its_own(usual, billing):
    identities = []
    for database in (usual, billing):
        with database.engine.connect() as connection:
            identities.append(record_identity(connection))
    assert is_another(*identities)


def test_two_clients_of_one_program_have_each_its_own_on_a_callers_connection(usual, billing):
    with Harness(usual) as one, Harness(billing) as other:
        for harness in (one, other):
            asks_and_waits(harness)
        with usual.psycopg() as mine:
            one.client.start("p", "x", key="both", connection=mine)
            other.client.start("p", "x", key="both", connection=mine)
            other.client.start("p", "x", key="other", connection=mine)
        assert {run.business_key for run in one.client.list()} == {"both"}
        assert {run.business_key for run in other.client.list()} == {"both", "other"}


# -- without a schema `perennial` ----------------------------------------------------------------


@pytest.mark.parametrize("mode", [NORMAL, SWEEPS_ONLY, EAGER], ids=lambda mode: mode.name)
def test_a_role_with_the_printed_rights_does_all_there(database, role, mode: Mode):
    """Guards the tables and functions that are known by name: a text that names another is refused."""
    database.empty()
    with closing(database.psycopg(autocommit=True)) as owner:
        for statement in grants_of(role, database.schema):
            owner.execute(statement.encode())
    theirs = As(role, database)
    try:
        with Harness(theirs, mode=mode) as harness:
            do_all(harness)
    finally:
        theirs.set_clock(None)
        theirs.close()


def test_nothing_that_is_sent_names_the_usual_schema(database):
    """What SQLAlchemy sends too: queries of tables."""
    database.empty()
    sent: list[str] = []
    with Harness(database) as harness:
        for context in (harness.context, harness.client._context):
            for engine in (context.database, context.reads):
                event.listen(
                    engine, "before_cursor_execute", lambda *called: sent.append(called[2])
                )
        do_all(harness)
    assert len(set(sent)) > 30
    named = {found for text in sent for found in re.findall(r"perennial[._]\w+", text)}
    assert named <= {"perennial.advance", f"perennial_outbox_{database.schema}"}


def test_old_runs_are_removed_as_the_page_says(database):
    database.empty()
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sql\n(BEGIN;.*?DELETE FROM perennial\.run.*?)```", page, re.DOTALL)
    with Harness(database) as harness:
        harness.freeze()
        harness.move(hours=-24 * 365 * 10)

        @process(version=1, registry=harness.registry)
        async def short(flow: Flow) -> None: ...

        run = harness.run(short, key="old")
        assert harness.status(run) is RunStatus.COMPLETED
        with closing(psycopg.connect(database.libpq_url, autocommit=True)) as owner:
            owner.execute(script.replace("perennial.run", '"user".run').replace(
                "perennial.history", '"user".history').encode())  # fmt: skip
        assert harness.client.list() == []
        assert harness.client.history(run) == []
        harness.database.set_clock(None)


# -- the command line, and the tester ------------------------------------------------------------


def perennial(database: Database, *arguments: str, schema: str = "billing") -> Any:
    done = subprocess.run(
        [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments, "--json"],
        env={
            "PATH": os.environ["PATH"],
            "PERENNIAL_DATABASE_URL": database.url,
            "PERENNIAL_SCHEMA": schema,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_command_line_works_in_the_schema_that_is_set(empty_database):
    database = Database(empty_database.name, empty_database.url, "billing")
    assert perennial(database, "db", "upgrade") == {"before": None, "after": migrate.head()}
    said = perennial(database, "db", "grants", "shop")["statements"]
    assert said == grants_of("shop", "billing")
    assert 'GRANT USAGE ON SCHEMA "billing" TO "shop"' in said
    with Harness(database) as harness:
        run = harness.run(asks_and_waits(harness), "x", key="k")
        (listed,) = perennial(database, "ps")["runs"]
        assert listed["id"] == str(run.run_id)
        assert perennial(database, "show", "k")["waiting_for"] == "approval boss"
    assert migrate.current(empty_database.engine) is None
    database.close()


def test_a_tester_is_in_the_schema_that_is_set(monkeypatch):
    """An app's own SQL names it."""
    monkeypatch.setenv("PERENNIAL_SCHEMA", "billing")
    from orchestrator import Registry

    @process(version=1, registry=(registry := Registry()))
    async def p(flow: Flow) -> str:
        await flow.sleep(hours(1))
        return "done"

    with ProcessTester(registry=registry) as tester:
        run = tester.start(p)
        tester.advance_time(hours(1))
        assert tester.result(run) == "done"
        with tester.database.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM billing.run").scalar_one() == 1
