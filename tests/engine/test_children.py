"""Children: runs that a flow starts in its turn's transaction, and whose ends it is told in theirs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from orchestrator import (
    ChildFailed,
    ChildKeyTaken,
    Fail,
    Flow,
    Registry,
    RunStatus,
    hours,
    process,
    stage,
)
from orchestrator.cli.run_page import run_page
from orchestrator.cli.times import Clock
from orchestrator.cli.tree import tree_of
from orchestrator.core.kinds.child import ChildHandle
from orchestrator.engine.children import see_to_children
from orchestrator.faults import listen
from tests.harness import Harness
from tests.modes import EAGER, EVICT, NORMAL, SWEEPS_ONLY, TWICE, modes_of

modes = modes_of(
    NORMAL, EVICT, TWICE, SWEEPS_ONLY, EAGER, because="a child starts and ends in each"
)
once = modes_of(NORMAL, because="what is written is looked at")


@dataclass
class Order:
    amount: int
    item: str = "table"


class Shop:
    """A parent, and a child that it starts; `how` says how."""

    def __init__(self, harness: Harness) -> None:
        self.harness, self.registry = harness, harness.registry
        self.done: list[str] = []

        @stage(registry=self.registry)
        def pack(order: Order) -> str:
            self.done.append(order.item)
            return f"{order.amount} {order.item}"

        @process(version=1, registry=self.registry)
        async def delivery(flow: Flow, order: Order) -> str:
            if order.amount < 0:
                raise Fail("nothing to deliver")
            if order.amount == 0:
                await flow.signal("amount")
            return await flow.stage(pack, order)

        self.delivery = delivery
        harness.client.processes.deploy(delivery)

    def parent(self, flow_of: Any) -> Any:
        """The process that is made of that flow."""
        return process(version=1, name="shop", registry=self.registry)(flow_of)

    def children(self, run: Any) -> list[Any]:
        return self.harness.database.rows(
            "SELECT id, status, parent_id, parent_key, depth, business_key FROM perennial.run"
            " WHERE parent_id = :id ORDER BY id",
            id=run.run_id,
        )

    def result(self, run: Any) -> Any:
        view = self.harness.client.get(run)
        return view.output if view.status is RunStatus.COMPLETED else (view.status, view.error)


@pytest.fixture
def shop(harness: Harness) -> Shop:
    return Shop(harness)


@modes
def test_a_child_starts_with_the_line_that_asks_for_it_and_gives_its_result(
    harness: Harness, shop: Shop
) -> None:
    @shop.parent
    async def parent(flow: Flow) -> str:
        first = await flow.child(shop.delivery, Order(2))
        both = await flow.gather(
            *(flow.child(shop.delivery, Order(n), key=f"chair-{n}") for n in (3, 4, 5))
        )
        return ", ".join([first, *both])

    run = harness.run(parent)
    assert shop.result(run) == "2 table, 3 table, 4 table, 5 table"
    children = shop.children(run)
    assert [child.status for child in children] == ["completed"] * 4
    assert {child.depth for child in children} == {1}
    assert children[0].parent_key == "delivery"
    told = [each for each in harness.client.history(run) if each.event.startswith("child")]
    assert sorted(each.event for each in told) == ["child completed"] * 4 + ["child started"] * 4
    assert {UUID(each.detail["child"]) for each in told} == {child.id for child in children}
    (begun,) = [h for h in harness.client.history(children[0].id) if h.event == "started"]
    assert begun.detail == {"parent": str(run.run_id), "key": "delivery"}


@modes
def test_what_a_child_ends_with_arrives_typed(harness: Harness, shop: Shop) -> None:
    @shop.parent
    async def parent(flow: Flow) -> list[str]:
        told = []
        for amount, expires in ((-1, None), (0, None), (0, hours(1))):
            try:
                await flow.child(shop.delivery, Order(amount), expires_in=expires)
            except ChildFailed as error:
                told.append(f"{error.process} {error.status} {error.error_type}: {error.message}")
        return told

    harness.freeze()
    run = harness.run(parent)
    (_, waiting) = shop.children(run)
    assert harness.status(waiting.id) is RunStatus.WAITING
    harness.client.cancel(waiting.id, by="ann", reason="no stock")
    harness.drain()
    harness.move(hours=2)
    harness.drain()
    assert shop.result(run) == [
        "delivery failed Fail: nothing to deliver",
        "delivery cancelled Cancelled: no stock",
        "delivery expired Expired: the run did not end in the time it was given",
    ]


@modes
@pytest.mark.parametrize("choice", ["cancel", "abandon", "wait"])
@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_the_end_of_a_parent_does_to_its_children_what_was_chosen(
    harness: Harness, shop: Shop, choice: Any, end: str
) -> None:
    @process(version=1, name="middle", registry=shop.registry)
    async def middle(flow: Flow) -> str:
        return await flow.child(shop.delivery, Order(0), on_parent_end=choice)

    @shop.parent
    async def parent(flow: Flow) -> str:
        below = flow.child(middle, on_parent_end=choice)
        if await flow.signal("end") == "fail":
            raise Fail("enough")
        return await below

    harness.client.processes.deploy(middle)
    run = harness.run(parent)
    (child,) = shop.children(run)
    (grandchild,) = harness.database.rows(
        "SELECT id, depth FROM perennial.run WHERE parent_id = :id", id=child.id
    )
    assert grandchild.depth == 2
    if end == "cancel":
        harness.client.cancel(run, by="ann")
    else:
        harness.client.signal(run, "end", "fail")
    harness.drain()
    waits = choice == "wait" and end == "fail"
    ended = {"cancel": RunStatus.CANCELLED, "fail": RunStatus.FAILED}[end]
    assert harness.status(run) is (RunStatus.WAITING if waits else ended)
    expected = RunStatus.CANCELLED if choice == "cancel" else RunStatus.WAITING
    assert [harness.status(each.id) for each in (child, grandchild)] == [expected] * 2
    if choice == "cancel":
        last = harness.client.history(child.id)[-1]
        assert (last.actor, last.event) == (f"run {run.run_id}", "cancelled")
        why = harness.client.get(child.id).error
        assert why is not None
        assert why["message"] == f"its parent, run {run.run_id}, is {ended}"
    harness.client.signal(grandchild.id, "amount") if choice != "cancel" else None
    harness.drain()
    assert harness.status(run) is ended
    assert not harness.database.rows("SELECT FROM perennial.outbox")


@once
def test_a_child_that_is_needed_no_more_is_ended_or_goes_on(harness: Harness, shop: Shop) -> None:
    @shop.parent
    async def parent(flow: Flow) -> str:
        race = await flow.first(
            {
                "ended": flow.child(shop.delivery, Order(0), key="ended"),
                "goes on": flow.child(
                    shop.delivery, Order(0), key="goes-on", on_parent_end="abandon"
                ),
                "signal": flow.signal("enough"),
            }
        )
        await flow.child(shop.delivery, Order(0), key="awaited")
        return str(race.name)

    run = harness.run(parent)
    harness.client.signal(run, "enough")
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING
    assert {child.parent_key: child.status for child in shop.children(run)} == {
        "ended": "cancelled",
        "goes-on": "waiting",
        "awaited": "waiting",
    }
    see_to_children(harness.context, run.run_id)
    assert not harness.database.rows("SELECT FROM perennial.outbox")


class Lost(BaseException):
    """The worker ends here."""


def lose(harness: Harness, place: tuple[str, str]) -> None:
    """Deliver what is due; the worker is lost at that place, and its messages with it."""

    def end(*reached: str) -> None:
        if reached == place:
            raise Lost

    listen(end)
    try:
        with pytest.raises(Lost):
            harness.drain()
    finally:
        listen(None)
    harness.messenger.handed_off.clear()


@once
def test_a_child_gets_its_turn_though_its_worker_is_lost(harness: Harness, shop: Shop) -> None:
    @shop.parent
    async def parent(flow: Flow) -> str:
        return await flow.child(shop.delivery, Order(2))

    harness.freeze()
    run = harness.start(parent)
    lose(harness, ("after", "commit_turn"))
    assert [child.status for child in shop.children(run)] == ["running"]
    harness.recover()
    assert shop.result(run) == "2 table"


@once
def test_a_loser_is_ended_though_its_worker_is_lost(harness: Harness, shop: Shop) -> None:
    @shop.parent
    async def parent(flow: Flow) -> str:
        await flow.first(flow.child(shop.delivery, Order(0)), flow.signal("enough"))
        return await flow.signal("end", type=str)

    harness.freeze()
    run = harness.run(parent)
    harness.client.signal(run, "enough")
    lose(harness, ("before", "children_to_end"))
    assert [child.status for child in shop.children(run)] == ["waiting"]
    harness.recover()
    assert [child.status for child in shop.children(run)] == ["cancelled"]
    assert harness.status(run) is RunStatus.WAITING


@modes
def test_a_child_that_is_not_awaited_is_known_by_its_id(harness: Harness, shop: Shop) -> None:
    @shop.parent
    async def parent(flow: Flow) -> list[str]:
        goes_on = await flow.start_child(shop.delivery, Order(0), business_key="D-1")
        ends = await flow.start_child(
            shop.delivery, Order(0), key="ends", on_parent_end="cancel", business_key="D-2"
        )
        try:
            await flow.start_child("delivery", {"amount": 1}, key="again", business_key="D-1")
        except ChildKeyTaken as error:
            return [str(goes_on), str(ends), str(error.run_id), str(error)]
        return []

    run = harness.run(parent)
    first, second = shop.children(run)
    assert shop.result(run) == [
        str(first.id),
        str(second.id),
        str(first.id),
        "the business key D-1 of process delivery is another run's already (activity again)",
    ]
    assert [harness.status(each.id) for each in (first, second)] == [
        RunStatus.WAITING,
        RunStatus.CANCELLED,
    ]
    assert (first.parent_key, first.business_key) == (None, "D-1")


@once
def test_a_child_of_itself_without_bound_is_refused(harness: Harness, shop: Shop) -> None:
    @shop.parent
    async def parent(flow: Flow) -> Any:
        return await flow.child("shop")

    run = harness.run(parent)
    runs = harness.database.rows("SELECT id, status, depth FROM perennial.run ORDER BY depth")
    assert [each.depth for each in runs] == list(range(17))
    assert {each.status for each in runs[:-1]} == {"waiting"}
    last = harness.client.get(runs[-1].id)
    assert last.status is RunStatus.INCIDENT
    assert last.error is not None
    assert last.error["type"] == "ChildRefused"
    assert "PERENNIAL_CHILD_DEPTH_MAX" in last.error["message"]
    harness.client.cancel(run, by="ann")
    harness.drain()
    assert {each.status for each in harness.database.rows("SELECT status FROM perennial.run")} == {
        "cancelled"
    }


@once
def test_what_can_not_be_started_parks_the_parent_which_goes_on_when_it_can(
    harness: Harness, shop: Shop
) -> None:
    later = Registry()

    @shop.parent
    async def parent(flow: Flow) -> Any:
        return await flow.child("billing", {"amount": 3})

    run = harness.run(parent)
    view = harness.client.get(run)
    assert view.status is RunStatus.INCIDENT
    assert view.error is not None
    assert "no process 'billing' is deployed" in view.error["message"]

    @process(version=1, registry=later)
    async def billing(flow: Flow, order: Order) -> int:
        return order.amount

    harness.client.processes.deploy(billing)
    harness.registry.add_process(billing)
    harness.client.operations.resume(run, by="ann")
    harness.drain()
    assert shop.result(run) == 3


@once
def test_a_thousand_children_are_counted_down_and_ended_by_hundreds(
    harness: Harness, shop: Shop
) -> None:
    @shop.parent
    async def parent(flow: Flow) -> int:
        found = await flow.map(lambda n: flow.child(shop.delivery, Order(n)), [0] * 250)
        return len(found.results)

    run = harness.run(parent)
    assert len(shop.children(run)) == 250
    before = harness.client.get(run).revision
    some = shop.children(run)[:9]
    for child in some:
        harness.client.signal(child.id, "amount")
    harness.drain()
    view = harness.client.get(run)
    assert view.revision == before + len(some)  # no turn was taken
    assert view.waiting_for == "child delivery and 240 more"
    harness.client.cancel(run, by="ann")
    harness.drain()
    assert {each.status for each in shop.children(run)} == {"cancelled", "completed"}


@once
def test_people_see_the_family_from_both_sides(harness: Harness, shop: Shop) -> None:
    """What a parent waits for says how its child stands; the tree has both."""

    @process(version=1, name="wrong", registry=shop.registry)
    async def wrong(flow: Flow) -> None:
        raise ValueError("a bug")

    @shop.parent
    async def parent(flow: Flow) -> None:
        await flow.start_child(shop.delivery, Order(0), business_key="D-1")
        await flow.gather(flow.child(wrong), flow.child(shop.delivery, Order(0), key="d"))

    harness.client.processes.deploy(wrong)
    run = harness.run(parent, key="S-1")
    view = harness.client.get(run)
    assert view.children_started == 3
    by_name = {child.business_key or child.process: child for child in view.children}
    assert {name: child.status for name, child in by_name.items()} == {
        "D-1": "waiting",
        "wrong": "incident",
        "delivery": "waiting",
    }
    assert [(wait.key, wait.detail) for wait in view.waits] == [
        ("wrong", "it has an incident, and waits for an operator"),
        ("d", "it is waiting, waits for signal amount"),
    ]
    assert view.waits[0].who == (f"run {by_name['wrong'].id}",)
    child = harness.client.get(by_name["wrong"].id)
    assert (child.parent_id, child.parent_key, child.on_parent_end) == (
        run.run_id,
        "wrong",
        "cancel",
    )
    tree = harness.client.operations.tree(run)
    assert {each.run.id for each in tree.children} == {each.id for each in view.children}
    assert not tree.is_cut
    console = Console(width=200, file=StringIO())
    clock = Clock(view.created_at, UTC)
    for page in (tree_of(tree), run_page(view, clock), run_page(child, clock)):
        console.print(page)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"perennial show {by_name['wrong'].id}" in told
    assert f"run {run.run_id}, which awaits it as wrong" in told
    assert "└── delivery v1" in told
    assert "not awaited" in told


@once
def test_a_rewound_parent_asks_for_a_child_anew_and_the_former_one_is_ended(
    harness: Harness, shop: Shop
) -> None:
    @shop.parent
    async def parent(flow: Flow) -> str:
        await flow.sleep(1)
        return await flow.child(shop.delivery, Order(0))

    harness.freeze()
    run = harness.run(parent)
    harness.move(seconds=2)
    harness.drain()
    (former,) = shop.children(run)
    harness.client.operations.rewind(run, to="sleep", by="ann")
    harness.drain()
    harness.move(seconds=2)
    harness.drain()
    former, anew = shop.children(run)
    assert [former.status, anew.status] == ["cancelled", "waiting"]
    copy = harness.client.operations.fork(run, at="delivery", by="ann").new_run_id
    harness.drain()
    (copied,) = harness.database.rows("SELECT id FROM perennial.run WHERE parent_id = :r", r=copy)
    assert copied.id not in {former.id, anew.id}
    harness.client.signal(anew.id, "amount")
    harness.drain()
    assert shop.result(run) == "0 table"
    assert harness.status(copy) is RunStatus.WAITING
    assert not harness.database.rows("SELECT FROM perennial.outbox")


@once
def test_a_child_whose_parent_ends_cleans_up_first_where_its_process_says_so(
    harness: Harness, shop: Shop
) -> None:
    @process(version=1, name="tidy", registry=shop.registry, clean_up_within=hours(1))
    async def tidy(flow: Flow) -> None:
        try:
            await flow.signal("never")
        finally:
            await flow.stage("pack", Order(1, "broom"))

    @shop.parent
    async def parent(flow: Flow) -> None:
        await flow.child(tidy)

    harness.client.processes.deploy(tidy)
    run = harness.run(parent)
    harness.client.cancel(run, by="ann")
    harness.drain()
    assert [child.status for child in shop.children(run)] == ["cancelled"]
    assert shop.done == ["broom"]
    assert not harness.database.rows("SELECT FROM perennial.outbox")


def test_a_handle_reads_as_its_id() -> None:
    run = UUID(int=7)
    assert str(ChildHandle(run, "delivery")) == str(run)
