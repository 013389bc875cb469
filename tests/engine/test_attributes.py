"""What a flow says of its run: attributes that runs are found by, and a sentence for people."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest

from orchestrator import (
    AsyncClient,
    Flow,
    PayloadError,
    RunStatus,
    UnknownAttribute,
    hours,
    process,
    stage,
)
from orchestrator.core.attributes import BYTES_MAX, NAMES_MAX, TEXT_CHARACTERS_MAX
from orchestrator.engine.eager.kept_flows import KeptFlows
from orchestrator.store.statement import Statement
from tests.harness import Harness
from tests.modes import EAGER, EVICT, NORMAL, TWICE, modes_of

pytestmark = modes_of(NORMAL, EVICT, TWICE, EAGER, because="what a flow says must hold in them")

DUE = datetime(2031, 5, 6, 7, 8, 9, 10, tzinfo=UTC)


class Plan(Enum):
    YEARLY = "yearly"
    MONTHLY = "monthly"


def saying(harness: Harness, *said: dict[str, Any]) -> Any:
    """Says the one after the other, each after a stage."""

    @stage(registry=harness.registry)
    def work(n: int) -> int:
        return n

    @process(version=1, registry=harness.registry)
    async def says(flow: Flow) -> None:
        for place, each in enumerate(said):
            flow.attributes(each)
            flow.status(f"{place + 1} of {len(said)} are said")
            await flow.stage(work, place)
        await flow.signal("go")

    return says


def test_what_was_said_last_counts_in_the_type_that_is_asked_for(harness):
    harness.context.kept_flows = KeptFlows(least_lines=1)
    definition = saying(
        harness,
        {"customer": "C-17", "amount": 7, "gone": True},
        {
            "amount": Decimal("12.50"),
            "due": DUE,
            "day": date(2031, 5, 6),
            "plan": Plan.YEARLY,
            "tags": ["a", "é"],
            "is_new": False,
            "gone": None,
            "from the start": "no more",
        },
    )
    run = harness.run(definition, key="S-1", attributes={"from the start": 1, "kept": {"a": [1]}})
    client = harness.client
    assert client.get(run).status_text == "2 of 2 are said"
    assert client.get(run).attributes.keys() == {
        "customer",
        "amount",
        "due",
        "day",
        "plan",
        "tags",
        "is_new",
        "from the start",
        "kept",
    }
    assert client.query(run, "amount", type=Decimal).as_tuple() == Decimal("12.50").as_tuple()
    assert client.query("S-1", "amount") == 12.5
    assert client.query(run, "due", type=datetime) == DUE
    assert client.query(run, "day", type=date) == date(2031, 5, 6)
    assert client.query(run, "plan", type=Plan) is Plan.YEARLY
    assert client.query(run, "tags", type=list[str]) == ["a", "é"]
    assert client.query(run, "is_new", type=bool) is False
    assert client.query(run, "from the start") == "no more"
    with pytest.raises(UnknownAttribute, match=r"no attribute 'gone': it has .*amount"):
        client.query(run, "gone")
    with pytest.raises(PayloadError, match="attribute 'customer'"):
        client.query(run, "customer", type=int)


@modes_of(NORMAL, because="it is about what is read")
def test_runs_are_found_by_their_attributes(harness):
    definition = saying(harness, {"customer": "C-17"}, {"day": date(2031, 5, 6)})
    harness.client.processes.deploy(definition)
    for number, amount in enumerate((7, Decimal("12.5"), 100, "12")):
        harness.client.start(
            definition,
            key=f"S-{number}",
            attributes={"amount": amount, "due": DUE.replace(hour=number), "tags": [f"t{number}"]},
        )
    harness.client.start(definition, key="other", attributes={"customer": "nobody"})
    harness.drain()

    def keys(**where: Any) -> list[str | None]:
        return sorted(run.business_key for run in harness.client.list(where=where))

    assert keys(customer="C-17") == ["S-0", "S-1", "S-2", "S-3", "other"]
    assert keys(amount=Decimal("12.50")) == ["S-1"]
    assert keys(amount=(">=", Decimal("12.5"))) == ["S-1", "S-2"]
    assert keys(amount=("<", 100)) == ["S-0", "S-1"]
    assert keys(amount=("in", [7, "12"])) == ["S-0", "S-3"]
    assert keys(due=("<=", DUE.replace(hour=1))) == ["S-0", "S-1"]
    assert keys(tags=("contains", "t2"), customer="C-17") == ["S-2"]
    assert keys(tags=["t2"]) == ["S-2"]
    assert keys(tags="t2") == []
    assert keys(customer="'; DROP TABLE run; --") == []
    assert [
        run.status_text
        for run in harness.client.list(where={"amount": 100}, status=RunStatus.WAITING)
    ] == ["2 of 2 are said"]

    async def ask() -> tuple[Any, Any]:
        async with AsyncClient(harness.database.url) as client:
            found = await client.list(where={"day": (">", date(2031, 5, 5)), "amount": 7})
            return [run.business_key for run in found], await client.query("S-0", "amount")

    assert asyncio.run(ask()) == (["S-0"], 7)


@modes_of(NORMAL, because="it is about what is refused")
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"a": 1.5}, "can't be '1.5', of the type float"),
        ({"a": ("~", 1)}, "compare by one of =, <"),
        ({"a": ("in", "text")}, "takes a list of values"),
        ({"a": ("in", [])}, "is given 0 values"),
        ({"a": ("contains", 1)}, "takes a text of the list"),
        ({"": 1}, "can't name an attribute"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_in_words(harness, where, words):
    with pytest.raises(PayloadError, match=words):
        harness.client.list(where=where)


@modes_of(NORMAL, because="it is about what is refused")
@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"a": 1.5}, "can't be '1.5', of the type float: an attribute is a str"),
        ({"a": {}}, "of the type dict"),
        ({"a": datetime(2031, 1, 1)}, "has no time zone"),  # noqa: DTZ001 - that is it
        ({"a": Decimal("NaN")}, "a number is finite"),
        ({"a": 10**100}, "a number of more than 100 digits"),
        ({"a": "x" * (TEXT_CHARACTERS_MAX + 1)}, "characters; the bound is"),
        ({"a": ["x"] * 101}, "a list of 101; the bound is 100"),
        ({str(n): 1 for n in range(NAMES_MAX + 1)}, "sets 65 attributes; the bound is 64"),
        ({str(n): "x" * 900 for n in range(20)}, f"the bound is {BYTES_MAX}"),
        ({"a\n": 1}, "can't name an attribute"),
    ],
    ids=["float", "dict", "no-zone", "NaN", "digits", "long", "list", "many", "bytes", "name"],
)
def test_what_no_attribute_can_be_parks_its_run_in_words(harness, said, words):
    run = harness.run(saying(harness, said))
    view = harness.client.get(run)
    assert view.status is RunStatus.INCIDENT
    assert view.error is not None
    assert words.replace("'", "") in view.error["message"].replace("'", "")
    assert "test_attributes.py:" in view.error["message"]
    assert view.attributes == {}


@modes_of(NORMAL, because="it is about what is refused")
def test_a_scope_that_is_not_replayed_says_nothing(harness):
    """Guards `a recorded scope says nothing`."""

    async def inner(flow: Flow) -> None:
        flow.status("lost")

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        async with flow.scope("plain"):
            flow.status("here it may")
        await flow.scope("inner", inner, flow, record=True)

    view = harness.client.get(harness.run(p))
    assert view.status is RunStatus.INCIDENT
    assert "flow.status is called inside scope inner, whose result is recorded" in str(view.error)


@modes_of(NORMAL, because="it counts")
def test_saying_costs_no_statement(harness, monkeypatch):
    asked: list[str] = []
    rows = Statement.rows

    def noted(statement: Statement, *given: Any, **named: Any) -> Any:
        asked.append(statement.name)
        return rows(statement, *given, **named)

    monkeypatch.setattr(Statement, "rows", noted)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, says: bool) -> None:
        if says:
            flow.attributes(customer="C-17")
            flow.status("waits")
        await flow.sleep(1000)

    harness.run(p, value=False)
    asked.clear()
    harness.run(p, value=False)
    quiet = list(asked)
    asked.clear()
    harness.run(p, value=True)
    assert asked == quiet
    assert asked.count("commit_turn") == 1


def test_a_flow_that_goes_another_way_after_a_rewind_says_so(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        flow.status("waits for ann")
        if (await flow.approval("boss", assign=["ann"], timeout=hours(1))).approved:
            flow.status("is approved")
            await flow.signal("paid")
        flow.status("is rejected")

    run = harness.run(p)
    harness.client.approve(run, by="ann")
    harness.drain()
    assert harness.client.get(run).status_text == "is approved"
    harness.client.operations.rewind(run, "boss")
    harness.drain()
    assert harness.client.get(run).status_text == "waits for ann"
