"""An order is reserved, paid and picked up by a partner; or what was done for it is undone, the last first."""

from __future__ import annotations

from orchestrator import CallbackFailed, CallbackTimedOut, Fail, Flow, days, process
from tasks.order_fulfilment.models import Order, Parcel
from tasks.order_fulfilment.stages import (
    ask_carrier,
    charge_card,
    refund_card,
    release_stock,
    reserve_stock,
    tell_customer,
)

PICKED_UP_WITHIN = days(3)


@process(version=1)
async def order_fulfilment(flow: Flow, order: Order) -> Parcel:
    """Whatever fails, the customer is told, the money goes back, and the thing is free again."""
    flow.attributes(customer=order.customer, amount=order.amount)

    await flow.stage(reserve_stock, order, compensate=release_stock)
    await flow.stage(charge_card, order, compensate=refund_card)

    flow.status("the carrier is to pick it up")
    try:
        parcel = await flow.call_back(
            "picked-up", ask_carrier, order, type=Parcel, timeout=PICKED_UP_WITHIN
        )
    except (CallbackFailed, CallbackTimedOut) as problem:
        await flow.stage(tell_customer, order.customer, "your order can't be sent")
        raise Fail(f"not picked up: {problem}") from problem

    await flow.stage(tell_customer, order.customer, f"on its way: {parcel.tracking}")
    return parcel
