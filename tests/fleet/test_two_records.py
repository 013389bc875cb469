"""Two apps on one database, one Redis, one queue and one namespace: a schema each, and nothing crosses."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

from celery import Celery
from pydantic import SecretStr
from sqlalchemy import create_engine

from orchestrator import Client, Settings
from orchestrator.fleet.strangers import SCHEMA_HEADER
from orchestrator.fleet.timer_index import TimerIndex, _message_template
from orchestrator.store.schema import migrate, options_in
from orchestrator.store.transitions.timers import ArmedTimer
from tests.fleet.harness import Fleet


def test_no_message_and_no_timer_of_the_one_is_lost_in_the_other(fleet: Fleet) -> None:
    """Nothing is sent again, and no timer fires without its message: what the other swallowed would never be done.

    Their sharing a queue is an error of its operator's; that it costs seconds and no run is the promise.
    """
    engine = create_engine(fleet.database_url, execution_options=options_in("billing"))
    migrate.upgrade(engine)
    engine.dispose()
    impatient = {"PERENNIAL_RELAY_AFTER_SECONDS": "600", "PERENNIAL_TIMER_GRACE_SECONDS": "600"}
    with Client(fleet.database_url, schema="billing") as billing:
        from tests.fleet.app import registry

        billing.processes.deploy(*registry.processes.values())
        for schema in ("perennial", "billing"):
            fleet.extra_environment = {**impatient, "PERENNIAL_SCHEMA": schema}
            fleet.start_worker()
        fleet.wait_for("both workers", lambda: fleet.logs().count(" ready.") == 2)
        clients = (fleet.client, billing)
        runs = [
            (client, client.start("sleeper", 0.3, key=f"sleeper-{number}"))
            for number in range(2)
            for client in clients
        ]
        for client, run in runs:
            fleet.wait_for(
                f"the end of {run}",
                lambda client=client, run=run: client.get(run).status.is_closed,
            )
            assert client.result(run) == "timed_out"
        # Whatever was let go was a second copy: what is needed would be sent again after ten minutes.
        assert [len(client.list()) for client in clients] == [2, 2]


def test_each_has_an_index_of_its_own_and_its_messages_say_whose_they_are(redis, tmp_path: Path):
    app = Celery("two-records-tests", broker=redis.url)
    app.conf.task_default_queue = f"q-{uuid4()}"
    database = SecretStr("postgresql://localhost/none")
    usual, billing = (
        TimerIndex.for_app(app, Settings(database_url=database, database_schema=schema))
        for schema in ("perennial", "billing")
    )
    assert usual is not None
    assert billing is not None
    billing.rebuilt()
    billing.arm([ArmedTimer(uuid4(), 0.0, None)])
    assert usual.move().count == 0
    assert not usual.move().epoch_is_there  # what the other has rebuilt is not this one's
    assert billing.move().count == 1
    (message,) = usual._redis.lrange(app.conf.task_default_queue, 0, -1)
    assert json.loads(message)["headers"][SCHEMA_HEADER] == "billing"
    assert json.loads(_message_template(app, "perennial"))["headers"][SCHEMA_HEADER] == "perennial"
    keys = {key.decode() for key in usual._redis.keys("perennial:*")}
    assert keys == {"perennial:billing:epoch"}
    app.close()
