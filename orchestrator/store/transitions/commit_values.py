"""What the commit of a turn writes, as rows: each dict names columns of a set in `commit_rows`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from orchestrator.core.approval_requests import ApprovalRequest
from orchestrator.core.journal import ActivityState
from orchestrator.core.kinds.base import NewActivity
from orchestrator.core.outcome import TurnOutcome
from orchestrator.core.retries import attempts_of, counted_from
from orchestrator.store.parts import COUNTED
from orchestrator.store.transitions.commit_content import Fact, TurnCommit
from orchestrator.store.transitions.settle import settled_row


def turn_row(commit: TurnCommit) -> dict[str, Any]:
    """How the run stands, and how its fence is held."""
    outcome, settlement = commit.outcome, commit.settlement
    row = {
        "run_id": commit.run_id,
        "revision": commit.revision,
        "turn_token": commit.turn_token,
        "status": outcome.status,
        "stage": outcome.stage,
        "waiting_for": outcome.waiting_for,
        "output": outcome.output,
        "error": outcome.error,
        "closes": outcome.status.is_closed,
        "goes_on": outcome.goes_on,
        "queue": commit.queue,
        "unsettled": outcome.unsettled,
        "consumed_keys": [consumed.key for consumed in outcome.consumed],
        "active_milliseconds": 0,
        "outstanding": outcome.outstanding,
        "children": len(commit.children),
    }
    if outcome.said is not None:
        row["status_text"] = outcome.said.status_text
        row["attributes"] = outcome.said.attributes
    if settlement is not None:
        row |= settled_row(settlement)
    return row


def activity_row(commit: TurnCommit, opened: NewActivity) -> dict[str, Any]:
    """What the turn opens."""
    request, taking = opened.request, commit.taking
    is_taken = taking is not None and taking.key == request.key
    before = attempts_of(commit.attempts_before, request.key) if request.ask.is_handed_off else 0
    attempt = before + 1  # guard: attempts go on after a re-entry
    policy = counted_from(opened.policy, before) if before else opened.policy
    if opened.is_counted:
        policy = {**(policy or {}), COUNTED: True}
    return {
        "run_id": commit.run_id,
        "key": request.key,
        "scope": request.scope,
        "ordinal": request.ordinal,
        "kind": request.kind,
        "name": request.name,
        "state": ActivityState.CLAIMED if is_taken else opened.state,
        "worker_id": taking.worker_id if taking is not None and is_taken else None,
        "attempt": attempt,
        "queue": opened.queue,
        "policy": policy,
        "timeout_seconds": opened.timeout_seconds,
        "asked": request.asked,
        "input": opened.input,
        "result": opened.result,
        "error": opened.error,
        "settled_at": opened.settled_at,
        "settled_revision": opened.settled_revision,
        "claims": opened.claims,
        "child_id": None if opened.child is None else (policy or {}).get("child"),
    }


def approval_row(commit: TurnCommit, opened: NewActivity, ask: ApprovalRequest) -> dict[str, Any]:
    """Whom it asks."""
    # guard: a decision on an asking of before is no decision on this one
    edition = attempts_of(commit.attempts_before, opened.request.key) + commit.chapter - 1
    return {
        "run_id": commit.run_id,
        "key": opened.request.key,
        "name": ask.name,
        "assignees": ask.assignees,
        "escalations": [
            {"after_seconds": escalation.after_seconds, "assignees": escalation.assignees}
            for escalation in ask.escalations
        ],
        "timeout_seconds": ask.timeout_seconds,
        "deadline": ask.times_out_at,
        "edition": edition,
        "rule": None if ask.rule is None else ask.rule.as_json(),
    }


def taken_signals(outcome: TurnOutcome) -> Iterator[tuple[str, UUID]]:
    """What is no longer in the buffer. The key of one that was set aside is no activity's: it answers none."""
    yield from ((consumed.key, consumed.signal_id) for consumed in outcome.consumed)
    yield from ((f"{unfit.key}#set-aside", unfit.signal_id) for unfit in outcome.set_aside)


def history_row(commit: TurnCommit, fact: Fact) -> dict[str, Any]:
    """A line of history."""
    return {
        "run_id": commit.run_id,
        "actor": fact.actor,
        "event": fact.event,
        "key": fact.key,
        "attempt": fact.attempt,
        "from_status": commit.from_status,
        "to_status": commit.outcome.status,
        "detail": fact.detail,
    }
