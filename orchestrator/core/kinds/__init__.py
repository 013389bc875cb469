"""What a flow can await: one module says everything about its kind.

    base.py      Ask, which each kind is one of; Request and NewActivity, which are the same for all
    stage.py     a function of the fleet's, handed off
    step.py      a short call in the turn itself
    signal.py    a fact from outside
    callback.py  an answer that was promised to a partner, who holds its token
    poll.py      the pause before a poll's next check
    sleep.py     time
    approval.py  a decision of people
    timeout.py   the deadline of a block
    scope.py     the end of a scope, where that is recorded
    patch.py     the mark of changed code, which a flow asks for and doesn't await
    peek.py      whether a signal was there, asked for and not awaited
    missed.py    which moments of a series were left out, asked for and not awaited
    origin.py    the mark of a copy: which run it is a copy of
    cancellation.py  that the run is cancelled, and the time that its clean-up has

    register     a further kind, of a module of its own; its flows ask for it by `Flow.ask`
    kind_of      what is said of a kind by its name, also where this program doesn't have it

Replay, the turn, timers, what is read of waits and the command line look a kind up here. Approvals and signals have
tables of their own, whose statements name them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from orchestrator.core.journal import ActivityKind
from orchestrator.core.kinds.approval import AskPeople
from orchestrator.core.kinds.base import (
    Answer,
    Ask,
    NewActivity,
    NewTimer,
    Request,
    SoFar,
    Then,
    TimerRule,
    Unregistered,
)
from orchestrator.core.kinds.callback import CallbackWait
from orchestrator.core.kinds.cancellation import Cancellation, CleanUpTime
from orchestrator.core.kinds.child import ChildCall
from orchestrator.core.kinds.missed import MissedMoments
from orchestrator.core.kinds.origin import Origin
from orchestrator.core.kinds.patch import Patch
from orchestrator.core.kinds.peek import Peek
from orchestrator.core.kinds.poll import PollPause
from orchestrator.core.kinds.scope import ScopeCall
from orchestrator.core.kinds.signal import SignalWait
from orchestrator.core.kinds.sleep import Sleep
from orchestrator.core.kinds.stage import StageCall
from orchestrator.core.kinds.step import StepCall
from orchestrator.core.kinds.timeout import BlockDeadline
from orchestrator.errors import DefinitionError

KINDS: dict[ActivityKind, type[Ask]] = {
    each.kind: each
    for each in (
        StageCall,
        StepCall,
        SignalWait,
        Sleep,
        AskPeople,
        BlockDeadline,
        ScopeCall,
        Patch,
        Peek,
        MissedMoments,
        Origin,
        CallbackWait,
        PollPause,
        ChildCall,
        Cancellation,
        CleanUpTime,
    )
}
"""Each by its name in the record."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


def register(kind: type[Ask]) -> type[Ask]:
    """Make a kind known to this program: call it where the kind is defined, on workers and clients alike.

    Raises DefinitionError: its name is another kind's, or its name or that of a timer is none.
    """
    for name in (kind.kind, *(rule.timer for rule in kind.timers)):
        if _NAME.fullmatch(name) is None or name == "expiry":
            raise DefinitionError(
                f"{kind.__qualname__} can't be registered: {name!r} is no name of a kind or of a timer",
                remedy="Take a to z, 0 to 9 and -, up to 40 characters; and not `expiry`, which is the run's.",
            )
    other = KINDS.setdefault(ActivityKind(kind.kind), kind)
    if other is not kind:
        raise DefinitionError(
            f"{kind.__qualname__} can't be registered: kind {kind.kind} is {other.__qualname__} already",
            remedy="Give it a name of its own.",
        )
    return kind


def timers_that(are_meant: Callable[[TimerRule], bool]) -> list[str]:
    """The names of the timers whose rules are meant, of all kinds that are registered here."""
    return [rule.timer for kind in KINDS.values() for rule in kind.timers if are_meant(rule)]


def kind_of(name: str) -> type[Ask]:
    """The kind of that name; of one that isn't registered here, what can be said of any."""
    kind = ActivityKind(name)
    return KINDS.get(kind) or type("Unregistered", (Unregistered,), {"kind": kind})


__all__ = [
    "KINDS",
    "Answer",
    "Ask",
    "AskPeople",
    "BlockDeadline",
    "CallbackWait",
    "ChildCall",
    "NewActivity",
    "NewTimer",
    "Request",
    "ScopeCall",
    "SignalWait",
    "Sleep",
    "SoFar",
    "StageCall",
    "StepCall",
    "Then",
    "TimerRule",
    "kind_of",
    "register",
    "timers_that",
]
