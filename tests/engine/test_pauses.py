"""A long pause: what came due in it is recorded, and whoever lets the run go on is told."""

from __future__ import annotations

from orchestrator import Flow, days, process
from tests.modes import EAGER, NORMAL, modes_of

pytestmark = modes_of(NORMAL, EAGER, because="it moves the clock")


def test_history_says_with_the_resumption_what_came_due_in_the_pause(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.sleep(days(30))
        asked = flow.approval("boss", assign=["ann"], timeout=days(9))
        await flow.gather(asked, flow.sleep(days(20), key="later"))

    harness.freeze()
    run = harness.run(p)
    verbs = harness.client.operations
    verbs.pause(run, by="it")
    verbs.resume(run, by="it")
    harness.move(days=30)
    harness.drain()
    verbs.pause(run, by="it")
    harness.move(days=90)
    harness.drain()
    verbs.resume(run, by="it")
    harness.drain()
    told = [each for each in harness.client.history(run) if each.event == "resumed"]
    assert [each.detail for each in told] == [{}, {"came_due": ["boss", "later"]}]
    assert harness.client.result(run) is None
