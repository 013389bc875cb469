"""An origin: the mark in a copy's journal that says which run it is a copy of (`perennial fork`).

`Flow.uuid` and `Flow.random` are derived from a run's id, and what a copy has copied was derived from its origin's. So
its flow goes on with that one. The mark is made by the fork, and no flow asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds.base import Ask, AwaitedRow, NewActivity, Request
from orchestrator.core.kinds.cancellation import CANCELLATION, CLEAN_UP
from orchestrator.core.kinds.patch import PATCH

ORIGIN = ActivityKind("origin")

ORIGIN_KEY = "origin#"
"""One that nothing else can have."""

MARKS = frozenset({PATCH, ORIGIN, CANCELLATION, CLEAN_UP})
"""Kinds whose entries have no place among what a flow asks for: a journal may hold them unasked."""


@dataclass(frozen=True, slots=True)
class Origin(Ask):
    """The mark. Nothing makes one here: it is in the statement that copies a run."""

    kind: ClassVar = ORIGIN

    def compared(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def open(self, request: Request) -> NewActivity:
        """Done already."""
        return NewActivity(request, ActivityState.DONE)

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Nobody: it waits for nothing."""
        return ()
