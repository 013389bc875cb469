"""Subscription billing: a run that lasts for years, in chapters of one.

process.py      the flow
stages.py       a charge, and a mail
test_subscription_billing.py     two years of it
"""

from tasks.subscription_billing.process import subscription_billing

__all__ = ["subscription_billing"]
