"""Approvals as pure policy: who may decide, and when it is too late. How one is asked for: approval_requests.py.

The store's row says what is; the functions here say what a decision on it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from orchestrator.errors import (
    AlreadyDecided,
    ApprovalChanged,
    DecisionRefused,
    DecisionTooEarly,
    DecisionTooLate,
    Excluded,
    NotAssigned,
)


class Outcome(StrEnum):
    """How an approval ended."""

    APPROVED = "approved"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    OPEN = "open"
    """It has not: what a vote is answered with while others are needed. A flow never sees it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What came of an approval; the answer to `await flow.approval(...)`.

    `by` and `at` are None when nobody decided in time; `reason` is the decider's comment. `at` is in UTC.
    """

    approval: str
    outcome: Outcome
    by: str | None = None
    reason: str = ""
    at: datetime | None = None
    escalated: bool = False

    def __post_init__(self) -> None:
        # The record has it in the time zone of whoever decided.
        if self.at is not None and self.at.utcoffset():
            object.__setattr__(self, "at", self.at.astimezone(UTC))

    @property
    def approved(self) -> bool:
        """True only when people said yes."""
        return self.outcome is Outcome.APPROVED

    @property
    def timed_out(self) -> bool:
        """True when nobody decided in time."""
        return self.outcome is Outcome.TIMED_OUT


@dataclass(frozen=True, slots=True)
class ApprovalState:
    """An approval's row as it was read. `state` is `open`, an Outcome, or `cancelled`."""

    name: str
    state: str
    assignees: tuple[str, ...]
    deadline: datetime | None
    decided_by: str | None
    decided_at: datetime | None
    former_keys: tuple[str, ...] = ()
    """Keys that it had before its run was migrated."""
    edition: int = 0
    """How often what people see of it was changed while it was open."""
    changed: str = ""
    """What was changed last."""
    rule: dict[str, Any] | None = None
    """What has to come together (`core.voting`). None: whoever decides first."""


def refuse_if_changed(approval: ApprovalState | None, seen: int | None, *, key: str) -> None:
    """Whether it is open as it was seen; returns if so, or if nobody says what was seen. Raises ApprovalChanged."""
    if approval is None or approval.state != "open" or seen in (None, approval.edition):
        return
    said = f" ({approval.changed})" if approval.changed else ""
    raise ApprovalChanged(
        f"approval {key!r} was changed since it was looked at{said}; look at it again, then decide",
        changed=approval.changed,
        edition=approval.edition,
    )


def refuse_if_unseen(approval: ApprovalState | None, seen: int | None, *, key: str) -> None:
    """Whether what was seen is said where that matters; returns if so. Raises ApprovalChanged.

    It matters once an approval has another edition than its first.
    """
    if approval is None or approval.state != "open" or seen is not None or not approval.edition:
        return
    how = f"changed while it was open ({approval.changed})" if approval.changed else "asked anew"
    raise ApprovalChanged(
        f"approval {key!r} was {how}, and its key alone does not say which was seen. Look at it as it is now, then "
        f"decide on its edition {approval.edition}: `perennial approve RUN {key} --edition {approval.edition}`, or in "
        "a program give the view of it, or edition=",
        changed=approval.changed,
        edition=approval.edition,
    )


def check_decision(
    approval: ApprovalState | None,
    *,
    name: str,
    by: str,
    now: datetime,
    waits_for: str,
    since: str = "",
) -> None:
    """Whether `by` may decide this approval now; returns if so.

    Raises DecisionTooEarly (no such approval is open yet), AlreadyDecided, DecisionTooLate, Excluded
    or NotAssigned. The deadline is the truth even where its timer hasn't fired yet.
    """
    if approval is None:
        which = f"approval {name!r}" if name else "an approval"
        message = (
            f"{which} has not been asked for yet; the run waits for {waits_for or 'its next stage'}"
        )
        raise DecisionTooEarly(message)
    if approval.state != "open" or (approval.deadline is not None and now >= approval.deadline):
        raise closed(approval, since=since)
    excluded = (approval.rule or {}).get("excluded", ())
    if by in excluded:  # guard: who is excluded decides nothing
        raise Excluded(
            f"{by} may not decide approval {approval.name!r}: it leaves out {', '.join(excluded)}"
        )
    if by not in approval.assignees:
        message = (
            f"{by} is not asked for approval {approval.name!r}; "
            f"{', '.join(approval.assignees)} can decide, and nobody has yet"
        )
        raise NotAssigned(message, assignees=approval.assignees)


Asking = tuple[str, ApprovalState]
"""An approval by its key, which is one asking of a run: a flow that asks again asks under another key."""


def only_asking(askings: Sequence[Asking], *, by: str) -> str:
    """The key of the asking that a decision means which names none; "" where nothing was asked.

    `askings`: the open ones first, then the latest. With none open it is the last: its refusal says who
    decided. Raises DecisionRefused where several are open, and what `refuse_later` does.
    """
    open_ones = [asking for asking in askings if asking[1].state == "open"]
    if len(open_ones) > 1:
        keys = ", ".join(key for key, _ in open_ones)
        raise DecisionRefused(f"several approvals are open: say which of {keys}")
    if open_ones:  # guard: a decision that names no asking
        refuse_later(askings, open_ones[0], by=by)
    return askings[0][0] if askings else ""


def refuse_later(askings: Sequence[Asking], later: Asking, *, by: str) -> None:
    """Whether a decision that doesn't say which asking it saw may mean an earlier one; returns if not.

    The second click of a doubled one, and a yes to what was asked anew since, come so. Raises
    AlreadyDecided, or DecisionTooLate, of the earlier asking, and says what is asked since.
    """
    if by not in later[1].assignees:
        return
    for key, earlier in askings:
        if key != later[0] and earlier.state != "open" and by in earlier.assignees:
            raise closed(earlier, since=asked_since(later[0]))


def asked_since(key: str) -> str:
    """What a refusal says of the asking that came after the one that was meant."""
    return f"{key!r} is asked since, and open. Look at it, then decide it by this key"


def closed(approval: ApprovalState, *, since: str = "") -> DecisionRefused:
    """The refusal of a decision on an approval that is closed; `since`: what came after it."""
    after = f"; {since}" if since else ""
    if approval.state in (Outcome.APPROVED, Outcome.REJECTED):
        message = (
            f"approval {approval.name!r} was {approval.state} by {approval.decided_by} "
            f"at {_stamp(approval.decided_at)}{after}"
        )
        return AlreadyDecided(
            message, by=approval.decided_by or "", outcome=approval.state, at=approval.decided_at
        )
    ended = (
        "was cancelled"
        if approval.state == "cancelled"
        else f"timed out at {_stamp(approval.deadline)}"
    )
    message = f"approval {approval.name!r} {ended}; nobody had decided{after}"
    return DecisionTooLate(message, deadline=approval.deadline)


def _stamp(at: datetime | None) -> str:
    return at.isoformat(timespec="seconds") if at else "an unknown time"
