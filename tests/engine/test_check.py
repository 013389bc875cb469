"""`check`: what changed code would make of open runs, before it is deployed. Nothing is written or done for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator import Fail, Flow, Registry, process, stage
from orchestrator.core.checking import Class
from orchestrator.core.versions.classes import class_of
from orchestrator.engine.check import Checked, check
from tests.harness import Harness
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(
    NORMAL, because="a check reads what a commit has left, however that came about"
)


class Request(BaseModel):
    """What a run of `p` is started with."""

    amount: int


class Priced(BaseModel):
    """The same with a field that nobody has given."""

    amount: int
    currency: str


def of_version(
    registry: Registry, body: Callable[[Flow, dict[str, Any]], Any], input_type: Any = Request
) -> Any:
    """A `p` of version 1 whose flow does `body`, and its stages."""

    @stage(registry=registry)
    def validate(amount: int) -> int:
        return amount

    @stage(registry=registry)
    def provision(amount: int) -> None: ...

    stages = {"validate": validate, "provision": provision}

    async def p(flow: Flow, given: Any) -> Any:
        return await body(flow, {**stages, "amount": given.amount})

    p.__annotations__["given"] = input_type
    return process(version=1, name="p", registry=registry)(p)


async def as_deployed(flow: Flow, given: dict[str, Any]) -> int:
    amount = await flow.stage(given["validate"], given["amount"])
    await flow.approval("manager", assign=["bob"])
    return amount


@pytest.fixture
def parked(harness: Harness) -> Any:
    """A run that waits for its manager."""
    return harness.run(of_version(harness.registry, as_deployed), {"amount": 7})


def checked_with(harness: Harness, body: Any, input_type: Any = Request) -> Checked:
    """As a program with the new code sees it."""
    registry = Registry()
    of_version(registry, body, input_type)
    other = harness.worker("new")
    other.registry = other.definitions._registry = registry
    return check(other)


async def renamed(flow: Flow, given: dict[str, Any]) -> None:
    await flow.stage(given["provision"], given["amount"])
    await flow.approval("manager", assign=["bob"])


async def renamed_later(flow: Flow, given: dict[str, Any]) -> int:
    amount = await as_deployed(flow, given)
    await flow.stage(given["provision"], amount)
    return amount


async def asks_beside(flow: Flow, given: dict[str, Any]) -> None:
    await flow.stage(given["validate"], given["amount"])
    manager = flow.approval("manager", assign=["bob"])
    await flow.gather(manager, flow.signal("budget"))


async def ends(flow: Flow, given: dict[str, Any]) -> None:
    await flow.stage(given["validate"], given["amount"])
    flow.approval("manager", assign=["bob"])
    raise Fail("over budget")


async def breaks(flow: Flow, given: dict[str, Any]) -> None:
    await flow.stage(given["validate"], given["amount"])
    given["nothing"]


async def lacks(flow: Flow, given: dict[str, Any]) -> None:
    await flow.stage("audit", given["amount"])


@pytest.mark.parametrize(
    ("new", "found", "reason"),
    [
        ((as_deployed, Request), Class.UNCHANGED, ""),
        ((renamed_later, Request), Class.UNCHANGED, ""),
        ((asks_beside, Request), Class.DIFFERS, "it asks for signal budget"),
        ((ends, Request), Class.DIFFERS, "it ends here: failed"),
        ((renamed, Request), Class.CONTRADICTS, "- 1. stage validate"),
        ((breaks, Request), Class.BREAKS, "KeyError"),
        ((lacks, Request), Class.LACKS, "audit"),
        ((as_deployed, Priced), Class.UNREADABLE, "currency"),
    ],
)
def test_what_new_code_would_make_of_a_run_is_said(harness, parked, new, found, reason):
    before = harness.client.get(parked), harness.client.history(parked)
    checked = checked_with(harness, *new)
    assert [(group.found, group.runs) for group in checked.groups] == [(found, 1)]
    (group,) = checked.groups
    assert reason in group.reason
    assert group.samples == (str(parked.run_id),)
    assert checked.is_safe is found.goes_on
    (edit,) = checked.edits
    is_same = new == (as_deployed, Request)
    assert edit.edit is class_of([found], is_same=is_same, text_is_same=True)
    assert (harness.client.get(parked), harness.client.history(parked)) == before


def test_runs_of_which_the_same_is_true_are_one_group(harness, parked):
    p = harness.registry.process("p", 1)
    harness.context.settings = harness.settings.model_copy(update={"batch_size": 2})
    for number in range(4):
        harness.run(p, {"amount": number}, key=f"request-{number}")
    checked = check(harness.context)
    assert [(group.found, group.runs, len(group.samples)) for group in checked.groups] == [
        (Class.UNCHANGED, 5, 3)
    ]
    assert checked_with(harness, renamed).groups[0].runs == 5


def test_a_fact_that_no_turn_has_seen_is_no_difference(harness, parked):
    harness.client.approve(parked, by="bob")
    assert [group.found for group in check(harness.context).groups] == [Class.UNCHANGED]
    assert [group.found for group in checked_with(harness, renamed).groups] == [Class.CONTRADICTS]


def test_an_incident_that_the_code_mends_is_said(harness):
    run = harness.run(of_version(harness.registry, breaks), {"amount": 7})
    assert harness.client.get(run).status == "incident"
    assert [group.found for group in check(harness.context).groups] == [Class.BREAKS]
    assert [group.found for group in checked_with(harness, as_deployed).groups] == [Class.RECOVERS]


def test_no_step_is_called_for_a_check(harness):
    called = []

    @process(version=1, registry=harness.registry)
    async def steps(flow: Flow) -> None:
        await flow.step(lambda: called.append(1), key="once")
        await flow.signal("go")

    run = harness.run(steps)
    registry = Registry()

    @process(version=1, name="steps", registry=registry)
    async def with_another(flow: Flow) -> None:
        await flow.step(lambda: called.append(1), key="once")
        await flow.gather(flow.signal("go"), flow.step(lambda: called.append(2), key="twice"))

    other = harness.worker("new")
    other.registry = other.definitions._registry = registry
    checked = check(other)
    assert called == [1]
    assert [(group.found, group.reason, group.samples) for group in checked.groups] == [
        (Class.DIFFERS, "it calls a step", (str(run.run_id),))
    ]


def test_what_has_ended_is_not_checked(harness, parked):
    harness.client.cancel(parked)
    assert check(harness.context) == Checked(0, ())
