"""What a subscription does to the world. Stand-ins: they only keep what they did."""

from __future__ import annotations

from orchestrator import Retry, idempotency_key, stage
from tasks.subscription_billing.models import Subscription

charges: dict[str | None, int] = {}
"""What was charged, once by its idempotency key: a charge that is tried again after a crash is the same one."""


@stage(retry=Retry(max_attempts=3, delay_seconds=3600), timeout_seconds=60)
def charge_month(subscription: Subscription) -> None:
    """One month's price."""
    charges[idempotency_key()] = subscription.price


@stage(timeout_seconds=60)
def ask_for_card(customer: str) -> str:
    """A mail, with a link that ends in the signal `new-card`."""
    return f"{customer}, your card is refused"
