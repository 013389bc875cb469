"""What the engine says to the fleet. Every word is a hint: lost or doubled, no run is lost or doubled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from orchestrator.core.run_notice import RunNotice
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.timers import ArmedTimer


class Messenger(Protocol):
    """Implemented by `fleet`. None of these may raise, whatever a server says, or if it is away."""

    def hand_off(self, handoffs: Sequence[Handoff]) -> Sequence[Handoff]:
        """Publish handoffs that are committed. Answers those that the broker, being away, never got."""

    def backlog_of(self, queue: str | None) -> int:
        """How many messages wait on a queue (None: the default one); 0 where nobody can tell."""

    def arm(self, timers: Sequence[ArmedTimer]) -> None:
        """Put timers into the index of delayed messages."""

    def disarm(self, timers: Sequence[tuple[UUID, str | None]]) -> None:
        """Take timers (id, queue) out of the index."""

    def announce(self, notice: RunNotice) -> None:
        """Tell whoever watches the fleet how a run stands."""


class SilentMessenger:
    """Says nothing: for producers, whose handoffs Postgres announces, and for tests."""

    def hand_off(self, handoffs: Sequence[Handoff]) -> Sequence[Handoff]:
        """Leave them to a relay."""
        del handoffs
        return ()

    def backlog_of(self, queue: str | None) -> int:
        """There are no queues."""
        del queue
        return 0

    def arm(self, timers: Sequence[ArmedTimer]) -> None:
        """Leave them to a sweep."""

    def disarm(self, timers: Sequence[tuple[UUID, str | None]]) -> None:
        """Nothing is indexed."""

    def announce(self, notice: RunNotice) -> None:
        """Nobody listens."""
