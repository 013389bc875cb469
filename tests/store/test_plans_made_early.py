"""A plan that was made while the tables were empty is kept while they grow: it finds its rows by key too.

A worker's first plans are made so, and so are those after each VACUUM that finds an empty outbox. For a table
without rows Postgres would as well read all of an index; with a million rows, that reads them all each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from psycopg import Connection, sql

from orchestrator import Flow, RunStatus, hours, process, stage, step
from orchestrator.engine.fire import fire
from tests.eager import GoesOn, go_in_a_batch
from tests.harness import Database, Harness
from tests.store.test_plans import nodes_of, play

FOUND_BY_KEY = {"run", "outbox", "timer", "approval"}
"""In these the rows grow that a statement of a turn must not look at: all runs, deadlines and askings, the backlog."""

FIRED_BY_KEY = FOUND_BY_KEY | {"activity", "signal"}
"""A timer that fires must not look at what other runs wait for."""

FOUND_OTHERWISE = {
    "what_needs_care",
    "take_due_handoffs",
    "overdue_timers",
    "indexed_timers",
    "make_all_handoffs_due",  # a rebuild, of all of them
}

Plan = dict[str, Any]


@pytest.fixture(params=["never analysed", "analysed empty"])
def early(request: Any, database: Database) -> Iterator[Harness]:
    if request.param == "analysed empty":
        database.empty()
        with database.psycopg(autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")
    with Harness(database) as harness:
        yield harness
    database.set_clock(None)


def play_together(harness: Harness) -> None:
    """Two runs that go on together, to their first approval and to their end; and one that expires."""

    @stage(registry=harness.registry)
    def short() -> int:
        return step(abs, -1)

    @process(version=1, registry=harness.registry)
    async def several(flow: Flow) -> int:
        await flow.stage(short)
        await flow.step(abs, -1)
        await flow.approval("m", assign=["bob"], timeout=hours(2))
        return await flow.stage(short)

    runs = [harness.start(several).run_id for _ in range(2)]
    go_on = partial(go_in_a_batch, harness.context, runs, lambda _run: GoesOn())
    go_on()  # to the flow's step
    go_on()  # to the approval
    for run in runs:
        harness.client.approve(run, by="bob")
    go_on()
    assert [harness.client.result(run) for run in runs] == [1, 1]
    expiring = harness.client.start(several, expires_in=hours(1)).run_id
    harness.move(hours=1)
    fire(harness.context, expiring)  # its expiry has the run's own id
    assert harness.client.get(expiring).status is RunStatus.EXPIRED


def kept_plans(driver: Connection[Any]) -> Iterator[tuple[str, Plan]]:
    """Each plan that a session has kept of a named statement, with its name."""
    prepared = driver.execute(
        "SELECT name, statement, cardinality(parameter_types) FROM pg_prepared_statements"
    ).fetchall()
    for kept, text, inputs in prepared:
        named = re.match(r"/\* perennial:(\w+) \*/", text)
        if named is not None:
            nulls = sql.SQL("({})").format(sql.SQL(", ").join([sql.NULL] * inputs))
            explain = sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE {}{}").format(
                sql.Identifier(kept), nulls if inputs else sql.SQL("")
            )
            ((found,),) = driver.execute(explain).fetchall()
            yield named[1], found[0]["Plan"]


def is_by_key(node: Plan) -> bool:
    condition = node.get("Index Cond") or node.get("Recheck Cond") or node.get("TID Cond") or ""
    return re.search(r"\b(run_id|id|ctid) = ", condition) is not None


def test_a_plan_that_was_made_early_finds_its_rows_by_key(early):
    play(early)
    play_together(early)
    looked_at, wrong = set(), []
    with early.context.connection() as connection:
        for name, plan in kept_plans(connection.connection.driver_connection):
            looked_at.add(name)
            wrong += [
                f"{name}: {node['Node Type']} of {node['Relation Name']}: {node.get('Filter')}"
                for node in nodes_of(plan)
                if node.get("Relation Name")
                in (FIRED_BY_KEY if name == "fire_timers" else FOUND_BY_KEY)
                and "Scan" in node["Node Type"]
                and name not in FOUND_OTHERWISE
                and not is_by_key(node)
            ]
    assert wrong == []
    assert {
        "hold_turn",
        "commit_turn",
        "claim_activity",
        "remember_flow_step",
        "close_run",
        "fire_timers",
    } <= looked_at
