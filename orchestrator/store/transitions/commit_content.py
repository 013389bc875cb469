"""What the commit of a turn is given, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.core.kinds.child import CHILD
from orchestrator.core.outcome import TurnOutcome
from orchestrator.core.run import RunStatus
from orchestrator.store.transitions.children import NewChild
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.settle import Settlement
from orchestrator.store.transitions.timers import ArmedTimer


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of history in the making."""

    event: str
    actor: str
    key: str | None = None
    attempt: int | None = None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Taking:
    """The opened stage that this worker goes on with: the commit claims it, and nobody is told."""

    key: str
    worker_id: UUID


@dataclass(frozen=True, slots=True)
class TurnCommit:
    """All that one transition writes."""

    run_id: UUID
    revision: int
    from_status: RunStatus
    outcome: TurnOutcome
    relay_after: float
    horizon_seconds: float
    handoffs: tuple[Handoff, ...] = ()
    facts: tuple[Fact, ...] = ()
    settlement: Settlement | None = None
    turn_token: UUID | None = None
    queue: str | None = None
    taking: Taking | None = None
    attempts_before: Mapping[str, int] | None = None
    children: tuple[NewChild, ...] = ()
    chapter: int = 1
    is_in_hand: bool = False
    """The run is as our last commit left it: nothing was asked for since, and no deadline is out of date."""

    @property
    def cancels_children(self) -> bool:
        """Somebody is to look whether they are to be ended."""
        return any(each.kind is CHILD for each in self.outcome.cancelled)


@dataclass(frozen=True, slots=True)
class Committed:
    """What the commit armed and disarmed, for the delayed messages' index; when it claimed what it took."""

    armed: tuple[ArmedTimer, ...] = field(default=())
    disarmed: tuple[UUID, ...] = field(default=())
    taken_at: datetime | None = None
