"""Every statement of the main path finds its rows by an index, however many runs wait or have ended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from orchestrator import Flow, Retry, RunFilter, RunStatus, hours, process, stage, step
from orchestrator.engine.sweep import rebuild_index, sweep
from orchestrator.errors import DecisionRefused
from orchestrator.store.reads import incidents, selecting
from orchestrator.store.statement import Statement
from orchestrator.store.transitions import outbox, workers
from tests.harness import Database, Harness

OTHER_RUNS = 10_000

CROWD = f"""
INSERT INTO perennial.process (name, version, fingerprint, kind, spec) VALUES ('crowd', 1, '', 'python', '{{}}');
INSERT INTO perennial.run (id, process, version, business_key, status, waiting_for, closed_at)
    SELECT gen_random_uuid(), 'crowd', 1, 'crowd-' || n, CASE WHEN n % 2 = 0 THEN 'waiting' ELSE 'completed' END,
        'approval m', CASE WHEN n % 2 = 1 THEN perennial.now() END
    FROM generate_series(1, {OTHER_RUNS}) n;
INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state, settled_at)
    SELECT id, key, 1, 'approval', key, CASE WHEN closed_at IS NULL THEN 'pending' ELSE 'done' END, closed_at
    FROM perennial.run, unnest(ARRAY['m', 'n']) key;
INSERT INTO perennial.approval (run_id, key, name, assignees, state) SELECT id, 'm', 'm', '{{someone}}',
    CASE WHEN closed_at IS NULL THEN 'open' ELSE 'cancelled' END FROM perennial.run;
INSERT INTO perennial.timer (id, run_id, key, kind, due_at, state)
    SELECT gen_random_uuid(), id, 'm', 'approval-timeout', perennial.now() + interval '2 days',
        CASE WHEN closed_at IS NULL THEN 'armed' ELSE 'cancelled' END FROM perennial.run;
INSERT INTO perennial.signal (id, run_id, name, consumed_key)
    SELECT gen_random_uuid(), id, 'go', 'go' FROM perennial.run;
INSERT INTO perennial.history (run_id, actor, event) SELECT id, 'x', 'started' FROM perennial.run;
"""


class Plans:
    """Explains every statement before it runs."""

    def __init__(self) -> None:
        self.by_name: dict[str, list[str]] = {}

    def rows(self, statement: Statement, connection: Any, **parameters: object) -> Any:
        explain = Statement(statement.name, f"EXPLAIN (FORMAT JSON) {statement.sql}")
        with suppress(AssertionError):
            found = ROWS(explain, connection, **parameters)[0][0]
            plan = found if isinstance(found, list) else json.loads(found)
            self.by_name.setdefault(statement.name, []).append(json.dumps(plan))
        return ROWS(statement, connection, **parameters)

    def scans(self) -> dict[str, set[str]]:
        """For each statement, the tables it reads from end to end."""
        found: dict[str, set[str]] = {}
        for name, plans in self.by_name.items():
            for plan in plans:
                for node in nodes_of(json.loads(plan)[0]["Plan"]):
                    if node["Node Type"] == "Seq Scan":
                        found.setdefault(name, set()).add(node["Relation Name"])
        return found


ROWS = Statement.rows


def explained_by(plans: Plans) -> Any:
    def rows(statement: Statement, connection: Any, **parameters: object) -> Any:
        return plans.rows(statement, connection, **parameters)

    return rows


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes_of(child)


@pytest.fixture(scope="module")
def crowd(database: Database) -> Database:
    with database.engine.begin() as connection:
        for statement in CROWD.split(";\n"):
            if statement.strip():
                connection.execute(text(statement))
        connection.execute(text("ANALYZE"))
    return database


@pytest.fixture
def crowded(crowd: Database) -> Iterator[Harness]:
    with Harness(crowd) as harness:
        yield harness
    crowd.set_clock(None)


def play(harness: Harness) -> None:
    """Every verb of the main path, once."""

    @stage(registry=harness.registry, retry=Retry(delay_seconds=0))
    def work() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        return step(abs, -1)

    tries: list[int] = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        await flow.stage(work)
        await flow.step(abs, -1)
        await flow.approval("m", assign=["bob"], escalate={hours(1): ["carol"]}, timeout=hours(2))
        with suppress(TimeoutError):
            await flow.signal("go", timeout=hours(1))
        await flow.sleep(60)
        return 1

    harness.freeze()
    run = harness.start(p, key="REQ-1")
    harness.client.start(p, key="REQ-1")
    harness.drain()
    harness.move(hours=1)
    harness.drain()
    with suppress(DecisionRefused):
        harness.client.approve(run, by="eve")
    harness.client.approve(run, by="bob")
    harness.client.operations.pause(run)
    harness.client.operations.resume(run)
    harness.drain()
    harness.client.signal(run, "go", signal_id="a")
    harness.drain()
    harness.move(hours=1)
    sweep(harness.context)
    rebuild_index(harness.context)
    harness.recover(2)
    assert harness.client.result("REQ-1") == 1
    harness.client.cancel(harness.run(p, key="REQ-2"))
    verbs = harness.client.operations
    copy = verbs.fork("REQ-1", at="m", operation="a try").new_run_id
    assert verbs.fork("REQ-1", at="m", operation="a try").new_run_id == copy
    verbs.rewind("REQ-1", "m", even_if_completed=True)
    for again in ("REQ-1", copy):
        harness.client.cancel(again)


def test_no_statement_of_the_main_path_reads_a_table_from_end_to_end(crowded, monkeypatch):
    plans = Plans()
    monkeypatch.setattr(Statement, "rows", explained_by(plans))
    play(crowded)
    allowed = {
        "outbox",
        "worker",
        "process",
        "process_revision",
    }  # a handful of rows each; outbox holds what isn't claimed yet
    wrong = {name: tables - allowed for name, tables in plans.scans().items() if tables - allowed}
    assert wrong == {}
    assert {
        "start_runs",
        "claim_activity",
        "commit_turn",
        "load_run",
        "remember_step",
        "signal_run",
        "decide_approval",
    } <= set(plans.by_name)


def test_an_idle_look_touches_no_run_that_waits(crowded):
    """what_needs_care reads partial indexes: in each at most what comes next."""
    with crowded.context.connection() as connection:
        row = Statement("explain", f"EXPLAIN (ANALYZE, FORMAT JSON) {workers._CARE.sql}").row(
            connection, horizon_seconds=6 * 3600, grace_seconds=2, dead_after=6, timeout_grace=10
        )
    nodes = list(nodes_of(row[0][0]["Plan"]))
    read = {node["Relation Name"]: node for node in nodes if "Relation Name" in node}
    assert "run" not in read
    assert {"timer", "activity"} <= set(read)
    for name in ("timer", "activity"):
        assert "Index" in read[name]["Node Type"] or "Bitmap" in read[name]["Node Type"], read[name]
    read_rows = sum(
        node["Actual Rows"] * node["Actual Loops"] for node in nodes if "Relation Name" in node
    )
    assert read_rows <= len(read)  # the next timer to come, and no more
    filtered = sum(node.get("Rows Removed by Filter", 0) for node in nodes)
    assert filtered == 0


def test_a_relays_share_reads_a_share_of_the_flood_and_not_the_rest(crowded):
    """By the index, from both ends; what was locked is found again by its place. Guards `ctid` in `_DUE`."""
    flood = (
        "INSERT INTO perennial.outbox (run_id, key, attempt, task, publish_at) "
        "SELECT id, '', 1, 'perennial.advance', perennial.now() FROM perennial.run"
    )
    with crowded.database.engine.connect() as connection:  # nothing is committed
        connection.execute(text(flood))
        row = Statement("explain", f"EXPLAIN (ANALYZE, FORMAT JSON) {outbox._DUE.sql}").row(
            connection, relay_after=5, dead_after=6, longest_seconds=300, limit=50, looked_at=500
        )
    nodes = [node for node in nodes_of(row[0][0]["Plan"]) if node.get("Relation Name") == "outbox"]
    assert {node["Node Type"] for node in nodes} == {"ModifyTable", "Index Scan", "Tid Scan"}
    scans = [node for node in nodes if node["Node Type"] != "ModifyTable"]
    assert sum(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in scans) <= 200


@pytest.mark.parametrize(
    ("index", "query"),
    [
        (
            "approval_inbox",
            "SELECT key FROM perennial.approval WHERE state = 'open' AND assignees @> ARRAY['bob']",
        ),
        (
            "run_business_key_process_key",
            "SELECT id FROM perennial.run WHERE business_key = 'crowd-7'",
        ),
        (
            "timer_to_index",
            "SELECT id FROM perennial.timer WHERE state = 'armed' AND NOT indexed ORDER BY due_at LIMIT 9",
        ),
        (
            "timer_indexed",
            "SELECT id FROM perennial.timer WHERE state = 'armed' AND indexed ORDER BY due_at LIMIT 9",
        ),
        (
            "history_of_run",
            "SELECT id FROM perennial.history WHERE run_id = '01a2117e-f0a0-76cb-8452-d7e79e168353'",
        ),
        (
            "activity_claimed",
            "SELECT key FROM perennial.activity WHERE state = 'claimed' AND worker_id = gen_random_uuid()",
        ),
        (
            "signal_buffered",
            "SELECT id FROM perennial.signal WHERE consumed_key IS NULL AND run_id = gen_random_uuid()",
        ),
    ],
)
def test_an_index_serves_what_it_was_made_for(crowded, index, query):
    plan = "\n".join(row[0] for row in crowded.database.rows(f"EXPLAIN {query}"))
    assert re.search(rf"\b{index}\b", plan), plan


def asked_of(engine: Engine, act: Callable[[], object]) -> tuple[str, Any]:
    """The one query that `act` sends there, and its parameters."""
    asked: list[Any] = []

    def note(_connection, _cursor, sql, parameters, *_rest) -> None:
        asked.append((sql, parameters))

    event.listen(engine, "before_cursor_execute", note)
    act()
    event.remove(engine, "before_cursor_execute", note)
    (query,) = asked
    return query


def ways_of(connection: Connection, query: tuple[str, Any]) -> set[str]:
    """The kinds of its plan's nodes, as that session plans it."""
    sql, parameters = query
    (found,) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters).one()
    return {node["Node Type"] for node in nodes_of(found[0]["Plan"])}


@pytest.mark.parametrize("read", ["counts", "approvals"])
def test_a_read_of_many_rows_is_planned_as_postgres_likes_and_a_transition_is_not(crowded, read):
    """What is asked of nearly all rows reads the table: by an index it would read the same, and hop. A transition
    must not, though the table is small now. (docs/adr/0041)
    """
    client, worker = crowded.client, crowded.context
    acts = {"counts": lambda: client.operations.counts("crowd"), "approvals": client.approvals}
    query = asked_of(client._context.reads, acts[read])
    forbidden = {"Seq Scan", "Hash Join", "Merge Join"}
    with client._context.reading() as reads, worker.reading() as bulk:
        assert "Seq Scan" in ways_of(reads, query)
        assert "Seq Scan" in ways_of(bulk, query)
    with worker.connection() as each:
        assert not forbidden & ways_of(each, query)
    with worker.transaction() as together:
        assert not forbidden & ways_of(together, query)


def test_a_read_is_planned_for_its_parameters_each_time(crowded):
    """Nothing is prepared, so no plan is kept that was made for other rows; a transition's plan is kept."""
    client = crowded.client
    for process_name in ("crowd", "another", "crowd"):
        client.list(process=process_name, limit=5)
    with client._context.reading() as reads, client._context.connection() as each:
        for connection, mode in ((reads, "auto"), (each, "force_generic_plan")):
            assert connection.exec_driver_sql("SHOW plan_cache_mode").scalar_one() == mode
        kept = "SELECT count(*) FROM pg_prepared_statements"
        assert reads.exec_driver_sql(kept).scalar_one() == 0


def test_incidents_are_listed_from_their_index(crowded):
    """It is made of what every incident has, and not of `status` itself. Guards `error` in `list_runs`."""
    client = crowded.client

    def act() -> None:
        assert client.list(status=RunStatus.INCIDENT) == []

    query = asked_of(client._context.reads, act)
    with crowded.database.psycopg() as connection:
        plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {query[0]}", query[1]))
    assert "run_incident" in plan, plan


@pytest.mark.parametrize(
    "where",
    [{"n": 7}, {"n": ("in", [7, 8])}, {"tags": ("contains", "t7")}, {"n": 7, "m": (">", 100)}],
    ids=str,
)
def test_runs_are_listed_by_their_attributes_from_the_index(crowded, where):
    """However rare or common a value is: Postgres would read all runs from the newest on, and hope to meet it."""
    client = crowded.client
    query = asked_of(client._context.reads, lambda: client.list(where=where))
    with crowded.database.engine.connect() as connection:  # nothing is committed
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.execute(
            text(
                "UPDATE perennial.run SET attributes = jsonb_build_object('n', n, 'm', n, 'tags', jsonb_build_array('t'"
                " || n)) FROM (SELECT id AS which, row_number() OVER () AS n FROM perennial.run) all_of_them"
                " WHERE id = which"
            )
        )
        connection.exec_driver_sql("ANALYZE perennial.run")
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # of so few rows it would
        sql, parameters = query
        (found,) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters).one()
    read = {
        node.get("Index Name", node["Node Type"])
        for node in nodes_of(found[0]["Plan"])
        if node.get("Relation Name") == "run" or "Index Name" in node
    }
    assert "run_attributes" in read
    assert "Seq Scan" not in read


FAILED = f"""
UPDATE perennial.run SET error = jsonb_build_object('type', 'E', 'message', 'm', 'cause', 'c' || ordinal % 3,
    'cause_is', jsonb_build_object('type', 'E', 'place', 'ship', 'text', 'm')), status = 'failed'
FROM (SELECT id AS which, row_number() OVER () AS ordinal FROM perennial.run
    WHERE closed_at IS NOT NULL LIMIT {OTHER_RUNS // 100}) few WHERE id = few.which
"""
SOME_FAILED = (RunStatus.FAILED,)


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        (RunFilter(process="crowd", statuses=SOME_FAILED), "run_error"),
        (RunFilter(cause="c1", statuses=SOME_FAILED), "run_error"),
        (RunFilter(process="crowd", cause="c1", statuses=SOME_FAILED), "run_error"),
        (RunFilter(error_type="E", stage="ship", statuses=SOME_FAILED), "run_error"),
        (RunFilter(process="crowd", statuses=(RunStatus.INCIDENT,)), "run_incident"),
        (RunFilter(process="crowd", statuses=(RunStatus.WAITING,)), "run_open"),
        (RunFilter(key="crowd-7"), "run_business_key_process_key"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.in_words(),
)
def test_a_verb_over_many_runs_finds_them_by_an_index(crowded, asked, index):
    """Of what is open, of what ended with an error, or by the key; and no filter reads all runs."""
    with crowded.database.engine.connect() as connection:  # nothing is committed
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.execute(text(FAILED))
        connection.exec_driver_sql("ANALYZE perennial.run")
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # of so few rows it would
        statuses = asked.statuses or tuple(RunStatus)
        query = selecting._by_index(asked, statuses).limit(10)
        (found,) = connection.execute(
            text(
                f"EXPLAIN (FORMAT JSON) {query.compile(connection, compile_kwargs={'literal_binds': True})}"
            )
        ).one()
    nodes = list(nodes_of(found[0]["Plan"]))
    assert index in {node.get("Index Name") for node in nodes}
    assert "Seq Scan" not in {node["Node Type"] for node in nodes}


def test_causes_are_grouped_from_the_indexes_of_errors(crowded):
    """Whatever else has ended, or waits."""
    with crowded.database.engine.connect() as connection:  # nothing is committed
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.execute(text(FAILED))
        connection.exec_driver_sql("ANALYZE perennial.run")
        errors = incidents._errors(None, datetime.now(UTC), with_failed=True)
        query = incidents._by_cause(errors, None)
        (found,) = connection.execute(
            text(
                f"EXPLAIN (FORMAT JSON) {query.compile(connection, compile_kwargs={'literal_binds': True})}"
            )
        ).one()
        causes = incidents.read_causes(connection)
    nodes = list(nodes_of(found[0]["Plan"]))
    assert {"run_error", "run_incident"} <= {node.get("Index Name") for node in nodes}
    assert not [
        node
        for node in nodes
        if node.get("Relation Name") == "run" and node["Node Type"] == "Seq Scan"
    ]
    assert {each.digest for each in causes} == {"c0", "c1", "c2"}
    assert sum(each.runs for each in causes) == OTHER_RUNS // 100


def test_a_run_that_waits_and_goes_on_stays_in_its_place_in_every_index(database):
    """An update that changes no column of any index is done in place (HOT): so no index may name `status`,
    nor what else a turn changes, until the run ends.
    """
    turns = ["status", "stage", "waiting_for", "revision", "last_progress_at", "turn_", "queue"]
    rows = database.rows(
        "SELECT pg_get_indexdef(indexrelid) AS says FROM pg_index WHERE indrelid = 'perennial.run'::regclass"
    )
    assert [row.says for row in rows if any(column in row.says for column in turns)] == []
