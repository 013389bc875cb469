"""What the record holds of a run, for a test to look at: its journal, its timers, its approvals and its signals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select

from orchestrator.client import Client, RunReference
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.views import ApprovalView, RunView
from orchestrator.engine.context import EngineContext
from orchestrator.store.schema.tables import activity, signal, timer


@dataclass(frozen=True, slots=True)
class JournalLine:
    """One activity of a run. `input`, `result` and `error` are plain JSON; `within`: the stage whose step it is."""

    key: str
    kind: ActivityKind
    name: str
    state: ActivityState
    attempt: int
    input: Any
    result: Any
    error: dict[str, Any] | None
    opened_at: datetime
    settled_at: datetime | None
    within: str | None = None


@dataclass(frozen=True, slots=True)
class TimerView:
    """A timer that is armed: `what` it is for (`sleep`, `approval_deadline`, …), of the activity `key`."""

    run_id: UUID
    key: str
    what: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class SignalView:
    """A signal that a run has been sent. `taken_by`: the wait that it has answered; None: it waits for one."""

    name: str
    payload: Any
    received_at: datetime
    signal_id: str | None
    taken_by: str | None


class Inspection(ABC):
    """The part of a tester that looks at the record. All that is due is done first."""

    client: Client
    _context: EngineContext

    @abstractmethod
    def get(self, run: RunReference) -> RunView:
        """The run, once all that is due now is done."""

    @abstractmethod
    def _settle(self) -> None:
        """Do all that is due."""

    def journal(self, run: RunReference) -> Sequence[JournalLine]:
        """The activities of a run in the order in which they were opened, steps of stages among them."""
        found = self.get(run)
        lines = select(
            activity.c.key,
            activity.c.kind,
            activity.c.name,
            activity.c.state,
            activity.c.attempt,
            activity.c.input,
            activity.c.result,
            activity.c.error,
            activity.c.opened_at,
            activity.c.settled_at,
            activity.c.parent_key,
            activity.c.ordinal,
        ).where(activity.c.run_id == found.id)
        with self._context.connection() as connection:
            rows = connection.execute(lines).all()
        ordinals = {row.key: row.ordinal for row in rows}

        def place(row: Any) -> tuple[Any, ...]:
            within = row.parent_key or row.key
            return row.opened_at, ordinals[within], within, row.parent_key or "", row.ordinal

        return [
            JournalLine(
                row.key, ActivityKind(row.kind), row.name, ActivityState(row.state), *row[4:-1]
            )
            for row in sorted(rows, key=place)
        ]

    def timers(self, run: RunReference | None = None) -> Sequence[TimerView]:
        """What is armed, of that run or of all, the next one first."""
        armed = select(timer.c.run_id, timer.c.key, timer.c.kind, timer.c.due_at).where(
            timer.c.state == "armed"
        )
        if run is not None:
            armed = armed.where(timer.c.run_id == self.get(run).id)
        else:
            self._settle()
        with self._context.connection() as connection:
            rows = connection.execute(armed.order_by(timer.c.due_at, timer.c.id))
            return [TimerView(*row) for row in rows]

    def approvals(
        self, run: RunReference | None = None, *, assignee: str | None = None
    ) -> Sequence[ApprovalView]:
        """What is open: of that run, in that person's inbox, or all of it."""
        self._settle()
        return self.client.approvals(run=run, assignee=assignee)

    def signals(self, run: RunReference) -> Sequence[SignalView]:
        """What the run has been sent, the oldest first, taken or not."""
        found = self.get(run)
        sent = select(
            signal.c.name,
            signal.c.payload,
            signal.c.received_at,
            signal.c.signal_id,
            signal.c.consumed_key,
        ).where(signal.c.run_id == found.id)
        with self._context.connection() as connection:
            rows = connection.execute(sent.order_by(signal.c.received_at, signal.c.id))
            return [SignalView(*row) for row in rows]
