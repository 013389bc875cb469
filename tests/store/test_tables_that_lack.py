"""A database without our tables, or with those of an older release: whoever meets it says what makes them."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from orchestrator import Client, Flow, Registry, Settings, process
from orchestrator.engine.context import EngineContext, connect
from orchestrator.errors import SchemaNotReady
from orchestrator.fleet.maintenance import Maintenance
from orchestrator.fleet.services import Service
from orchestrator.store.schema import migrate

REMEDY = "`perennial db upgrade` makes them"


@pytest.fixture
def definition():
    @process(version=1, registry=(registry := Registry()))
    async def p(flow: Flow) -> None: ...

    return registry.process("p", 1)


@pytest.mark.parametrize("state", ["no tables", "no schema", "older tables"])
def test_each_door_of_a_client_says_so(empty_database, definition, state):
    if state == "no tables":
        with empty_database.engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA perennial"))
    if state == "older tables":
        migrate.upgrade(empty_database.engine, "0001")
        with empty_database.engine.begin() as connection:
            connection.execute(text("ALTER TABLE perennial.run RENAME COLUMN revision TO before"))
    with Client(empty_database.url) as client:
        calls = [lambda: client.get(uuid4())]
        if state != "older tables":
            calls += [
                lambda: client.start("p"),
                client.list,
                lambda: client.processes.deploy(definition),
            ]
        for call in calls:
            with pytest.raises(SchemaNotReady, match=REMEDY):
                call()


def test_a_worker_says_so_in_its_log(empty_database, caplog):
    settings = Settings(database_url=SecretStr(empty_database.url), sweep_seconds=0.01)
    engine = connect(settings, finds_by_key=True)
    member = SimpleNamespace(
        settings=settings, context=EngineContext(engine, Registry(), settings), timer_index=None
    )
    maintenance = Maintenance(member)
    service = Service(
        "maintenance", maintenance.work, lambda: (maintenance.reset(), service.stop())
    )
    with caplog.at_level(logging.WARNING):
        service.start()
        service.join(30)
    assert REMEDY in caplog.text


def test_a_callers_own_table_that_lacks_is_his_own_error(database):
    engine = connect(Settings(database_url=SecretStr(database.url)), commits_each=False)
    with engine.connect() as connection, pytest.raises(ProgrammingError, match="staff"):
        connection.execute(text("SELECT * FROM staff"))
    engine.dispose()
