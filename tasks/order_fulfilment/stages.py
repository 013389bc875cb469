"""What an order does to the world, each with what undoes it. A stand-in for a shop: a list of what was done.

A careful service takes an idempotency key: a stage that is tried again after a crash charges nobody twice.
"""

from __future__ import annotations

from orchestrator import CallbackToken, Fail, Retry, idempotency_key, stage
from tasks.order_fulfilment.models import Order

done: dict[str | None, str] = {}
"""What was done, once by its idempotency key."""
tokens: dict[str, str] = {}
"""What the carrier was given to answer by, by the order's number."""


@stage(timeout_seconds=30)
def reserve_stock(order: Order) -> None:
    """Returns nothing: what undoes it is given the order again."""
    done[idempotency_key()] = f"reserved {order.item}"


@stage(timeout_seconds=30)
def release_stock(order: Order) -> None:
    """The thing can be sold to somebody else."""
    done[idempotency_key()] = f"released {order.item}"


@stage(retry=Retry(max_attempts=5, delay_seconds=10), timeout_seconds=30)
def charge_card(order: Order) -> str:
    """The payment, by which it is given back."""
    if order.amount > 100_000:  # noqa: PLR2004 - the stand-in's own limit
        raise Fail("the card is declined")
    done[idempotency_key()] = f"charged {order.amount}"
    return f"payment-{order.number}"


@stage(retry=Retry(max_attempts=20, delay_seconds=10), timeout_seconds=30)
def refund_card(payment: str) -> None:
    """It is owed, so it is tried for long."""
    done[idempotency_key()] = f"refunded {payment}"


@stage(timeout_seconds=30)
def ask_carrier(token: CallbackToken, order: Order) -> None:
    """The carrier answers later, by the token: `client.complete(token, {"tracking": …})`."""
    tokens[order.number] = token.secret
    done[idempotency_key()] = f"asked to pick up {order.number}"


@stage(timeout_seconds=30)
def tell_customer(customer: str, text: str) -> None:
    """A mail."""
    done[idempotency_key()] = f"told {customer}: {text}"
