"""What a flow has due in the past is due now, in the record too: no incident, and no wait."""

from __future__ import annotations

from datetime import timedelta

from orchestrator import Flow, RunStatus, SignalTimedOut, hours, process

LATE = timedelta(minutes=-5)


def test_a_run_whose_times_are_over_goes_through(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[str]:
        due = flow.now + LATE
        await flow.sleep(due - flow.now)
        await flow.sleep_until(due)
        decision = await flow.approval(
            "boss", assign=["bob"], escalate={hours(24): ["ann"]}, timeout=due - flow.now
        )
        seen = [str(decision.outcome)]
        try:
            await flow.signal("paid", timeout=due - flow.now)
        except SignalTimedOut:
            seen.append("no signal")
        return seen

    run = harness.run(p)
    assert harness.client.result(run) == ["timed_out", "no signal"]


def test_a_signal_that_is_there_already_is_taken_before_a_timeout_that_is_over(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.signal("paid", timeout=LATE)

    run = harness.start(p)
    harness.client.signal(run, "paid", 7)
    harness.drain()
    assert harness.client.result(run) == 7


def test_those_whose_escalation_is_overdue_are_asked_at_once(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> bool:
        boss = await flow.approval("boss", assign=["bob"], escalate={LATE: ["ann"]})
        return boss.approved and boss.escalated

    run = harness.run(p)
    assert harness.status(run) is RunStatus.WAITING
    harness.client.approve(run, by="ann")
    harness.drain()
    assert harness.client.result(run) is True
