"""Decisions that meet other facts: whoever may decide by the time of the answer is not sent away."""

from __future__ import annotations

from orchestrator import Flow, hours, process
from orchestrator.engine.fire import fire
from orchestrator.faults import listen


def test_a_person_who_is_asked_at_this_very_moment_may_decide(harness):
    """An escalation asks this person right after their decision was refused, and before the refusal is
    put in words. Then nothing speaks against it any more, and it is tried again. Guards `CHANGES_MAX`.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        asked = await flow.approval("m", assign=["bob"], escalate={hours(1): ["dora"]})
        return f"{asked.outcome} by {asked.by}"

    harness.freeze()
    run = harness.run(p)
    harness.move(hours=1)
    due = harness.due_timers()

    def escalate(*place: str) -> None:
        if place == ("after", "decide_approval") and due:
            fire(harness.context, due.pop())

    listen(escalate)
    try:
        assert harness.client.approve(run, by="dora").by == "dora"
    finally:
        listen(None)
    harness.drain()
    assert harness.client.result(run) == "approved by dora"
