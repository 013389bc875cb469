"""What a flow has done that can be undone, and how it is: sagas.

    note          `compensate=` of a stage or a step; `Undo.add`
    enter, leave  a block, `async with flow.undo()`; what it holds when it is left well is its surroundings' to undo
    undo          the compensations of what is done, the last fact first, each a stage with its retries

All of it follows from the facts, as what a flow does: nothing more is recorded. What has failed, or was never done, is
not undone. What is at work still is waited for. Compensations stand in a scope, `undo`, and are interrupted by
nothing. One that fails doesn't keep the others back; then the run is an incident that names it. (docs/adr/0057)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NoReturn, Protocol

from orchestrator.core.definition import Stage
from orchestrator.core.failures import message_of, type_of
from orchestrator.core.journal import Activity, ActivityState, is_within
from orchestrator.core.kinds.base import OUTCOMES, Request
from orchestrator.core.kinds.stage import ENDS, UNDOES, StageCall
from orchestrator.core.pending import Pending, Recorder
from orchestrator.core.undo_lists import Compensation, Undoable, UndoList
from orchestrator.errors import ActivityFailed

COMPENSATION_FAILED = "CompensationFailed"
"""The type of the incident of a run that could not undo all that it has done."""

UNDO = "undo"
"""The name of the scope in which compensations stand."""


class Recording(Recorder, Protocol):
    """The recorder of a pass, as its undoing needs it."""

    @property
    def undo_lists(self) -> dict[str, UndoList]:
        """Of the blocks in which code stands, by its scope."""

    @property
    def scope(self) -> str:
        """Of the code that runs now."""

    def refuse(self, kind: str, why: str) -> NoReturn:
        """Park the run."""


class Undoing:
    """A part of one pass of a flow. `arrived` and `entries` are the pass's own."""

    __slots__ = (
        "_requests",
        "arrived",
        "entries",
        "is_given_up",
        "let_go",
        "of_run",
        "progress",
        "scopes",
    )

    arrived: Collection[str]
    entries: Mapping[str, Activity]

    def __init__(self, requests: Recording) -> None:
        self._requests = requests
        self.of_run = UndoList()
        self.scopes: set[str] = set()
        """In which compensations stand."""
        self.let_go: dict[str, str] = {}
        """Stages that the flow has cancelled while they were at work, and why. They may have done it, so their end is
        waited for before what they did is undone."""
        self.is_given_up = False
        """The run was cancelled, and what it has done is to stay."""
        self.progress: tuple[int, int] | None = None
        """How many are undone, of how many."""

    # -- what can be undone ------------------------------------------------------------------

    @property
    def current(self) -> UndoList:
        """Of the block in which the code that runs now stands."""
        recording = self._requests
        return recording.undo_lists.get(recording.scope, self.of_run)

    def note(self, request: Request, compensation: Compensation) -> None:
        """The flow has asked for something that can be undone."""
        self.current.note(
            Undoable(compensation.stage, request, compensation.arguments, place=len(self.arrived))
        )

    def add(self, holds: UndoList, stage: Stage[..., Any], arguments: dict[str, Any]) -> None:
        """From here on it is to be undone."""
        holds.note(Undoable(stage, None, arguments, place=len(self.arrived)))

    def give_up(self) -> dict[str, str]:
        """What was done stays: the run is cancelled so. Returns what need not be waited for any more."""
        self.is_given_up = True
        let_go = dict(self.let_go)
        self.let_go.clear()
        return let_go

    def may_have_done(self, request: Request) -> bool:
        """Whether it has its compensation, and somebody may be at it: so it is no use to cancel it."""
        if self.is_given_up or not request.ask.is_handed_off:
            return False
        if getattr(request.ask, "compensation", None) is None:
            return False
        entry = self.entries.get(request.key)
        return entry is not None and entry.state is not ActivityState.CANCELLED

    def is_part_of(self, request: Request) -> bool:
        """A compensation is not cancelled."""
        return bool(self.scopes) and is_within(request.scope, self.scopes)

    # -- blocks ------------------------------------------------------------------------------

    def enter(self) -> UndoList:
        """The code that runs now comes into a block."""
        holds = UndoList(around=self.current)
        self._requests.undo_lists[self._requests.scope] = holds
        return holds

    def leave(self, holds: UndoList) -> None:
        """It comes out of it."""
        if holds.around is not None:
            self._requests.undo_lists[self._requests.scope] = holds.around

    # -- undoing -----------------------------------------------------------------------------

    async def undo(self, holds: UndoList, *, only_let_go: bool = False, ends: bool = False) -> None:
        """Undo it all, the last first. `only_let_go`: of what the flow has cancelled, what was done all the same.
        `ends`: the flow has failed, and nothing else follows.

        Parks the run where a compensation has failed, once the others are done.
        """
        let_go = set(self.let_go)
        if only_let_go:
            holds.entries = [
                each
                for each in holds.entries
                if each.request is not None and each.request.key in let_go
            ]
        await self._wait_for_ends(holds)
        undoables = self._in_order(holds)
        holds.entries = []
        if not undoables:
            return
        requests, failed = self._requests, []
        scope = requests.gather_key(None, UNDO)
        self.scopes.add(scope)
        before = requests.enter_scope(scope)
        for place, each in enumerate(undoables):
            self.progress = (place, len(undoables))
            marks = {UNDOES: "" if each.request is None else each.request.key}
            call = StageCall(
                each.undone_by,
                self._arguments_of(each),
                undoes={**marks, ENDS: True} if ends else marks,
            )
            request = requests.request(each.undone_by.name, None, call)
            try:
                await Pending(request, requests.unawaited)
            except OUTCOMES as error:
                failed.append(f"{_undone(each)}, by {request.key} ({_why(error)})")
        self.progress = None
        requests.leave_scope(before)
        if failed:
            requests.refuse(COMPENSATION_FAILED, _sentence(failed, len(undoables)))

    async def _wait_for_ends(self, holds: UndoList) -> None:
        for each in holds.entries:
            request = each.request
            if request is None or request.key in self.arrived or not self.may_have_done(request):
                continue
            self.let_go.pop(request.key, None)
            try:
                await Pending(request, self._requests.unawaited)
            except OUTCOMES:  # then there is nothing to undo
                continue

    def _in_order(self, holds: UndoList) -> list[Undoable]:
        """What is done, the last first: by the facts, or by the moment at which it was added."""
        facts = {key: place for place, key in enumerate(self.arrived)}
        found: list[tuple[float, int, Undoable]] = []
        for count, each in enumerate(holds.entries):
            place = each.place - 0.5
            if each.request is not None:
                key = each.request.key
                if key not in facts or self.entries[key].state is not ActivityState.DONE:
                    continue
                place = facts[key]
            found.append((place, count, each))
        found.sort(key=lambda one: one[:2], reverse=True)
        return [each for _, _, each in found]

    def _arguments_of(self, undoable: Undoable) -> dict[str, Any]:
        if undoable.arguments is not None:
            return undoable.arguments
        request = undoable.request
        assert request is not None  # noqa: S101 - what is added by hand has its arguments
        answer = request.ask.recorded(request, self.entries[request.key])
        if answer.error is not None:
            raise answer.error
        return undoable.undone_by.bind((answer.value,), {})


def _why(error: BaseException) -> str:
    if isinstance(error, ActivityFailed):
        return f"{error.error_type}: {error.message}"
    return f"{type_of(error)}: {message_of(error)}"


def _undone(undoable: Undoable) -> str:
    return "what it undoes" if undoable.request is None else undoable.request.describe()


def _sentence(failed: list[str], count: int) -> str:
    rest = count - len(failed)
    done = f"; the other {rest} of {count} were undone" if rest else ""
    return (
        f"could not be compensated: {'; '.join(failed)}{done}. `perennial retry RUN` tries again,"
        " `perennial skip RUN KEY` says that it was seen to"
    )
