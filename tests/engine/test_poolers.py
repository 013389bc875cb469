"""A pooler before Postgres that lends a session for one transaction: a producer leaves nothing in it, a worker is told.

PgBouncer itself is tried by `make try`. Here its sign is shown by a relay in between, which promises another
server process than the one that answers; and what goes over the wire is read.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import NullPool, create_engine, make_url

from orchestrator import Client, Flow, RunStatus, process
from orchestrator.engine.context import connect
from orchestrator.errors import PoolerBetween
from orchestrator.fleet.maintenance import Maintenance
from orchestrator.fleet.member import Member
from tests.harness import Harness, WireTrace
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="how we connect is the same in each")


class Relay:
    """Between a client and Postgres. As a pooler does, it tells a process of its own to cancel by."""

    def __init__(self, folder: Path, to: str) -> None:
        self._to, self._open = to, []
        self._listening = self._kept(socket.socket(socket.AF_UNIX))
        self._listening.bind(str(folder / ".s.PGSQL.5432"))
        self._listening.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _kept(self, made: socket.socket) -> socket.socket:
        self._open.append(made)
        return made

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._kept(self._listening.accept()[0])
                server = self._kept(socket.socket(socket.AF_UNIX))
                server.connect(self._to)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(
                        target=self._pass_on, args=(source, target), daemon=True
                    ).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while some := source.recv(65536):
                target.sendall(
                    re.sub(
                        rb"K\x00\x00\x00\x0c....",
                        b"K\x00\x00\x00\x0c\x7f\x00\x00\x01",
                        some,
                        flags=re.DOTALL,
                    )
                )


@pytest.fixture
def pooled(harness: Harness, tmp_path_factory: Any) -> Iterator[Any]:
    """The settings of a fleet whose address is a pooler's."""
    url = make_url(harness.database.url)
    home, port = url.query.get("host", url.host), url.query.get("port", url.port or 5432)
    folder = tmp_path_factory.mktemp("p")
    relay = Relay(folder, f"{home}/.s.PGSQL.{port}")
    through = url.set(host=None, port=None, query={"host": str(folder)})
    yield harness.settings.model_copy(
        update={"database_url": SecretStr(through.render_as_string(hide_password=False))}
    )
    relay.close()


def deploy(harness: Harness) -> None:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, number: int) -> None:
        await flow.approval("boss", assign=["bob"])
        await flow.signal("paid")

    harness.client.processes.deploy(p)


def do_all(harness: Harness, client: Client) -> None:
    """All that a producer, a person and an operator do."""
    for key in ("a", "b", "c"):  # a statement that comes again is the one that would be prepared
        run = client.start("p", 1, key=key)
        harness.drain()
        client.operations.pause(run)
        client.operations.resume(run)
        client.approve(key, by="bob")
        client.signal(run, "paid")
        harness.drain()
        assert client.get(run).status is RunStatus.COMPLETED
        client.history(run)
    (other, _) = client.start_many("p", [1, 2])
    client.cancel(other)
    assert len(client.list()) == 5
    assert client.approvals(process="p") == []


NAMED = re.compile(r"^F\t\d+\t(?:Parse|Bind|Describe|Close)\t.*\"_pg3_", re.MULTILINE)
SETS = re.compile(
    r"^F\t\d+\t(?:Parse|Query)\t.*(?:\bSET\s|set_config\('(?!lock_timeout))", re.MULTILINE
)


def on_the_wire(harness: Harness, settings: Any) -> str:
    engine = connect(settings)
    trace = WireTrace(engine)
    with Client(settings, registry=harness.registry) as client:
        client._context.dispose()
        client._stand_on(type(client._context)(engine, harness.registry, settings))
        do_all(harness, client)
    said = "\n".join(trace.lines())
    trace.stop()
    return said


def test_a_producer_behind_a_pooler_prepares_and_sets_nothing(harness):
    deploy(harness)
    said = on_the_wire(
        harness, harness.settings.model_copy(update={"database_pooler": "transaction"})
    )
    assert "perennial:start_runs" in said
    assert not NAMED.search(said)
    assert not SETS.search(said)


def test_one_that_goes_to_postgres_itself_prepares(harness):
    """So that the test before sees what it looks for."""
    deploy(harness)
    assert NAMED.search(on_the_wire(harness, harness.settings))


def test_a_pooler_is_found_out_by_a_producer_that_nobody_has_told(harness, pooled):
    """Before anything is set: what is set in a session that is lent, others come to feel."""
    deploy(harness)
    engine = connect(pooled)
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        assert driver.prepare_threshold is None
        for setting in ("plan_cache_mode", "search_path", "TimeZone"):
            (found,) = driver.execute(f"SHOW {setting}").fetchone()
            with closing(harness.database.psycopg()) as other:
                assert (found,) == other.execute(f"SHOW {setting}").fetchone()
    engine.dispose()
    with Client(pooled, registry=harness.registry) as client:
        do_all(harness, client)


def test_a_pooler_that_lends_whole_sessions_is_as_good_as_none(harness, pooled):
    settings = pooled.model_copy(update={"database_pooler": "session"})
    engine = connect(settings, finds_by_key=True)
    with engine.connect() as connection:
        shown = connection.exec_driver_sql("SHOW plan_cache_mode").scalar_one()
        assert shown == "force_generic_plan"
    engine.dispose()


@pytest.mark.parametrize("said", [None, "transaction"])
def test_a_worker_behind_a_pooler_is_told_what_it_needs(harness, pooled, said):
    settings = pooled.model_copy(update={"database_pooler": said})
    engine = connect(settings, finds_by_key=True)
    for begin in (engine.connect, Maintenance(Member(None, harness.registry, settings))._listen):  # type: ignore[arg-type]
        with pytest.raises(
            PoolerBetween, match=r"sessions of its own.*PERENNIAL_DATABASE_POOLER=session"
        ):
            begin()
    engine.dispose()


def test_a_name_that_is_prepared_already_is_a_poolers_sign(harness):
    """On an engine of the caller's, and on the caller's own connection: nobody could look there before."""
    deploy(harness)
    theirs = create_engine(
        harness.database.url, poolclass=NullPool, connect_args={"prepare_threshold": 0}
    )

    def other_has_prepared(driver: Any) -> None:
        prepared = driver.pgconn.exec_(b"SELECT name FROM pg_prepared_statements")
        names = {prepared.get_value(row, 0) for row in range(prepared.ntuples)}
        for name in {b"_pg3_%d" % number for number in range(20)} - names:
            driver.pgconn.exec_(b"PREPARE " + name + b" AS SELECT 1")

    with theirs.connect() as connection:
        other_has_prepared(connection.connection.driver_connection)
        with pytest.raises(PoolerBetween, match="PERENNIAL_DATABASE_POOLER=transaction"):
            harness.client.start("p", 1, connection=connection)
    with closing(harness.database.psycopg()) as mine:
        mine.prepare_threshold = 0
        other_has_prepared(mine)
        with pytest.raises(PoolerBetween, match=r"42P05.*prepare_threshold=None"):
            harness.client.start("p", 1, connection=mine)
    ours = connect(harness.settings)
    with ours.connect() as connection:
        other_has_prepared(connection.connection.driver_connection)
        with pytest.raises(PoolerBetween, match="42P05"):
            harness.client.start("p", 1, connection=connection)
    ours.dispose()


def test_a_name_that_is_gone_is_one_too(harness):
    deploy(harness)
    with closing(harness.database.psycopg()) as mine:
        mine.prepare_threshold = 0
        harness.client.start("p", 1, connection=mine)
        mine.pgconn.exec_(b"DEALLOCATE ALL")  # past the driver: as if in another session
        with pytest.raises(PoolerBetween, match="26000"):
            harness.client.start("p", 1, connection=mine)
