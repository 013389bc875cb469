"""The coroutines of one turn, side by side in one thread: the flow, and the branches of what it awaits together.

    branches = Branches(answers, turn, unawaited, where=...)
    branches.start(flow)        the run's own coroutine
    branches.run()              until each of them waits, or the flow has ended
    branches.answer(key)        a fact has come: whoever awaits it is ready
    branches.close()           close all of them

Nobody runs while another does, and whoever is ready first runs first, so that what branches share is as
deterministic as in any single-threaded program. What there is to be answered, and when, is the turn's to say.

What is cancelled follows from the facts so far, as all else does: it is the same at each replay. A coroutine that is
cancelled is raised a BranchCancelled at its await, and goes on until it ends; whoever has cancelled it waits for that.
(docs/adr/0051)
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from datetime import datetime
from typing import Any

from orchestrator.core.branch_results import BranchState
from orchestrator.core.bugs import OWN_AWAITABLES, foreign
from orchestrator.core.cancelling import Cancelling
from orchestrator.core.combinators import Combination
from orchestrator.core.driving import Turn, driven_by
from orchestrator.core.failures import FAILURES
from orchestrator.core.gatherings import Answers, Block, Branch, Gathering, Seat, Wait, Waiter
from orchestrator.core.kinds.base import Answer, Request
from orchestrator.core.pending import FlowCoroutine, Pending
from orchestrator.core.unawaited import NEVER_AWAITED, Unawaited
from orchestrator.core.undo_lists import UndoList
from orchestrator.errors import (
    BranchCancelled,
    DefinitionError,
    RunCancelled,
)

log = logging.getLogger(__name__)

LOST = "the race was decided without it"
NOT_TO_RAISE = "the flow raised a BranchCancelled of its own, which only the kernel does"


class TurnAbandoned(BaseException):
    """The turn can't go on here, and nothing of it is recorded. Not for flow code to catch."""


class TurnOver(BaseException):
    """Raised into a flow that asks for more while it is being let go, or in vain. Not for flow code to catch."""


class Branches(Cancelling):
    """All coroutines of one turn. `scope` is that of the code which runs now."""

    def __init__(
        self,
        answers: Answers,
        turn: Turn,
        unawaited: Unawaited,
        *,
        where: str,
        began_at: datetime,
        root: str = "",
    ) -> None:
        self._answers, self._where = answers, where
        self._look = answers.look
        self._turn, self._unawaited = turn, unawaited
        self._root = self.scope = root
        self.times: dict[str, datetime] = {root: began_at}
        """Of the last fact seen, by scope."""
        self.undo_lists: dict[str, UndoList] = {}
        """Of the block that code stands in, by its scope; where none is, it is the run's."""
        self.is_over = False
        """What is asked now is no part of the turn: they are being let go."""
        self.answer_of_flow: Answer | None = None
        self._flow: Branch | None = None
        self._running: Branch | None = None
        self.abandoned: set[str] = set()
        """Scopes of branches that were let go before they had ended: they may not have awaited what they asked for."""
        self._ended_scopes: set[str] = set()
        """Of branches that were cancelled, and have ended since the last look at what they had asked for."""
        self._left: list[Gathering] = []
        """Races that are won, and whose other branches go on."""
        self._ready: deque[tuple[Branch, Answer]] = deque()
        self._waiting: dict[str, list[Wait]] = {}

    # -- the story ---------------------------------------------------------------------------

    def start(self, flow: FlowCoroutine) -> None:
        """The run's own flow is ready."""
        self._flow = Branch(flow, self._root, None)
        self._ready.append((self._flow, Answer()))

    def run(self) -> None:
        """Until each waits or the flow has ended. Raises what the flow raises."""
        driver = driven_by.get()
        driven_by.set(self._turn)  # guard: a stage that a flow calls itself
        try:
            while self.answer_of_flow is None and (self._ready or self._ended_scopes):
                if not self._ready:
                    self._cancel_what_they_asked()
                    continue
                branch, answer = self._ready.popleft()
                if not branch.is_over:
                    self._resume(branch, answer)
        finally:
            driven_by.set(driver)

    @property
    def is_in_flow_itself(self) -> bool:
        """The code that runs now is no branch of it."""
        return self._running is not None and self._running is self._flow

    def is_awaited(self, key: str) -> bool:
        """Whether somebody waits for it who hasn't been let go."""
        waiting = self._waiting.get(key)
        return waiting is not None and any(not wait.is_over for wait in waiting)

    def awaited_together(self) -> dict[str, Request]:
        """What must all be answered before any code of the flow runs again, by key. Empty: one answer may be enough."""
        awaits = self._flow.awaits if self._flow is not None else None
        if awaits is None or self._left or not awaits.is_of_answers:
            return {}
        return {
            key: waiting[0].request
            for key, waiting in self._waiting.items()
            if self.is_awaited(key)
        }

    def answer(self, key: str) -> None:
        """Look again for whoever awaits it: they are ready, in the order in which they came to wait."""
        for wait in self._waiting.pop(key, ()):
            if not wait.is_over:
                answer = self._look(wait.request, wait.scope, False)
                assert answer is not None  # noqa: S101 - it has come
                self._deliver(wait.waiter, answer)

    def saw(self, at: datetime, scope: str) -> None:
        """The code of that scope has seen a fact of that time."""
        self.times[scope] = max(self.times[scope], at)

    def close(self) -> None:
        """Close all of them; what their `finally` blocks ask for is not part of the turn."""
        if self._flow is not None:
            self._close(self._flow)
        for gathering in self._left:
            self._close_gathering(gathering)

    # -- one coroutine -----------------------------------------------------------------------

    def _resume(self, branch: Branch, answer: Answer) -> None:
        """Send it answers until it waits or has ended."""
        flow = branch.flow
        self._running = branch
        if branch.instead is not None:
            answer, branch.instead = branch.instead, None
        while True:
            self.scope = branch.scope
            if answer.error is not None:
                self._unawaited.excuse(branch.scope)  # guard: an error skips awaits
            try:
                awaited = (
                    flow.send(answer.value) if answer.error is None else flow.throw(answer.error)
                )
            except StopIteration as stop:
                ended: Answer | None = Answer(stop.value)
            except (BranchCancelled, *FAILURES) as error:
                ended = Answer(error=error)
            else:
                ended = None
            if ended is not None:
                if (more := self._ended(branch, ended)) is None:
                    return
                flow, answer = more, Answer()
                continue
            if (dropped := self._unawaited.dropped()) is not None:  # guard: a forgotten await
                self._turn.refuse(NEVER_AWAITED, dropped)
            found = self._await(awaited, branch, branch.scope)
            if found is None:
                return
            answer = found

    def _ended(self, branch: Branch, answer: Answer) -> FlowCoroutine | None:
        """Returns what goes on in its place, if anything does."""
        if branch.seat is None:
            return self._flow_ended(branch, answer)
        branch.is_over = True
        if branch.is_cancelled:
            self.abandoned.add(branch.scope)
            self._ended_scopes.add(branch.scope)
        self._seat_ended(branch.seat, answer)  # what it has raised is the gather's to raise
        return None

    def _flow_ended(self, flow: Branch, answer: Answer) -> FlowCoroutine | None:
        """The run's own flow: what it has done may be undone now, and what else it has under way is let go."""
        follow_up = None if flow.is_last_undoing else self._answers.follow_up(answer)
        if follow_up is not None:
            flow.flow, flow.scope = follow_up, self._root
            flow.is_undoing = flow.is_last_undoing = True
            for gathering in self._left:
                self._close_gathering(gathering)
            self._left.clear()
            return follow_up
        flow.is_over = True
        if answer.error is None:
            self.answer_of_flow = answer
            return None
        raised = type(answer.error)  # of its type: its attributes, `__class__` too, may raise
        # nobody has cancelled the flow itself
        if issubclass(raised, BranchCancelled) and not issubclass(raised, RunCancelled):
            raise DefinitionError(NOT_TO_RAISE, where=self._where) from answer.error
        try:
            raise answer.error
        finally:
            del answer  # its traceback leads here

    def _await(self, awaited: Any, waiter: Waiter, scope: str) -> Answer | None:
        if isinstance(awaited, Pending):
            request = awaited.request
            is_alone = not (self._ready or self._ended_scopes) and isinstance(waiter, Branch)
            answer = self._look(request, scope, is_alone)
            if answer is None:
                self._wait_for(request, waiter, scope)
            return answer
        if isinstance(awaited, Combination):
            return self._combine(awaited, waiter, scope)
        return Answer(
            error=DefinitionError(foreign(awaited), where=self._where, remedy=f"{OWN_AWAITABLES}.")
        )

    def _wait_for(self, request: Request, waiter: Waiter, scope: str) -> None:
        waiter.wait = wait = Wait(request, waiter, scope)
        self._waiting.setdefault(request.key, []).append(wait)

    def _deliver(self, waiter: Waiter, answer: Answer) -> None:
        waiter.wait = waiter.awaits = None
        if isinstance(waiter, Branch):
            self._ready.append((waiter, answer))
        elif isinstance(waiter, Block):
            self._time_out(waiter)
        else:
            self._seat_ended(waiter, answer)

    # -- several together --------------------------------------------------------------------

    def _combine(self, combination: Combination[Any], waiter: Waiter, scope: str) -> Answer | None:
        request = combination.request
        if request is not None:
            is_alone = not (self._ready or self._ended_scopes) and isinstance(waiter, Branch)
            answer = self._look(request, scope, is_alone)
            if answer is not None:
                return answer
            if self._answers.is_recorded(request):  # guard: a recorded scope isn't run again
                self._wait_for(request, waiter, scope)
                return None
        gathering = Gathering(combination, scope, waiter, combination.tally())
        waiter.awaits = gathering
        self._start_more(gathering)
        gathering.is_new = False
        return gathering.outcome

    def _start_more(self, gathering: Gathering) -> None:
        """As many as may be under way."""
        combination, tally = gathering.combination, gathering.tally
        total, bound = len(combination.branches), combination.max_concurrency
        gathering.is_busy = True
        while (
            len(gathering.seats) < total
            and not gathering.is_over
            and (bound is None or gathering.running < bound)
            and (not tally.is_decided or tally.leaves_rest)
        ):
            seat = Seat(gathering, len(gathering.seats))
            gathering.seats.append(seat)
            gathering.running += 1
            answer = self._start(seat)
            if answer is not None:
                self._seat_ended(seat, answer)
        gathering.is_busy = False
        self._look_whether_it_is_done(gathering)

    def _start(self, seat: Seat) -> Answer | None:
        gathering, combination = seat.gathering, seat.gathering.combination
        each, scope = combination.branches[seat.index][1], gathering.scope
        if combination.starts_later:
            scope = combination.scope_of(seat.index)
            self._begin_scope(scope, gathering.scope)
            scope_before, self.scope = self.scope, scope
            try:
                each = each()
            except FAILURES as error:
                return Answer(error=error)
            finally:
                self.scope = scope_before
            if isinstance(each, Pending | Combination):
                each.is_awaited()
        if inspect.iscoroutine(each):
            branch = seat.branch = Branch(each, combination.scope_of(seat.index), seat)
            self._begin_scope(branch.scope, gathering.scope)
            self._ready.append((branch, Answer()))
            return None
        return self._await(each, seat, scope)

    def _seat_ended(self, seat: Seat, answer: Answer) -> None:
        """What sat there has its answer."""
        if seat.has_ended:
            return
        seat.has_ended = True
        gathering = seat.gathering
        gathering.running -= 1
        if gathering.combination.starts_later or seat.branch is not None:
            scope = gathering.combination.scope_of(seat.index)
            self.saw(self.times[scope], gathering.scope)
        if gathering.is_over:
            if answer.is_bug and gathering.tally.leaves_rest and answer.error is not None:
                raise answer.error  # nobody awaits it, and it is not to be overlooked
            return
        was_cancelled = issubclass(type(answer.error), BranchCancelled)
        if answer.is_bug and not was_cancelled:
            self._close_gathering(gathering)
            self._conclude(gathering, answer)
            return
        if gathering.is_decided:
            kept = None if was_cancelled or answer.error is None else answer
            gathering.tally.let_go(seat.index, BranchState.CANCELLED, kept)
        else:
            gathering.tally.take(seat.index, answer)
            if not gathering.is_busy and not gathering.tally.is_decided:
                self._start_more(gathering)
                return
        self._look_whether_it_is_done(gathering)

    def _look_whether_it_is_done(self, gathering: Gathering) -> None:
        if gathering.is_busy or gathering.is_over:
            return
        if not gathering.is_decided and gathering.tally.is_decided:
            gathering.is_decided = True
            self._let_rest_go(gathering, goes_on=gathering.tally.leaves_rest, why=LOST)
        if not gathering.is_decided:
            return
        is_left = gathering.tally.leaves_rest and gathering.broken_off is None
        if gathering.running and not is_left:
            return  # cancelled branches clean up
        if gathering.running:
            self._left.append(gathering)
        self._conclude(gathering, gathering.broken_off or gathering.tally.verdict())

    def _conclude(self, gathering: Gathering, outcome: Answer) -> None:
        """Its waiter is given that."""
        gathering.is_over = True
        request = gathering.combination.request
        if request is not None and gathering.broken_off is None and outcome.error is None:
            self._ended_scopes.add(gathering.combination.key)
            self._answers.record(request, outcome.value)
            self._wait_for(request, gathering.waiter, gathering.scope)
            gathering.waiter.awaits = None
        elif gathering.is_new:
            gathering.outcome = outcome
            gathering.waiter.awaits = None
        elif not gathering.waiter.is_over:
            self._deliver(gathering.waiter, outcome)

    def let_flow_go(self, error: RunCancelled) -> bool:
        """Its own code has had its time: it is closed, as by that error. False: it has come to its end."""
        flow = self._flow
        if flow is None or flow.is_over or flow.is_undoing:
            return False
        self._close(flow)
        follow_up = self._answers.follow_up(Answer(error=error))
        if follow_up is None:
            self.answer_of_flow = Answer()
            return True
        self._flow = Branch(follow_up, self._root, None, is_undoing=True, is_last_undoing=True)
        self._ready.append((self._flow, Answer()))
        return True

    # -- letting go --------------------------------------------------------------------------

    def _close_gathering(self, gathering: Gathering) -> None:
        """Nobody waits for the rest of it any more: a bug is raised at once."""
        gathering.is_over = True
        for seat in gathering.seats:
            if seat.awaits is not None:
                self._close_gathering(seat.awaits)
            if seat.branch is not None:
                self._close(seat.branch)
        gathering.combination.drop_unstarted(len(gathering.seats))

    def _close(self, branch: Branch) -> None:
        if branch.is_over:
            return
        branch.is_over = True
        if branch.seat is not None:
            self.abandoned.add(branch.scope)
        if branch.awaits is not None:
            self._close_gathering(branch.awaits)
        was_over, self.is_over = self.is_over, True
        scope, self.scope = self.scope, branch.scope
        driver = driven_by.set(self._turn)
        try:
            branch.flow.close()
        except (*FAILURES, TurnOver, TurnAbandoned):
            log.debug("a flow's clean-up failed while it was let go", exc_info=True)
        finally:
            driven_by.reset(driver)
            self.is_over, self.scope = was_over, scope
