"""Five hundred accounts: some fail, and come again; some never do."""

from __future__ import annotations

from orchestrator import RunStatus
from orchestrator.testing import ProcessTester
from tasks.bulk_provisioning import bulk_provisioning
from tasks.bulk_provisioning.models import Order
from tasks.bulk_provisioning.stages import provision_account, report_provisioning


def order_of(*names: str) -> Order:
    return Order(team="sales", owner="ada", names=list(names))


def test_five_hundred_accounts_are_made_in_the_order_of_their_names(
    perennial_tester: ProcessTester,
) -> None:
    names = [f"user{number}" for number in range(497)] + ["a b", "c/d", "e!"]
    run = perennial_tester.start(bulk_provisioning, order_of(*names))
    report = perennial_tester.result(run)
    assert [account.name for account in report.created] == names[:497]
    assert sorted(report.failed) == ["a b", "c/d", "e!"]
    assert "can't be an account's name" in report.failed["a b"]


def test_a_directory_that_is_away_for_a_moment_costs_nothing(
    perennial_tester: ProcessTester,
) -> None:
    perennial_tester.fail(provision_account, ConnectionError("away"), times=2)
    run = perennial_tester.start(bulk_provisioning, order_of("ada", "bob", "cy"))
    perennial_tester.run_to_the_end(run)
    assert not perennial_tester.result(run).failed
    assert len(perennial_tester.calls(provision_account)) == 3 + 2


def test_where_too_many_fail_the_rest_is_not_tried(perennial_tester: ProcessTester) -> None:
    names = ["?", *(f"user{number}" for number in range(9)), "??"]
    run = perennial_tester.start(bulk_provisioning, order_of(*names))
    ended = perennial_tester.get(run)
    assert ended.status is RunStatus.FAILED
    assert "names have failed" in ended.error["message"]
    (told,) = perennial_tester.calls(report_provisioning)
    assert "?" in told.arguments["report"].failed
