"""Two years of a subscription, month by month: one run, whose journal stays as small as that of a month."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from orchestrator import Flow, Registry, days, process, stage
from orchestrator.testing import ProcessTester

registry = Registry()
charged: list[str] = []


@dataclass(frozen=True)
class Subscription:
    customer: str
    price: Decimal
    months: int = 0


@stage(registry=registry)
def charge(customer: str, price: Decimal, month: str) -> None:
    charged.append(f"{customer} {price} {month}")


@process(version=1, registry=registry)
async def subscription(flow: Flow, it: Subscription) -> int:
    flow.attributes(customer=it.customer, months=it.months)
    flow.status(f"{it.months} months are paid")
    cancelled = flow.signal("cancel")
    await flow.stage(charge, it.customer, it.price, f"{flow.now:%Y-%m}")
    race = await flow.first({"cancelled": cancelled, "month": flow.sleep(days(30))})
    if race.name == "cancelled":
        return it.months + 1
    if flow.peek("price"):
        it = replace(it, price=await flow.signal("price", type=Decimal))
    return await flow.continue_as_new(replace(it, months=it.months + 1))


def test_two_years_of_a_subscription_take_no_more_rows_than_a_month():
    charged.clear()
    with ProcessTester(registry=registry, now=datetime(2031, 1, 6, tzinfo=UTC)) as tester:
        run = tester.start(subscription, Subscription("C-17", Decimal("9.90")), key="C-17")
        tester.advance_time(days(365))
        tester.signal("C-17", "price", "12.50")
        tester.advance_time(days(365))
        view = tester.get(run)
        assert (view.id, view.chapter, view.status_text) == (run.id, 25, "24 months are paid")
        assert len(charged) == 25
        assert [each.split()[1] for each in charged[11:15]] == ["9.90", "9.90", "12.50", "12.50"]
        assert rows_of(tester, run.id) == {"activity": 3, "timer": 1, "signal": 0}
        assert tester.client.query("C-17", "months") == 24
        tester.signal(run, "cancel")
        assert tester.result(run) == 25


def rows_of(tester: ProcessTester, run: Any) -> dict[str, int]:
    with tester.database.connect() as connection:
        return {
            table: connection.execute(
                text(f"SELECT count(*) FROM perennial.{table} WHERE run_id = :run"), {"run": run}
            ).scalar_one()
            for table in ("activity", "timer", "signal")
        }
