"""The client's connections lie in their pool for hours; Postgres is restarted meanwhile, or cuts what is idle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from orchestrator import Client, Flow, process
from orchestrator.core.run import RunStatus
from tests.harness import Harness


@pytest.fixture(params=["its own engine", "the caller's engine"])
def client(request, harness: Harness):
    """Commits each statement, or as SQLAlchemy's own engines are."""
    if request.param == "its own engine":
        with Client(harness.database.url, registry=harness.registry) as client:
            yield client
        return
    engine = create_engine(harness.database.url, connect_args={"application_name": "perennial-app"})
    with Client(engine, registry=harness.registry) as client:
        yield client
    engine.dispose()


@pytest.fixture
def run(harness: Harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.approval("boss", assign=["ann"])
        await flow.approval("chief", assign=["ann"])
        await flow.signal("go")

    return harness.run(p)


VERBS: dict[str, Callable[[Client, Any, Any], Any]] = {
    "deploy": lambda client, p, run: client.processes.deploy(p),
    "start": lambda client, p, run: client.start("p", key="another"),
    "start_many": lambda client, p, run: client.start_many("p", [None, None]),
    "signal": lambda client, p, run: client.signal(run, "go"),
    "approve": lambda client, p, run: client.approve(run, "boss", by="ann"),
    "reject": lambda client, p, run: client.reject(run, "boss", by="ann"),
    "approvals": lambda client, p, run: client.approvals(),
    "pause": lambda client, p, run: client.operations.pause(run),
    "resume": lambda client, p, run: (client.operations.pause(run), client.operations.resume(run)),
    "cancel": lambda client, p, run: client.cancel(run),
    "get": lambda client, p, run: client.get(run),
    "list": lambda client, p, run: client.list(),
    "counts": lambda client, p, run: client.operations.counts(),
    "history": lambda client, p, run: client.history(run),
    "timer_lateness": lambda client, p, run: client.operations.timer_lateness(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_takes_a_connection_that_lives(harness, client, run, verb):
    """Once, and its effect is there once. Guards `looks_before_use`."""
    client.get(run)  # so that there is a connection to cut,
    client.list()  # and one for reads
    harness.database.cut_connections()
    VERBS[verb](client, harness.registry.process("p", 1), run)
    assert client.get(run).process == "p"
    expected = {"start": 2, "start_many": 3}.get(verb, 1)
    assert harness.database.value("SELECT count(*) FROM perennial.run") == expected


def test_a_pool_of_dead_connections_is_emptied_by_one_verb(harness, client, run):
    connections = [client._context.connection() for _ in range(5)]
    for connection in connections:
        connection.close()
    harness.database.cut_connections()
    assert client.get(run).status is RunStatus.WAITING


def test_a_callers_own_transaction_is_not_taken_from_him(harness, client, run):
    """What he did before in it is gone, and he must know."""
    engine = create_engine(harness.database.url, connect_args={"application_name": "perennial-app"})
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        harness.database.cut_connections()
        with pytest.raises(OperationalError):
            client.operations.pause(run, connection=connection)
    engine.dispose()
    assert client.get(run).status is RunStatus.WAITING


def test_a_transaction_of_ours_is_one_on_the_second_connection_too(harness, client, run):
    """Not a statement each, as the engine's other connections are."""
    client.get(run)
    harness.database.cut_connections()
    with suppress(ZeroDivisionError), client._context.transaction() as connection:
        connection.execute(text("UPDATE perennial.run SET attributes = '{\"x\": 1}'"))
        raise ZeroDivisionError
    assert harness.database.value("SELECT attributes FROM perennial.run") == {}


def test_a_connection_that_lives_is_kept_and_asked_nothing(harness, client, run):
    """The look is no statement."""
    sessions = set()
    for _ in range(3):
        with client._context.connection() as connection:
            sessions.add(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
    assert len(sessions) == 1
