"""Order fulfilment: stages with what undoes them, and a partner who answers by a callback.

process.py      the flow
stages.py       stock, card, carrier and mail
test_order_fulfilment.py     with a carrier that comes, fails, and forgets
"""

from tasks.order_fulfilment.process import order_fulfilment

__all__ = ["order_fulfilment"]
