"""What a pass over the journal has cancelled: it follows from the facts that the pass has come past, and is recorded.

At each later pass it is cancelled again, at the same place; the record of it is looked at by people, and by workers
that may have it in hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from orchestrator.core.journal import SETTLED, Activity, ActivityState, is_within
from orchestrator.core.kinds import kind_of
from orchestrator.core.kinds.base import NewActivity, Request
from orchestrator.core.kinds.child import ChildCall
from orchestrator.core.kinds.scope import ScopeCall
from orchestrator.core.outcome import CancelledActivity, cancelled_at

if TYPE_CHECKING:
    from orchestrator.core.requests import Requests


class Cancellations:
    """A part of a pass, with the scopes that end in it: `dropped` says why, by keys."""

    __slots__ = ()

    requests: Requests
    entries: Mapping[str, Activity]
    arrived: dict[str, None]
    answered: set[str]
    dropped: dict[str, str]
    scopes_ended: list[str]

    def is_recorded(self, request: Request) -> bool:
        """The record has its answer."""
        entry = self.entries.get(request.key)
        return entry is not None and entry.is_settled

    def record(self, request: Request, value: Any) -> None:
        """A scope has ended: that is a fact, as soon as it is recorded."""
        at = self.requests.branches.times[request.key]
        call = cast("ScopeCall", request.ask)
        self.requests.opened[request.key] = call.ended(request, value, at)
        self.answered.add(request.key)
        self.scopes_ended.append(request.key)

    def cancel(self, request: Request, why: str) -> bool:
        """Nobody is to do it, or to answer it, any more. False: it has its answer."""
        key = request.key
        if key in self.arrived or key in self.answered or key in self.dropped:
            return False
        undoing = self.requests.undoing
        if key in undoing.let_go or (
            undoing.is_part_of(request)  # guard: a compensation is not cancelled
        ):
            return False
        if undoing.may_have_done(request):  # guard: what may be done is waited for
            undoing.let_go[key] = why
            return True
        self.dropped[key] = why
        if request.ask.bounds_others:  # it was never armed, and nothing stands on it
            self.requests.opened.pop(key, None)
        return True

    def cancel_within(self, scopes: set[str], why: str) -> list[Request]:
        """What those scopes had asked for."""
        return [
            request
            for request in self.requests.asked.values()
            if is_within(request.scope, scopes) and self.cancel(request, why)
        ]

    def cancel_since(self, request: Request, why: str) -> list[Request]:
        """What was asked for after it, in its scope or within."""
        scopes, asked = {request.scope}, iter(self.requests.asked.values())
        for each in asked:
            if each is request:
                break
        return [
            each
            for each in asked
            if (not request.scope or is_within(each.scope, scopes)) and self.cancel(each, why)
        ]

    def cancel_all(self, why: str) -> list[Request]:
        """All that was asked for, has no answer, and is awaited by nobody. Children end with the run, as they chose."""
        branches = self.requests.branches
        return [
            each
            for each in self.requests.asked.values()
            if not (isinstance(each.ask, ChildCall) and each.ask.on_parent_end != "cancel")
            and not branches.is_awaited(each.key)
            and self.cancel(each, why)
        ]

    def cancelled(self) -> tuple[CancelledActivity, ...]:
        """What the record holds open."""
        if not self.dropped:
            return ()
        found = ((self.entries.get(key), why) for key, why in self.dropped.items())
        return tuple(
            CancelledActivity(entry.key, entry.kind, why)
            for entry, why in found
            if entry is not None and entry.is_open
        )

    def has_claimed(self) -> bool:
        """Whether the commit itself may answer what it opens: signals were kept for a wait, or a child was started.

        It is read before the flow goes on.
        """
        return any(
            each.claims or (each.child is not None and each.child.is_answered_at_once)
            for key, each in self.requests.opened.items()
            if key not in self.dropped
        )

    def without_cancelled(self, opened: Sequence[NewActivity]) -> list[NewActivity]:
        """What is asked for first and cancelled in the same pass is recorded as cancelled.

        Not what had its answer as it was asked for: the flow has seen that.
        """
        return [
            cancelled_at(activity, self.requests.now, self.dropped[activity.request.key])
            if activity.request.key in self.dropped and activity.state not in SETTLED
            else activity
            for activity in opened
        ]


def took_signal(entry: Activity) -> bool:
    """A signal has answered it."""
    return entry.state is ActivityState.DONE and kind_of(entry.kind).takes_signals
