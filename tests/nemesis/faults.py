"""What can happen to a fleet. Each is one function, which hurts, waits, and heals what it has hurt."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import redis

from orchestrator.store.schema import NOTIFY_CHANNEL
from tests.chaos.worker import QUEUE
from tests.nemesis.theatre import RECENT, Theatre

Fault = Callable[[Theatre, random.Random], None]

# Atomic, so that no worker takes a message while it is out of the queue: it comes twice, or late.
REORDER = """
local found = redis.call('LRANGE', KEYS[1], 0, 199)
if #found == 0 then return 0 end
redis.call('DEL', KEYS[1])
math.randomseed(tonumber(ARGV[1]))
for i = #found, 2, -1 do
  local j = math.random(i)
  found[i], found[j] = found[j], found[i]
end
for _, message in ipairs(found) do
  redis.call('LPUSH', KEYS[1], message)
  if math.random() < 0.5 then redis.call('RPUSH', KEYS[1], message) end
end
return #found
"""

DISK_IS_FULL = """
CREATE OR REPLACE FUNCTION perennial.disk_is_full() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE OR REPLACE TRIGGER disk_is_full BEFORE INSERT OR UPDATE ON perennial.{table}
    FOR EACH STATEMENT EXECUTE FUNCTION perennial.disk_is_full()
"""


def kill_a_worker(theatre: Theatre, chance: random.Random) -> None:
    """SIGKILL, with its children; another takes its place."""
    with theatre.a_worker(chance) as slot:
        theatre.kill(slot)
        theatre.pause(chance.uniform(0, 3))
        theatre.start(slot)


def kill_a_child(theatre: Theatre, chance: random.Random) -> None:
    """SIGKILL of one process of a pool; a worker without a pool is killed whole."""
    with theatre.a_worker(chance) as slot:
        assert slot.worker is not None
        children = psutil.Process(slot.worker.pid).children()
        if children:
            with suppress(psutil.NoSuchProcess):
                chance.choice(children).kill()
        else:
            theatre.kill(slot)
            theatre.start(slot)


def stall_a_worker(theatre: Theatre, chance: random.Random) -> None:
    """SIGSTOP until it has long been thought dead; then it comes back and goes on."""
    with theatre.a_worker(chance) as slot:
        assert slot.worker is not None
        slot.worker.signal(signal.SIGSTOP)
        theatre.pause(theatre.settings.dead_after_seconds + chance.uniform(1, 4))
        slot.worker.signal(signal.SIGCONT)


def skew_a_clock(theatre: Theatre, chance: random.Random) -> None:
    """A worker's clock is wrong by minutes."""
    with theatre.a_worker(chance) as slot:
        theatre.kill(slot)
        theatre.start(slot, clock_ahead_seconds=chance.choice([-1, 1]) * chance.uniform(60, 1200))


def release(theatre: Theatre, _chance: random.Random) -> None:
    """A rolling restart, half of it with an older release that lacks a stage."""
    for slot in theatre.slots:
        with slot.lock:
            theatre.retire(slot)
            slot.lacks = frozenset() if slot.lacks or slot.number % 2 else RECENT
            theatre.start(slot)
        theatre.pause(2)


def crash_postgres(theatre: Theatre, chance: random.Random) -> None:
    """As by a power cut; it recovers from its log."""
    with theatre.database_lock:
        theatre.servers.postgres.crash()
        theatre.pause(chance.uniform(0, 3))
        theatre.insist(lambda: _start(theatre.servers.postgres.start))


def fill_the_disk(theatre: Theatre, chance: random.Random) -> None:
    """Postgres answers every transition with `disk_full` for a while."""
    table = chance.choice(["run", "activity", "outbox", "history"])

    def fill() -> None:
        with theatre.postgres() as connection:
            connection.execute("SET lock_timeout = '2s'")
            connection.execute(DISK_IS_FULL.format(table=table).encode())

    def empty() -> None:
        with theatre.postgres() as connection:
            connection.execute(f"DROP TRIGGER IF EXISTS disk_is_full ON perennial.{table}".encode())

    with theatre.database_lock:
        theatre.insist(fill)
        theatre.pause(chance.uniform(0.5, 3))
        theatre.insist(empty)


def cut_postgres(theatre: Theatre, chance: random.Random) -> None:
    """Every session of the fleet is ended, a few times."""
    for _ in range(chance.randint(1, 4)):
        with suppress(psycopg.Error), theatre.postgres() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name <> 'nemesis' AND backend_type = 'client backend'"
            )
        theatre.pause(chance.uniform(0, 0.5))


def restart_redis(theatre: Theatre, chance: random.Random) -> None:
    """It is killed, and comes back empty."""
    with theatre.redis_lock:
        theatre.servers.redis.kill()
        (theatre.servers.redis.data_dir / "dump.rdb").unlink(missing_ok=True)
        theatre.pause(chance.uniform(0, 3))
        theatre.insist(lambda: _start(theatre.servers.redis.start))


def empty_redis(theatre: Theatre, _chance: random.Random) -> None:
    """FLUSHALL."""
    with suppress(redis.RedisError), theatre.redis() as client:
        client.flushall()


def lose_the_tail_of_redis(theatre: Theatre, chance: random.Random) -> None:
    """It comes back as it was a while ago: what came since is lost, and what went since is there again."""
    with theatre.redis_lock:
        with suppress(redis.RedisError), theatre.redis() as client:
            client.save()
        theatre.pause(chance.uniform(0.5, 3))
        theatre.servers.redis.kill()
        theatre.insist(lambda: _start(theatre.servers.redis.start))
        Path(theatre.servers.redis.data_dir / "dump.rdb").unlink(missing_ok=True)


def cut_redis(theatre: Theatre, chance: random.Random) -> None:
    """Every connection is closed, a few times."""
    for _ in range(chance.randint(1, 4)):
        with suppress(redis.RedisError), theatre.redis() as client:
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub")
        theatre.pause(chance.uniform(0, 0.5))


def repeat_and_reorder(theatre: Theatre, chance: random.Random) -> None:
    """For a while whatever stands in the queue is shuffled, and half of it stands there twice."""
    for _ in range(100):
        with suppress(redis.RedisError), theatre.redis() as client:
            client.eval(REORDER, 1, QUEUE, chance.randrange(2**31))
        theatre.pause(0.03)


def say_nothing(theatre: Theatre, chance: random.Random) -> None:
    """Notifications are drowned: a flood of them that mean nothing."""
    with suppress(psycopg.Error), theatre.postgres() as connection:
        for _ in range(chance.randint(100, 1000)):
            connection.execute(f"NOTIFY {NOTIFY_CHANNEL}".encode())


def _start(start: Callable[[], str]) -> None:
    start()


FAULTS: dict[str, Fault] = {
    "kill": kill_a_worker,
    "kill-child": kill_a_child,
    "stall": stall_a_worker,
    "skew": skew_a_clock,
    "release": release,
    "crash-postgres": crash_postgres,
    "disk-full": fill_the_disk,
    "cut-postgres": cut_postgres,
    "restart-redis": restart_redis,
    "flush": empty_redis,
    "lose-tail": lose_the_tail_of_redis,
    "cut-redis": cut_redis,
    "repeat": repeat_and_reorder,
    "flood": say_nothing,
}
