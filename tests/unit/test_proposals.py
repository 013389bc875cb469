"""A plan that is drawn by trial: renames by likeness, insertions, removals, and what it can't say."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Flow, approval, hours
from orchestrator.core.declarative import load_process
from orchestrator.core.versions.migrated import Migrated
from orchestrator.core.versions.migrating import plan_for
from orchestrator.core.versions.plans import Plan
from orchestrator.core.versions.proposing import propose, stages_in_words, unknown_keys
from tests.unit.test_migrations import a_b_c, done, of, old, standing


async def asks(flow: Flow, _given: Any) -> Any:
    await flow.stage("a")
    await flow.approval("manager", assign=["bob"], timeout=hours(48))


async def asks_manager_now(flow: Flow, _given: Any) -> Any:
    await flow.stage("a")
    await flow.approval("manager-review", assign=["bob"], timeout=hours(24))


async def b_last(flow: Flow, _given: Any) -> Any:
    return [await flow.stage("a"), await flow.stage("c")]


@pytest.mark.parametrize(
    ("former", "new", "says"),
    [
        (
            old(asks, done("a", 1)),
            asks_manager_now,
            {"map": {"manager": "manager-review"}, "timers": "keep"},
        ),
        (old(a_b_c, done("a", 1)), b_last, {"map": {"b": "c"}}),
        (old(a_b_c), a_b_c, {}),
    ],
)
def test_a_plan_is_drawn_by_which_the_run_goes_on(former, new, says):
    definition, registry = of(2, new)
    drawn = propose(definition, 1, [standing(former)], registry=registry)
    found = drawn.plan.model_dump(exclude_defaults=True, by_alias=True)
    assert found == {"process": "p", "from": 1, "to": 2, **says}
    assert drawn.notes == ()
    goes_on = plan_for(drawn.plan, standing(former), definition, registry=registry)
    assert isinstance(goes_on, Migrated), goes_on


def test_what_is_inserted_is_run_and_what_stays_open_behind_it_is_noted():
    async def x_first(flow: Flow, given: Any) -> Any:
        await flow.stage("x", 3)
        return await asks(flow, given)

    definition, registry = of(2, x_first)
    drawn = propose(definition, 1, [standing(old(asks, done("a", 1)))], registry=registry)
    assert drawn.plan.insert == {"x": "run"}
    (note,) = drawn.notes
    assert note.startswith("approval manager stays open until the new flow comes to it")


def test_what_a_plan_cannot_say_is_noted():
    async def lacks(flow: Flow, _given: Any) -> Any:
        await flow.stage("a")
        await flow.stage("audit")

    definition, registry = of(2, lacks)
    drawn = propose(definition, 1, [standing(old(a_b_c, done("a", 1)))], registry=registry)
    assert [note.partition(":")[0] for note in drawn.notes] == ["lacks code"]


def test_lists_of_stages_differ_in_words():
    before = ["validate", "security-review", "provision", "notify"]
    assert stages_in_words(before, ["validate", "provision", "security-review", "notify"]) in (
        ["security-review now after provision"],
        ["provision now after validate"],
    )
    assert stages_in_words(before, ["scan", "validate", "security-review", "notify"]) == [
        "scan is new, at the beginning",
        "provision is gone",
    ]


def test_a_plan_of_two_yaml_versions_names_what_they_have():
    _, registry = of(1, a_b_c)
    approval("boss", registry=registry)(lambda _given: ["bob"])
    yaml = "process: {{name: p, version: {}, stages: [{}]}}"
    one = load_process(yaml.format(1, "a, boss"), registry=registry)
    two = load_process(yaml.format(2, "x, boss"), registry=registry)
    plan = {"process": "p", "from": 1, "to": 2}
    good = Plan.model_validate({**plan, "map": {"a": "x"}})
    wrong = Plan.model_validate({**plan, "map": {"a": "z"}, "remove": ["q"]})
    assert unknown_keys(good, one, two) is None
    assert "'q', 'z'" in str(unknown_keys(wrong, one, two))
    assert unknown_keys(wrong, of(1, a_b_c)[0], of(2, a_b_c)[0]) is None
