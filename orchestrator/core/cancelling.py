"""What is cancelled of the coroutines of a turn, and how: a part of `core.branches`.

_let_rest_go   the branches that a race, or a map, was decided without
_interrupt     a coroutine that is cancelled, or whose block is not done in time
enter_block    a coroutine comes into a block with a deadline; its `finally` blocks run when that is over
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from datetime import datetime
from typing import Any

from orchestrator.core.branch_results import BranchState
from orchestrator.core.combinators import Combination, Later, discard
from orchestrator.core.gatherings import Answers, Block, Branch, Gathering, Seat, Wait, Waiter
from orchestrator.core.kinds.base import Answer, Request
from orchestrator.core.pending import FlowCoroutine, Pending
from orchestrator.core.undo_lists import UndoList
from orchestrator.errors import ActivityCancelled, BranchCancelled

NOT_IN_TIME = "its block was not done in time"
NOT_NEEDED = "its block has ended"
LET_GO = "its branch was cancelled"


class Cancelling(ABC):
    """The verbs, over what `Branches` keeps."""

    scope: str
    times: dict[str, datetime]
    undo_lists: dict[str, UndoList]
    is_over: bool
    _answers: Answers
    _flow: Branch | None
    _running: Branch | None
    _ready: deque[tuple[Branch, Answer]]
    _waiting: dict[str, list[Wait]]
    _ended_scopes: set[str]

    @abstractmethod
    def _deliver(self, waiter: Waiter, answer: Answer) -> None: ...

    @abstractmethod
    def _seat_ended(self, seat: Seat, answer: Answer) -> None: ...

    @abstractmethod
    def _look_whether_it_is_done(self, gathering: Gathering) -> None: ...

    @abstractmethod
    def _wait_for(self, request: Request, waiter: Waiter, scope: str) -> None: ...

    @abstractmethod
    def saw(self, at: datetime, scope: str) -> None:
        """The code of that scope has seen a fact of that time."""

    # -- cancelling --------------------------------------------------------------------------

    def _let_rest_go(self, gathering: Gathering, *, goes_on: bool, why: str) -> None:
        """Those that it was decided without are cancelled, or go on. Those that were not started never are."""
        gathering.is_busy = True
        for seat in gathering.seats:
            if seat.has_ended:
                continue
            if goes_on:
                gathering.tally.let_go(seat.index, BranchState.GOES_ON)
            else:
                self._cancel_seat(seat, why)
        unstarted = range(len(gathering.seats), len(gathering.combination.branches))
        for index in unstarted:
            is_asked = self._cancel_unstarted(gathering.combination.branches[index][1], why)
            state = BranchState.CANCELLED if is_asked else BranchState.NOT_STARTED
            gathering.tally.let_go(index, state)
        gathering.is_busy = False

    def _cancel_seat(self, seat: Seat, why: str) -> None:
        if seat.branch is not None:
            self._cancel(seat.branch)
        elif seat.awaits is not None:
            self._break_off(seat.awaits, Answer(error=BranchCancelled()), why)
        elif seat.wait is not None:
            wait, seat.wait = seat.wait, None
            wait.is_dropped = True
            self._drop(wait.request, why)
            self._seat_ended(seat, Answer(error=BranchCancelled()))

    def _cancel_unstarted(self, branch: Any, why: str) -> bool:
        """Whether it was asked for; what starts later was not."""
        if isinstance(branch, Later):
            branch = branch.branch
        if isinstance(branch, Pending):
            self._drop(branch.request, why)
            return True
        # guard: a stage that loses before it is awaited
        if isinstance(branch, Combination) and branch.asked is not None:
            self._drop(branch.asked, why)
            return True
        if isinstance(branch, Combination) and not branch.starts_later:
            for _, each in branch.branches:
                self._cancel_unstarted(each, why)
            return True
        discard(branch)
        return False

    def _cancel(self, branch: Branch) -> None:
        """It is raised BranchCancelled at its await; its `finally` blocks run, and may await."""
        if branch.is_over or branch.is_cancelled:
            return
        branch.is_cancelled = True
        for block in branch.blocks:
            self._void(block)
        self._interrupt(branch, BranchCancelled(), LET_GO)

    def _interrupt(self, branch: Branch, error: BaseException, why: str) -> None:
        """What it awaits is cancelled, and then that is raised at its await."""
        if branch.is_undoing:  # guard: nothing interrupts what is undone
            branch.deferred = error
        elif branch.awaits is not None:
            self._break_off(branch.awaits, Answer(error=error), why)
        elif branch.wait is not None:
            wait, branch.wait = branch.wait, None
            wait.is_dropped = True
            self._ready.append((branch, Answer(error=error)))
            self._drop(wait.request, why)
        else:  # it is ready, and has not seen what for
            branch.instead = Answer(error=error)

    def _break_off(self, gathering: Gathering, outcome: Answer, why: str) -> None:
        """All of its branches are cancelled; when they have ended, that is what its waiter is given."""
        gathering.broken_off = outcome
        gathering.is_decided = True
        self._let_rest_go(gathering, goes_on=False, why=why)
        self._look_whether_it_is_done(gathering)

    def _drop(self, request: Request, why: str) -> None:
        """Its activity is cancelled; whoever else awaits it is told."""
        if self._answers.cancel(request, why):
            self.tell_of_cancelled(request)

    def tell_of_cancelled(self, request: Request) -> None:
        for wait in self._waiting.pop(request.key, ()):
            if not wait.is_over:
                self._deliver(wait.waiter, Answer(error=ActivityCancelled(request.key)))

    def _cancel_what_they_asked(self) -> None:
        """What branches had asked for that were cancelled and have ended, and nobody is to do any more."""
        scopes, self._ended_scopes = self._ended_scopes, set()
        for request in self._answers.cancel_within(scopes, LET_GO):
            self.tell_of_cancelled(request)

    async def undo(self, undoes: FlowCoroutine) -> None:
        """Await that in the branch that runs now; what would interrupt it comes when it is done."""
        branch = self._running
        assert branch is not None  # noqa: S101 - flow code is running
        if branch.is_undoing:
            await undoes
            return
        branch.is_undoing = True
        try:
            await undoes
        finally:
            branch.is_undoing = False
        deferred, branch.deferred = branch.deferred, None
        if deferred is not None:
            raise deferred

    def _begin_scope(self, scope: str, within: str) -> None:
        """Its code begins with what the code around it has."""
        self.times[scope] = self.times[within]
        if self.undo_lists and (holds := self.undo_lists.get(within)) is not None:
            self.undo_lists[scope] = holds

    def cancel_flow(self, error: BranchCancelled, why: str) -> None:
        """The run is cancelled: that is raised at its flow's await. A flow that does nothing but undo goes on."""
        flow = self._flow
        if flow is None or flow.is_over or flow.is_last_undoing:
            return
        for block in flow.blocks:
            self._void(block)
        self._interrupt(flow, error, why)
        for request in self._answers.cancel_all(why):
            self.tell_of_cancelled(request)

    # -- blocks ------------------------------------------------------------------------------

    def enter_block(self, request: Request) -> Block:
        """The coroutine that runs now has come into a block with that deadline."""
        assert self._running is not None  # noqa: S101 - flow code is running
        block = Block(request, self._running)
        self._running.blocks.append(block)
        if self._answers.look(request, self.scope, False) is None:
            self._wait_for(request, block, self.scope)
        else:
            block.is_left = True
        return block

    def leave_block(self, block: Block) -> None:
        """It has come out of it: nobody waits for the deadline any more."""
        if self.is_over:
            return
        if block in block.branch.blocks:
            block.branch.blocks.remove(block)
        self._void(block)

    def _void(self, block: Block) -> None:
        """Its deadline makes no difference any more."""
        if not block.is_over:
            block.is_left = True
            self._answers.cancel(block.request, NOT_NEEDED)

    def _time_out(self, block: Block) -> None:
        """What the block awaits is cancelled, and BranchCancelled raised inside it; it is left with BlockTimedOut."""
        block.is_left = True
        block.cancelled = BranchCancelled()
        blocks = block.branch.blocks
        for inner in blocks[blocks.index(block) + 1 :]:
            self._void(inner)  # guard: of two deadlines the outer one counts
        self._interrupt(block.branch, block.cancelled, NOT_IN_TIME)
        for request in self._answers.cancel_since(block.request, NOT_IN_TIME):
            self.tell_of_cancelled(request)

    def enter_scope(self, scope: str) -> str:
        """What the code that runs now asks for stands in that scope; answers the one of before."""
        assert self._running is not None  # noqa: S101 - flow code is running
        before, self.scope = self.scope, scope
        self._running.scope = scope
        self._begin_scope(scope, before)
        return before

    def leave_scope(self, before: str) -> None:
        """And from here on in the one of before."""
        if self.is_over:
            return
        assert self._running is not None  # noqa: S101 - flow code is running
        self.saw(self.times[self.scope], before)
        self.scope = self._running.scope = before
