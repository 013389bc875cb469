"""The harm that `recovery.py` does, and what it waits for then: each fault is one round of it.

A fault brings the fleet into the middle of its work, waits for a random moment, does its harm, sees
work go on, and mends what it broke. It returns seconds by what was waited for.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from recovery_fleet import WORKERS, Begun, Fleet, pause, wait_for

# Between the sweeps and heartbeats of a fleet every moment is like any other.
PHASE_SECONDS = 2.0
REDIS_DOWN_SECONDS = 5.0
POSTGRES_DOWN_SECONDS = 10.0

NAPS = 6
NAP_SPACING_SECONDS = 1.5
TRAVELLERS = 5
TREADERS = 6

Samples = dict[str, list[float]]
"""Seconds, by what was waited for."""


class Fault(StrEnum):
    """A kind of harm, as the command names it."""

    KILL = "kill"
    KILL_CHILD = "kill-child"
    STALL = "stall"
    FLUSH = "flush"
    REDIS = "redis"
    POSTGRES = "postgres"
    CUT = "cut"
    CUT_IDLE = "cut-idle"


RUNS_AGAIN = "the activity is running again"
TIMER_FIRES = "the first timer due afterwards fires"
TIMER_LATE = "… after its due time"
FIRST_TAKEN = "the first unclaimed handoff is taken"
ALL_TAKEN = "each unclaimed handoff is taken"
FIRST_COMMIT = "the first commit of a run in flight"
EACH_COMMIT = "each run in flight commits"
NEXT_RUN = "a run that is started then is at work"


def kill(fleet: Fleet, chance: random.Random) -> Samples:
    """A whole worker, with its children."""

    def harm(victims: list[Begun]) -> None:
        fleet.signal(victims[0].worker, signal.SIGKILL)

    return _in_mid_stage(fleet, chance, harm, mend=fleet.replace)


def kill_child(fleet: Fleet, chance: random.Random) -> Samples:
    """The children that are at work; their parent lives, and starts others."""

    def harm(victims: list[Begun]) -> None:
        for pid in {victim.pid for victim in victims}:
            os.kill(pid, signal.SIGKILL)

    return _in_mid_stage(fleet, chance, harm, mend=lambda _worker: None)


def stall(fleet: Fleet, chance: random.Random) -> Samples:
    """A worker that is there and does nothing, as on a machine that hangs."""

    def harm(victims: list[Begun]) -> None:
        fleet.signal(victims[0].worker, signal.SIGSTOP)

    return _in_mid_stage(
        fleet, chance, harm, mend=lambda worker: fleet.signal(worker, signal.SIGCONT)
    )


def _in_mid_stage(
    fleet: Fleet,
    chance: random.Random,
    harm: Callable[[list[Begun]], None],
    mend: Callable[[int], None],
) -> Samples:
    """All hands of one worker are at work, and those of the other are free to take that on."""
    count = 2 * fleet.concurrency - 1  # however they fall, one of the two has its hands full
    with fleet.gates(count) as gates:
        runs = fleet.start("hold", list(range(1, count + 1)))
        victims = wait_for("a worker with its hands full", lambda: _busy(fleet))
        lost = {each.key for each in victims}
        others = [run for run in runs if not any(key.startswith(str(run)) for key in lost)]
        for run in others:
            gates.open(runs.index(run) + 1)
        wait_for("free hands", lambda: fleet.closed(others) == len(others))
        pause(chance.uniform(0, PHASE_SECONDS))
        at = time.time()
        harm(victims)

        def again() -> dict[str, float]:
            found = fleet.first_begun(since=at)
            return found if lost <= found.keys() else {}

        found = wait_for("the lost activities", again)
    wait_for("the ends of all", lambda: fleet.closed(runs) == count)
    mend(victims[0].worker)
    fleet.end()
    return {RUNS_AGAIN: [found[key] - at for key in lost]}


def _busy(fleet: Fleet) -> list[Begun]:
    """What the worker does that has its hands full."""
    by_worker = defaultdict(list)
    for each in fleet.begun():
        by_worker[each.worker].append(each)
    return next((each for each in by_worker.values() if len(each) == fleet.concurrency), [])


def flush(fleet: Fleet, chance: random.Random) -> Samples:
    """Queues, timers and all else in Redis are gone, and Redis is there.

    The handoffs stand in a queue that nobody serves until then.
    """
    runs = fleet.start("travel", TRAVELLERS)
    wait_for("handoffs in their queue", lambda: fleet.redis().llen("far") >= TRAVELLERS)
    naps = _fall_asleep(fleet, chance)
    at = time.time()
    fleet.redis().flushall()
    fleet.app.control.add_consumer("far")
    samples = _after_redis_was_emptied(fleet, at, runs, naps)
    fleet.app.control.cancel_consumer("far")
    return samples


def restart_redis(fleet: Fleet, chance: random.Random) -> Samples:
    """The same, and it was away for a while. The handoffs are of runs that were started then."""
    naps = _fall_asleep(fleet, chance)
    fleet.servers.redis.kill()
    runs = fleet.start("visit", TRAVELLERS)
    pause(chance.uniform(0, REDIS_DOWN_SECONDS))
    at = _answers(fleet.servers.redis.start, lambda: fleet.redis().ping())
    return _after_redis_was_emptied(fleet, at, runs, naps)


def _fall_asleep(fleet: Fleet, chance: random.Random) -> list[UUID]:
    """Timers that come due one after the other, a while apart: returns somewhere among the first."""
    first_at = datetime.now(UTC) + timedelta(seconds=chance.uniform(3, 5))
    spacing = timedelta(seconds=NAP_SPACING_SECONDS)
    naps = fleet.start("nap", [first_at + number * spacing for number in range(NAPS)])
    armed = "SELECT count(*) FROM perennial.timer WHERE run_id = ANY(:runs)"
    wait_for("naps", lambda: fleet.rows(armed, runs=naps)[0][0] == NAPS)
    wakes_in = first_at.timestamp() - time.time()
    pause(max(0.0, wakes_in + chance.uniform(-1, 1) * NAP_SPACING_SECONDS))
    return naps


def _after_redis_was_emptied(
    fleet: Fleet, at: float, runs: list[UUID], naps: list[UUID]
) -> Samples:
    taken = wait_for(
        "every handoff to be taken",
        lambda: len(found := fleet.first_begun()) == len(runs) and found,
    )
    wait_for("the ends of all", lambda: fleet.closed([*runs, *naps]) == len(runs) + len(naps))
    sql = "SELECT due_at, fired_at FROM perennial.timer WHERE run_id = ANY(:runs) ORDER BY due_at"
    timers = [
        (row.due_at.timestamp(), row.fired_at.timestamp()) for row in fleet.rows(sql, runs=naps)
    ]
    fleet.end()
    seconds = [begun - at for begun in taken.values()]
    later = [(due_at, fired_at) for due_at, fired_at in timers if due_at > at]
    return {
        TIMER_FIRES: [fired_at - at for _, fired_at in later[:1]],
        TIMER_LATE: [fired_at - due_at for due_at, fired_at in later[:1]],
        FIRST_TAKEN: [min(seconds)],
        ALL_TAKEN: seconds,
    }


def crash_postgres(fleet: Fleet, chance: random.Random) -> Samples:
    """As a power cut does it; it recovers from its log."""

    def harm() -> float:
        fleet.servers.postgres.crash()
        pause(chance.uniform(0, POSTGRES_DOWN_SECONDS))
        return _answers(fleet.servers.postgres.start, lambda: fleet.connect_to_postgres().close())

    return _with_runs_in_flight(fleet, chance, harm)


def cut_connections(fleet: Fleet, chance: random.Random) -> Samples:
    """As a failover or a firewall does it."""
    return _with_runs_in_flight(fleet, chance, lambda: _cut(fleet))


def cut_idle_connections(fleet: Fleet, chance: random.Random) -> Samples:
    """The same at night: every process keeps connections, and finds out when it is needed."""
    warm = fleet.start("visit", 10 * WORKERS * fleet.concurrency)
    wait_for("the ends of all", lambda: fleet.closed(warm) == len(warm))
    pause(chance.uniform(0, PHASE_SECONDS))
    fleet.end()
    _cut(fleet)
    at = time.time()
    (run,) = fleet.start("visit", 1)
    wait_for("the end of a run", lambda: fleet.closed([run]))
    (begun,) = fleet.first_begun().values()
    fleet.end()
    return {NEXT_RUN: [begun - at]}


def _cut(fleet: Fleet) -> float:
    at = time.time()
    fleet.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return at


def _with_runs_in_flight(fleet: Fleet, chance: random.Random, harm: Callable[[], float]) -> Samples:
    """Runs that commit all the time, more of them than the fleet has hands."""
    runs = fleet.start("tread", TREADERS)
    moving = """SELECT run_id, min(at) AS at FROM perennial.history
        WHERE run_id = ANY(:runs) AND at > :since AND event = 'stage done' GROUP BY run_id"""

    def each_since(since: float) -> Callable[[], Sequence[Any]]:
        def look() -> Sequence[Any]:
            at = datetime.fromtimestamp(since, UTC)
            found = fleet.rows(moving, runs=runs, since=at)
            return found if len(found) == len(runs) else ()

        return look

    wait_for("runs in flight", each_since(0))
    pause(chance.uniform(0, PHASE_SECONDS))
    at = harm()
    found = wait_for("each to commit", each_since(at))
    fleet.end(*runs)
    seconds = [row.at.timestamp() - at for row in found]
    return {FIRST_COMMIT: [min(seconds)], EACH_COMMIT: seconds}


def _answers(start: Callable[[], object], looks: Callable[[], object]) -> float:
    """Start a server; the moment from which it answers."""

    def look() -> float | None:
        with suppress(Exception):  # whatever a server says that isn't there yet
            looks()
            return time.time()
        return None

    starting = threading.Thread(target=start)
    starting.start()
    at: float = wait_for("a server to answer", look)
    starting.join()
    return at


FAULTS: dict[Fault, Callable[[Fleet, random.Random], Samples]] = {
    Fault.KILL: kill,
    Fault.KILL_CHILD: kill_child,
    Fault.STALL: stall,
    Fault.FLUSH: flush,
    Fault.REDIS: restart_redis,
    Fault.POSTGRES: crash_postgres,
    Fault.CUT: cut_connections,
    Fault.CUT_IDLE: cut_idle_connections,
}

BOUND_SECONDS: dict[tuple[str, str], float] = {
    (Fault.KILL, RUNS_AGAIN): 10.0,
    (Fault.KILL_CHILD, RUNS_AGAIN): 10.0,
    (Fault.FLUSH, TIMER_FIRES): 5.0,
    (Fault.FLUSH, ALL_TAKEN): 5.0,
}
