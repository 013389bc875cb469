"""(g) What a claim and a commit cost with 10 thousand, 100 thousand and a million retained runs.

Databases on one server, alike but for the number of runs that have ended in them (a stage, an approval that
somebody has given, its timers and its history; copies of a real one). The engine in this process, on one
connection, takes runs of the five-stage chain through each of them in turns, some at a time, so that whatever
disturbs the machine disturbs all. Timed are the two statements of a stage, and the whole of it as a worker does
it (`run_stage`: claim, work, commit, with what Python does in between).

First after VACUUM, then after an hour's churn at 50 stages a second, as dead rows: 180 thousand stages that
were handed off, claimed and settled, with VACUUM held off until the end, in tables and indexes alike.

The figures are ratios: the median in each database by that in the smallest, round by round.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine, create_engine, text

from benchmarks.bench import processes, waits
from benchmarks.bench.copies import copy_run
from benchmarks.bench.figures import Figure
from benchmarks.bench.fleet import Stand
from benchmarks.bench.inline import Inline
from benchmarks.bench.options import Options
from orchestrator.engine import stage
from orchestrator.store.statement import Statement

PART = "retained"
SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (1_000, 20_000)
CHURN, QUICK_CHURN = 180_000, 10_000
CHURN_SHARE = 1_000
RUNS_A_TURN, TURNS_A_ROUND = 5, 20
WARM_UP = 20
AT_MOST = 1.2
CLAIM, COMMIT, WHOLE = "claim", "commit", "claim, work and commit"
STATEMENTS = {"claim_activity": CLAIM, "commit_turn": COMMIT}

Times = dict[str, list[float]]


@dataclass
class Place:
    """One of the databases, with an engine that works on it."""

    size: int
    inline: Inline
    admin: Engine

    def execute(self, sql: str) -> None:
        """One statement, aside."""
        with self.admin.connect() as connection:
            connection.execute(text(sql))


def measure(options: Options) -> list[Figure]:
    """Ratios, in both states, and the milliseconds they are of."""
    sizes = QUICK_SIZES if options.quick else SIZES
    if options.runs is not None:
        sizes = (max(1, options.runs // 10), options.runs)
    with Stand.open(options) as stand, ExitStack() as stack:
        stand.administer("ALTER SYSTEM SET autovacuum = off")
        stand.administer("SELECT pg_reload_conf()")
        places = [stack.enter_context(_place(stand, size, options)) for size in sizes]
        figures = _compared(stand, places, "after VACUUM", options)
        for place in places:
            options.console.print(f"churn among {place.size:,} retained")
            _churn(place, min(options.size(CHURN, QUICK_CHURN), CHURN))
        return figures + _compared(stand, places, "after churn", options)


@contextmanager
def _place(stand: Stand, size: int, options: Options) -> Iterator[Place]:
    """A database in which so many runs have ended."""
    with stand.database() as url:
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        with Inline.open(url, waits.registry) as inline:
            ended = inline.run(waits.ask, waits.a_request(1), key="REQ-1")
            inline.client.approve(ended, by="bob.smith")
            inline.go_on(ended)
        copy_run(admin, ended, size, console=options.console)
        with Inline.open(url, processes.registry) as inline:
            place = Place(size, inline, admin)
            place.execute("VACUUM (ANALYZE)")
            yield place
            admin.dispose()


def _compared(stand: Stand, places: list[Place], state: str, options: Options) -> list[Figure]:
    stand.administer("CHECKPOINT")
    for place in places:
        _times(place, WARM_UP)
    medians: dict[tuple[int, str], list[float]] = defaultdict(list)
    for number in range(options.rounds):
        options.console.print(f"{state}: round {number + 1} of {options.rounds}")
        found: dict[tuple[int, str], list[float]] = defaultdict(list)
        for turn in range(TURNS_A_ROUND):
            for place in places if turn % 2 else reversed(places):
                for what, seconds in _times(place, RUNS_A_TURN).items():
                    found[place.size, what] += seconds
        for key, seconds in found.items():
            medians[key].append(statistics.median(seconds) * 1000)
    figures = []
    for what in (CLAIM, COMMIT, WHOLE):
        least = medians[places[0].size, what]
        name = f"{what}, {places[0].size:,} retained, {state}"
        figures.append(Figure(PART, name, "ms", tuple(least)))
        figures += [
            Figure(
                PART,
                f"{what}, {place.size:,} ÷ {places[0].size:,} retained, {state}",
                "×",
                tuple(
                    more / less for more, less in zip(medians[place.size, what], least, strict=True)
                ),
                at_most=AT_MOST,
            )
            for place in places[1:]
        ]
    return figures


def _times(place: Place, runs: int) -> Times:
    """Of each stage of so many runs of the chain."""
    found: Times = defaultdict(list)
    whole = stage.run_stage

    def timed_statement(statement: Statement, connection: Any, **parameters: object) -> Any:
        began = time.perf_counter()
        rows = rows_of(statement, connection, **parameters)
        what = STATEMENTS.get(statement.name)
        if what is not None:
            found[what].append(time.perf_counter() - began)
        return rows

    def timed_stage(*arguments: Any) -> None:
        began = time.perf_counter()
        whole(*arguments)
        found[WHOLE].append(time.perf_counter() - began)

    rows_of = Statement.rows
    with (
        patch.object(Statement, "rows", timed_statement),
        patch("benchmarks.bench.inline.run_stage", timed_stage),
    ):
        for number in range(runs):
            place.inline.run(processes.chain, number)
    return found


def _churn(place: Place, stages: int) -> None:
    """Rows as so many stages leave them, live and dead, of a thousand runs at a time that are under way at once.

    The writes are those that the statements of the store make, each for a thousand runs and committed.
    """
    with place.admin.connect() as connection:
        connection.execute(
            text("SET session_replication_role = replica")
        )  # no trigger, no foreign key
        connection.execute(text("CREATE TEMP TABLE churn (id uuid PRIMARY KEY)"))
        for _ in range(0, stages, CHURN_SHARE * processes.STEPS):
            for statement in (*_START, *(_HAND_OFF + _CLAIM + _SETTLE) * processes.STEPS, *_END):
                connection.execute(text(statement), {"count": CHURN_SHARE})
        connection.execute(text("SET session_replication_role = origin"))
        connection.execute(text("DROP TABLE churn"))


_KEY = "'stage-' || r.revision"

_START = (
    "TRUNCATE churn",
    "INSERT INTO churn SELECT uuidv7() FROM generate_series(1, CAST(:count AS int))",
    """INSERT INTO perennial.run (id, process, version, status, input)
    SELECT id, 'chain', 1, 'running', '1' FROM churn ORDER BY id""",
)
_HAND_OFF = (
    """UPDATE perennial.run r SET revision = revision + 1, turn_revision = revision + 1, stage = 'first',
        last_progress_at = perennial.now() FROM churn WHERE r.id = churn.id""",
    f"""INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state, policy, input)
    SELECT r.id, {_KEY}, r.revision, 'stage', 'first', 'pending', '{{"max_attempts": 3, "delay_seconds": 1}}',
        '{{"number": 1}}' FROM perennial.run r JOIN churn USING (id) ORDER BY r.id""",
    f"""INSERT INTO perennial.outbox (run_id, key, attempt, task, publishes, publish_at)
    SELECT r.id, {_KEY}, 1, 'first', 1, perennial.now() + interval '5 seconds'
    FROM perennial.run r JOIN churn USING (id) ORDER BY r.id""",
    f"""INSERT INTO perennial.history (run_id, actor, event, key, attempt, from_status, to_status)
    SELECT r.id, 'flow', 'stage handed off', {_KEY}, 1, 'running', 'running'
    FROM perennial.run r JOIN churn USING (id) ORDER BY r.id""",
)
_CLAIM = (
    """UPDATE perennial.activity a SET state = 'claimed', worker_id = gen_random_uuid(),
        claimed_at = perennial.now() FROM churn WHERE a.run_id = churn.id AND a.state = 'pending'""",
    "DELETE FROM perennial.outbox o USING churn WHERE o.run_id = churn.id",
)
_SETTLE = (
    """UPDATE perennial.activity a SET state = 'done', result = '2', settled_at = perennial.now()
    FROM churn WHERE a.run_id = churn.id AND a.state = 'claimed'""",
    f"""INSERT INTO perennial.history (run_id, actor, event, key, attempt, from_status, to_status)
    SELECT r.id, 'a-worker-of-the-fleet:12345', 'stage done', {_KEY}, 1, 'running', 'running'
    FROM perennial.run r JOIN churn USING (id) ORDER BY r.id""",
)
_END = (
    """UPDATE perennial.run r SET status = 'completed', closed_at = perennial.now(), output = '6'
    FROM churn WHERE r.id = churn.id""",
)
