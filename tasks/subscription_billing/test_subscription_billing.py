"""Two years in a moment, and customers who change their minds."""

from __future__ import annotations

import pytest

from orchestrator import days
from orchestrator.testing import ProcessTester
from tasks.subscription_billing import subscription_billing
from tasks.subscription_billing.models import Change, Ended, Subscription
from tasks.subscription_billing.stages import charge_month, charges

ADA = Subscription(customer="ada", price=900)


@pytest.fixture(autouse=True)
def _nothing_charged() -> None:
    charges.clear()


def test_two_years_are_twenty_four_charges_and_the_journal_of_one(
    perennial_tester: ProcessTester,
) -> None:
    perennial_tester.start(subscription_billing, ADA, key="ada")
    perennial_tester.advance_time(days(30 * 24 - 1))
    run = perennial_tester.get("ada")
    assert (run.chapter, run.status_text) == (2, "months paid: 24")
    assert [*charges.values()] == [900] * 24
    assert [line.key for line in perennial_tester.journal(run)][-1].startswith("2#/")

    perennial_tester.advance_time(days(1))
    perennial_tester.signal("ada", "change", Change(cancels=True))
    assert perennial_tester.result("ada") == Ended(months_paid=25, why="cancelled")


@pytest.mark.perennial(doubled=True)
def test_a_new_price_counts_from_the_next_month_also_from_one_chapter_to_the_next(
    perennial_tester: ProcessTester,
) -> None:
    run = perennial_tester.start(subscription_billing, ADA)
    perennial_tester.advance_time(days(30 * 11 + 1))
    perennial_tester.signal(run, "change", Change(price=1_200))
    perennial_tester.advance_time(days(30))
    assert [*charges.values()] == [900] * 12 + [1_200]


def test_months_that_were_missed_in_a_pause_are_one_charge_and_the_next_comes_on_its_day(
    perennial_tester: ProcessTester,
) -> None:
    run = perennial_tester.start(subscription_billing, ADA)
    perennial_tester.pause(run)
    perennial_tester.advance_time(days(100))
    perennial_tester.resume(run)
    perennial_tester.advance_time(days(19))
    assert [*charges.values()] == [900] * 2
    perennial_tester.advance_time(days(1))
    assert [*charges.values()] == [900] * 3


def test_a_card_that_is_refused_may_be_followed_by_another(perennial_tester: ProcessTester) -> None:
    perennial_tester.fail(charge_month, times=3)
    run = perennial_tester.start(subscription_billing, ADA)
    perennial_tester.advance_time(days(1))
    perennial_tester.signal(run, "new-card", payload=True)
    assert perennial_tester.get(run).status_text == "months paid: 1"


def test_whoever_never_pays_is_no_customer(perennial_tester: ProcessTester) -> None:
    perennial_tester.fail(charge_month)
    run = perennial_tester.run_to_the_end(perennial_tester.start(subscription_billing, ADA))
    assert perennial_tester.result(run) == Ended(months_paid=0, why="not paid")
