"""Deadlines of approvals in working time: recorded as moments as they are asked, and due then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from orchestrator import Calendar, Flow, business_days, business_hours, hours, load_process, process
from orchestrator.core.decorators import approval
from tests.harness import Harness
from tests.modes import EAGER, EVICT, NORMAL, TWICE, modes_of

OFFICE = Calendar("nl-office", zone="Europe/Amsterdam", holidays="NL")
ZONE = ZoneInfo("Europe/Amsterdam")
ASKED = datetime(2026, 5, 13, 16, tzinfo=ZONE)  # on the eve of Ascension Day

modes = modes_of(NORMAL, EVICT, TWICE, EAGER, because="a deadline falls once, and where it was set")


@modes
def test_an_approval_escalates_and_times_out_in_working_time(harness: Harness) -> None:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        made = await flow.approval(
            "boss",
            assign=["ann"],
            escalate={business_days(1): ["bob"]},
            timeout=business_hours(16),
            calendar=OFFICE,
        )
        return [made.outcome, made.escalated]

    harness.freeze(ASKED.astimezone(UTC))
    run = harness.run(p)
    (asked,) = harness.client.approvals()
    assert asked.deadline == datetime(2026, 5, 18, 16, tzinfo=ZONE)
    assert asked.escalates_at == datetime(2026, 5, 15, 16, tzinfo=ZONE)

    harness.freeze(datetime(2026, 5, 15, 15, 59, tzinfo=ZONE))
    harness.drain()
    assert not harness.client.approvals(assignee="bob")
    harness.move(minutes=1)
    harness.drain()
    assert harness.client.approvals(assignee="bob")
    harness.move(days=3)
    harness.drain()
    assert harness.client.get(run).output == ["timed_out", True]


def test_time_in_which_nothing_was_recorded_puts_off_no_working_deadline(harness: Harness) -> None:
    """What led to the asking happened before the weekend; the turn that asks is taken after it."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        await flow.signal("go")
        await flow.approval("boss", assign=["ann"], timeout=business_days(1), calendar=OFFICE)

    harness.freeze(datetime(2026, 5, 8, 16, tzinfo=ZONE))
    run = harness.run(p)
    harness.client.signal(run, "go")
    harness.freeze(datetime(2026, 5, 11, 9, tzinfo=ZONE))  # no worker was there on Friday night
    harness.drain()
    (asked,) = harness.client.approvals()
    assert asked.deadline == datetime(2026, 5, 11, 16, tzinfo=ZONE)


def test_a_calendar_that_is_changed_moves_no_deadline_and_contradicts_nothing(
    harness: Harness,
) -> None:
    calendars = [OFFICE]

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        made = await flow.approval(
            "boss", assign=["ann"], timeout=business_days(2), calendar=calendars[-1]
        )
        return made.outcome

    harness.freeze(ASKED.astimezone(UTC))
    run = harness.run(p)
    (asked,) = harness.client.approvals()
    calendars.append(Calendar("nl-office", zone="Europe/Amsterdam"))  # without holidays
    harness.client.approve(run, by="ann")
    harness.drain()
    assert harness.client.get(run).output == "approved"
    assert asked.deadline == datetime(2026, 5, 18, 16, tzinfo=ZONE)


def test_yaml_has_its_calendar(harness: Harness) -> None:
    approval("sign", registry=harness.registry, escalate_to=["bob"])(lambda _value: ["ann"])
    text = """
    process:
      name: travel
      stages: [sign]
      timers: {timeout: 2 business days, escalation: 1 business day}
      calendar: {zone: Europe/Amsterdam, holidays: NL}
    """
    harness.freeze(ASKED.astimezone(UTC))
    harness.run(load_process(text, registry=harness.registry), {})
    (asked,) = harness.client.approvals()
    assert asked.deadline == datetime(2026, 5, 18, 16, tzinfo=ZONE)
    assert asked.escalates_at == datetime(2026, 5, 15, 16, tzinfo=ZONE)


def test_elapsed_time_stays_elapsed_beside_working_time(harness: Harness) -> None:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.approval(
            "boss",
            assign=["ann"],
            escalate={hours(4): ["bob"]},
            timeout=business_days(1),
            calendar=OFFICE,
        )

    harness.freeze(ASKED.astimezone(UTC))
    harness.run(p)
    (asked,) = harness.client.approvals()
    assert asked.escalates_at == ASKED + timedelta(hours=4)
    assert asked.deadline == datetime(2026, 5, 15, 16, tzinfo=ZONE)
