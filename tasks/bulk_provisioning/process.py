"""Hundreds of accounts, a few dozen at a time. A few may fail; if many do, something else is wrong, and all stops."""

from __future__ import annotations

from orchestrator import Fail, Flow, WhyCompleted, process
from tasks.bulk_provisioning.models import Order, Report
from tasks.bulk_provisioning.stages import provision_account, report_provisioning

AT_A_TIME = 50
TOLERATED_PERCENTAGE = 5


@process(version=1)
async def bulk_provisioning(flow: Flow, order: Order) -> Report:
    """An account for each name, and a report. With more than a twentieth failed it stops, and fails."""
    results = await flow.map(
        provision_account,
        order.names,
        max_concurrency=AT_A_TIME,
        tolerated_failure_percentage=TOLERATED_PERCENTAGE,
    )
    report = Report(
        created=[branch.value for branch in results if branch.value is not None],
        failed={
            order.names[branch.index]: str(branch.error)
            for branch in results
            if branch.error is not None
        },
    )
    await flow.stage(report_provisioning, order.owner, report)
    if results.why is WhyCompleted.TOO_MANY_FAILED:
        raise Fail(
            f"{results.failed} of {results.started} names have failed: the rest was not tried"
        )
    return report
