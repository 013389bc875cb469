"""Starts in each form of their statement: one run or many, with business keys, without, and some with."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Flow, hours, process
from orchestrator.errors import UnknownProcess

AWKWARD = ['{"a", b}', "back\\slash 'n' \"quotes\"", "NULL", "%(id)s ü"]
"""What an array's text must quote."""

TIMERS = "SELECT run_id, kind FROM perennial.timer ORDER BY run_id"

SHAPES = {
    "one": [None],
    "one with a key": ["k"],
    "many": [None, None, None],
    "many with keys": AWKWARD,
    "many, some with keys": [None, "k", None, "l"],
}


@pytest.fixture
def p(harness: Any) -> Any:
    @process(version=1, registry=harness.registry, expires_after=hours(1))
    async def p(flow: Flow, text: str) -> str:
        return text

    harness.client.processes.deploy(p)
    return p


@pytest.mark.parametrize("keys", SHAPES.values(), ids=SHAPES)
def test_each_run_has_its_own_input_and_key_and_answers_come_in_their_order(harness, p, keys):
    inputs = AWKWARD[: len(keys)]
    started = harness.client.start_many(p, inputs, keys=keys)
    views = [harness.client.get(each) for each in started]
    assert [view.business_key for view in views] == keys
    assert all(each.created for each in started)
    assert [(timer.run_id, timer.kind) for timer in harness.database.rows(TIMERS)] == [
        (run_id, "expiry") for run_id in sorted(each.run_id for each in started)
    ]
    harness.drain()
    assert [harness.client.result(each) for each in started] == inputs


def test_a_key_that_is_there_answers_with_its_run_among_new_ones(harness, p):
    first = harness.client.start(p, "", key="k")
    again = harness.client.start_many(p, [""] * 4, keys=["l", "k", None, "l"])
    assert [each.created for each in again] == [True, False, True, True]
    assert again[1].run_id == first.run_id
    assert again[0].run_id == again[3].run_id
    assert len({each.run_id for each in again}) == 3


@pytest.mark.parametrize("keys", SHAPES.values(), ids=SHAPES)
def test_a_process_that_is_not_deployed_is_told(harness, p, keys):
    with pytest.raises(UnknownProcess, match="process 'p' version 7 is deployed"):
        harness.client.start_many("p", [""] * len(keys), keys=keys, version=7)


def test_nothing_to_start_asks_postgres_nothing(harness, p):
    with harness.database.psycopg() as connection:
        connection.close()
        assert harness.client.start_many(p, [], connection=connection) == []
