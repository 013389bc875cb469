"""`Flow.patched`: changed code for who comes to it first with it, the former code for who was further."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator import Flow, Registry, process, stage
from orchestrator.core.journal import AHEAD
from orchestrator.core.kinds.patch import PATCH
from tests.unit.replaying import World


def of(body: Any) -> tuple[Any, Registry]:
    registry = Registry()
    for name in ("a", "b", "c"):

        def work() -> str:
            return ""

        stage(name=name, registry=registry)(work)
    return process(version=1, name="p", registry=registry)(body), registry


async def former(flow: Flow) -> Any:
    await flow.stage("a")
    await flow.stage("b")


async def patched(flow: Flow) -> Any:
    await flow.stage("a")
    if flow.patched("c-for-b"):
        await flow.stage("c")
    else:
        await flow.stage("b")


async def without_the_former(flow: Flow) -> Any:
    await flow.stage("a")
    await flow.stage("c")


def world_of(body: Any, journal: dict[str, Any] | None = None) -> World:
    definition, registry = of(body)
    return World(definition, registry, journal=journal or {})


def test_who_comes_to_it_first_takes_the_new_code_and_is_marked_and_others_the_former():
    """Guards `a patch of a run that is further`."""
    first, further = world_of(former), world_of(former)
    for world in (first, further):
        world.turn()
        world.settle("a", "")
    further.turn()  # it has asked for b
    for world, goes_to, says in ((first, "c", True), (further, "b", False)):
        now = world_of(patched, world.journal)
        now.now, now.revision = world.now, world.revision
        outcome = now.turn()
        assert outcome.patches == (("patched#c-for-b", says),)
        assert [each.key for each in now.open()] == [goes_to]
        assert now.look().patches == outcome.patches, "the same at each replay"
        marks = [each for each in now.journal.values() if each.kind == PATCH]
        assert [(each.ordinal, each.is_settled) for each in marks] == [(AHEAD, True)] * says


def test_a_mark_that_nobody_asks_for_any_more_is_no_contradiction():
    world = world_of(patched)
    world.turn()
    world.settle("a", "")
    world.turn()
    later = world_of(without_the_former, world.journal)
    later.settle("c", "")
    assert later.turn().status == "completed"


def test_each_branch_answers_for_itself():
    def gathers(branch: Any) -> Any:
        async def body(flow: Flow) -> Any:
            await flow.gather({"x": branch(flow), "y": branch(flow)}, key="g")

        return body

    world = world_of(gathers(former))
    world.turn()
    world.settle("g/x/a", "")
    world.turn()
    now = world_of(gathers(patched), world.journal)
    now.settle("g/y/a", "")
    now.turn()
    assert sorted(each.key for each in now.open()) == ["g/x/b", "g/y/c"]


def test_it_is_asked_again_in_a_loop_with_one_answer():
    async def loops(flow: Flow) -> Any:
        said = []
        for _ in range(2):
            await flow.signal("go")
            said.append(flow.patched("twice"))
        return said

    world = world_of(loops)
    world.turn()
    world.signal("go")
    world.turn()
    world.signal("go")
    assert world.turn().output == "[true,true]"


@pytest.mark.parametrize("name", ["", "Two Words", "a/b", "2"])
def test_a_name_is_plain(name):
    async def wrong(flow: Flow) -> Any:
        flow.patched(name)

    outcome = world_of(wrong).turn()
    assert outcome.status == "incident"
    assert "is not allowed" in (outcome.error or {})["message"]


def test_marks_have_no_place_among_what_is_asked():
    world = world_of(patched)
    world.turn()
    world.settle("a", "")
    world.turn()
    world.journal["c"] = replace(world.journal["c"], ordinal=2)
    assert world.look().status == "running"
