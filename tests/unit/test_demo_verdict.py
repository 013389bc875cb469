"""What the demo calls a difference, and what it calls too close to judge."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from demo.log import DemoRequest, HumanDecision
from demo.oracle import expect
from demo.plan import (
    MANAGER_APPROVAL,
    PYTHON_PROCESS,
    SECURITY_REVIEW,
    YAML_PROCESS,
    TakenDecision,
)
from demo.record import Record, RecordedApproval, RecordedRun
from demo.report import Spread
from demo.verdict import Verdict, judge
from orchestrator.core.run import RunStatus

AT = datetime(2024, 1, 1, tzinfo=UTC)
GRANT = {"account": "ada", "role": "auditor"}
ALL_EFFECTS = {"validate": 1, "create": 1, "grant": 1, "notify": 1}
EFFECTS_WITHOUT_ACCESS = {"validate": 1, "notify": 1}

SECURITY_APPROVED = RecordedApproval(SECURITY_REVIEW, "approved", escalated=False, decided_by="s")


def request(manager_hours: float, security_hours: float | None = 1, *, approved: bool = True):
    security = None
    if security_hours is not None:
        security = HumanDecision(True, timedelta(hours=security_hours))
    return DemoRequest("t", {}, HumanDecision(approved, timedelta(hours=manager_hours)), security)


def manager(state: str, *, escalated: bool = False) -> RecordedApproval:
    return RecordedApproval(MANAGER_APPROVAL, state, escalated, "m")


def recorded(
    *approvals: RecordedApproval,
    output: Any = GRANT,
    effects: Mapping[str, int] = ALL_EFFECTS,
    status: RunStatus = RunStatus.COMPLETED,
    process: str = PYTHON_PROCESS,
    trace_id: str = "t",
) -> RecordedRun:
    return RecordedRun(trace_id, UUID(int=1), process, status, output, approvals, effects, AT, AT)


def taken(approval: str, *, late_seconds: float = 0, refused: str = "") -> TakenDecision:
    at = AT + timedelta(seconds=late_seconds)
    return TakenDecision(
        trace_id="t",
        approval=approval,
        intended_at=AT,
        attempted_at=at,
        taken_at=None if refused else at,
        refused=refused,
    )


def judged(
    asked: DemoRequest,
    *runs: RecordedRun,
    decisions: tuple[TakenDecision, ...] = (),
    timers: tuple[float, ...] = (),
) -> Verdict:
    """With hours of a second each."""
    record = Record({run.trace_id: run for run in runs}, timers, 0, 0)
    return judge([expect(asked)], record, decisions, hour_seconds=1)


def told(verdict: Verdict) -> list[tuple[str, str, str]]:
    return [(one.what, one.expected, one.recorded) for one in verdict.differences]


def test_a_run_that_went_as_the_delays_say_agrees():
    verdict = judged(request(1), recorded(manager("approved"), SECURITY_APPROVED))
    assert verdict.agrees
    assert verdict.compared == 1
    assert not verdict.too_close


@pytest.mark.parametrize(
    ("run", "difference"),
    [
        (recorded(manager("rejected")), (MANAGER_APPROVAL, "approved", "rejected")),
        (
            recorded(manager("approved", escalated=True), SECURITY_APPROVED),
            (MANAGER_APPROVAL, "approved", "approved, escalated"),
        ),
        (recorded(manager("approved")), (SECURITY_REVIEW, "approved", "not asked")),
        (recorded(), (MANAGER_APPROVAL, "approved", "not asked")),
        (
            recorded(manager("approved"), SECURITY_APPROVED, status=RunStatus.INCIDENT),
            ("status", "completed", "incident"),
        ),
        (
            recorded(manager("approved"), SECURITY_APPROVED, output=None),
            ("output", "approved", "None"),
        ),
        (
            recorded(
                manager("approved"),
                SECURITY_APPROVED,
                process=YAML_PROCESS,
                output={"outcome": "rejected"},
            ),
            ("output", "approved", "{'outcome': 'rejected'}"),
        ),
        (
            recorded(manager("approved"), SECURITY_APPROVED, effects={**ALL_EFFECTS, "grant": 2}),
            (
                "effects",
                "create ×1, grant ×1, notify ×1, validate ×1",
                "create ×1, grant ×2, notify ×1, validate ×1",
            ),
        ),
    ],
)
def test_the_first_thing_that_went_otherwise_is_told(run, difference):
    assert told(judged(request(1), run)) == [difference]


def test_a_run_that_is_missing_is_a_difference():
    assert told(judged(request(1))) == [("the run", "approved", "missing")]


def test_a_run_that_nobody_expected_is_a_difference():
    extra = recorded(trace_id="u")
    expected = recorded(manager("approved"), SECURITY_APPROVED)
    assert told(judged(request(1), expected, extra)) == [("the run", "none", str(extra.id))]


def test_an_approval_that_nobody_expected_is_a_difference():
    run = recorded(manager("rejected"), SECURITY_APPROVED)
    verdict = judged(request(1, approved=False), run)
    assert told(verdict) == [(SECURITY_REVIEW, "not asked", "approved")]


# -- lateness --------------------------------------------------------------------------------------


def test_a_decision_that_lateness_carried_over_the_escalation_is_listed_and_excused():
    run = recorded(manager("approved", escalated=True), SECURITY_APPROVED)
    late = taken(MANAGER_APPROVAL, late_seconds=0.2)
    verdict = judged(request(23.9), run, decisions=(late,))
    assert verdict.agrees
    (close,) = verdict.too_close
    assert (close.expected, close.recorded) == ("approved", "approved, escalated")
    assert close.boundary_distance_seconds == pytest.approx(0.1)
    assert close.lateness_seconds == pytest.approx(0.2)


def test_so_is_one_where_the_timer_was_late():
    run = recorded(manager("approved"), SECURITY_APPROVED)
    assert judged(request(24.1), run, timers=(0.05, 0.15)).agrees


def test_so_is_one_that_came_early():
    run = recorded(manager("approved"), SECURITY_APPROVED)
    early = taken(MANAGER_APPROVAL, late_seconds=-0.2)
    assert judged(request(24.1), run, decisions=(early,)).agrees


def test_one_that_no_lateness_explains_is_a_difference():
    run = recorded(manager("approved", escalated=True), SECURITY_APPROVED)
    late = taken(MANAGER_APPROVAL, late_seconds=0.05)
    verdict = judged(request(23.9), run, decisions=(late,), timers=(0.04,))
    assert told(verdict) == [(MANAGER_APPROVAL, "approved", "approved, escalated")]
    assert not verdict.too_close


def test_one_close_to_a_boundary_is_listed_though_it_fell_on_its_own_side():
    run = recorded(manager("approved"), SECURITY_APPROVED)
    verdict = judged(request(23.9), run, timers=(1,))
    assert verdict.agrees
    assert [close.recorded for close in verdict.too_close] == ["approved"]


def test_a_boundary_further_off_is_excused_as_well_if_lateness_reaches_that_far():
    run = recorded(manager("approved"), SECURITY_APPROVED)
    assert judged(request(47), run, timers=(23,)).agrees
    assert not judged(request(47), run, timers=(22,)).agrees


def test_close_to_a_boundary_only_its_two_sides_are_excused():
    rejected = recorded(manager("rejected"), output=None, effects=EFFECTS_WITHOUT_ACCESS)
    verdict = judged(request(23.9), rejected, timers=(1,))
    assert told(verdict) == [(MANAGER_APPROVAL, "approved", "rejected")]


def test_after_an_excused_outcome_the_run_must_still_follow_from_it():
    timed_out = manager("timed_out", escalated=True)
    refused = taken(MANAGER_APPROVAL, refused="DecisionTooLate")
    asked = request(47.9)
    run = recorded(timed_out, output=None, effects=EFFECTS_WITHOUT_ACCESS)
    assert judged(asked, run, decisions=(refused,), timers=(1,)).agrees
    granted = recorded(timed_out, output=None, effects=ALL_EFFECTS)
    verdict = judged(asked, granted, decisions=(refused,), timers=(1,))
    assert [one.what for one in verdict.differences] == ["effects"]


# -- late decisions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decisions", "difference"),
    [
        ((taken(MANAGER_APPROVAL, refused="DecisionTooLate"),), None),
        ((taken(MANAGER_APPROVAL, refused="NotAssigned"),), "NotAssigned"),
        ((taken(MANAGER_APPROVAL),), "taken"),
        ((), "never sent"),
    ],
)
def test_a_decision_after_the_timeout_must_be_refused_as_too_late(decisions, difference):
    run = recorded(
        manager("timed_out", escalated=True), output=None, effects=EFFECTS_WITHOUT_ACCESS
    )
    verdict = judged(request(60), run, decisions=decisions)
    assert [one.recorded for one in verdict.differences] == ([difference] if difference else [])


def test_a_reviewer_who_never_answers_has_no_decision_to_refuse():
    run = recorded(
        manager("approved"),
        RecordedApproval(SECURITY_REVIEW, "timed_out", escalated=True, decided_by=None),
        process=YAML_PROCESS,
        output={"outcome": "timed_out"},
        effects=EFFECTS_WITHOUT_ACCESS,
    )
    assert judged(request(1, None), run).agrees


# -- measurements ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "spread"),
    [
        ([], Spread(0, 0, 0, 0)),
        ([2.0], Spread(1, 2, 2, 2)),
        ([float(n) for n in range(101)], Spread(101, 50, 99, 100)),
    ],
)
def test_a_spread_of_any_number_of_seconds_is_told(seconds, spread):
    assert Spread.of(seconds) == spread
