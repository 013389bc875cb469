"""What the fleet promises when things go well, and when they don't."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis as redis_client
from sqlalchemy import text

from orchestrator.core.run import RunStatus
from orchestrator.embedded import EmbeddedRedis
from tests.fleet.harness import PATIENCE_SECONDS, REPOSITORY, SWEEP_SECONDS, Fleet

NOTHING = {
    "armed timers": 0,
    "handoffs": 0,
    "claims": 0,
    "open activities": 0,
    "open approvals": 0,
    "open runs": 0,
}


@pytest.mark.parametrize("pool", ["solo", "prefork", "threads"])
def test_a_run_goes_through_every_kind_of_wait_on_any_pool(fleet: Fleet, pool: str) -> None:
    """Sleep, escalation and timeout come as delayed messages; nothing is left over."""
    fleet.start_worker(pool=pool, is_forked=False)
    run = fleet.client.start("sleeper", 0.3)
    fleet.wait_until_closed(run)
    assert fleet.client.result(run) == "timed_out"
    events = [entry.event for entry in fleet.client.history(run)]
    assert events.index("approval escalated") < events.index("approval timed out")
    assert fleet.effects("prepare") == [1]
    assert fleet.leftovers() == NOTHING


def test_a_broker_that_is_no_redis_has_no_index_and_timers_fire_all_the_same(
    fleet: Fleet, tmp_path: Path
) -> None:
    """kombu's filesystem transport, say: the sweeps of maintenance fire what is due."""
    (tmp_path / "broker").mkdir()
    fleet.broker_url = "filesystem://"
    fleet.extra_environment = {"FLEET_TESTS_FOLDER": str(tmp_path / "broker")}
    fleet.start_worker("--without-gossip")
    run = fleet.client.start("sleeper", 0.3)
    fleet.wait_until_closed(run)
    assert fleet.client.result(run) == "timed_out"
    assert fleet.leftovers() == NOTHING


def test_a_killed_workers_stage_is_done_by_another_and_its_first_step_is_not_repeated(
    fleet: Fleet,
) -> None:
    """`kill -9` between two steps: attempt 2 goes on where attempt 1 had got to."""
    gate = fleet.hold_gate(1)
    first = fleet.start_worker(pool="prefork")
    run = fleet.client.start("gate-process", 1)
    fleet.wait_for("the stage at its gate", gate.waiting)
    fleet.kill(first)
    fleet.start_worker()
    fleet.wait_for(
        "attempt 2",
        lambda: fleet.scalar("SELECT attempt FROM perennial.activity WHERE key = 'gated'") == 2,
    )
    gate.open()
    fleet.wait_until_closed(run)
    assert fleet.client.result(run) == 2
    assert fleet.effects("first") == [1]
    assert fleet.effects("second") == [1]
    assert fleet.effects("prepare") == [1, 1]
    assert fleet.leftovers() == NOTHING


def test_a_killed_pool_child_is_noticed_though_its_parent_lives(fleet: Fleet) -> None:
    """The heartbeat is the child's own: the parent's life says nothing about it."""
    gate = fleet.hold_gate(2)
    fleet.start_worker(pool="prefork")
    run = fleet.client.start("gate-process", 2)
    fleet.wait_for("the stage at its gate", gate.waiting)
    fleet.wait_for(
        "a heartbeat",
        lambda: fleet.scalar("SELECT count(*) FROM perennial.worker WHERE can IS NULL"),
    )
    child = fleet.scalar(
        "SELECT pid FROM perennial.worker w JOIN perennial.activity a ON a.worker_id = w.id AND a.state = 'claimed'"
    )
    subprocess.run(["kill", "-9", str(child)], check=True)
    gate.open()
    fleet.wait_until_closed(run)
    assert fleet.effects("first") == [1]
    assert fleet.client.result(run) == 2


def test_a_stalled_worker_that_comes_back_is_fenced(fleet: Fleet) -> None:
    """SIGSTOP until its stage is handed out again; SIGCONT: it commits nothing. Guards the attempt fence."""
    gate = fleet.hold_gate(3)
    stalled = fleet.start_worker()
    run = fleet.client.start("gate-process", 3)
    fleet.wait_for("the stage at its gate", gate.waiting)
    fleet.kill(stalled, signal.SIGSTOP)
    fleet.start_worker()
    fleet.wait_for("both attempts at the gate", lambda: gate.waiting() == 2)
    gate.open()
    fleet.wait_until_closed(run)
    fleet.kill(stalled, signal.SIGCONT)
    again = fleet.client.start("gate-process", 30)
    fleet.wait_until_closed(again)
    assert fleet.client.result(run) == 2
    history = [
        entry
        for entry in fleet.client.history(run)
        if entry.key == "gated" and entry.event == "stage done"
    ]
    assert [entry.attempt for entry in history] == [2]
    assert fleet.leftovers() == NOTHING


def test_emptying_redis_loses_neither_timers_nor_handoffs(
    fleet: Fleet, redis: EmbeddedRedis
) -> None:
    """FLUSHALL while runs sleep, wait and stand in queues: the index and the messages are rebuilt."""
    runs = [fleet.client.start("sleeper", 1.5) for _ in range(20)]
    fleet.start_worker()
    fleet.wait_for(
        "every run to sleep",
        lambda: (
            fleet.scalar(
                "SELECT count(*) FROM perennial.timer WHERE state = 'armed' AND kind = 'sleep'"
            )
            == 20
        ),
    )
    late = [fleet.client.start("gate-process", 100 + number) for number in range(20)]
    redis_client.Redis.from_url(redis.url).flushall()
    fleet.wait_until_closed(*(run.run_id for run in [*runs, *late]))
    assert {fleet.client.result(run) for run in runs} == {"timed_out"}
    assert {fleet.client.result(run) for run in late} == {2}
    assert set(fleet.effects("first") + fleet.effects("second") + fleet.effects("prepare")) == {1}
    assert fleet.leftovers() == NOTHING


def test_a_restart_of_redis_without_its_data_loses_nothing(
    fleet: Fleet, redis: EmbeddedRedis
) -> None:
    """The broker dies and comes back empty; workers reconnect, and the record is sent again."""
    fleet.start_worker()
    run = fleet.client.start("sleeper", 2.0)
    fleet.wait_until_waiting(run)
    redis.kill()
    redis.start()
    fleet.wait_until_closed(run)
    assert fleet.client.result(run) == "timed_out"
    assert fleet.leftovers() == NOTHING


def test_a_run_starts_when_its_producers_transaction_commits_though_the_producer_dies(
    fleet: Fleet,
) -> None:
    """Postgres itself tells the fleet (NOTIFY); rolled back, nothing starts."""
    fleet.start_worker()
    program = (
        "import os, psycopg\n"
        "from orchestrator import Client\n"
        "url = os.environ['PERENNIAL_DATABASE_URL'].replace('+psycopg', '')\n"
        "connection = psycopg.connect(url)\n"
        "Client().start('patient', 'rolled back', key='no', connection=connection)\n"
        "connection.rollback()\n"
        "Client().start('patient', 'committed', key='yes', connection=connection)\n"
        "connection.commit()\n"
        "os._exit(9)\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", program], env=fleet.environment, cwd=REPOSITORY, check=False
    )
    assert died.returncode == 9
    fleet.wait_for("the run at its approval", lambda: fleet.client.approvals(assignee="bob"))
    assert [run.business_key for run in fleet.client.list()] == ["yes"]


def test_a_stage_that_this_worker_lacks_is_left_for_one_that_serves_it(fleet: Fleet) -> None:
    """Its queue has no worker yet: the run waits, unharmed, until there is one."""
    fleet.start_worker("-Q", "tests")
    run = fleet.client.start("traveller", "ann")
    fleet.wait_for(
        "the handoff to be sent more than once",
        lambda: fleet.scalar("SELECT coalesce(max(publishes), 0) FROM perennial.outbox") > 1,
    )
    assert fleet.client.get(run).status is RunStatus.RUNNING
    fleet.start_worker("-Q", "elsewhere,tests")
    fleet.wait_until_closed(run)
    assert fleet.client.result(run) == "ann was far away"


def test_an_idle_worker_asks_postgres_less_than_once_a_second_while_runs_wait(fleet: Fleet) -> None:
    """Counted by Postgres itself: a sweep is one transaction, and waiting runs add none."""
    fleet.start_worker()
    runs = fleet.client.start_many("patient", [f"run {number}" for number in range(200)])
    fleet.wait_for(
        "all to wait",
        lambda: fleet.client.operations.counts("patient").get(RunStatus.WAITING) == len(runs),
    )
    with psycopg.connect(fleet.database_url.replace("+psycopg", ""), autocommit=True) as connection:
        made = fleet.wait_for("a quiet spell", lambda: _is_quiet(connection, sweeps=6, bound=10))
    print(f"idle: {made} transactions in 6 sweep intervals of one worker, 200 runs waiting")


def _is_quiet(connection: psycopg.Connection[Any], *, sweeps: int, bound: int) -> int | None:
    """The transactions of so many sweep intervals, if no more than `bound`.

    Postgres's backends report theirs late, so an early look still counts the work before.
    """
    before = _transactions(connection)
    threading.Event().wait(sweeps * SWEEP_SECONDS)
    made = _transactions(connection) - before
    return made if made <= bound else None


def _transactions(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_flower_shows_a_waiting_run_as_a_row_of_its_own(fleet: Fleet) -> None:
    """Under the run's id, with the process's name and what it waits for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**fleet.environment, "FLOWER_UNAUTHENTICATED_API": "true"}
    flower = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "tests.fleet.app",
            "flower",
            "--address=127.0.0.1",
            f"--port={port}",
        ],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/api/tasks"
        fleet.wait_for("Flower", lambda: _get(url) is not None)
        fleet.start_worker()
        run = fleet.client.start("patient", "for Flower")
        row = fleet.wait_for("the run in Flower", lambda: (_get(url) or {}).get(str(run.run_id)))
        assert row["state"] == "WAITING"
        assert row["name"] == "patient"
        assert "approval boss" in row["kwargs"]
        fleet.client.approve(run, by="bob")
        fleet.wait_for(
            "its end in Flower",
            lambda: (_get(url) or {}).get(str(run.run_id), {}).get("state") == "SUCCESS",
        )
    finally:
        flower.terminate()
        flower.wait(PATIENCE_SECONDS)


def _get(url: str) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return None


def test_a_thousand_starts_in_one_transaction_are_handed_off_once_each(fleet: Fleet) -> None:
    """The relay publishes in batches, and a long queue isn't lengthened by sending again."""
    with fleet.engine.connect() as connection:
        connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            names = [f"run {number}" for number in range(1000)]
            fleet.client.start_many("patient", names, connection=connection)
    fleet.start_worker()
    fleet.start_worker()
    fleet.wait_for(
        "all to wait",
        lambda: fleet.client.operations.counts("patient").get(RunStatus.WAITING) == 1000,
    )
    assert sorted(set(fleet.effects("prepare"))) == [1]
    with fleet.engine.connect() as connection:
        attempts = (
            connection.execute(text("SELECT DISTINCT attempt FROM perennial.activity"))
            .scalars()
            .all()
        )
    assert attempts == [1]
