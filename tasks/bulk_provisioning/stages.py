"""One account at a time: each is a stage of its own, tried again by itself. A stand-in for a directory."""

from __future__ import annotations

from orchestrator import Fail, Retry, stage
from tasks.bulk_provisioning.models import Account, Report


@stage(queue="directory", retry=Retry(max_attempts=4, delay_seconds=5), timeout_seconds=60)
def provision_account(name: str) -> Account:
    """A name that the directory never takes is no reason to try again: that is what Fail says."""
    if not name.isalnum():
        raise Fail(f"{name!r} can't be an account's name")
    return Account(name=name, address=f"{name}@example.org")


@stage(timeout_seconds=60)
def report_provisioning(owner: str, report: Report) -> str:
    """What the owner reads."""
    return f"{owner}: {len(report.created)} accounts, {len(report.failed)} names without one"
