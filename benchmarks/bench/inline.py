"""The engine in this process, without Celery: messages are delivered where they are sent.

For what is measured in Postgres alone, and for runs that are brought to where they wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self
from uuid import UUID

from orchestrator import Client, Registry, Settings
from orchestrator.core.definition import Process
from orchestrator.core.run import RunStatus
from orchestrator.engine.context import EngineContext, connect
from orchestrator.engine.liveness import Identity
from orchestrator.engine.messenger import SilentMessenger
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.store.parts import ADVANCE
from orchestrator.store.transitions.outbox import Handoff


class _Collecting(SilentMessenger):
    def __init__(self) -> None:
        self.handoffs: deque[Handoff] = deque()

    def hand_off(self, handoffs: Sequence[Handoff]) -> Sequence[Handoff]:
        self.handoffs.extend(handoffs)
        return ()


class Inline:
    """A worker, a client, and what is sent between them, on one database."""

    def __init__(self, database_url: str, registry: Registry) -> None:
        self.settings = Settings(database_url=database_url)
        self._messenger = _Collecting()
        self.context = EngineContext(
            connect(self.settings, pool_size=1, finds_by_key=True),
            registry,
            self.settings,
            messenger=self._messenger,
            identity=Identity("a-worker-of-the-fleet:12345"),
        )
        self.client = Client(self.settings, registry=registry)
        self.client.processes.deploy(*registry.processes.values())

    @classmethod
    @contextmanager
    def open(cls, database_url: str, registry: Registry) -> Iterator[Self]:
        """While the block runs."""
        made = cls(database_url, registry)
        try:
            yield made
        finally:
            made.client.close()
            made.context.database.dispose()

    def run(self, process: Process, value: Any = None, *, key: str | None = None) -> UUID:
        """Start a run, and go on until it waits or has ended."""
        run_id = self.client.start(process.name, value, key=key).run_id
        self.go_on(run_id)
        return run_id

    def go_on(self, run_id: UUID) -> None:
        """Take its turn, and do what that hands off."""
        advance(self.context, run_id)
        while self._messenger.handoffs:
            handoff = self._messenger.handoffs.popleft()
            if handoff.task == ADVANCE:
                advance(self.context, handoff.run_id)
            else:
                run_stage(self.context, handoff.run_id, handoff.key, handoff.attempt)

    def status(self, run_id: UUID) -> RunStatus:
        """Where it stands."""
        return self.client.get(run_id).status
