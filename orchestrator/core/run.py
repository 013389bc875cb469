"""The states of a run and the moves between them: the one place that knows.

`docs/run-states.md` draws this table; a test holds the drawing and the database's CHECK to it.
"""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """Where a run stands. `running`: a stage is due or at work. `waiting`: only the world can move it."""

    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    INCIDENT = "incident"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_closed(self) -> bool:
        """True when the run has ended: of itself it does not go on."""
        return self in CLOSED

    @property
    def is_moving(self) -> bool:
        """True when turns may be taken and stages claimed."""
        return self in MOVING


MOVING = frozenset({RunStatus.RUNNING, RunStatus.WAITING})
CLOSED = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.EXPIRED})

REENTRIES = {
    RunStatus.FAILED: frozenset({RunStatus.RUNNING}),
    RunStatus.COMPLETED: frozenset({RunStatus.RUNNING}),
}
"""The moves out of an end, by an operator's word alone: each counts in the run's `reentries` (core.reentry)."""

_ENDED_BY_ITSELF = {RunStatus.COMPLETED, RunStatus.FAILED}
_ENDED_FROM_OUTSIDE = {RunStatus.CANCELLED, RunStatus.EXPIRED}

MOVES: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.RUNNING: frozenset(
        {RunStatus.WAITING, RunStatus.PAUSED, RunStatus.INCIDENT}
        | _ENDED_BY_ITSELF
        | _ENDED_FROM_OUTSIDE
    ),
    RunStatus.WAITING: frozenset(
        {RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.INCIDENT}
        | _ENDED_BY_ITSELF
        | _ENDED_FROM_OUTSIDE
    ),
    RunStatus.PAUSED: frozenset({RunStatus.RUNNING} | _ENDED_FROM_OUTSIDE),
    RunStatus.INCIDENT: frozenset({RunStatus.RUNNING} | _ENDED_FROM_OUTSIDE),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
    RunStatus.EXPIRED: frozenset(),
}
