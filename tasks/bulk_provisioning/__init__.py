"""Bulk provisioning: one process for hundreds of accounts, of which a few may fail.

process.py      the flow: a map with a completion policy
stages.py       one account
test_bulk_provisioning.py     five hundred of them
"""

from tasks.bulk_provisioning.process import bulk_provisioning

__all__ = ["bulk_provisioning"]
