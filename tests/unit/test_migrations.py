"""A plan of migration, and what it makes of a run's journal: each edit, and each refusal with its sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator import Fail, Flow, Registry, hours, process, stage
from orchestrator.core.journal import AHEAD, ActivityState
from orchestrator.core.outcome import RunContext
from orchestrator.core.run import RunStatus
from orchestrator.core.versions import refusals as no
from orchestrator.core.versions.migrated import Migrated, OpenApproval, Standing
from orchestrator.core.versions.migrating import plan_for, quorum_decides
from orchestrator.core.versions.plans import Plan, read_plan, written
from orchestrator.core.voting import Rule
from orchestrator.errors import DefinitionError
from tests.unit.replaying import BEGIN, RUN_ID, World

Body = Callable[[Flow, Any], Any]


class Priced(BaseModel):
    amount: int
    currency: str


def of(version: int, body: Body, input_type: Any = Any) -> tuple[Any, Registry]:
    """A `p` of that version, with the stages that bodies name."""
    registry = Registry()
    for name in ("a", "b", "c", "x", "labour"):

        def work(amount: int = 0) -> int:
            return amount

        stage(name=name, registry=registry)(work)

    @stage(name="texts", registry=registry)
    def texts() -> str:
        return ""

    async def p(flow: Flow, given: Any) -> Any:
        return await body(flow, given)

    p.__annotations__["given"] = input_type
    return process(version=version, name="p", registry=registry)(p), registry


def old(body: Body, *play: Callable[[World], None], value: Any = None) -> World:
    """A run of version 1, played so far."""
    definition, registry = of(1, body)
    world = World(definition, registry, value)
    world.turn()
    for move in play:
        move(world)
        world.turn()
    return world


def done(key: str, result: Any = 0) -> Callable[[World], None]:
    return lambda world: world.settle(key, result)


def standing(world: World, **others: Any) -> Standing:
    context = RunContext(RUN_ID, "p", world.process.version, "KEY", world.input, BEGIN)
    outcome = world.look()
    given = {
        "context": context,
        "status": outcome.status,
        "journal": tuple(world.journal.values()),
        "signals": tuple(world.signals),
        **others,
    }
    return Standing(**given)


def plan(**says: Any) -> Plan:
    return Plan.model_validate({"process": "p", "from": 1, "to": 2, **says})


def migrated(
    world: World, new: Body, plan_: Plan | None = None, *, input_type: Any = Any, **others: Any
) -> Any:
    """What becomes of the run; where it goes on, its world on version 2, ready to be played on."""
    definition, registry = of(2, new, input_type)
    given = plan_ or plan()
    found = plan_for(
        given,
        standing(world, **others),
        definition,
        registry=registry,
        make_input=MAKE_INPUTS.get(str((given.data or {}).get("function"))),
    )
    if isinstance(found, Migrated):
        journal = {each.key: each for each in found.journal}
        again = World(definition, registry, found.input, journal, list(world.signals), world.now)
        again.revision = world.revision + 1
        return found, again
    return found


MAKE_INPUTS: dict[str, Callable[[Any], Any]] = {
    "here:priced": lambda given: {"amount": given["sum"], "currency": "EUR"},
    "here:broken": lambda given: given["secret-4711"],
}


async def a_b_c(flow: Flow, _given: Any) -> Any:
    return [await flow.stage("a"), await flow.stage("b"), await flow.stage("c")]


async def asks(flow: Flow, _given: Any) -> Any:
    await flow.stage("a")
    decision = await flow.approval("boss", assign=["bob"], timeout=hours(48))
    return decision.outcome


# -- what goes on --------------------------------------------------------------------------------


def test_a_stage_that_is_done_and_one_that_is_pending_are_renamed():
    async def renamed(flow: Flow, _given: Any) -> Any:
        return [await flow.stage("x"), await flow.stage("labour"), await flow.stage("c")]

    found, world = migrated(old(a_b_c, done("a", 1)), renamed, plan(map={"a": "x", "b": "labour"}))
    assert [(m.old_key, m.activity.key, m.activity.name) for m in found.moved] == [
        ("a", "x", "x"),
        ("b", "labour", "labour"),
    ]
    assert found.moved[1].content is not None, (
        "what is pending is asked for as the new version asks"
    )
    assert not found.asks_turn
    world.settle("labour", 2)
    world.turn()
    world.settle("c", 3)
    assert json.loads(world.turn().output or "") == [1, 2, 3]


def test_a_stage_that_rests_until_its_retry_is_renamed_and_the_preview_says_what_that_means():
    world = b_open()
    world.journal["b"] = replace(world.journal["b"], state=ActivityState.RETRYING, attempt=2)

    async def renamed(flow: Flow, _given: Any) -> Any:
        return [await flow.stage("a"), await flow.stage("labour", 7)]

    found, after = migrated(world, renamed, plan(map={"b": "labour"}))
    (moved,) = found.moved
    assert (moved.activity.name, moved.activity.attempt, moved.content.input) == (
        "labour",
        2,
        '{"amount":7}',
    )
    assert found.changes == (
        "stage b is stage labour; it was tried, and what it calls sees another idempotency key",
    )
    assert [each.key for each in after.open()] == ["labour"]


def test_a_key_is_mapped_with_all_that_its_path_leads():
    async def gathers(flow: Flow, _given: Any) -> Any:
        return await flow.gather({"x": _two(flow), "y": _two(flow)}, key="reviews")

    async def _two(flow: Flow) -> Any:
        return [await flow.stage("a"), await flow.stage("a")]

    async def renamed(flow: Flow, _given: Any) -> Any:
        return await flow.gather({"x": _two(flow), "y": _two(flow)}, key="checks")

    world = old(gathers, done("reviews/x/a", 1), done("reviews/y/a", 2), done("reviews/x/a#2", 3))
    found, after = migrated(world, renamed, plan(map={"reviews": "checks"}))
    assert sorted(after.journal) == ["checks/x/a", "checks/x/a#2", "checks/y/a", "checks/y/a#2"]
    assert {each.scope for each in found.journal} == {"checks/x", "checks/y"}
    after.settle("checks/y/a#2", 4)
    assert json.loads(after.turn().output or "") == {"x": [1, 3], "y": [2, 4]}


def test_a_plan_is_for_each_chapter_of_a_run():
    """Nothing that it says is about `2`, though a chapter's keys begin so."""
    one = plan(map={"a": "x", "2": "two", "4#/reviews": "checks"}, insert={"3#/scan": "run"})
    assert [
        one.new_key(key) for key in ("a#2", "2#/a#2", "12#/a", "2#/b", "2#", "2/b", "2#2/b")
    ] == [*("x#2", "2#/x#2", "12#/x", "2#/b", "2#", "two/b", "two#2/b")]
    assert one.new_key("7#/reviews/0/a") == "7#/checks/0/a"
    assert one.insertion("2#/scan#2") == "run"
    assert not one.is_mapped("2#/b")
    removes = plan(remove=["2#/a", "a"], keep=["9#/b"])
    assert (removes.remove, removes.is_removed("5#/a"), removes.is_kept("b")) == (["a"], True, True)
    with pytest.raises(DefinitionError, match="'a' is said twice, for two chapters"):
        read_plan("{process: p, from: 1, to: 2, map: {2#/a: x, 3#/a: y}}")


def test_what_is_inserted_behind_is_skipped_with_an_answer_or_run():
    async def inserted(flow: Flow, _given: Any) -> Any:
        x = await flow.stage("x")
        return [x, *await a_b_c(flow, None)]

    world = old(a_b_c, done("a", 1), done("b", 2))
    found, after = migrated(world, inserted, plan(insert={"x": {"skip": 9}}))
    assert [each.key for each in found.added] == ["x"]
    assert not found.asks_turn
    after.settle("c", 3)
    assert json.loads(after.turn().output or "") == [9, 1, 2, 3]

    found, after = migrated(world, inserted, plan(insert={"x": "run"}))
    assert found.asks_turn
    assert found.dropped == ("c",), "what nobody has begun is asked for again when it is its turn"
    assert {each.key: each.ordinal for each in found.journal} == {"a": AHEAD, "b": AHEAD}
    after.turn()
    assert [each.key for each in after.open()] == ["x"]
    after.settle("x", 9)
    after.turn()
    after.settle("c", 3)
    assert json.loads(after.turn().output or "") == [9, 1, 2, 3]


def test_an_open_approval_stays_open_while_what_comes_before_it_now_is_run():
    async def inserted(flow: Flow, _given: Any) -> Any:
        await flow.stage("x")
        return await asks(flow, None)

    found, after = migrated(old(asks, done("a")), inserted, plan(insert={"x": "run"}))
    outcome = after.turn()
    assert set(outcome.unsettled) == {"x", "boss"}, "it keeps its deadline"
    after.decide("boss")
    after.turn()
    after.settle("x", 0)
    assert json.loads(after.turn().output or "") == "approved"
    assert found.dropped == ()


def test_a_skipped_approval_is_approved_by_nobody():
    async def inserted(flow: Flow, _given: Any) -> Any:
        first = await flow.approval("legal", assign=["eve"])
        return [first.outcome, first.by, await a_b_c(flow, None)]

    _, after = migrated(old(a_b_c, done("a"), done("b")), inserted, plan(insert={"legal": "skip"}))
    after.settle("c", 3)
    assert json.loads(after.turn().output or "") == ["approved", None, [0, 0, 3]]


def test_an_executed_stage_that_stands_later_keeps_its_result_or_is_done_again():
    async def moved(flow: Flow, _given: Any) -> Any:
        return [await flow.stage("a"), await flow.stage("c"), await flow.stage("b")]

    world = old(a_b_c, done("a", 1), done("b", 2))
    found, after = migrated(world, moved, plan(insert={"b": "skip"}))
    assert {each.key: each.ordinal for each in found.journal} == {"a": 1, "b": AHEAD, "c": 2}
    after.settle("c", 3)
    assert json.loads(after.turn().output or "") == [1, 3, 2]

    found, after = migrated(world, moved, plan(insert={"b": "run"}))
    assert found.dropped == ("b",)
    after.settle("c", 3)
    after.turn()
    after.settle("b", 4)
    assert json.loads(after.turn().output or "") == [1, 3, 4]


def test_what_is_removed_leaves_the_journal():
    async def shorter(flow: Flow, _given: Any) -> Any:
        return [await flow.stage("a"), await flow.stage("c")]

    found, after = migrated(old(a_b_c, done("a", 1)), shorter, plan(remove=["b"]))
    assert found.dropped == ("b",)
    assert found.asks_turn
    after.turn()
    after.settle("c", 3)
    assert json.loads(after.turn().output or "") == [1, 3]


def test_the_input_is_made_anew_by_a_template_or_a_function():
    async def takes(flow: Flow, given: Any) -> Any:
        await flow.stage("a")
        return [given.amount, given.currency]

    world = old(a_b_c, value={"sum": 7})
    for data in ({"amount": "$.sum", "currency": "EUR"}, {"function": "here:priced"}):
        found, after = migrated(world, takes, plan(data=data), input_type=Priced)
        assert found.input == {"amount": 7, "currency": "EUR"}
        assert found.has_new_input
        after.settle("a", 0)
        assert json.loads(after.turn().output or "") == [7, "EUR"]


def test_an_approval_that_is_open_is_asked_as_the_new_version_asks():
    async def others(flow: Flow, _given: Any) -> Any:
        await flow.stage("a")
        await flow.approval("boss", assign=["carol"], timeout=hours(24))

    world = old(asks, done("a"))
    approvals = {"boss": OpenApproval("boss", ("bob",))}
    found, _ = migrated(world, others, plan(timers="keep"), approvals=approvals)
    (moved,) = found.moved
    assert moved.assignees == ("carol",)
    assert moved.what_changed == "it asks carol, and asked bob before"
    assert not moved.restarts_timers
    found, _ = migrated(world, others, plan(timers="restart"), approvals=approvals)
    assert found.moved[0].restarts_timers
    assert found.moved[0].what_changed.endswith("its deadlines begin anew")


def test_work_that_is_done_with_other_arguments_is_kept_if_the_plan_says_so():
    for keep in (["a"], ["*"]):
        found, _ = migrated(old(a_b_c, done("a", 1)), other_arguments, plan(keep=keep))
        assert [each.activity.key for each in found.moved] == ["a"]
        assert not found.asks_turn


def test_a_mended_flow_takes_an_incident_with_it():
    async def broken(flow: Flow, _given: Any) -> Any:
        await flow.stage("a")
        raise KeyError("x")

    world = old(broken, done("a", 1))
    assert world.look().status is RunStatus.INCIDENT
    found, after = migrated(world, a_b_c)
    assert found.asks_turn
    after.turn()
    assert [each.key for each in after.open()] == ["b"]


def test_a_run_that_would_end_at_once_says_so():
    async def ends(flow: Flow, _given: Any) -> Any:
        await flow.stage("a")
        raise Fail("over")

    found, _ = migrated(old(a_b_c, done("a")), ends, plan(remove=["b"]))
    assert found.ends == "failed"


# -- what is refused -----------------------------------------------------------------------------


async def a_then_sleep(flow: Flow, _given: Any) -> Any:
    await flow.stage("a")
    await flow.sleep(60, key="b")


async def a_then_x_as_b(flow: Flow, _given: Any) -> Any:
    await flow.stage("a")
    await flow.stage("x", key="b")


async def b_in_a_branch(flow: Flow, _given: Any) -> Any:
    await flow.stage("a")
    await flow.gather({"one": _in_branch(flow)}, key="g")


async def _in_branch(flow: Flow) -> Any:
    return await flow.stage("b")


async def x_first(flow: Flow, _given: Any) -> Any:
    await flow.stage("x")
    return await a_b_c(flow, None)


async def b_later(flow: Flow, _given: Any) -> Any:
    return [await flow.stage("a"), await flow.stage("c"), await flow.stage("b")]


async def only_a(flow: Flow, _given: Any) -> Any:
    return await flow.stage("a")


async def other_deadline(flow: Flow, _given: Any) -> Any:
    await flow.stage("a")
    await flow.approval("boss", assign=["bob"], timeout=hours(24))


async def other_people(flow: Flow, _given: Any) -> Any:
    await flow.stage("a")
    await flow.approval("boss", assign=["carol"], timeout=hours(48))


async def takes_text(flow: Flow, _given: Any) -> Any:
    await flow.stage("texts", key="a")
    await flow.stage("b")


async def other_arguments(flow: Flow, _given: Any) -> Any:
    return [await flow.stage("a", 7), await flow.stage("b")]


async def lacks(flow: Flow, _given: Any) -> Any:
    await flow.stage("a")
    await flow.stage("audit")


async def breaks(_flow: Flow, _given: Any) -> Any:
    raise KeyError("nothing")


def b_open() -> World:
    return old(a_b_c, done("a", 1))


def b_done() -> World:
    return old(a_b_c, done("a", 1), done("b", 2))


def boss_open() -> World:
    return old(asks, done("a"))


def at(key: str, **changes: Any) -> Callable[[], World]:
    def play() -> World:
        world = b_open()
        world.journal[key] = replace(world.journal[key], **changes)
        return world

    return play


VOTED = {"approvals": {"boss": OpenApproval("boss", ("bob",), votes=1)}}

REFUSED: list[tuple[type[no.Refusal], Callable[[], World], Body, dict[str, Any], str, dict]] = [
    (no.KindChange, b_open, a_then_sleep, {}, "stage b is sleep sleep (key b)", {}),
    (no.NameChange, b_open, a_then_x_as_b, {}, "stage b is stage x (key b)", {}),
    (
        no.ScopeChange,
        b_open,
        b_in_a_branch,
        {"map": {"b": "g/one/b"}},
        "would come from the flow itself to branch g/one",
        {},
    ),
    (no.Merge, b_done, a_b_c, {"map": {"a": "x", "b": "x"}}, "a and b would both be x", {}),
    (no.Split, b_open, a_b_c, {"map": {"b": ["x", "c"]}}, "stage b is mapped to x and c", {}),
    (no.KeyCollision, b_open, a_b_c, {"map": {"a": "b"}}, "a and b would both be b", {}),
    (no.InsertedBehind, b_open, x_first, {}, "stage x stands before stage a, which is done", {}),
    (no.MovedAhead, b_done, b_later, {}, "stage b is done, and version 2 does not ask", {}),
    (no.NotAsked, b_done, only_a, {}, "stage b is done, and version 2 does not ask for it", {}),
    (
        no.OtherArguments,
        b_open,
        other_arguments,
        {},
        "stage a is done, and would be given another amount",
        {},
    ),
    (no.TimerUndecided, boss_open, other_deadline, {}, "has another timeout", {}),
    (no.VotesUndecided, boss_open, other_people, {}, "has 1 vote(s)", VOTED),
    (
        no.QuorumDecides,
        boss_open,
        other_people,
        {"votes": "keep"},
        "1 vote(s) on approval boss would be enough",
        VOTED,
    ),
    (no.DataUnfit, b_open, takes_text, {"map": {"a": "a"}}, "doesn't fit str", {}),
    (no.DataUnfit, b_open, a_b_c, {"data": {"x": "$.sum"}}, "input has no $.sum", {}),
    (
        no.DataUnfit,
        b_open,
        x_first,
        {"insert": {"x": {"skip": "many"}}},
        "doesn't fit int",
        {},
    ),
    (no.WorkInFlight, at("b", state=ActivityState.CLAIMED), a_b_c, {}, "a worker is at", {}),
    (no.LacksCode, b_done, lacks, {"remove": ["b", "c"]}, "no stage 'audit'", {}),
    (no.FlowBreaks, b_open, breaks, {}, "KeyError", {}),
    (no.OtherVersion, b_open, a_b_c, {"from": 3}, "is of p version 1", {}),
    (no.OtherVersion, b_open, a_b_c, {"process": "q"}, "the plan moves q version 1", {}),
    (no.RunEnded, b_open, a_b_c, {}, "run is cancelled", {"status": RunStatus.CANCELLED}),
    (no.WorkInFlight, b_open, a_b_c, {}, "a worker is in the run's turn", {"has_turn_held": True}),
]


@pytest.mark.parametrize(
    "case",
    REFUSED,
    ids=[f"{each[0].__name__}-{place}" for place, each in enumerate(REFUSED)],
)
def test_a_run_is_refused_with_its_sentence(case):
    reason, world, new, says, sentence, others = case
    refusal = migrated(world(), new, plan(**says), **others)
    assert type(refusal) is reason, refusal
    assert sentence in refusal.says
    assert refusal.remedy in str(refusal)
    assert refusal.title


def test_a_journal_that_contradicts_all_the_same_is_refused():
    """Guards `a migration is proved by replay`."""
    calls: list[int] = []

    async def unsteady(flow: Flow, _given: Any) -> Any:
        calls.append(1)
        first, second = ("b", "a") if len(calls) == 2 else ("a", "b")
        await flow.gather(flow.stage(first), flow.stage(second))

    refusal = migrated(old(a_b_c, done("a", 1)), unsteady)
    assert type(refusal) is no.NotProven, refusal


def test_no_value_is_in_a_refusal():
    refusal = migrated(old(a_b_c, value={}), a_b_c, plan(data={"function": "here:broken"}))
    assert type(refusal) is no.DataUnfit
    assert "4711" not in str(refusal)


def test_every_reason_has_a_test():
    tested = {each[0] for each in REFUSED} | {no.NotProven, no.UnknownKeys}
    assert tested == set(no.ALL)


def test_votes_are_enough_at_their_quorum():
    assert not quorum_decides(1, Rule(needs=2, rejects=None))
    assert quorum_decides(2, Rule(needs=2, rejects=None))
    assert quorum_decides(1, None)


# -- the document --------------------------------------------------------------------------------


def test_a_plan_is_read_and_written_and_its_id_is_of_what_it_says():
    text = """
process: p
from: 1
to: 2
map: {a: x}
insert: {legal: run, scan: {skip: {score: 3}}}
remove: [b, b]
timers: keep
"""
    one = read_plan(text)
    assert one.insertion("scan#2").skip == {"score": 3}
    again = read_plan(written(one))
    assert (again, again.id, len(one.id)) == (one, one.id, 12)
    assert read_plan(json.dumps(one.model_dump(by_alias=True))).id == one.id
    assert read_plan(text.replace("a: x", "a: y")).id != one.id


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "is no plan of migration"),
        ("process: p", "`from` is missing; `to` is missing"),
        ("{process: p, from: 1, to: 1}", "`from` and `to` are the same version"),
        ("{process: p, from: 1, to: 2, move: {}}", "`move` is nothing that a plan says"),
        ("{process: p, from: 1, to: 2, insert: {x: later}}", "must be `run`, `skip` or"),
        ("{process: p, from: 1, to: 2, timers: stop}", "`timers` input should be 'keep' or"),
        (
            "{process: p, from: 1, to: 2, map: {a: b}, remove: [a]}",
            "'a' is both mapped and removed",
        ),
        ("{process: p, from: 0, to: 2}", "`from` input should be greater than"),
    ],
)
def test_a_text_that_is_no_plan_says_why(text, says):
    with pytest.raises(DefinitionError) as refused:
        read_plan(text, source="plan.yaml")
    assert says in str(refused.value), str(refused.value)
    assert "plan.yaml" in str(refused.value)


def test_the_docs_list_each_reason_as_it_is_said():
    page = (Path(__file__).parents[2] / "docs" / "migrate.md").read_text(encoding="utf-8")
    for reason in no.ALL:
        line = f"| *{reason.title}* | {(reason.__doc__ or '').strip()} | {reason.remedy}. |"
        assert line.replace("`", "") in page.replace("`", ""), reason
