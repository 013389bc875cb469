"""A patch: the mark that a run has come to changed code of its flow first with that code (`Flow.patched`).

It is done as it is made, and has no place of its own: it is found by its key, wherever the flow asks, and whoever no
longer asks for it doesn't miss it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from orchestrator.core.journal import AHEAD, ActivityKind, ActivityState
from orchestrator.core.kinds.base import Ask, AwaitedRow, NewActivity, Request

PATCH = ActivityKind("patch")


@dataclass(frozen=True, slots=True)
class Patch(Ask):
    """The mark, made at a moment that the flow has seen."""

    at: datetime

    kind: ClassVar = PATCH
    opened_event: ClassVar = "patched"

    def compared(self) -> dict[str, Any]:
        """Nothing: there is one of each name."""
        return {}

    def open(self, request: Request) -> NewActivity:
        """Done already."""
        return NewActivity(request, ActivityState.DONE, result="true", settled_at=self.at)

    @classmethod
    def who(cls, _row: AwaitedRow) -> tuple[str, ...]:
        """Nobody: it waits for nothing."""
        return ()


def key_of(name: str, scope: str) -> str:
    """Its key in the journal: one that nothing else can have."""
    return f"{scope}/patched#{name}" if scope else f"patched#{name}"


def new_patch(name: str, scope: str, at: datetime) -> NewActivity:
    """The mark, as it is to be recorded."""
    patch = Patch(at)
    return patch.open(Request(key_of(name, scope), scope, AHEAD, PATCH, name, patch))
