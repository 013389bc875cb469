"""A subscription is billed each month, for as many years as it lasts.

A year is a chapter: then the run begins anew with what it has come to, under the same id and key. Its record of the
years before is history, and a turn reads the months of this year alone.

Months are counted from the first one, so none drifts, however late a customer pays. Of those that were missed, as the
run was paused or the fleet was down, one is charged: `flow.every` takes the last of them.
"""

from __future__ import annotations

from datetime import datetime

from orchestrator import ActivityFailed, Flow, days, process
from tasks.subscription_billing.models import Change, Ended, Subscription
from tasks.subscription_billing.stages import ask_for_card, charge_month

A_MONTH = days(30)
MONTHS_A_CHAPTER = 12
NEW_CARD_WITHIN = days(14)


@process(version=1)
async def subscription_billing(flow: Flow, subscription: Subscription) -> Ended:
    """Charge, wait for a month, charge again; until it is cancelled, or nobody pays."""
    flow.attributes(customer=subscription.customer)
    months = flow.every(A_MONTH, start=subscription.due_at or flow.now)
    async for _due in months:
        if not await pay(flow, subscription):
            return Ended(months_paid=subscription.months_paid, why="not paid")
        paid = subscription.months_paid + 1
        flow.status(f"months paid: {paid}")
        change = await month(flow, subscription.price, months.next_at)
        if change.cancels:
            return Ended(months_paid=paid, why="cancelled")
        subscription = subscription.model_copy(
            update={"price": change.price, "months_paid": paid, "due_at": months.next_at}
        )
        if paid % MONTHS_A_CHAPTER == 0:
            break
    return await flow.continue_as_new(subscription)


async def pay(flow: Flow, subscription: Subscription) -> bool:
    """Whether the month is paid: with this card, or with a new one that comes in time."""
    while True:
        try:
            await flow.stage(charge_month, subscription)
        except ActivityFailed:
            await flow.stage(ask_for_card, subscription.customer)
            if not await flow.signal("new-card", type=bool, timeout=NEW_CARD_WITHIN, default=False):
                return False
        else:
            return True


async def month(flow: Flow, price: int, ends: datetime | None) -> Change:
    """What its customer has changed in it: the last word on the price counts, and a cancellation ends it at once."""
    while change := await flow.signal("change", type=Change, until=ends, default=None):
        if change.cancels:
            return change
        price = price if change.price is None else change.price
    return Change(price=price)
