"""What delays alone say must happen, and when they can't say."""

import math
from datetime import timedelta

import pytest

from demo.log import DemoRequest, HumanDecision, read_log
from demo.oracle import Expectation, Result, expect
from demo.plan import (
    MANAGER_APPROVAL,
    PROCESSES,
    SECURITY_REVIEW,
    TIMEOUT_HOURS,
    plan_runs,
)

SECOND = timedelta(seconds=1)
DAY, TWO_DAYS = timedelta(hours=24), timedelta(hours=48)

AT_ONCE = Result("approved", escalated=False)
ESCALATED = Result("approved", escalated=True)
TIMED_OUT = Result("timed_out", escalated=True)
NEVER_ESCALATED = Result("timed_out", escalated=False)


def request(manager: HumanDecision, security: HumanDecision | None = None) -> DemoRequest:
    return DemoRequest("t", {}, manager, security)


def yes(hours: float) -> HumanDecision:
    return HumanDecision(True, timedelta(hours=hours))


def no(hours: float) -> HumanDecision:
    return HumanDecision(False, timedelta(hours=hours))


def told(expectation: Expectation) -> list[tuple[str, str, bool]]:
    short = {MANAGER_APPROVAL: "manager", SECURITY_REVIEW: "security"}
    return [
        (short[one.name], one.result.outcome, one.result.escalated) for one in expectation.approvals
    ]


@pytest.mark.parametrize(
    ("manager", "security", "outcome", "asked"),
    [
        (
            yes(1),
            yes(1),
            "approved",
            [("manager", "approved", False), ("security", "approved", False)],
        ),
        (
            yes(25),
            yes(1),
            "approved",
            [("manager", "approved", True), ("security", "approved", False)],
        ),
        (
            yes(1),
            yes(47),
            "approved",
            [("manager", "approved", False), ("security", "approved", True)],
        ),
        (no(1), yes(1), "rejected", [("manager", "rejected", False)]),
        (no(30), yes(1), "rejected", [("manager", "rejected", True)]),
        (no(72), yes(1), "timed_out", [("manager", "timed_out", True)]),
        (yes(72), yes(1), "timed_out", [("manager", "timed_out", True)]),
        (
            yes(1),
            no(2),
            "rejected",
            [("manager", "approved", False), ("security", "rejected", False)],
        ),
        (
            yes(1),
            yes(900),
            "timed_out",
            [("manager", "approved", False), ("security", "timed_out", True)],
        ),
        (
            yes(1),
            None,
            "timed_out",
            [("manager", "approved", False), ("security", "timed_out", True)],
        ),
    ],
)
def test_the_delays_decide(manager, security, outcome, asked):
    expectation = expect(request(manager, security))
    assert expectation.outcome == outcome
    assert told(expectation) == asked


@pytest.mark.parametrize(
    ("delay", "result", "distance_hours"),
    [
        (timedelta(0), AT_ONCE, 24),
        (DAY - SECOND, AT_ONCE, 1 / 3600),
        (DAY, ESCALATED, 0),
        (DAY + SECOND, ESCALATED, 1 / 3600),
        (timedelta(hours=36), ESCALATED, 12),
        (TWO_DAYS - SECOND, ESCALATED, 1 / 3600),
        (TWO_DAYS, TIMED_OUT, 0),
        (TWO_DAYS + SECOND, TIMED_OUT, 1 / 3600),
        (timedelta(days=60), TIMED_OUT, 60 * 24 - 48),
    ],
)
def test_a_boundary_belongs_to_what_comes_after_it(delay, result, distance_hours):
    (manager, *_) = expect(request(HumanDecision(True, delay))).approvals
    assert manager.result == result
    assert manager.boundary_distance_hours == pytest.approx(distance_hours)


@pytest.mark.parametrize(
    ("hours", "off_by_hours", "plausible"),
    [
        (20, 3.9, {AT_ONCE}),
        (20, 4, {AT_ONCE, ESCALATED}),
        (20, 28, {AT_ONCE, ESCALATED, TIMED_OUT, NEVER_ESCALATED}),
        (100, 23.9, {TIMED_OUT}),
        (100, 24, {TIMED_OUT, NEVER_ESCALATED}),
        (30, 5.9, {ESCALATED}),
        (30, 6, {ESCALATED, AT_ONCE}),
        (40, 8, {ESCALATED, TIMED_OUT}),
        (40, 16, {ESCALATED, TIMED_OUT, AT_ONCE}),
        (50, 1.9, {TIMED_OUT}),
        (50, 2, {TIMED_OUT, ESCALATED}),
    ],
)
def test_lateness_makes_the_other_side_of_a_boundary_plausible(hours, off_by_hours, plausible):
    (manager, *_) = expect(request(yes(hours))).approvals
    assert manager.results_within(off_by_hours) == plausible


def test_a_rejection_stays_a_rejection_on_either_side():
    (manager,) = expect(request(no(48.1))).approvals
    assert manager.results_within(1) == {TIMED_OUT, Result("rejected", escalated=True)}


def test_where_nobody_answers_no_boundary_is_near():
    (_, security) = expect(request(yes(1))).approvals
    assert security.boundary_distance_hours == math.inf
    assert not security.answered
    assert security.results_within(23.9) == {TIMED_OUT}


# -- the plan that people follow -------------------------------------------------------------------


def test_requests_take_turns_between_the_two_processes():
    plan = plan_runs([request(yes(1))] * 4, hour_seconds=1)
    assert [run.process for run in plan] == [*PROCESSES, *PROCESSES]


def test_hours_shrink_in_the_plan_and_in_the_input_alike():
    (run,) = plan_runs([request(yes(10), no(20))], hour_seconds=0.5)
    assert run.decisions[MANAGER_APPROVAL].delay_seconds == 5
    assert run.decisions[SECURITY_REVIEW].delay_seconds == 10
    assert run.input["escalation_seconds"] == 12
    assert run.input["timeout_seconds"] == 24


def test_whoever_never_answers_is_not_in_the_plan():
    (run,) = plan_runs([request(yes(1))], hour_seconds=1)
    assert run.decisions.keys() == {MANAGER_APPROVAL}


def test_a_decision_months_late_is_sent_soon_after_the_timeout():
    (run,) = plan_runs([request(yes(4000))], hour_seconds=1)
    assert TIMEOUT_HOURS < run.decisions[MANAGER_APPROVAL].delay_seconds < 2 * TIMEOUT_HOURS


# -- the bundled sample ----------------------------------------------------------------------------


def test_the_sample_holds_every_outcome_in_both_processes():
    requests = read_log(None).requests
    for turn in range(len(PROCESSES)):
        ways = {tuple(told(expect(one))) for one in requests[turn :: len(PROCESSES)]}
        assert len(ways) == 9
        assert {way[-1][:2] for way in ways} == {
            ("security", "approved"),
            ("manager", "rejected"),
            ("security", "rejected"),
            ("manager", "timed_out"),
            ("security", "timed_out"),
        }


def test_the_sample_keeps_three_hours_away_from_every_boundary():
    distances = [
        approval.boundary_distance_hours
        for one in read_log(None).requests
        for approval in expect(one).approvals
    ]
    assert min(distances) >= 3
