"""`Pending`: what a flow has asked for, to be awaited; and the turn behind the flow, which takes what it asks."""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Mapping
from datetime import datetime
from typing import Any, Generic, NoReturn, Protocol, TypeVar, cast

from orchestrator.core.definition import Stage
from orchestrator.core.kinds.base import Ask, Request
from orchestrator.core.unawaited import Unawaited
from orchestrator.core.undo_lists import Compensation, UndoList

T = TypeVar("T")

FlowCoroutine = Coroutine[Any, Any, Any]


class Pending(Generic[T]):
    """A requested activity. Await it for its answer."""

    __slots__ = ("__weakref__", "request", "unawaited")

    def __init__(self, request: Request, unawaited: Unawaited) -> None:
        self.request, self.unawaited = request, unawaited

    @property
    def key(self) -> str:
        """Its key in the journal. Of an approval it is the asking: what a link that decides it must name."""
        return self.request.key

    def is_awaited(self) -> None:
        """It is somebody's to wait for."""
        self.unawaited.awaited(self, self.request.key)

    def __await__(self) -> Generator[Any, Any, T]:
        self.unawaited.awaited(self, self.request.key)
        return cast("T", (yield self))


class Recorder(Protocol):
    """The turn behind a flow: it gives each request its place in the journal."""

    @property
    def unawaited(self) -> Unawaited:
        """The ledger of what this flow asked for and has not awaited."""

    @property
    def now(self) -> datetime:
        """The time of the last fact that the code now running has seen."""

    def request(self, name: str, key: str | None, ask: Ask) -> Request:
        """Place a request in the current scope."""

    def patched(self, name: str) -> bool:
        """Whether the run has come to this code of its flow first with this code."""

    def peek(self, name: str) -> bool:
        """Whether a signal of that name has come that no wait has taken; recorded."""

    def continue_as_new(self, value: Any, version: int | None) -> NoReturn:
        """The flow begins anew."""

    def say_attributes(self, named: Mapping[str, Any]) -> None:
        """What the run is, from here on."""

    def say_status(self, text: str) -> None:
        """How the run is, in a sentence for people."""

    def draw(self, name: str) -> bytes:
        """32 bytes that look random, the next of that name in the current scope; the same at each replay."""

    def gather_key(self, key: str | None, name: str = ...) -> str:
        """The key of several branches in the current scope."""

    def enter_block(self, request: Request) -> Any:
        """The code that runs now is under that deadline, until it leaves the block."""

    def leave_block(self, block: Any) -> None:
        """It is under it no longer."""

    def enter_scope(self, scope: str) -> str:
        """What the code that runs now asks for stands in that scope. Returns the one of before."""

    def leave_scope(self, before: str) -> None:
        """It stands in the one of before again."""

    def note_undoable(self, request: Request, compensation: Compensation) -> None:
        """It can be undone."""

    def enter_undo(self) -> UndoList:
        """The code that runs now is in a block that is undone when it fails."""

    def leave_undo(self, holds: UndoList) -> None:
        """It is in it no longer."""

    def add_undo(self, holds: UndoList, stage: Stage[..., Any], arguments: dict[str, Any]) -> None:
        """That is to be called when the block fails."""

    async def undo(self, holds: UndoList, error: BaseException) -> None:
        """Undo what a block has done that is left by that error."""

    def stage_of_task(self, task: Any) -> Stage[..., Any] | None:
        """The stage that this Celery task was made. None: it is none."""

    def find_stage(self, name: str) -> Stage[..., Any]:
        """The registered stage of that name."""
