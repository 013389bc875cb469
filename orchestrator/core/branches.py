"""The coroutines of one turn, side by side in one thread: the flow, and the branches of its gathers.

    branches = Branches(look, turn, unawaited, where=...)
    branches.start(flow)        the run's own coroutine
    branches.run()              until each of them waits, or the flow has ended
    branches.answer(key)        a fact has come: whoever awaits it is ready
    branches.close()           close all of them

Nobody runs while another does, and whoever is ready first runs first, so that what branches share is as
deterministic as in any single-threaded program. What there is to be answered, and when, is the turn's to say.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from orchestrator.core.bugs import OWN_AWAITABLES, foreign
from orchestrator.core.combinators import Gather
from orchestrator.core.driving import Turn, driven_by
from orchestrator.core.failures import FAILURES
from orchestrator.core.kinds.base import Answer, Request
from orchestrator.core.pending import FlowCoroutine, Pending
from orchestrator.core.unawaited import NEVER_AWAITED, Unawaited
from orchestrator.errors import DefinitionError

log = logging.getLogger(__name__)


class TurnAbandoned(BaseException):
    """The turn can't go on here, and nothing of it is recorded. Not for flow code to catch."""


class TurnOver(BaseException):
    """Raised into a flow that asks for more while it is being let go, or in vain. Not for flow code to catch."""


@dataclass(slots=True, eq=False)
class _Branch:
    """A coroutine; `seat` is where its answer goes, None for the run's own flow."""

    flow: FlowCoroutine
    scope: str
    seat: _Seat | None
    awaits: _Gathering | None = None
    is_over: bool = False


@dataclass(slots=True, eq=False)
class _Gathering:
    """A gather that is awaited, and the answers that it has so far."""

    gather: Gather[Any]
    scope: str
    waiter: _Waiter
    answers: list[Answer | None]
    missing: int
    branches: list[_Branch] = field(default_factory=list)
    inner: list[_Gathering] = field(default_factory=list)
    is_over: bool = False

    @property
    def is_of_answers(self) -> bool:
        """No code of the flow's own runs in it before all are there."""
        return (
            type(self.gather) is Gather
            and not self.branches
            and all(inner.is_of_answers for inner in self.inner)
        )

    def take(self, index: int, answer: Answer) -> Answer | None:
        """One more answer. Returns the gather's own, when this one decides it."""
        self.answers[index] = answer
        self.missing -= 1
        return answer if answer.is_bug else self.outcome()

    def outcome(self) -> Answer | None:
        """None while any is missing; then all of them, or the first failure by position."""
        if self.missing:
            return None
        answers = [answer for answer in self.answers if answer is not None]
        failed = next((answer for answer in answers if answer.error is not None), None)
        return failed or Answer(self.gather.shape([answer.value for answer in answers]))


@dataclass(slots=True, eq=False)
class _Seat:
    """A place among the answers of a gather."""

    gathering: _Gathering
    index: int

    @property
    def is_over(self) -> bool:
        return self.gathering.is_over


_Waiter = _Branch | _Seat

Look = Callable[[Request, str, bool], Answer | None]
"""The answer of a request, as it is awaited in that scope. None: it has none yet. True: nobody else is ready."""


class Branches:
    """All coroutines of one turn. `scope` is that of the code which runs now."""

    def __init__(
        self, look: Look, turn: Turn, unawaited: Unawaited, *, where: str, began_at: datetime
    ) -> None:
        self._look, self._where = look, where
        self._turn, self._unawaited = turn, unawaited
        self.scope = ""
        self.times: dict[str, datetime] = {"": began_at}
        """Of the last fact seen, by scope."""
        self.is_over = False
        """What is asked now is no part of the turn: they are being let go."""
        self.answer_of_flow: Answer | None = None
        self._flow: _Branch | None = None
        self.abandoned: set[str] = set()
        """Scopes of branches that were let go before they had ended, as a sibling failed with a bug."""
        self._ready: deque[tuple[_Branch, Answer]] = deque()
        self._waiting: dict[str, list[tuple[Request, _Waiter, str]]] = {}

    # -- the story ---------------------------------------------------------------------------

    def start(self, flow: FlowCoroutine) -> None:
        """The run's own flow is ready."""
        self._flow = _Branch(flow, "", None)
        self._ready.append((self._flow, Answer()))

    def run(self) -> None:
        """Until each waits or the flow has ended. Raises what the flow raises."""
        driver = driven_by.get()
        driven_by.set(self._turn)  # guard: a stage that a flow calls itself
        try:
            while self._ready and self.answer_of_flow is None:
                branch, answer = self._ready.popleft()
                if not branch.is_over:
                    self._resume(branch, answer)
        finally:
            driven_by.set(driver)

    def is_awaited(self, key: str) -> bool:
        """Whether somebody waits for it who hasn't been let go."""
        waiting = self._waiting.get(key)
        return waiting is not None and any(not waiter.is_over for _, waiter, _ in waiting)

    def awaited_together(self) -> dict[str, Request]:
        """What must all be answered before any code of the flow runs again, by key. Empty: one answer may be enough."""
        if self._flow is None or self._flow.awaits is None or not self._flow.awaits.is_of_answers:
            return {}
        return {
            key: waiting[0][0] for key, waiting in self._waiting.items() if self.is_awaited(key)
        }

    def answer(self, key: str) -> None:
        """Look again for whoever awaits it: they are ready, in the order in which they came to wait."""
        for request, waiter, scope in self._waiting.pop(key, ()):
            if not waiter.is_over:
                answer = self._look(request, scope, False)
                assert answer is not None  # noqa: S101 - it has come
                self._deliver(waiter, answer)

    def saw(self, at: datetime, scope: str) -> None:
        """The code of that scope has seen a fact of that time."""
        self.times[scope] = max(self.times[scope], at)

    def close(self) -> None:
        """Close all of them; what their `finally` blocks ask for is not part of the turn."""
        if self._flow is not None:
            self._close(self._flow)

    # -- one coroutine -----------------------------------------------------------------------

    def _resume(self, branch: _Branch, answer: Answer) -> None:
        """Send it answers until it waits or has ended."""
        flow = branch.flow
        while True:
            self.scope = branch.scope
            if answer.error is not None:
                self._unawaited.excuse(branch.scope)  # guard: an error skips awaits
            try:
                awaited = (
                    flow.send(answer.value) if answer.error is None else flow.throw(answer.error)
                )
            except StopIteration as stop:
                return self._ended(branch, Answer(stop.value))
            except FAILURES as error:
                if branch.seat is None:
                    branch.is_over = True
                    raise
                return self._ended(branch, Answer(error=error))  # the gather's to raise
            if (dropped := self._unawaited.dropped()) is not None:  # guard: a forgotten await
                self._turn.refuse(NEVER_AWAITED, dropped)
            found = self._await(awaited, branch, branch.scope)
            if found is None:
                return None
            answer = found

    def _ended(self, branch: _Branch, answer: Answer) -> None:
        branch.is_over = True
        if branch.seat is None:
            self.answer_of_flow = answer
            return
        self.saw(self.times[branch.scope], branch.seat.gathering.scope)
        self._deliver(branch.seat, answer)

    def _await(self, awaited: Any, waiter: _Waiter, scope: str) -> Answer | None:
        if isinstance(awaited, Pending):
            request = awaited.request
            is_alone = not self._ready and isinstance(waiter, _Branch)
            answer = self._look(request, scope, is_alone)
            if answer is None:
                self._waiting.setdefault(request.key, []).append((request, waiter, scope))
            return answer
        if isinstance(awaited, Gather):
            return self._gather(awaited, waiter, scope)
        return Answer(
            error=DefinitionError(foreign(awaited), where=self._where, remedy=f"{OWN_AWAITABLES}.")
        )

    def _gather(self, gather: Gather[Any], waiter: _Waiter, scope: str) -> Answer | None:
        began_at, many = self.times[scope], len(gather.branches)
        gathering = _Gathering(gather, scope, waiter, [None] * many, many)
        if isinstance(waiter, _Branch):
            waiter.awaits = gathering
        else:
            waiter.gathering.inner.append(gathering)
        outcome = gathering.outcome()
        for index, (name, each) in enumerate(gather.branches):
            seat = _Seat(gathering, index)
            if inspect.iscoroutine(each):
                branch = _Branch(each, f"{gather.key}/{name}", seat)
                self.times[branch.scope] = began_at
                gathering.branches.append(branch)
                self._ready.append((branch, Answer()))
            elif (answer := self._await(each, seat, scope)) is not None:
                outcome = outcome or gathering.take(index, answer)
        if outcome is not None:
            self._close_gather(gathering)
        return outcome

    def _deliver(self, waiter: _Waiter, answer: Answer) -> None:
        if isinstance(waiter, _Branch):
            waiter.awaits = None
            self._ready.append((waiter, answer))
            return
        gathering = waiter.gathering
        if gathering.is_over:
            return
        outcome = gathering.take(waiter.index, answer)
        if outcome is not None:
            self._close_gather(gathering)
            self._deliver(gathering.waiter, outcome)

    # -- letting go --------------------------------------------------------------------------

    def _close_gather(self, gathering: _Gathering) -> None:
        """Nobody waits for the rest of it any more: a bug is raised at once."""
        gathering.is_over = True
        for inner in gathering.inner:
            self._close_gather(inner)
        for branch in gathering.branches:
            self._close(branch)

    def _close(self, branch: _Branch) -> None:
        if branch.is_over:
            return
        branch.is_over = True
        self.abandoned.add(branch.scope)  # guard: a branch that was let go has forgotten nothing
        if branch.awaits is not None:
            self._close_gather(branch.awaits)
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
