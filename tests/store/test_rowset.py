"""Many rows in one parameter (store/rowset.py): each row a turn binds names columns that its set has."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from orchestrator import Flow, hours, process, stage
from orchestrator.store.rowset import RowSet
from orchestrator.store.transitions import claim, commit, fire, outbox, settle, turns

SETS = {
    each.parameter: each
    for module in (claim, commit, fire, outbox, settle, turns)
    for each in vars(module).values()
    if isinstance(each, RowSet)
}


def columns_of(rows: RowSet) -> set[str]:
    return {column.split()[0].strip('"') for column in re.split(r",\s*", rows.columns)}


def test_rows_are_read_as_they_were_bound(connection):
    found = RowSet("found", "run_id uuid, at timestamptz, keys text[], detail jsonb")
    run_id, at = UUID(int=7), datetime(2026, 11, 29, tzinfo=UTC)
    rows = [
        {"run_id": run_id, "at": at, "keys": ["a", 'b"'], "detail": {"n": 1}},
        {"run_id": run_id},
    ]
    read = connection.exec_driver_sql(f"SELECT * FROM {found.called('f')}", found.of(rows)).all()
    assert [tuple(row) for row in read] == [
        (run_id, at, ["a", 'b"'], {"n": 1}),
        (run_id, None, None, None),
    ]
    one = connection.exec_driver_sql(
        f"SELECT keys FROM {found.one_called('f')}", found.of_one(rows[0])
    ).scalar_one()
    assert one == ["a", 'b"']


def test_what_json_has_no_form_for_is_refused():
    with pytest.raises(TypeError, match="a set has no form in JSON"):
        RowSet("found", "keys text[]").of([{"keys": {"a"}}])


def _noted() -> str:
    return "noted"


def test_a_row_names_columns_of_its_set_only(harness, monkeypatch):
    """A name that no column has would be dropped without a word."""

    @stage(registry=harness.registry)
    def check() -> str:
        return "fine"

    @process(version=1, registry=harness.registry)
    async def access(flow: Flow) -> str:
        await flow.step(_noted)
        await flow.stage(check)
        await flow.signal("go")
        return (await flow.approval("boss", assign=["ann"], timeout=hours(1))).outcome

    bound: dict[str, set[str]] = {}
    of = RowSet.of

    def seen(self: RowSet, rows: Any) -> dict[str, str]:
        parameter = of(self, rows)
        for row in json.loads(parameter[self.parameter]):
            bound.setdefault(self.parameter, set()).update(row)
        return parameter

    monkeypatch.setattr(RowSet, "of", seen)
    fire._rules.cache_clear()
    run = harness.run(access)
    harness.client.signal(run, "go")
    harness.drain()
    harness.move(hours=2)
    harness.drain()
    assert harness.client.get(run).output == "timed_out"
    strange = {name: names - columns_of(SETS[name]) for name, names in bound.items()}
    assert not any(strange.values()), strange
    assert bound.keys() == SETS.keys() - {"settlement", "found"}
