"""Every verb on a caller's own connection: whatever drives it, whatever it makes of values, or one true sentence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, timedelta
from functools import cache, partial
from typing import Any
from uuid import UUID

import asyncpg
import django
import psycopg
import psycopg2
import pytest
from django.conf import settings as django_settings
from psycopg.rows import dict_row, scalar_row
from psycopg.types.string import TextLoader
from sqlalchemy import NullPool, create_engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from orchestrator import Flow, Registry, RunStatus, hours, process
from orchestrator.core.approvals import Outcome
from orchestrator.errors import (
    AlreadyDecided,
    PerennialError,
    UnknownProcess,
    UnusableConnection,
)
from orchestrator.testing import ProcessTester
from tests.harness import Database, Harness
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="the callers' side is the same in each")


# -- connections that work -----------------------------------------------------------------------


@cache
def djangos() -> Any:
    """Django's `connections`, configured once per interpreter."""
    django_settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        USE_TZ=True,
        TIME_ZONE="Asia/Tokyo",
    )
    django.setup()
    from django.db import connections

    return connections


@contextmanager
def django_on(database: Database, **options: Any) -> Iterator[Any]:
    """Django's wrapper, as `django.db.connection` stands for one."""
    url = make_url(database.libpq_url)
    connections = djangos()
    connections.databases["perennial"] = connections.configure_settings(
        {
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": url.database,
                "USER": url.username,
                "PASSWORD": url.password or "",
                "HOST": url.host or url.query.get("host", ""),
                "PORT": str(url.port or ""),
                "OPTIONS": options,
            }
        }
    )["default"]
    wrapper = connections["perennial"]
    try:
        yield wrapper
    finally:
        wrapper.close()
        del connections["perennial"]


@contextmanager
def in_django(database: Database) -> Iterator[Any]:
    from django.db.transaction import atomic

    with django_on(database) as wrapper, atomic(using="perennial"):
        yield wrapper


@contextmanager
def in_django_by_a_proxy(database: Database) -> Iterator[Any]:
    from django.db.transaction import atomic
    from django.utils.connection import ConnectionProxy

    with django_on(database), atomic(using="perennial"):
        yield ConnectionProxy(djangos(), "perennial")


@contextmanager
def in_djangos_cursor(database: Database) -> Iterator[Any]:
    from django.db.transaction import atomic

    with django_on(database) as wrapper, atomic(using="perennial"), wrapper.cursor() as cursor:
        yield cursor


@contextmanager
def in_django_that_binds_in_postgres(database: Database) -> Iterator[Any]:
    from django.db.transaction import atomic

    with django_on(database, server_side_binding=True) as wrapper, atomic(using="perennial"):
        yield wrapper


@contextmanager
def in_djangos_driver(database: Database) -> Iterator[Any]:
    from django.db.transaction import atomic

    with django_on(database) as wrapper, atomic(using="perennial"):
        yield wrapper.connection


@contextmanager
def in_django_without_a_transaction(database: Database) -> Iterator[Any]:
    with django_on(database) as wrapper:
        yield wrapper  # not even open yet


@contextmanager
def in_psycopg(database: Database, **options: Any) -> Iterator[Any]:
    with psycopg.connect(database.libpq_url, **options) as connection:
        yield connection


@contextmanager
def in_a_pipeline(database: Database) -> Iterator[Any]:
    with psycopg.connect(database.libpq_url) as connection, connection.pipeline():
        connection.execute("SELECT 1")
        yield connection


@contextmanager
def in_other_adapters(database: Database) -> Iterator[Any]:
    with psycopg.connect(database.libpq_url) as connection:
        for name in ("jsonb", "json", "uuid", "timestamptz", "int4", "bool", "text[]"):
            connection.adapters.register_loader(name, TextLoader)
        connection.execute("SET DateStyle TO 'German, DMY'")
        connection.execute("SET TimeZone TO 'America/St_Johns'")
        connection.execute("SET extra_float_digits TO -15")
        yield connection


@contextmanager
def in_a_cursor(database: Database) -> Iterator[Any]:
    with psycopg.connect(database.libpq_url) as connection, connection.cursor() as cursor:
        yield cursor


@contextmanager
def in_sqlalchemy(database: Database, driver: str = "psycopg", **options: Any) -> Iterator[Any]:
    url = make_url(database.url).set(drivername=f"postgresql+{driver}")
    engine = create_engine(url, poolclass=NullPool, **options)
    with engine.begin() as connection:
        yield connection


@contextmanager
def in_sight(database: Database) -> Iterator[Any]:
    """A tracer listens, and the engine reads JSON in a way of its own."""
    engine = create_engine(database.url, poolclass=NullPool, json_deserializer=str)
    event.listen(engine, "before_cursor_execute", lambda *_: None)
    with engine.begin() as connection:
        yield connection


@contextmanager
def in_a_raw_connection(database: Database) -> Iterator[Any]:
    with contextlib.closing(database.engine.raw_connection()) as connection:
        yield connection
        connection.commit()


@contextmanager
def in_a_session(database: Database) -> Iterator[Any]:
    with Session(database.engine) as session, session.begin():
        yield session


@contextmanager
def in_a_scoped_session(database: Database) -> Iterator[Any]:
    sessions = scoped_session(sessionmaker(database.engine))
    try:
        yield sessions
        sessions.commit()
    finally:
        sessions.remove()


@contextmanager
def serializable(database: Database) -> Iterator[Any]:
    with in_sqlalchemy(database, isolation_level="SERIALIZABLE") as connection:
        yield connection


WORK = {
    "Django": in_django,
    "Django's proxy": in_django_by_a_proxy,
    "Django's cursor": in_djangos_cursor,
    "Django, bound by Postgres": in_django_that_binds_in_postgres,
    "Django's driver": in_djangos_driver,
    "Django in no transaction": in_django_without_a_transaction,
    "psycopg": in_psycopg,
    "psycopg, autocommit": partial(in_psycopg, autocommit=True),
    "psycopg, rows as dictionaries": partial(in_psycopg, row_factory=dict_row),
    "psycopg, rows as one value": partial(in_psycopg, row_factory=scalar_row),
    "psycopg, bound by the client": partial(in_psycopg, cursor_factory=psycopg.ClientCursor),
    "psycopg, in a pipeline": in_a_pipeline,
    "psycopg, other adapters": in_other_adapters,
    "psycopg's cursor": in_a_cursor,
    "SQLAlchemy": in_sqlalchemy,
    "SQLAlchemy, serializable": serializable,
    "SQLAlchemy over psycopg2": partial(in_sqlalchemy, driver="psycopg2"),
    "SQLAlchemy, listened to": in_sight,
    "SQLAlchemy's raw connection": in_a_raw_connection,
    "a session": in_a_session,
    "a scoped session": in_a_scoped_session,
}


def deploy(harness: Harness) -> Any:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, amount: int = 0) -> None:
        await flow.approval("boss", assign=["bob"], timeout=hours(8))
        await flow.signal("paid", timeout=hours(9))
        await flow.approval("board", assign=["eve"])

    harness.client.processes.deploy(p)
    return p


def do_all(harness: Harness, opened: Callable[[], Any]) -> None:
    """Each verb that takes `connection=`, in a transaction of the caller's each, to the end of the run."""
    client = harness.client
    with opened() as mine:
        run = client.start("p", {"amount": 1}["amount"], key="k", connection=mine)
    assert isinstance(run.run_id, UUID)
    with opened() as mine:
        again, other = client.start_many("p", [2, 3], keys=["k", None], connection=mine)
    assert (again.run_id, again.created, other.created) == (run.run_id, False, True)
    harness.drain()
    with opened() as mine:
        client.operations.pause("k", by="ops", connection=mine)
    assert harness.status(run) is RunStatus.PAUSED
    with opened() as mine:
        client.operations.resume("k", by="ops", connection=mine)
    with opened() as mine:
        decision = client.approve("k", by="bob", comment="Jürgen agrees", connection=mine)
    assert (decision.outcome, decision.by, decision.reason) == (
        Outcome.APPROVED,
        "bob",
        "Jürgen agrees",
    )
    assert decision.at is not None
    assert decision.at.utcoffset() == timedelta(0)
    with pytest.raises(AlreadyDecided) as refusal, opened() as mine:
        client.approve("k", "boss", by="bob", connection=mine)
    assert refusal.value.at == decision.at
    assert refusal.value.at.tzinfo is UTC
    harness.drain()
    with opened() as mine:
        assert client.signal(run, "paid", {"cents": 5}, signal_id="s", connection=mine)
    harness.drain()
    with opened() as mine:
        client.reject("k", "board", by="eve", connection=mine)
    harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED
    with opened() as mine:
        client.cancel(other, by="ops", connection=mine)
    harness.assert_ended_cleanly(other)


@pytest.mark.parametrize("opened", WORK.values(), ids=WORK)
def test_every_verb_works_on_a_callers_connection(harness, opened):
    """Django's connections load jsonb as text; others do with values whatever they like."""
    deploy(harness)
    do_all(harness, partial(opened, harness.database))


ROLLED_BACK = (
    "Django",
    "Django's cursor",
    "psycopg",
    "psycopg, in a pipeline",
    "psycopg's cursor",
    "SQLAlchemy over psycopg2",
    "SQLAlchemy, listened to",
    "a scoped session",
)


class Stop(Exception):
    pass


@pytest.mark.parametrize("name", ROLLED_BACK)
def test_what_the_caller_rolls_back_never_was(harness, name):
    deploy(harness)
    run = harness.run(harness.registry.process("p", 1), 1)
    with contextlib.suppress(Stop), WORK[name](harness.database) as mine:
        harness.client.start("p", 2, connection=mine)
        harness.client.approve(run, by="bob", connection=mine)
        raise Stop
    assert harness.database.value("SELECT count(*) FROM perennial.run") == 1
    assert harness.client.approvals(assignee="bob")


def test_a_process_that_nobody_has_deployed_is_told_as_that_alone(harness):
    """In a pipeline there is no answer yet when a statement has been given, and that was taken for this."""
    for opened in WORK.values():
        with pytest.raises(UnknownProcess), opened(harness.database) as mine:
            harness.client.start("p", 1, connection=mine)


@pytest.mark.parametrize("driver", ["psycopg_async", "asyncpg"])
def test_an_async_program_starts_and_decides_over_sqlalchemys_bridge(harness, driver):
    deploy(harness)
    client, url = harness.client, make_url(harness.database.url)
    run = harness.run(harness.registry.process("p", 1), 1)

    async def program() -> Any:
        engine = create_async_engine(url.set(drivername=f"postgresql+{driver}"), poolclass=NullPool)
        async with AsyncSession(engine) as session, session.begin():
            mine = await session.run_sync(lambda s: client.start("p", 2, key="a", connection=s))
            decision = await session.run_sync(
                lambda s: client.approve(run, by="bob", comment="yes: all", connection=s)
            )
            await session.run_sync(lambda s: client.signal(mine, "paid", [1], connection=s))
            await session.run_sync(lambda s: client.operations.pause("a", connection=s))
        await engine.dispose()
        return mine, decision

    started, decision = asyncio.run(program())
    assert started.created
    assert (decision.reason, decision.by) == ("yes: all", "bob")
    assert harness.status(started.run_id) is RunStatus.PAUSED


def test_the_tester_takes_a_callers_connection_too():
    registry = Registry()

    @process(version=1, registry=registry)
    async def p(flow: Flow) -> None:
        await flow.approval("boss", assign=["bob"])

    with ProcessTester(registry=registry) as tester:
        with tester.database.begin() as mine:
            run = tester.client.start(p, connection=mine)
        assert tester.get(run).waiting_for == "approval boss"
        for verb, status in ((tester.pause, RunStatus.PAUSED), (tester.resume, RunStatus.WAITING)):
            with tester.database.begin() as mine:
                verb(run, by="ops", connection=mine)
            assert tester.get(run).status is status
        with contextlib.suppress(Stop), tester.database.begin() as mine:
            tester.approve(run, by="bob", connection=mine)
            raise Stop
        assert tester.get(run).status is RunStatus.WAITING
        with tester.database.begin() as mine:
            tester.reject(run, by="bob", connection=mine)
        assert tester.get(run).status is RunStatus.COMPLETED


# -- connections that don't ----------------------------------------------------------------------


def refused(harness: Harness, given: Any) -> str:
    """What every verb says alike."""
    client, run = harness.client, harness.start(deploy(harness), 1)
    verbs: list[Callable[[], Any]] = [
        lambda: client.start("p", 1, connection=given),
        lambda: client.start_many("p", [1], connection=given),
        lambda: client.signal(run, "paid", connection=given),
        lambda: client.decide(run, None, "approved", by="bob", connection=given),
        lambda: client.approve(run, by="bob", connection=given),
        lambda: client.reject(run, by="bob", connection=given),
        lambda: client.cancel(run, connection=given),
        lambda: client.operations.pause(run, connection=given),
        lambda: client.operations.resume(run, connection=given),
    ]
    said = set()
    for verb in verbs:
        with pytest.raises(UnusableConnection) as refusal:
            verb()
        said.add(str(refusal.value))
    assert isinstance(refusal.value, PerennialError)
    (sentence,) = said
    return sentence


def test_what_waits_on_an_event_loop_is_refused_with_the_way_round(harness):
    async def given() -> list[Any]:
        engine = create_async_engine(harness.database.url)
        return [AsyncSession(engine), engine.connect(), engine]

    session, connection, engine = asyncio.run(given())
    bridge = "run_sync(lambda sync: client.start(…, connection=sync))"
    assert f"await session.{bridge}" in refused(harness, session)
    assert f"await connection.{bridge}" in refused(harness, connection)
    assert "engine.begin()" in refused(harness, engine)


def test_an_async_drivers_own_connection_is_refused_by_its_name(harness):
    async def said() -> list[str]:
        url = harness.database.libpq_url
        theirs = await psycopg.AsyncConnection.connect(url)
        other = await asyncpg.connect(url)
        try:
            return [refused(harness, given) for given in (theirs, theirs.cursor(), other)]
        finally:
            await theirs.close()
            await other.close()

    first, second, third = asyncio.run(said())
    assert first.startswith("psycopg.AsyncConnection waits on an event loop")
    assert second.startswith("psycopg.AsyncCursor waits on an event loop")
    assert third.startswith("asyncpg.connection.Connection waits on an event loop")


def test_other_drivers_and_things_are_refused_by_their_name(harness):
    with contextlib.closing(psycopg2.connect(harness.database.libpq_url)) as theirs:
        assert "can't be psycopg2.extensions.connection. Give a psycopg 3" in refused(
            harness, theirs
        )
    with contextlib.closing(sqlite3.connect(":memory:")) as lite:
        assert "can't be sqlite3.Connection" in refused(harness, lite)
    assert "can't be str" in refused(harness, "postgresql://…")
    assert "engine.begin()" in refused(harness, harness.database.engine)
    assert "a Session" in refused(harness, sessionmaker(harness.database.engine))
    with create_engine("sqlite://").connect() as lite_by_sqlalchemy:
        assert "is to sqlite; the record is in Postgres" in refused(harness, lite_by_sqlalchemy)
    assert "'default' is to SQLite; the record is in Postgres" in refused(
        harness, djangos()["default"]
    )
    with psycopg.connect(harness.database.libpq_url, client_encoding="SQL_ASCII") as ascii_one:
        assert "connect with client_encoding=utf8" in refused(harness, ascii_one)


def test_django_on_its_old_driver_is_told_how_to_change_it(harness, monkeypatch):
    with (
        django_on(harness.database) as wrapper,
        contextlib.closing(psycopg2.connect(harness.database.libpq_url)) as old,
    ):
        monkeypatch.setattr(wrapper, "connection", old)
        sentence = refused(harness, wrapper)
    assert "driven by psycopg2.extensions.connection" in sentence
    assert "pip install 'psycopg[binary]'" in sentence


def test_djangos_broken_transaction_is_djangos_to_refuse(harness):
    from django.db import DatabaseError
    from django.db.transaction import TransactionManagementError, atomic

    deploy(harness)
    with django_on(harness.database) as wrapper:
        with atomic(using="perennial"):
            wrapper.set_rollback(True)
            with pytest.raises(TransactionManagementError):
                harness.client.start("p", 1, connection=wrapper)
        with wrapper.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only TO on")
        with pytest.raises(DatabaseError, match="read-only"):  # Django's own, as programs catch it
            harness.client.start("p", 1, connection=wrapper)
    assert harness.database.value("SELECT count(*) FROM perennial.run") == 0


def test_a_decision_is_in_utc_for_its_flow_whoever_decided(harness):
    """The record has it as the caller's session writes times."""
    seen = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        decision = await flow.approval("boss", assign=["bob"])
        seen.append((decision.at, flow.now))

    harness.client.processes.deploy(p)
    run = harness.run(p)
    with psycopg.connect(harness.database.libpq_url) as mine:
        mine.execute("SET TimeZone TO 'Pacific/Auckland'")
        harness.client.approve(run, by="bob", connection=mine)
    recorded = harness.database.value("SELECT result ->> 'at' FROM perennial.activity")
    assert recorded.endswith(("+12:00", "+13:00"))
    harness.drain()
    (at, now) = seen[-1]
    assert (at.utcoffset(), now.utcoffset()) == (timedelta(0), timedelta(0))
    assert json.loads(f'"{recorded}"')
