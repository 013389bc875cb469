"""What the database or the role has set does not reach our sessions: what we rely on, we set."""

from __future__ import annotations

import json
import re
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.types.json import set_json_loads
from sqlalchemy import create_engine, make_url, text

from orchestrator import Client, Flow, hours, process, stage, step
from orchestrator.engine.context import connect
from orchestrator.errors import PerennialError
from orchestrator.fleet.maintenance import Maintenance
from orchestrator.fleet.member import Member
from orchestrator.store.schema import migrate
from orchestrator.store.session import ADAPTERS, PINNED, connection_arguments, set_up
from orchestrator.testing import ProcessTester
from tests.harness import Harness, meanwhile
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="each session of ours is set up in one place")

DBAPI_TYPES = {"psycopg.dbapi20.Binary", "psycopg.dbapi20.DBAPITypeObject"}
"""For programs that write to the DB API; none of our values is one."""

HOSTILE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "TimeZone": "America/St_Johns",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "search_path": "elsewhere, pg_catalog",
    "transform_null_equals": "on",
    "row_security": "off",
    "statement_timeout": "2s",
    "lock_timeout": "2s",
    "idle_session_timeout": "20s",
    "client_encoding": "LATIN1",
}


@pytest.fixture
def hostile(harness: Harness) -> Any:
    """Every session that begins from here on has all of these."""
    database = harness.database
    name = database.name
    with closing(database.psycopg(autocommit=True)) as connection:
        connection.execute("CREATE SCHEMA elsewhere")
        connection.execute(
            "CREATE FUNCTION elsewhere.coalesce_text(text, text) RETURNS text LANGUAGE sql AS 'SELECT $1'"
        )
        connection.execute(  # what our statements write as `=` between texts
            "CREATE FUNCTION elsewhere.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'"
        )
        connection.execute(
            "CREATE OPERATOR elsewhere.= (LEFTARG = text, RIGHTARG = text, FUNCTION = elsewhere.never)"
        )
        for setting, value in HOSTILE.items():
            quoted = value if setting in ("search_path", "DateStyle") else f"'{value}'"
            connection.execute(f"ALTER DATABASE {name} SET {setting} TO {quoted}")
        yield harness
        connection.execute("SET default_transaction_read_only TO off")
        connection.execute(f"ALTER DATABASE {name} RESET ALL")
        connection.execute("DROP SCHEMA elsewhere CASCADE")


def test_each_setting_is_as_we_want_it_in_every_session_of_ours(hostile):
    """Workers', clients', maintenance's. `HOSTILE` names what `PINNED` does, so that none is forgotten."""
    assert HOSTILE.keys() - {"client_encoding"} == PINNED.keys()
    settings = hostile.settings
    engines = [connect(settings, finds_by_key=True), connect(settings)]
    client = Client(settings)
    maintenance = Maintenance(Member(None, hostile.registry, settings))
    with closing(maintenance._listen()) as listening:
        engines += [client._context.database, client._context.reads]
        sessions = [listening, *(engine.raw_connection().driver_connection for engine in engines)]
        for session in sessions:
            for setting, wanted in {**PINNED, "client_encoding": "UTF8"}.items():
                (found,) = session.execute(f"SHOW {setting}").fetchone()
                assert found.replace('"', "") == wanted, setting
    for engine in engines:
        engine.dispose()


def test_a_run_goes_its_way_whatever_the_database_has_set(hostile):
    """With all of it at once, in new sessions: times, floats, names and null keys are what they were."""
    done, seen = [], []
    registry = hostile.registry

    def note(what: str) -> str:
        done.append(what)
        return what

    @stage(registry=registry)
    def work(what: str) -> str:
        return step(note, what)

    @process(version=1, registry=registry)
    async def p(flow: Flow, what: str) -> str:
        seen.append(flow.now)
        await flow.sleep(hours(1) + timedelta(microseconds=7))
        seen.append(flow.now)
        decision = await flow.approval(
            "boss", assign=["Jürgen €"], timeout=hours(8), escalate={hours(1): ["eve"]}
        )
        seen.append(decision.at)
        paid = await flow.signal("paid")
        return await flow.stage(work, f"{what} {paid}")

    with Harness(hostile.database, registry) as fleet:
        client = fleet.client
        client.processes.deploy(p)
        first, second = client.start_many("p", ["ä€", "ö"], keys=[None, None])
        assert (first.created, second.created) == (True, True)
        (started,) = client.start_many("p", ["ü"], keys=["k€"])
        fleet.drain()
        fleet.move(hours=1, seconds=1)
        fleet.drain()
        for run in (first, second, started):
            client.approve(run, by="Jürgen €")
            client.signal(run, "paid", "5 €")
        fleet.drain()
        assert client.result("k€") == "ü 5 €"
        assert {client.result(run) for run in (first, second)} == {"ä€ 5 €", "ö 5 €"}
        assert sorted(done) == ["ä€ 5 €", "ö 5 €", "ü 5 €"]
        assert all(at.utcoffset() == timedelta(0) for at in seen)
        view = client.get(first)
        assert view.created_at.utcoffset() == timedelta(0)
        assert client.history(first)[0].at.utcoffset() == timedelta(0)


def test_an_update_waits_for_another_and_goes_on_as_under_read_committed(hostile):
    """Under `serializable` the second of two who meet on a row would be refused, and its work done again."""

    @process(version=1, registry=hostile.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    with Harness(hostile.database, hostile.registry) as fleet:
        fleet.client.processes.deploy(p)
        run = fleet.client.start("p")
        with fleet.database.psycopg() as holder:
            holder.execute("SET TRANSACTION READ WRITE")
            holder.execute("UPDATE perennial.run SET revision = revision + 1")
            other = meanwhile(fleet, lambda _mine: fleet.client.signal(run, "go", signal_id="s"))
        assert other.outcome()


def test_the_tables_are_made_whatever_the_database_has_set(empty_database):
    with closing(empty_database.psycopg(autocommit=True)) as admin:
        for setting in HOSTILE.keys() - {"search_path", "DateStyle", "idle_session_timeout"}:
            value = "1min" if setting in ("statement_timeout", "lock_timeout") else HOSTILE[setting]
            admin.execute(f"ALTER DATABASE {empty_database.name} SET {setting} TO '{value}'")
    engine = create_engine(empty_database.url)
    assert migrate.upgrade(engine) == migrate.head()
    engine.dispose()


def test_rules_that_are_switched_off_are_switched_on_again_or_told(harness):
    """`session_replication_role` keeps every trigger from firing: the record would refuse nothing."""
    database = harness.database
    with closing(database.psycopg(autocommit=True)) as admin:
        admin.execute(f"ALTER DATABASE {database.name} SET session_replication_role TO replica")
        admin.execute("CREATE ROLE plain_one LOGIN PASSWORD 'plain'")
        try:
            engine = connect(harness.settings)
            with engine.connect() as mine:
                shown = mine.exec_driver_sql("SHOW session_replication_role").scalar_one()
                assert shown == "origin"
            engine.dispose()
            plain = make_url(database.url).set(username="plain_one", password="plain")
            settings = harness.settings.model_copy(
                update={
                    "database_url": type(harness.settings.database_url)(
                        plain.render_as_string(False)
                    )
                }
            )
            with pytest.raises(PerennialError, match="RESET session_replication_role"):
                connect(settings).connect()
        finally:
            admin.execute("DROP ROLE plain_one")
            admin.execute(f"ALTER DATABASE {database.name} RESET session_replication_role")


def test_what_a_program_makes_of_values_does_not_reach_ours(harness):
    """Global changes of psycopg's, as a program makes them for itself."""
    seen = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, amount: float) -> Any:
        seen.append(await flow.signal("paid"))
        return amount

    set_json_loads(partial(json.loads, parse_float=Decimal))
    try:
        with Harness(harness.database, harness.registry) as fleet:
            run = fleet.start(p, 1.5)
            fleet.client.signal(run, "paid", {"euros": 2.5})
            fleet.drain()
            assert type(fleet.client.get(run).output) is float
    finally:
        set_json_loads(json.loads)
    assert type(seen[-1]["euros"]) is float


def names_of(types: Any) -> set[str]:
    """A type that nobody has used yet stands there by its name."""
    return {
        each if isinstance(each, str) else f"{each.__module__}.{each.__qualname__}"
        for each in types
    }


def test_our_adapters_are_psycopgs_own():
    """Made anew, so that no program's changes are in them; and nothing of the driver's is forgotten."""
    # What Python can't hold is clamped, and fails nobody (store.loaders).
    read_otherwise = {psycopg.adapters.types[name].oid for name in ("json", "jsonb", "timestamptz")}
    for ours, theirs in zip(ADAPTERS._loaders, psycopg.adapters._loaders, strict=True):
        assert ours.keys() == theirs.keys()
        assert {oid for oid in ours if ours[oid] != theirs[oid]} <= read_otherwise
    for format_, theirs in psycopg.adapters._dumpers.items():
        assert names_of(theirs) - names_of(ADAPTERS._dumpers[format_]) <= DBAPI_TYPES


def test_a_session_is_set_up_in_one_round_trip(harness, tmp_path):
    arguments = connection_arguments()
    with (
        psycopg.connect(harness.database.libpq_url, autocommit=True, **arguments) as connection,
        (tmp_path / "trace").open("w+") as file,
    ):
        connection.pgconn.trace(file.fileno())
        set_up(connection, also={"plan_cache_mode": "force_generic_plan"})
        connection.pgconn.untrace()
        file.seek(0)
        assert len(re.findall(r"F\t\d+\t(?:Query|Sync)\b", file.read())) == 1


def test_the_tester_keeps_the_search_path_of_its_users_tables():
    with ProcessTester() as tester, tester.database.begin() as connection:
        connection.execute(text("CREATE TABLE mine (id int)"))
        assert connection.execute(text("SHOW TimeZone")).scalar_one() == "UTC"


def test_a_callers_engine_shows_times_in_utc(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.approval("boss", assign=["bob"], timeout=hours(1))

    harness.run(p)
    theirs = create_engine(
        harness.database.url, connect_args={"options": "-c TimeZone=Asia/Kathmandu"}
    )
    client = Client(theirs, registry=harness.registry)
    (approval,) = client.approvals(assignee="bob")
    run = client.get(approval.run_id)
    decision = client.approve(run, by="bob")
    moments = [
        approval.opened_at,
        approval.deadline,
        run.created_at,
        run.next_timer_at,
        run.waits[0].since,
        run.waits[0].next[0].at,
        decision.at,
        client.history(run)[0].at,
        client.list()[0].last_progress_at,
    ]
    assert {at.utcoffset() for at in moments} == {timedelta(0)}
    assert isinstance(run.created_at, datetime)
    assert run.created_at.astimezone(UTC) == run.created_at
    theirs.dispose()
