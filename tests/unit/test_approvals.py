"""Who may decide, when it is too late, and what a refusal says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Decision, Outcome, hours
from orchestrator.core import codec
from orchestrator.core.approval_requests import Escalation, request_approval
from orchestrator.core.approvals import ApprovalState, check_decision
from orchestrator.errors import (
    AlreadyDecided,
    DecisionRefused,
    DecisionTooEarly,
    DecisionTooLate,
    DefinitionError,
    NotAssigned,
)

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def state(**changes: object) -> ApprovalState:
    values = {
        "name": "manager",
        "state": "open",
        "assignees": ("bob", "carol"),
        "deadline": NOON,
        "decided_by": None,
        "decided_at": None,
    }
    return ApprovalState(**{**values, **changes})  # type: ignore[arg-type]


DECIDED = {"decided_by": "bob", "decided_at": NOON - hours(1)}
EARLY, LATE = NOON - timedelta(seconds=1), NOON + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("approval", "by", "now", "refusal", "says"),
    [
        (state(), "bob", EARLY, None, ""),
        (state(), "carol", EARLY, None, ""),
        (state(deadline=None), "bob", LATE, None, ""),
        (
            None,
            "bob",
            EARLY,
            DecisionTooEarly,
            "has not been asked for yet; the run waits for stage validate",
        ),
        (
            state(),
            "bob",
            NOON,
            DecisionTooLate,
            "timed out at 2030-01-01T12:00:00+00:00; nobody had decided",
        ),
        (state(), "bob", LATE, DecisionTooLate, "timed out"),
        (state(state="timed_out"), "bob", EARLY, DecisionTooLate, "timed out"),
        (state(state="cancelled"), "bob", EARLY, DecisionTooLate, "was cancelled"),
        (
            state(state="approved", **DECIDED),
            "carol",
            EARLY,
            AlreadyDecided,
            "approved by bob at 2030-01-01T11:00:00",
        ),
        (state(state="rejected", **DECIDED), "bob", LATE, AlreadyDecided, "rejected by bob"),
        (
            state(),
            "eve",
            EARLY,
            NotAssigned,
            "eve is not asked for approval 'manager'; bob, carol can decide",
        ),
        (state(), "eve", LATE, DecisionTooLate, "timed out"),
        (state(state="approved", **DECIDED), "eve", EARLY, AlreadyDecided, "by bob"),
    ],
)
def test_a_decision_is_taken_or_refused_and_says_why(approval, by, now, refusal, says):
    def check() -> None:
        check_decision(approval, name="manager", by=by, now=now, waits_for="stage validate")

    if refusal is None:
        check()
        return
    with pytest.raises(refusal) as refused:
        check()
    assert says in str(refused.value)
    assert isinstance(refused.value, DecisionRefused)


def test_a_refusal_carries_who_decided_what_and_when():
    with pytest.raises(AlreadyDecided) as refused:
        check_decision(
            state(state="approved", **DECIDED), name="manager", by="eve", now=EARLY, waits_for=""
        )
    assert (refused.value.by, refused.value.outcome, refused.value.at) == (
        "bob",
        "approved",
        NOON - hours(1),
    )


def test_a_refusal_carries_the_deadline_and_the_assignees():
    with pytest.raises(DecisionTooLate) as late:
        check_decision(state(), name="manager", by="bob", now=LATE, waits_for="")
    assert late.value.deadline == NOON
    with pytest.raises(NotAssigned) as foreign:
        check_decision(state(), name="manager", by="eve", now=EARLY, waits_for="")
    assert foreign.value.assignees == ("bob", "carol")


def test_escalations_are_sorted_by_their_time():
    asked = request_approval(
        "m",
        assign=["bob"],
        escalate={hours(24): ["director"], hours(8): ["deputy"]},
        timeout=hours(48),
    )
    assert asked.escalations == (
        Escalation(8 * 3600, ("deputy",)),
        Escalation(24 * 3600, ("director",)),
    )
    assert asked.timeout_seconds == 48 * 3600


@pytest.mark.parametrize(
    "wrong",
    [
        {"assign": "bob"},
        {"assign": []},
        {"assign": [""]},
        {"timeout": hours(1e9)},
        {"escalate": {hours(1e9): ["carol"]}},
        {"escalate": {hours(2): ["carol"]}, "timeout": hours(2)},
        {"escalate": {hours(3): ["carol"]}, "timeout": hours(2)},
    ],
)
def test_an_approval_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(DefinitionError):
        request_approval("m", **{"assign": ["bob"], **wrong})


@given(after=st.floats(0.001, 1e6), timeout=st.floats(0.001, 1e6))
def test_an_escalation_comes_before_the_timeout_or_is_refused(after, timeout):
    def ask() -> object:
        return request_approval(
            "m",
            assign=["b"],
            escalate={timedelta(seconds=after): ["c"]},
            timeout=timedelta(seconds=timeout),
        )

    if timedelta(seconds=after) < timedelta(seconds=timeout) and timedelta(
        seconds=after
    ) > timedelta(0):
        ask()
    else:
        with pytest.raises(DefinitionError):
            ask()


def test_a_decision_survives_the_record():
    decision = Decision("manager", Outcome.REJECTED, by="bob", reason="no", at=NOON, escalated=True)
    recorded = codec.parse(codec.encode(decision, Decision, what="decision"))
    assert codec.decode(recorded, Decision, what="decision") == decision
    assert (decision.approved, decision.timed_out) == (False, False)
    assert Decision("manager", Outcome.APPROVED).approved
    assert Decision("manager", Outcome.TIMED_OUT).timed_out
