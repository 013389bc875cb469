"""In which order statements lock rows, as their plans show it (the order itself: orchestrator/store/transitions).

What a plan shows is which part needs which other: a part that reads what another returns can't lock a row before
that one has. Parts that need only the run's row, and not each other, are run by Postgres in an order of its own.
So that is what is asserted: that each of them needs the run's row, and that no need runs against the order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Transaction

from orchestrator import Flow, process, stage
from orchestrator.engine.stage import run_stage
from orchestrator.engine.sweep import sweep
from orchestrator.engine.turn import advance
from orchestrator.store.statement import Statement
from tests.harness import Database, Harness
from tests.store.statements import every_statement
from tests.store.test_plans import ROWS, nodes_of, play

ORDER = ("run", "timer", "approval", "activity", "outbox")
"""Tables of whose rows two transactions may want the same. New rows are nobody else's."""

WITHOUT_THE_RUN = {
    "claim_activity",
    "deploy_process",
    "replace_process",
    "amend_process",
    "give_back_attempt",
}
"""A hundred stages of one run are claimed at once: an activity, and then its handoff. A deployment changes no run:
a version, and then its revision.
"""

AN_ADVANCE_ALONE = {"CTE seen"}
"""It deletes the handoff of a turn, which no claim takes."""


@dataclass(frozen=True)
class Lock:
    """A node of a plan that locks rows of others' too, and the tables locked before its first row is."""

    part: str
    deletes: bool
    tables: frozenset[str]
    before: frozenset[str]

    @property
    def new(self) -> frozenset[str]:
        """What it is the first to lock."""
        return self.tables - self.before


def plan_of(connection: psycopg.Connection[Any], statement: Statement) -> dict[str, Any]:
    """Its plan for any values: a plan for these would leave out what finds nothing."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement.sql)))
    sql = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", statement.sql)
    values = f"({', '.join(['NULL'] * len(names))})" if names else ""
    connection.execute("SET plan_cache_mode TO force_generic_plan")
    connection.execute(f"PREPARE it AS {sql.replace('%%', '%')}".encode())
    explained = connection.execute(f"EXPLAIN (FORMAT JSON) EXECUTE it{values}".encode())
    (found,) = explained.fetchone() or ()
    connection.execute("DEALLOCATE it")
    return (found if isinstance(found, list) else json.loads(found))[0]["Plan"]  # type: ignore[no-any-return]


def own(node: dict[str, Any]) -> list[dict[str, Any]]:
    """What it is made of: a CTE stands beside, and is reached by who scans it."""
    return [it for it in node.get("Plans", []) if not _name(it).startswith("CTE ")]


def _name(node: dict[str, Any]) -> str:
    return node.get("Subplan Name", "")


def locks_of(plan: dict[str, Any]) -> list[Lock]:
    ctes = {_name(node): node for node in nodes_of(plan) if _name(node).startswith("CTE ")}

    def needed(node: dict[str, Any]) -> Iterator[str]:
        for child in own(node):
            yield from locked_by(child)
            yield from needed(child)
        if node["Node Type"] == "CTE Scan" and (cte := ctes.get(f"CTE {node['CTE Name']}")):
            yield from locked_by(cte)
            yield from needed(cte)

    return [
        Lock(
            _name(node),
            node.get("Operation") == "Delete",
            frozenset(locked_by(node)),
            frozenset(needed(node)),
        )
        for node in nodes_of(plan)
        if set(locked_by(node))
    ]


def locked_by(node: dict[str, Any]) -> Iterator[str]:
    """The tables of which this very node locks rows, or writes runs that are new."""
    if node["Node Type"] == "LockRows":
        yield from scanned(node)
    if node["Node Type"] == "ModifyTable":
        is_new = node["Operation"] == "Insert" and node.get("Conflict Resolution") != "UPDATE"
        if not is_new or node["Relation Name"] == "run":
            yield node["Relation Name"]


def scanned(node: dict[str, Any]) -> Iterator[str]:
    if "Relation Name" in node:
        yield node["Relation Name"]
    for child in own(node):
        if child.get("Parent Relationship") not in ("InitPlan", "SubPlan"):
            yield from scanned(child)


def against_the_order(locks: list[Lock]) -> Iterator[str]:
    for lock in locks:
        for table in lock.new & set(ORDER):
            later = set(ORDER[ORDER.index(table) + 1 :])
            yield from (f"{table} after {other}" for other in lock.before & later)


@pytest.fixture(scope="module")
def locks(database: Database) -> dict[str, list[list[Lock]]]:
    """Of each statement, in each of its forms."""
    found: dict[str, list[list[Lock]]] = {}
    with psycopg.connect(database.libpq_url, autocommit=True) as connection:
        for statement in every_statement():
            each = locks_of(plan_of(connection, statement))
            found.setdefault(statement.name, []).append(each)
    return found


def test_no_statement_locks_rows_against_the_order(locks):
    found = {
        name: sorted(against_the_order(each))
        for name, forms in locks.items()
        for each in forms
        if list(against_the_order(each))
    }
    assert found == {}


def test_what_locks_a_run_locks_it_before_all_that_is_the_runs(locks):
    """Whoever else changes that run by its row waits there, holding nothing of it."""
    late = {
        f"{name}, {lock.part}"
        for name, forms in locks.items()
        for each in forms
        if any("run" in lock.tables for lock in each)
        for lock in each
        if "run" not in lock.tables | lock.before
    }
    assert late == set()
    assert {"commit_turn", "close_run", "decide_approval", "hold_turn"} <= locks.keys()


def test_who_locks_several_tables_without_the_run_is_known(locks):
    several = {
        name
        for name, forms in locks.items()
        for each in forms
        if (tables := set().union(*(lock.tables for lock in each)))
        and len(tables) > 1
        and "run" not in tables
    }
    assert several == WITHOUT_THE_RUN


def test_a_handoff_goes_after_its_activity_as_in_a_claim(locks):
    """A claim holds an activity and wants its handoff. Whoever ends the run and took the handoff first would
    hold that, and want the activity.
    """
    deleted = {
        (name, lock.part): lock
        for name, forms in locks.items()
        for each in forms
        for lock in each
        if lock.deletes
        and lock.tables == {"outbox"}
        and any("activity" in it.tables for it in each)
    }
    assert {part for _, part in deleted} == {"CTE taken", "CTE emptied"} | AN_ADVANCE_ALONE
    for (_, part), lock in deleted.items():
        assert "activity" in lock.before or part in AN_ADVANCE_ALONE


def lose_an_attempt(harness: Harness) -> None:
    """A worker dies in a stage, and a sweep hands it out again."""

    @stage(registry=harness.registry)
    def kills() -> None:
        raise SystemExit

    @process(version=1, registry=harness.registry)
    async def loses(flow: Flow) -> None:
        await flow.stage(kills)

    run = harness.start(loses)
    advance(harness.context, run.run_id)
    with pytest.raises(SystemExit):
        run_stage(harness.context, run.run_id, "kills", 1)
    harness.move(minutes=1)
    assert sweep(harness.context).attempts_recovered == 1


def test_no_transaction_of_several_statements_locks_rows_against_the_order(
    database, locks, monkeypatch
):
    """A lost attempt, a relay's look: what each statement locks, others before it have not."""
    transactions: dict[Transaction, list[str]] = {}

    def rows(statement: Statement, connection: Any, **parameters: object) -> Any:
        if isinstance(connection, Connection) and (it := connection.get_transaction()):
            transactions.setdefault(it, []).append(statement.name)
        return ROWS(statement, connection, **parameters)

    monkeypatch.setattr(Statement, "rows", rows)
    with Harness(database) as harness:
        play(harness)
        lose_an_attempt(harness)
    database.set_clock(None)
    wrong = set()
    for names in transactions.values():
        held: frozenset[str] = frozenset()
        for name in names:
            each = [replace(lock, before=lock.before | held) for lock in locks[name][0]]
            wrong |= {(name, *names) for _ in against_the_order(each)}
            held |= frozenset().union(*(lock.tables for lock in each))
    assert wrong == set()
    assert max(map(len, transactions.values())) > len(ORDER), (
        "a lost attempt takes several statements"
    )


def test_an_order_that_is_wrong_is_found(database):
    """Guards `locks_of` and `against_the_order`."""
    wrong = Statement(
        "wrong",
        """
WITH emptied AS (
    DELETE FROM perennial.outbox o WHERE o.run_id = %(run_id)s RETURNING o.run_id
), waited AS (
    SELECT a.run_id FROM perennial.activity a WHERE a.run_id = ANY(ARRAY(SELECT run_id FROM emptied)) FOR UPDATE
), told AS (
    INSERT INTO perennial.history (run_id, actor, event) SELECT run_id, 'x', 'y' FROM waited
)
UPDATE perennial.run r SET stage = 'x' FROM waited WHERE r.id = waited.run_id
""",
    )
    with psycopg.connect(database.libpq_url, autocommit=True) as connection:
        found = locks_of(plan_of(connection, wrong))
    assert set(against_the_order(found)) == {
        "activity after outbox",
        "run after outbox",
        "run after activity",
    }
