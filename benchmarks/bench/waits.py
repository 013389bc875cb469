"""Processes that wait, for the parts that measure what waiting costs."""

from __future__ import annotations

from pydantic import BaseModel

from orchestrator import Flow, Registry, hours, process, stage

NAPS = "naps"
"""The queue of those that sleep."""

registry = Registry()


class Request(BaseModel, frozen=True):
    """What a request for access holds, as in `tasks/access_request`."""

    id: str
    requester: str
    user: str
    role: str
    manager: str


def a_request(number: int) -> Request:
    """One of many."""
    return Request(
        id=f"REQ-{number}", requester="ann.lee", user="ann.lee", role="dev", manager="bob.smith"
    )


@stage(registry=registry)
def validate_request(request: Request) -> None:
    """Nothing is done: what is measured is what waits afterwards."""


@process(version=1, registry=registry)
async def ask(flow: Flow, request: Request) -> bool:
    """A stage, and then an approval with an escalation and a deadline, both beyond the index's horizon."""
    await flow.stage(validate_request, request)
    manager = await flow.approval(
        "wait-for-manager-approval",
        assign=[request.manager],
        escalate={hours(24): ["director"]},
        timeout=hours(48),
    )
    return manager.approved


@process(version=1, registry=registry, queue=NAPS)
async def nap(flow: Flow) -> None:
    """One sleep, and then nothing."""
    await flow.sleep(hours(1))
