"""What a flow can await: one module says everything about its kind.

    base.py      Ask, which each kind is one of; Request and NewActivity, which are the same for all
    stage.py     a function of the fleet's, handed off
    step.py      a short call in the turn itself
    signal.py    a fact from outside
    sleep.py     time
    approval.py  a decision of people

Replay, the turn, what is read of waits and the command line look a kind up here, and know none by name.
"""

from __future__ import annotations

from orchestrator.core.journal import ActivityKind
from orchestrator.core.kinds.approval import AskPeople
from orchestrator.core.kinds.base import Answer, Ask, NewActivity, NewTimer, Request
from orchestrator.core.kinds.signal import SignalWait
from orchestrator.core.kinds.sleep import Sleep
from orchestrator.core.kinds.stage import StageCall
from orchestrator.core.kinds.step import StepCall

KINDS: dict[ActivityKind, type[Ask]] = {
    each.kind: each for each in (StageCall, StepCall, SignalWait, Sleep, AskPeople)
}
"""Each by its name in the record."""

__all__ = [
    "KINDS",
    "Answer",
    "Ask",
    "AskPeople",
    "NewActivity",
    "NewTimer",
    "Request",
    "SignalWait",
    "Sleep",
    "StageCall",
    "StepCall",
]
