"""Servers that refuse for a while: workers outlast them, say so in few lines, and go on when there is room."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis as redis_client
from celery import Celery

from orchestrator.core.views import Started
from orchestrator.embedded import EmbeddedRedis
from tests.fleet.harness import Fleet


def test_a_read_only_postgres_is_said_once_and_runs_go_on_when_it_writes_again(
    fleet: Fleet,
) -> None:
    """A standby that clients were led to: each message met it, with a traceback each."""
    fleet.start_worker(pool="threads")
    runs = [fleet.client.start("sleeper", 0.2) for _ in range(20)]
    fleet.wait_until_waiting(runs[-1])
    become_read_only(fleet)
    fleet.wait_for("the trouble", lambda: "read-only" in fleet.logs())
    size = len(fleet.logs())
    app = Celery("says-again", broker=fleet.broker_url)
    for number in range(200):  # each would write, if only to find that there is nothing to do
        ask_for_nothing(app, runs[number % 20])
    fleet.wait_for("that they were taken", lambda: fleet.logs().count(" ignored") >= 200)
    said = "\n".join(
        line for line in fleet.logs()[size:].splitlines() if not re.search("INFO", line)
    )
    assert "Traceback" not in said
    assert len(said) < 5_000
    write_again(fleet)
    fleet.wait_until_closed(*runs)
    fleet.wait_for(
        "a last word",
        lambda: ask_for_nothing(app, runs[0]) or "Postgres: over, after" in fleet.logs(),
    )
    app.close()


def ask_for_nothing(app: Celery, run: Started) -> None:
    app.send_task("prepare", args=[str(run.run_id), "no-such", 1], queue="tests")


TABLES = ("run", "activity", "timer", "outbox", "worker")


def become_read_only(fleet: Fleet) -> None:
    """Each write is refused in a standby's words. (The setting of that name is pinned by our sessions.)"""
    fleet.execute(
        "CREATE FUNCTION refuse_writes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'cannot execute % in a read-only transaction', TG_OP USING ERRCODE = '25006'; END $$"
    )
    for table in TABLES:
        fleet.execute(
            f"CREATE TRIGGER refuse_writes BEFORE INSERT OR UPDATE OR DELETE ON perennial.{table} "
            "EXECUTE FUNCTION refuse_writes()"
        )


def write_again(fleet: Fleet) -> None:
    for table in TABLES:
        fleet.execute(f"DROP TRIGGER refuse_writes ON perennial.{table}")


@pytest.fixture
def client(redis: EmbeddedRedis) -> Iterator[redis_client.Redis]:
    with redis_client.Redis.from_url(redis.url) as client:
        yield client


def fill(client: redis_client.Redis, _where: Path) -> None:
    """`noeviction` at its limit."""
    client.config_set("maxmemory", "1")


def make_room(client: redis_client.Redis, _where: Path) -> None:
    client.config_set("maxmemory", "0")


def lose_disk(client: redis_client.Redis, where: Path) -> None:
    """Its snapshots can't be written: it refuses what it could not keep."""
    client.config_set("save", "3600 1")
    (where / "dump.rdb").mkdir()  # where one would be
    save(client, "err")


def mend_disk(client: redis_client.Redis, where: Path) -> None:
    (where / "dump.rdb").rmdir()
    save(client, "ok")


def save(client: redis_client.Redis, outcome: str) -> None:
    client.bgsave()
    while client.info("persistence")["rdb_last_bgsave_status"] != outcome:
        pass


@dataclass(frozen=True)
class Refusing:
    refuse: Callable[[redis_client.Redis, Path], None]
    mend: Callable[[redis_client.Redis, Path], None]
    code: str


@pytest.mark.parametrize(
    ("pool", "how"),
    [
        pytest.param("prefork", Refusing(fill, make_room, "OOM"), id="full"),
        pytest.param("threads", Refusing(lose_disk, mend_disk, "MISCONF"), id="no-disk"),
    ],
)
def test_a_redis_that_refuses_is_outlasted_and_runs_go_on_when_there_is_room(
    fleet: Fleet, redis: EmbeddedRedis, client: redis_client.Redis, pool: str, how: Refusing
) -> None:
    """Every write is refused, Celery's own bookkeeping of messages among them: its consumer ended, and its worker."""
    worker = fleet.start_worker(pool=pool)
    runs = [fleet.client.start("gate-process", 601 + number) for number in range(20)]
    fleet.wait_for("the first effect", lambda: fleet.effects("first"))
    how.refuse(client, redis.data_dir)
    runs += [fleet.client.start("sleeper", 0.2) for _ in range(5)]
    fleet.wait_for("its words", lambda: f"{NO}: " in fleet.logs())
    fleet.wait_for("more of it", lambda: refused(client, how.code) >= 8)
    assert worker.poll() is None
    how.mend(client, redis.data_dir)
    fleet.wait_until_closed(*runs)
    assert worker.poll() is None
    assert set(fleet.effects("first")) == {1}
    assert "Traceback" not in fleet.logs()
    assert fleet.logs().count(NO) <= 4


NO = "the broker refuses this worker's writes; it goes on when there is room"


def refused(client: redis_client.Redis, code: str) -> int:
    errors = client.info("errorstats")
    return int(errors.get(f"errorstat_{code}", {"count": 0})["count"])
