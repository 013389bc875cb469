"""Exported histories: no value goes out unasked, and they are replayed where there is no database."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator import Flow, Registry, process, stage
from orchestrator.core.checking import Class
from orchestrator.core.versions.masking import filled, masked
from orchestrator.engine.histories import check_histories
from orchestrator.errors import DefinitionError
from tests.harness import Harness
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="what a commit has left is read")

SECRET = "secret-4711"


class Request(BaseModel):
    user: str
    amount: int


def define(registry: Registry, body: Any, input_type: Any = Request) -> Any:
    @stage(registry=registry)
    def validate(user: str) -> str:
        return user

    @stage(registry=registry)
    def audit(user: str) -> str:
        return user

    async def p(flow: Flow, request: Any) -> Any:
        return await body(flow, request)

    p.__annotations__["request"] = input_type
    return process(version=1, name="p", registry=registry)(p)


async def straight(flow: Flow, request: Request) -> Any:
    await flow.stage("validate", request.user)
    boss = await flow.approval("boss", assign=["bob"])
    await flow.signal("paid", type=str)
    return boss.approved


async def longer(flow: Flow, request: Request) -> Any:
    said = await straight(flow, request)
    await flow.stage("audit", request.user)
    return said


async def other(flow: Flow, request: Request) -> Any:
    await flow.stage("audit", request.user)


async def by_amount(flow: Flow, request: Request) -> Any:
    if request.amount > 1000:
        await flow.stage("audit", request.user)
    return await straight(flow, request)


async def by_name(flow: Flow, request: Request) -> Any:
    if request.user == SECRET:
        return await straight(flow, request)
    return await flow.stage("audit", request.user)


class Priced(Request):
    currency: str


@pytest.fixture
def lines(harness: Harness) -> dict[bool, list[str]]:
    """Of a run that was approved and waits for a payment: masked, and with its values."""
    run = harness.run(
        define(harness.registry, straight), {"user": SECRET, "amount": 5000}, key=f"key-{SECRET}"
    )
    harness.client.approve(run, by="bob", comment=SECRET)
    harness.drain()
    harness.client.operations.pause(run)
    harness.client.signal(run, "paid", SECRET)
    return {
        values: list(harness.client.operations.export([run], values=values))
        for values in (False, True)
    }


def test_no_value_goes_out_unasked(lines):
    (line,), (full,) = lines[False], lines[True]
    assert SECRET not in line
    assert "5000" not in line
    assert "bob" not in line
    assert SECRET in full
    history = json.loads(line)
    assert history["input"] == {"user": {"$masked": "text"}, "amount": {"$masked": "integer"}}
    decided = next(each for each in history["journal"] if each["kind"] == "approval")
    assert decided["result"]["outcome"] == "approved"


@pytest.mark.parametrize(
    ("body", "input_type", "found", "with_values"),
    [
        (straight, Request, Class.UNCHANGED, Class.UNCHANGED),
        (longer, Request, Class.UNCHANGED, Class.UNCHANGED),
        (by_amount, Request, Class.MASKED, Class.CONTRADICTS),
        (by_name, Request, Class.MASKED, Class.UNCHANGED),
        (other, Request, Class.CONTRADICTS, Class.CONTRADICTS),
        (straight, Priced, Class.UNREADABLE, Class.UNREADABLE),
    ],
)
def test_new_code_is_tried_on_them_and_what_hangs_on_a_left_out_value_is_said(
    lines, body, input_type, found, with_values
):
    registry = Registry()
    define(registry, body, input_type)
    for values, expected in ((False, found), (True, with_values)):
        checked = check_histories(lines[values], registry=registry)
        assert [(group.found, group.runs) for group in checked.groups] == [(expected, 1)], values
        assert checked.is_safe is expected.goes_on
        assert values or SECRET not in checked.groups[0].reason


def test_a_program_without_the_process_says_so(lines):
    (group,) = check_histories(lines[False], registry=Registry()).groups
    assert group.found is Class.LACKS


def test_what_is_no_history_says_where(lines):
    with pytest.raises(DefinitionError, match=r"h.jsonl:2: is no exported history"):
        check_histories([lines[False][0], "{}"], registry=Registry(), source="h.jsonl")
    newer = lines[False][0].replace('"perennial_history":1', '"perennial_history":2')
    with pytest.raises(DefinitionError, match="of format 2"):
        check_histories([newer], registry=Registry())


def test_stand_ins_have_the_form_of_what_was_left_out():
    value = {
        "at": "2026-11-29T17:00:00+01:00",
        "day": "2026-11-29",
        "id": "01a2117e-f0a0-76cb-8452-d7e79e168353",
        "price": "12.50",
        "mail": "ann@example.com",
        "rate": 0.5,
        "tags": ["a", None, True],
    }
    hidden = masked(value)
    assert [each["$masked"] for each in list(hidden.values())[:6]] == [
        "date-time",
        "date",
        "uuid",
        "decimal",
        "email",
        "number",
    ]
    assert masked(filled(hidden, 2)) == hidden
    assert filled(hidden, 0)["tags"] == ["a", None, False]
