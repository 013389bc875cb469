"""(e) Timers: how late they are while very many are armed, and ten thousand that are due in the same instant.

Two workers look after 100 thousand, and then a million timers that are armed and due within hours, all of them
in Redis's index (sleeping runs, copied from a real one; the index is built by the fleet itself, as after a
loss of Redis). Then:

    lateness      a thousand more come due, 50 a second: from a timer's due moment to its firing, by the
                  record; p50 and p99
    on the queue  ten thousand more are due in one instant, and nobody consumes: until the last is on its
                  queue. The ids in the messages are counted: each is there once
    handed off    ten thousand more, and the workers consume: until the last has fired in the record, which is
                  the transaction that leaves its run's handoff; history is counted: each has ended once
"""

from __future__ import annotations

import json
import time
from uuid import UUID

from benchmarks.bench.copies import copy_run
from benchmarks.bench.figures import Figure, percentile
from benchmarks.bench.fleet import Fleet, Stand, pause, wait_for
from benchmarks.bench.options import Options
from benchmarks.bench.waits import NAPS, nap, registry
from orchestrator import RunStatus
from orchestrator.fleet.timer_index import FIRE

PART = "timers"
APP = "benchmarks.bench.waits_app"
CROWDS, QUICK_CROWDS = (100_000, 1_000_000), (10_000,)
PUNCTUAL, QUICK_PUNCTUAL = 1_000, 200
INSTANT, QUICK_INSTANT = 10_000, 2_000
WORKERS = 2
PER_SECOND = 50
WARM_UP = 20  # timers: each worker has connected, and has its statements planned
AHEAD_SECONDS = 5.0
"""Timers are armed so long before they are due, and longer, the more there are."""
INDEXED_PER_SECOND = 2_000  # with room to spare
DUE, EPOCH = "perennial:due", "perennial:epoch"
LATENESS_MILLISECONDS_MAX, INSTANT_SECONDS_MAX = 100.0, 5.0
NOBODYS = "nobody-s"
ENVIRONMENT: dict[str, str] = {}
"""Of the workers: their settings are the defaults."""

Samples = dict[str, list[float]]


def measure(options: Options) -> list[Figure]:
    """For each crowd, each figure."""
    crowds = (options.runs,) if options.runs else QUICK_CROWDS if options.quick else CROWDS
    figures = []
    with Stand.open(options) as stand:
        for crowd in crowds:
            with stand.fleet(
                APP,
                registry=registry,
                workers=WORKERS,
                pool=options.pool,
                arguments=("-Q", f"celery,{NAPS}"),
                environment=ENVIRONMENT,
            ) as fleet:
                figures += _of_a_crowd(stand, fleet, crowd, options)
    return figures


def _of_a_crowd(stand: Stand, fleet: Fleet, crowd: int, options: Options) -> list[Figure]:
    run = fleet.client.start(nap.name).run_id
    wait_for("a run to sleep", lambda: fleet.client.get(run).status is RunStatus.WAITING)
    rebuilt = _arm(stand, fleet, run, crowd, options)
    _lateness(fleet, run, WARM_UP, options)
    instant = QUICK_INSTANT if options.quick else INSTANT
    late: Samples = {"p50": [], "p99": []}
    fired, ended = [], []
    for number in range(options.rounds):
        options.console.print(f"{crowd:,} armed: round {number + 1} of {options.rounds}")
        found = _lateness(fleet, run, QUICK_PUNCTUAL if options.quick else PUNCTUAL, options)
        for name, percent in (("p50", 50), ("p99", 99)):
            late[name].append(percentile(found, percent) * 1000)
        for samples, seconds in zip(
            (fired, ended), _fire(fleet, run, instant, options), strict=True
        ):
            samples.append(seconds)
    fleet.stop_workers()  # not `cancel_consumer`: the BRPOP that is under way would still take a message
    fleet.start_workers(WORKERS, pool=options.pool, arguments=("-Q", NOBODYS))
    moved = [_move(fleet, run, instant, options) for _ in range(options.rounds)]
    armed = f"{crowd:,} armed"
    return [
        Figure(PART, f"late, p50, {armed}", "ms", tuple(late["p50"])),
        Figure(
            PART, f"late, p99, {armed}", "ms", tuple(late["p99"]), at_most=LATENESS_MILLISECONDS_MAX
        ),
        *(
            Figure(
                PART,
                f"{instant:,} in one instant {what}, {armed}",
                "s",
                tuple(samples),
                at_most=at_most,
            )
            for what, samples, at_most in (
                ("on the queue", moved, INSTANT_SECONDS_MAX),
                ("fired and handed off", fired, INSTANT_SECONDS_MAX),
                ("over, with their turns", ended, None),
            )
        ),
        Figure(PART, f"the index is built anew, {armed}", "s", (rebuilt,)),
    ]


def _arm(stand: Stand, fleet: Fleet, run: UUID, crowd: int, options: Options) -> float:
    """Copies that are due in one to five hours, and the index of them: how long its building took."""
    changes = {
        "timer.due_at": "now() + interval '1 hour' + random() * interval '4 hours'",
        "timer.indexed": "true",
    }
    copy_run(fleet.engine, run, crowd, changes=changes, console=options.console)
    fleet.rows("VACUUM (ANALYZE)")
    stand.administer("CHECKPOINT")
    redis = fleet.redis()
    redis.delete(EPOCH)
    began = time.monotonic()
    wait_for("the index to be built", lambda: redis.exists(EPOCH), every_seconds=0.1)
    took = time.monotonic() - began
    assert redis.zcard(DUE) == crowd + 1, redis.zcard(DUE)
    return took


def _lateness(fleet: Fleet, run: UUID, count: int, options: Options) -> list[float]:
    """Seconds, of so many timers that come due one after the other."""
    due = f"now() + {AHEAD_SECONDS} * interval '1 second' + random() * {count / PER_SECOND} * interval '1 second'"
    began = _now(fleet)
    _arm_more(fleet, run, count, due, options)
    _wait_until_ended(fleet)
    rows = fleet.rows(
        """SELECT extract(epoch FROM fired_at - due_at) AS late FROM perennial.timer
        WHERE state = 'fired' AND fired_at >= to_timestamp(:began)""",
        began=began,
    )
    assert len(rows) == count, len(rows)
    return [float(row.late) for row in rows]


def _fire(fleet: Fleet, run: UUID, count: int, options: Options) -> tuple[float, float]:
    """Seconds until the last of so many has fired, and until the last of their runs has ended."""
    began = _now(fleet)
    at = _arm_instant(fleet, run, count, options)
    _wait_until_ended(fleet)
    ((fired, last),) = fleet.rows(
        """SELECT count(*), extract(epoch FROM max(fired_at)) FROM perennial.timer
        WHERE state = 'fired' AND fired_at >= to_timestamp(:began)""",
        began=began,
    )
    ((told, runs),) = fleet.rows(
        """SELECT count(*), count(DISTINCT run_id) FROM perennial.history
        WHERE event = 'sleep ended' AND at >= to_timestamp(:began)""",
        began=began,
    )
    assert fired == told == runs == count, (fired, told, runs, count)
    ((ended,),) = fleet.rows("SELECT extract(epoch FROM max(closed_at)) FROM perennial.run")
    return float(last) - at, float(ended) - at


def _move(fleet: Fleet, run: UUID, count: int, options: Options) -> float:
    """Seconds until the last of so many is on its queue; each is in one message, and in one only."""
    redis = fleet.redis()
    redis.delete(NAPS)
    before = redis.zcard(DUE)
    at = _arm_instant(fleet, run, count, options)
    wait_for(
        "all to be moved", lambda: redis.zcard(DUE) <= before, every_seconds=0.005
    )  # one clock: this machine's
    took = time.time() - at
    messages = [json.loads(message) for message in redis.lrange(NAPS, 0, -1)]
    moved = [
        timer
        for message in messages
        if message["headers"]["task"] == FIRE
        for timer in json.loads(message["body"])[0][0].split(",")
    ]
    assert len(moved) == len(set(moved)) == count, (len(moved), len(set(moved)), count)
    return took


def _arm_instant(fleet: Fleet, run: UUID, count: int, options: Options) -> float:
    """So many timers that are due in one moment, and in the index by then; when that is, in Unix time."""
    redis = fleet.redis()
    before = redis.zcard(DUE)
    at = _now(fleet) + AHEAD_SECONDS + count / INDEXED_PER_SECOND
    _arm_more(fleet, run, count, f"to_timestamp({at})", options)
    wait_for("all to be in the index", lambda: redis.zcard(DUE) >= before + count)
    assert _now(fleet) < at, "the index took too long: let them be armed earlier"
    pause(max(0.0, at - _now(fleet)))
    return at


def _arm_more(fleet: Fleet, run: UUID, count: int, due: str, options: Options) -> None:
    changes = {"timer.due_at": due, "timer.indexed": "false"}
    copy_run(fleet.engine, run, count, changes=changes, console=options.console)


def _wait_until_ended(fleet: Fleet) -> None:
    """Until nothing is due, nor to be taken. What is asked reads the first entries of three indexes."""
    wait_for(
        "runs to end",
        lambda: fleet.rows(
            """SELECT NOT EXISTS (SELECT FROM perennial.outbox) AND least(
                (SELECT min(due_at) FROM perennial.timer WHERE state = 'armed' AND indexed),
                (SELECT min(due_at) FROM perennial.timer WHERE state = 'armed' AND NOT indexed)
            ) > now() + interval '30 minutes'"""
        )[0][0],
        every_seconds=0.1,
    )


def _now(fleet: Fleet) -> float:
    return float(fleet.rows("SELECT extract(epoch FROM clock_timestamp())")[0][0])
