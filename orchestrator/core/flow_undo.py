"""`flow.undo()`: a block whose work is undone when it is left by an error."""

from __future__ import annotations

from types import TracebackType
from typing import Any, ParamSpec, Self

from orchestrator.core.callables import remedy_for_no_stage
from orchestrator.core.definition import Stage
from orchestrator.core.flow_part import FlowPart
from orchestrator.core.pending import Recorder
from orchestrator.core.undo_lists import UndoList
from orchestrator.errors import DefinitionError

P = ParamSpec("P")


class Undo:
    """A block of a flow. What it has done is undone when it is left by an error, before that goes on."""

    __slots__ = ("_holds", "_recorder")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._holds: UndoList | None = None

    def add(self, stage: Stage[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """From here on that stage is to be called, with these arguments, when the block is left by an error.

        Raises InvalidArguments.
        """
        if not isinstance(stage, Stage):
            raise DefinitionError(
                f"undo.add takes a @stage, not {stage!r}", remedy=remedy_for_no_stage(stage)
            )
        if self._holds is None:
            raise DefinitionError(
                "undo.add is called before its block is entered",
                remedy="Write `async with flow.undo() as undo:`.",
            )
        self._recorder.add_undo(self._holds, stage, stage.bind(args, kwargs))

    async def __aenter__(self) -> Self:
        if self._holds is not None:
            raise DefinitionError(
                "a block of undo is entered twice",
                remedy="Make another: call flow.undo() in the `async with` itself.",
            )
        self._holds = self._recorder.enter_undo()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        holds = self._holds
        assert holds is not None  # noqa: S101 - it was entered
        self._recorder.leave_undo(holds)
        if error is not None:
            await self._recorder.undo(holds, error)
        holds.hand_over()


class Undoes(FlowPart):
    """The part of `Flow` that is about undoing."""

    def undo(self) -> Undo:
        """A block whose work is undone when it is left by an error: `async with flow.undo() as undo:`.

        All that stands in it with `compensate=`, and what is added with `undo.add(stage, …)`, is undone then, the last
        first, and the error goes on. So it is where a branch is cancelled, or a deadline is over. An error that
        parks the run (a bug) undoes nothing. Left well, what it has done is undone with what is around it,
        if that fails.
        """
        return Undo(self._recorder)
