"""What may have to be undone, and by what: as a flow says it, and as it is kept until the flow or its block ends."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Any

from orchestrator.core.definition import Stage
from orchestrator.core.kinds.base import Request
from orchestrator.errors import DefinitionError, InvalidArguments


@dataclass(frozen=True, slots=True)
class Compensation:
    """The stage that undoes a stage or a step, and its arguments, if it takes the same as that."""

    stage: Stage[..., Any]
    arguments: dict[str, Any] | None


def compensation_of(
    undoes: str, result_type: Any, args: tuple[Any, ...], kwargs: dict[str, Any], stage: Any
) -> Compensation:
    """What `compensate=` says. It takes the result of what it undoes; the same arguments, where that returns nothing.

    Raises DefinitionError.
    """
    if not isinstance(stage, Stage):
        raise DefinitionError(
            f"{undoes} is given compensate={stage!r}, which is no stage",
            remedy="Give it a @stage: a compensation is tried again until it is done.",
        )
    is_same = result_type is None or result_type is NoneType
    try:
        arguments = stage.bind(args, kwargs) if is_same else None
        if not is_same:
            stage.bind((None,), {})
    except InvalidArguments as error:
        takes = (
            f"the same arguments, since {undoes} returns nothing"
            if is_same
            else f"the result of {undoes}"
        )
        raise DefinitionError(
            f"compensate={stage.name} is given {takes}, and {error}",
            remedy="Let it take that, or add it with its arguments: `async with flow.undo() as undo: undo.add(…)`.",
        ) from None
    return Compensation(stage, arguments)


@dataclass(frozen=True, slots=True)
class Undoable:
    """Something that may have to be undone, and by what."""

    undone_by: Stage[..., Any]
    request: Request | None
    """What is undone. None: it was added by hand, and counts from then on."""
    arguments: dict[str, Any] | None
    """Of the compensation, by name. None: it takes the result of what it undoes."""
    place: int
    """How many facts the flow had come past when it was noted."""


class UndoList:
    """Of the run, or of a block of its flow. `around`: what has it all when its block is left well."""

    __slots__ = ("around", "entries", "is_left")

    def __init__(self, around: UndoList | None = None) -> None:
        self.around, self.is_left = around, False
        self.entries: list[Undoable] = []

    def note(self, undoable: Undoable) -> None:
        """Code of a block may go on when it is left: what it does is its surroundings' to undo."""
        holds = self
        while holds.is_left and holds.around is not None:
            holds = holds.around
        holds.entries.append(undoable)

    def hand_over(self) -> None:
        """The block is left well."""
        self.is_left = True
        entries, self.entries = self.entries, []
        for each in entries:
            self.note(each)
