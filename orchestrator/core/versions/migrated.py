"""A run as it stands before a migration, and what becomes of it: data alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.journal import Activity, BufferedSignal
from orchestrator.core.kinds.base import NewActivity
from orchestrator.core.outcome import RunContext, TurnOutcome
from orchestrator.core.run import RunStatus


@dataclass(frozen=True, slots=True)
class OpenApproval:
    """An approval of the run that nobody has decided, as its row has it."""

    key: str
    assignees: tuple[str, ...]
    escalation_level: int = 0
    votes: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """A run as it stands: what one read has found of it."""

    context: RunContext
    status: RunStatus
    journal: tuple[Activity, ...]
    signals: tuple[BufferedSignal, ...] = ()
    needs_turn: bool = False
    has_turn_held: bool = False
    approvals: Mapping[str, OpenApproval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Moved:
    """An activity that has another place, name or content in the new version.

    `content`: what is open and not begun is asked for as the new version asks. `what_changed`: what a person who was
    shown it would see otherwise, in words. `asks_otherwise`: it is more than another name, so that a decision on what
    was shown before is none on this.
    """

    old_key: str
    activity: Activity
    content: NewActivity | None = None
    assignees: tuple[str, ...] | None = None
    restarts_timers: bool = False
    drops_votes: bool = False
    what_changed: str = ""
    asks_otherwise: bool = False


@dataclass(frozen=True, slots=True)
class Migrated:
    """What becomes of a run: its journal, and what of it differs from the former one.

    `changes`: what is different, in words, for history and for who looks at a preview. `asks_turn`: the new flow does
    something at once. `ends`: how the run would end at once, "" if it doesn't.
    """

    journal: tuple[Activity, ...]
    outcome: TurnOutcome
    input: Any
    moved: tuple[Moved, ...] = ()
    added: tuple[Activity, ...] = ()
    dropped: tuple[str, ...] = ()
    has_new_input: bool = False
    asks_turn: bool = False
    ends: str = ""
    changes: tuple[str, ...] = ()
