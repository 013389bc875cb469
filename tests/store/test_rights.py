"""Who may do what: the least rights of a worker, an owner of the schema alone, and history that is its owner's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, make_url

from orchestrator import Flow, Retry, RunFilter, RunStatus, Settings, hours, process, stage, step
from orchestrator.core.versions.plans import Plan
from orchestrator.engine import sweep
from orchestrator.errors import PerennialError
from orchestrator.store.schema import migrate
from orchestrator.store.schema.rights import grants_of
from orchestrator.store.transitions.correlations import sweep_correlations
from orchestrator.store.transitions.workers import forget_old_workers
from tests.conftest import fresh
from tests.harness import Database, Harness, Thread, wait_until_blocked

PASSWORD = "plain"


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role that may log in, and nothing else. Its name has to be quoted."""
    name = f'Shop "{uuid4().hex[:6]}" role'
    quoted = name.replace('"', '""')
    with closing(database.psycopg(autocommit=True)) as admin:
        admin.execute(f"CREATE ROLE \"{quoted}\" LOGIN PASSWORD '{PASSWORD}'")
        yield name
        admin.execute(f'DROP OWNED BY "{quoted}" CASCADE')
        admin.execute(f'DROP ROLE "{quoted}"')


def settings_as(role: str, database: Database, **others: object) -> Settings:
    url = make_url(database.url).set(username=role, password=PASSWORD)
    return Settings(
        database_url=SecretStr(url.render_as_string(hide_password=False)),
        **{"database_schema": database.schema, **others},
    )


def engine_as(role: str, database: Database) -> Engine:
    return create_engine(settings_as(role, database).database())


def as_role(database: Database, role: str) -> psycopg.Connection[Any]:
    return settings_as(role, database).database_address().connect()


class As(Database):
    """The same database, whose fleet and clients are of that role; the test's own hand stays the owner's."""

    def __init__(self, role: str, database: Database) -> None:
        super().__init__(database.name, database.url, database.schema)
        self.role = role

    def settings(self, **others: object) -> Settings:
        return settings_as(self.role, self, **others)


def grant(database: Database, role: str) -> None:
    with closing(database.psycopg(autocommit=True)) as owner:
        for statement in grants_of(role):
            owner.execute(statement.encode())


def move_and_move_back(harness: Harness) -> None:
    """What rewrites a journal: rows are taken out of it, which the role may do by no statement of its own."""

    async def asks(flow: Flow) -> None:
        await flow.approval("boss" if flow.version == 1 else "chief", assign=["bob"])

    one, two = (
        process(version=number, name="q", registry=harness.registry)(asks) for number in (1, 2)
    )
    run, processes = harness.run(one), harness.client.processes
    processes.deploy(two)
    plan = Plan.model_validate({"process": "q", "from": 1, "to": 2, "map": {"boss": "chief"}})
    assert processes.migrate(plan, processes.preview_migration(plan)).migrated == 1
    assert processes.undo_migration(plan).undone == 1
    harness.client.cancel(run)


def do_all(harness: Harness) -> None:
    """What workers, clients, people and operators do; every statement of ours that isn't a migration's."""
    failed = []

    def flaky() -> None:
        if not failed:
            failed.append(1)
            raise ConnectionError

    @stage(
        registry=harness.registry, retry=Retry(max_attempts=3, delay_seconds=60), timeout_seconds=60
    )
    def work() -> int:
        step(flaky)
        return step(int, "7")

    @process(version=1, registry=harness.registry, expires_after=hours(1000))
    async def p(flow: Flow) -> int:
        await flow.step(int, "3")
        await flow.sleep(hours(1))
        await flow.approval("boss", assign=["bob"], escalate={hours(1): ["eve"]}, timeout=hours(5))
        await flow.approval("board", assign=["bob"], timeout=hours(5))
        await flow.signal("paid", timeout=hours(9))
        await flow.signal("paid", correlation=flow.business_key or "none", timeout=0, default=None)
        return await flow.stage(work)

    move_and_move_back(harness)
    client = harness.client
    run = harness.run(p, key="k")
    client.start("p", key="k")
    for _ in range(2):
        assert client.signal(correlation="k", name="paid")
    idle, cancelled = client.start_many("p", [None, None])
    harness.drain()
    client.operations.pause(idle)
    client.operations.resume(idle)
    client.cancel(cancelled, by="ops")
    harness.move(hours=1, minutes=1)
    harness.drain()
    harness.move(hours=2)
    harness.drain()
    client.approve("k", by="eve")
    harness.drain()
    with pytest.raises(PerennialError):
        client.approve("k", "boss", by="bob")
    client.reject("k", "board", by="bob")
    client.signal("k", "paid", signal_id="s")
    client.signal("k", "paid", signal_id="s")
    harness.drain()
    harness.beat(harness.context)
    sweep.sweep(harness.context)
    sweep.rebuild_index(harness.context)
    harness.recover(rounds=4)
    assert harness.status(run) is RunStatus.COMPLETED
    client.processes.set_current("p", 1, by="ann")
    client.processes.set_current("p", None)
    client.processes.retire("p", 1, even_the_last=True)
    client.processes.unretire("p", 1)
    assert client.processes.history("p")
    client.operations.fork(run, at="board")
    client.operations.rewind(run, "board", even_if_completed=True)
    harness.drain()
    client.reject("k", "board", by="bob", edition=1)
    harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED, "the signal is taken again"
    harness.move(hours=2000)
    harness.drain()
    with harness.context.connection() as connection:
        forget_old_workers(connection)
        assert sweep_correlations(connection)
    assert client.get(idle).status.is_closed
    assert client.history(run)
    assert client.list(status=RunStatus.COMPLETED)
    assert client.operations.counts()
    assert client.approvals(state=None)
    client.operations.timer_lateness()
    broken = process(version=1, name="broken", registry=harness.registry)(_broken)
    harness.run(broken)
    digest = client.operations.incidents()[0].digest
    client.operations.note_cause(digest, "known")
    client.operations.mute_cause(digest)
    client.operations.mend_cause(digest)
    assert client.operations.cause(digest).note == "known"
    bulk = client.operations.bulk
    shown = bulk.preview("resume", RunFilter(cause=digest))
    assert dict(bulk.apply(shown.digest, rate_per_second=1000).counts) == {"done": 1}
    assert bulk.results(bulk.list()[0].id)


async def _broken(flow: Flow) -> None:
    raise KeyError(flow.business_key)


def test_a_role_with_the_printed_rights_does_all_that_a_worker_and_a_client_do(database, role):
    database.empty()
    grant(database, role)
    theirs = As(role, database)
    with Harness(theirs) as harness:
        with harness.context.connection() as connection:
            assert connection.exec_driver_sql("SELECT current_user").scalar_one() == role
        do_all(harness)
    engine = engine_as(role, database)
    assert migrate.current(engine) == migrate.head()
    assert migrate.upgrade(engine) == migrate.head()  # nothing to do, so nothing is asked
    engine.dispose()
    theirs.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE perennial.history SET actor = 'me'",
        "DELETE FROM perennial.history",
        "TRUNCATE perennial.history",
        "DELETE FROM perennial.run",
        "DELETE FROM perennial.activity",
        "DELETE FROM perennial.approval_vote",
        "UPDATE perennial.approval_vote SET person = 'me'",
        "DROP TABLE perennial.history",
        "ALTER TABLE perennial.history DISABLE TRIGGER ALL",
        "CREATE TABLE perennial.mine (id int)",
        "UPDATE perennial.schema_version SET version_num = '0001'",
    ],
)
def test_and_may_do_nothing_else(database, role, statement):
    grant(database, role)
    with (
        closing(as_role(database, role)) as theirs,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        theirs.execute(statement.encode())


# -- functions of the owner's ---------------------------------------------------------------------

TAKES_OUT = {
    "activities": "activity",
    "approvals": "approval",
    "votes": "approval_vote",
    "signals": "signal",
    "chapters": "timer",
}
EMPTY = "'{}'"
CALLED = {"chapters": "end_chapter(gen_random_uuid(), now(), '{}')"}
"""By these rows leave a journal, whoever calls them: each runs with its owner's rights."""


@pytest.fixture(scope="module")
def upgraded(servers) -> Iterator[Database]:
    """A record as this source makes it, without a run."""
    with fresh(servers, "template1") as database:
        migrate.upgrade(database.engine)
        yield database


@pytest.mark.parametrize("what", TAKES_OUT)
def test_who_may_only_read_takes_nothing_out_of_a_run(upgraded, role, what):
    """Guards the REVOKE beside each of the functions: what Postgres creates, everybody may execute."""
    quoted, call = (
        role.replace('"', '""'),
        f"SELECT * FROM perennial.{CALLED.get(what, f'take_out_{what}(gen_random_uuid(), {EMPTY})')}",
    )
    named = CALLED.get(what, f"take_out_{what}").partition("(")[0]
    with closing(upgraded.psycopg(autocommit=True)) as owner:
        owner.execute(f'GRANT USAGE ON SCHEMA perennial TO "{quoted}"')
        owner.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA perennial TO "{quoted}"')
        with closing(as_role(upgraded, role)) as theirs:
            theirs.execute(f"SELECT * FROM perennial.{TAKES_OUT[what]}".encode())
            theirs.commit()
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match=named):
                theirs.execute(call.encode())
        grant(upgraded, role)  # who works on the record may, so it is not for another reason
        with closing(as_role(upgraded, role)) as theirs:
            assert theirs.execute(call.encode()).fetchall() == []
        owner.execute(f'DROP OWNED BY "{quoted}" CASCADE')


def test_no_other_function_has_its_owners_rights(upgraded):
    """Whoever adds one decides here who may call it."""
    found = upgraded.rows(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'perennial'::regnamespace AND prosecdef"
    )
    assert {row.proname for row in found} == {
        CALLED.get(what, f"take_out_{what}").partition("(")[0] for what in TAKES_OUT
    }
    assert [row.proconfig for row in found] == [["search_path=pg_catalog"]] * len(TAKES_OUT)


# -- history -------------------------------------------------------------------------------------

DROP = "SET LOCAL perennial.drop_history_before = 'infinity'; DELETE FROM perennial.history"


def test_history_is_dropped_by_its_owner_alone_whatever_others_are_granted(empty_database, role):
    database, quoted = empty_database, role.replace('"', '""')
    migrate.upgrade(database.engine)
    database.rows(
        "INSERT INTO perennial.history (run_id, actor, event) VALUES (gen_random_uuid(), 'a', 'b')"
    )
    with closing(database.psycopg(autocommit=True)) as owner:
        owner.execute(f'GRANT USAGE ON SCHEMA perennial TO "{quoted}"')
        owner.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA perennial TO "{quoted}"')
        with (
            closing(as_role(database, role)) as theirs,
            pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="its owner"),
        ):
            theirs.execute(DROP.encode())
        assert database.value("SELECT count(*) FROM perennial.history") == 1
        (mine,) = owner.execute("SELECT quote_ident(current_user)").fetchone() or ("",)
        owner.execute(f'GRANT {mine} TO "{quoted}"')  # who is a member of the owner is the owner
        with closing(as_role(database, role)) as theirs:
            theirs.execute(DROP.encode())
            theirs.commit()
        owner.execute(f'REVOKE {mine} FROM "{quoted}"')
        assert database.value("SELECT count(*) FROM perennial.history") == 0
        owner.execute(f'DROP OWNED BY "{quoted}" CASCADE')


# -- upgrades ------------------------------------------------------------------------------------


def test_who_owns_the_schema_alone_upgrades(empty_database, role):
    """Not the database: to create a schema takes the right to, even where it is there."""
    quoted = role.replace('"', '""')
    engine = engine_as(role, empty_database)
    with pytest.raises(PerennialError, match="CREATE SCHEMA perennial AUTHORIZATION") as refusal:
        migrate.upgrade(engine)
    said = str(refusal.value).partition("may: ")[2].partition(";")[0]
    with closing(empty_database.psycopg(autocommit=True)) as admin:
        admin.execute(said.encode())  # as it stands there
        assert migrate.upgrade(engine) == migrate.head()
        assert migrate.upgrade(engine) == migrate.head()
        owners = empty_database.rows(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'perennial'"
        )
        assert [row.tableowner for row in owners] == [role]
        engine.dispose()
        admin.execute(f'DROP OWNED BY "{quoted}" CASCADE')


def test_who_owns_nothing_is_told_whose_it_is_to_upgrade(empty_database, role):
    migrate.upgrade(empty_database.engine, "0001")
    quoted = role.replace('"', '""')
    engine = engine_as(role, empty_database)
    with closing(empty_database.psycopg(autocommit=True)) as admin:
        admin.execute(f'GRANT USAGE ON SCHEMA perennial TO "{quoted}"')
        admin.execute(f'GRANT SELECT ON perennial.schema_version TO "{quoted}"')
        with pytest.raises(PerennialError, match=r"doesn't own the schema perennial.*its owner's"):
            migrate.upgrade(engine)
        engine.dispose()
        admin.execute(f'DROP OWNED BY "{quoted}" CASCADE')


def test_an_upgrade_with_nothing_to_do_waits_for_nobody(empty_database):
    """Nor for another upgrade: whoever starts a fleet may run it each time."""
    migrate.upgrade(empty_database.engine)
    with closing(empty_database.psycopg()) as other:
        other.execute("LOCK TABLE perennial.run IN ACCESS EXCLUSIVE MODE")
        other.execute("SELECT pg_advisory_xact_lock(%s)", [migrate._ADVISORY_LOCK])
        again = Thread(lambda: migrate.upgrade(empty_database.engine))
        wait_until_blocked(empty_database, or_ended=again)
        assert not again.is_alive()
    assert again.outcome() == migrate.head()


# -- the command ---------------------------------------------------------------------------------


def perennial(*arguments: str, settings: Settings | None = None) -> str:
    environment = {"PERENNIAL_DATABASE_URL": settings.database()} if settings else {}
    return subprocess.run(
        [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_command_prints_what_can_be_piped_into_psql(role):
    assert perennial("db", "grants", role) == "".join(f"{each};\n" for each in grants_of(role))
    assert grants_of('a"b')[0] == 'GRANT USAGE ON SCHEMA "perennial" TO "a""b"'


def test_an_upgrade_says_that_there_is_nothing_to_do(database):
    assert "nothing to do" in perennial("db", "upgrade", settings=database.settings())
