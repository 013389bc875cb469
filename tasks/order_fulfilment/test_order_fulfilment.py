"""A carrier that comes, one that fails, and one that forgets."""

from __future__ import annotations

import pytest

from orchestrator import RunStatus, days
from orchestrator.testing import ProcessTester
from tasks.order_fulfilment import order_fulfilment
from tasks.order_fulfilment.models import Order, Parcel
from tasks.order_fulfilment.stages import charge_card, done, tokens

LAMP = Order(number="A-7", customer="ada", item="lamp", amount=3_000)
PAID = ["reserved lamp", "charged 3000", "asked to pick up A-7"]
UNDONE = ["told ada: your order can't be sent", "refunded payment-A-7", "released lamp"]


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()
    tokens.clear()


@pytest.mark.perennial(doubled=True)
def test_a_carrier_that_comes(perennial_tester: ProcessTester) -> None:
    run = perennial_tester.start(order_fulfilment, LAMP)
    assert run.attributes["customer"] == "ada"
    perennial_tester.advance_time(days(2))
    perennial_tester.complete(tokens["A-7"], {"tracking": "T-1"})
    assert perennial_tester.result(run) == Parcel(tracking="T-1")
    assert [*done.values()] == [*PAID, "told ada: on its way: T-1"]


def test_one_that_fails_is_undone_the_last_first(perennial_tester: ProcessTester) -> None:
    run = perennial_tester.start(order_fulfilment, LAMP)
    run = perennial_tester.fail_callback(tokens["A-7"], "no such address")
    assert run.status is RunStatus.FAILED
    assert "no such address" in run.error["message"]
    assert [*done.values()] == PAID + UNDONE


def test_one_that_forgets_is_not_waited_for_for_ever(perennial_tester: ProcessTester) -> None:
    run = perennial_tester.start(order_fulfilment, LAMP)
    assert perennial_tester.run_to_the_end(run).status is RunStatus.FAILED
    assert [*done.values()] == PAID + UNDONE


def test_a_card_that_is_declined_frees_the_thing(perennial_tester: ProcessTester) -> None:
    dear = LAMP.model_copy(update={"amount": 200_000})
    run = perennial_tester.start(order_fulfilment, dear)
    assert run.status is RunStatus.FAILED
    assert [*done.values()] == ["reserved lamp", "released lamp"]


def test_a_crash_charges_nobody_twice(perennial_tester: ProcessTester) -> None:
    perennial_tester.crash(during=charge_card)
    run = perennial_tester.start(order_fulfilment, LAMP)
    perennial_tester.advance_to_next()
    assert len(perennial_tester.calls(charge_card)) == 2
    assert [*done.values()] == PAID
    assert perennial_tester.get(run).waits[0].name == "picked-up"
