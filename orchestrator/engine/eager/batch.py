"""A batch: one worker advances many runs side by side, and one statement asks Postgres for several of them.

    advance_batch   `advance_eagerly` for each run

Each run goes the way it goes alone, on a stack of its own (a greenlet). Where it needs a statement that has a form
for many runs, it waits until the others need it too, or enough of them. While Postgres works for these, the rest
go on. Runs change at statements only: a stage or an inline step is called, and returns before anything else
happens in this thread.

While one run is in a call the others wait. So only a call that is known to be short is made before all of them:
a stage that isn't is handed off by a message, and a run whose inline step isn't is handed back, unless it is
the last one. A call that is not recorded yet waits at most `WITHHELD_SECONDS_MAX` before another call is made: a
worker that dies repeats those calls too. (docs/adr/0014)
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from greenlet import getcurrent, greenlet
from sqlalchemy import Connection

from orchestrator.core.kinds.base import NewActivity
from orchestrator.engine.async_stages import Settling, one_by_one
from orchestrator.engine.context import Batch, EngineContext
from orchestrator.engine.database_errors import is_a_servers_trouble, is_refused
from orchestrator.engine.eager.execution import EagerExecution, advance_eagerly
from orchestrator.engine.inline_steps import HandedBack
from orchestrator.store.batched import Answer, BatchVerb, Call
from orchestrator.store.statement import PipelinedConnection, Statement
from orchestrator.store.transitions.claim import Claim

log = logging.getLogger(__name__)

STATEMENT_RUNS_MAX = 20
"""Runs of one statement at most: more would save little, and keep the last of them waiting."""

BATCH_MAX = 2 * STATEMENT_RUNS_MAX
"""Runs of one batch at most: while Postgres answers one half, the other goes on."""

WITHHELD_SECONDS_MAX = 0.005
"""The longest time that an unrecorded call waits while another call is to be made."""


def advance_batch(
    context: EngineContext, run_ids: Sequence[UUID], execution: EagerExecution
) -> None:
    """Advance each of them. What fails fails alone; the first failure is raised when all have ended."""
    seconds = context.settings.eager_seconds
    if len(run_ids) == 1 or not seconds:
        for run_id in run_ids:
            advance_eagerly(context, run_id, execution)
        return
    batch = RunBatch(context, until=context.monotonic() + seconds)
    in_batch, batched = context.in_batch(batch), BatchedExecution(execution, batch)
    with context.identity.lease():
        batch.go(
            [
                partial(advance_eagerly, in_batch, run_id, batched)
                for run_id in dict.fromkeys(run_ids)
            ]
        )


def settle_batch(context: EngineContext, settlings: Sequence[Settling]) -> None:
    """Settle each `async def` stage that has ended, in the context of the batch."""
    if len(settlings) == 1:
        one_by_one(context, settlings)
        return
    batch = RunBatch(context, until=context.monotonic() + context.settings.eager_seconds)
    in_batch = context.in_batch(batch)
    with context.identity.lease():
        batch.go([partial(settling, in_batch) for settling in settlings])


@dataclass(slots=True, eq=False)
class _BatchedRun:
    """One run of a batch: its stack, and the statement that it needs."""

    stack: greenlet
    verb: BatchVerb[Any, Any] | None = None
    ask: Any = None
    kind: Hashable = None
    """Those of one kind are asked in one statement."""
    asked_at: float = 0.0
    answer: Any = None
    failure: BaseException | None = None


class RunBatch(Batch):
    """Runs that go on in one thread; `enough` of them ask Postgres without waiting for the rest."""

    def __init__(
        self, context: EngineContext, *, until: float, enough: int = STATEMENT_RUNS_MAX
    ) -> None:
        self._context, self._monotonic = context, context.monotonic
        self._until, self._enough = until, enough
        self._runs: dict[greenlet, _BatchedRun] = {}
        self._ready: deque[_BatchedRun] = deque()
        self._asking: list[_BatchedRun] = []
        self._aside: deque[_BatchedRun] = deque()
        self._failures: list[Exception] = []
        self._driver = getcurrent()

    def go(self, actions: Sequence[Callable[[], None]]) -> None:
        """Do all of them, from the stack that made this batch."""
        for action in actions:
            self._join(action)
        try:
            while self._runs:
                self._do_next()
        except BaseException as end:
            self._end_all(end)  # guard: a batch ends with its worker
            raise
        self._raise_first()

    def _raise_first(self) -> None:
        failures, self._failures = self._failures, []
        try:
            for failure in failures[1:]:
                if not is_a_servers_trouble(failure):
                    log.error("another run of the batch failed", exc_info=failure)
                failure.__traceback__ = None
            if failures:
                raise failures[0]
        finally:
            del failures  # see `_wait_as`

    # -- for its runs ------------------------------------------------------------------------

    def ask(self, verb: BatchVerb[Call, Answer], ask: Call) -> Answer:
        """Wait for the others, and share their statement."""
        run = self._runs[getcurrent()]
        run.verb, run.ask, run.kind = verb, ask, (verb, verb.kind(ask))
        run.asked_at = self._monotonic()
        self._asking.append(run)
        self._wait_as(run)
        answer: Answer = run.answer
        return answer

    def rows(self, statement: Statement, parameters: dict[str, object]) -> Sequence[Any]:
        """At once, on a connection of its own."""
        with self._context.connection() as connection:
            return statement.rows(connection, **parameters)

    def may_call(self, name: str) -> bool:
        """Whether the others can wait for a call of it: it is short here, and their time isn't over."""
        return len(self._runs) == 1 or (
            self._context.call_durations.is_short(name)  # guard: others wait for short calls alone
            and self._monotonic() < self._until  # guard: a batch's time
        )

    def may_lose(self, name: str) -> bool:
        """Whether another attempt follows if this worker dies in some other run's call."""
        is_last = len(self._runs) == 1
        return is_last or self._context.registry.stage(name).retry.allows_another(1)

    def step_aside(self, name: str) -> None:
        """Before a call that others shouldn't wait for. HandedBack: let another worker make it."""
        if self.may_call(name):
            return
        run = self._runs[getcurrent()]
        self._aside.append(run)
        self._wait_as(run)

    def _wait_as(self, run: _BatchedRun) -> None:
        """Until this run goes on. Raises the failure of its statement."""
        self._driver.switch()
        failure, run.failure = run.failure, None
        if failure is not None:
            # Its traceback leads here: in a circle it would stay until a collection of garbage.
            try:
                raise failure
            finally:
                del failure

    # -- in turns ----------------------------------------------------------------------------

    def _join(self, action: Callable[[], None]) -> None:
        stack = greenlet(self._doing(action))
        stack.gr_context = copy_context()  # guard: a context of one's own
        run = self._runs[stack] = _BatchedRun(stack)
        self._ready.append(run)

    def _doing(self, action: Callable[[], None]) -> Callable[[], None]:
        def do() -> None:
            try:
                action()
            except Exception as failure:  # noqa: BLE001 - it is raised when all have ended
                self._failures.append(failure)
            finally:
                del self._runs[getcurrent()]

        return do

    def _do_next(self) -> None:
        self._go_on()
        if self._asking:
            self._answer_next()
        elif self._aside:
            self._keep_one()

    def _go_on(self) -> None:
        """Everyone who can, until it is time to ask Postgres."""
        while self._ready and not self._is_time_to_ask():
            self._ready.popleft().stack.switch()

    def _is_time_to_ask(self) -> bool:
        """Enough have asked, or the first of them has waited for long."""
        if not self._asking:
            return False
        waited = self._monotonic() - self._asking[0].asked_at
        return (
            len(self._asking) >= self._enough
            or waited >= WITHHELD_SECONDS_MAX  # guard: what is withheld is recorded soon
        )

    def _keep_one(self) -> None:
        """All that are left would rather be alone: one stays, and the others go back to the fleet."""
        kept = self._aside.popleft()
        for run in self._aside:
            run.failure = HandedBack()
        self._ready += [*self._aside, kept]
        self._aside.clear()

    def _answer_next(self) -> None:
        """Ask what has waited longest, and all that fits to it."""
        asking, self._asking = self._asking, []
        kind = asking[0].kind
        group: list[_BatchedRun] = []
        for run in asking:
            (group if run.kind == kind else self._asking).append(run)
        self._answer(group)
        self._ready += group

    def _answer(self, group: Sequence[_BatchedRun]) -> None:
        verb = group[0].verb
        assert verb is not None  # noqa: S101 - they ask
        try:
            with self._connection(verb, group) as connection:
                answers = verb.many(connection, [run.ask for run in group])
        except Exception as error:  # noqa: BLE001 - theirs to judge
            if len(group) > 1 and is_refused(error):  # guard: a refusal is one run's
                for run in group:  # whose fault it is shows when each asks alone
                    self._answer([run])
                return
            for run in group:
                run.failure = error
        else:
            for run, answer in zip(group, answers, strict=True):
                run.answer, run.failure = answer, None
                if len(group) > 1 and verb.is_left_out(answer):  # guard: who is left out asks alone
                    self._answer([run])

    @contextmanager
    def _connection(
        self, verb: BatchVerb[Any, Any], group: Sequence[_BatchedRun]
    ) -> Iterator[Connection | PipelinedConnection]:
        """One on which the others go on while Postgres is at work, if any can, and it does no harm.

        A statement of many waits for no lock. And who goes on may need a connection too: there must be one left.
        """
        can_others = bool(self._ready) and not self._is_time_to_ask()
        is_harmless = (
            len(group) > 1  # guard: nobody goes on while one is asked for alone
            and verb.is_short  # guard: nobody goes on while runs are loaded
        )
        if (
            can_others
            and is_harmless
            and self._context.spare.acquire(blocking=False)  # guard: a connection to spare
        ):
            try:
                with self._context.connection() as connection:
                    yield PipelinedConnection(connection, self._go_on)
            finally:
                self._context.spare.release()
        else:
            with self._context.connection() as connection:
                yield connection

    def _end_all(self, end: BaseException) -> None:
        """This worker is being ended: so are they, wherever they stand."""
        for stack in list(self._runs):
            try:
                stack.throw(end)
            except BaseException:
                log.debug("a run of the batch ended with its worker", exc_info=True)


@dataclass(frozen=True, slots=True)
class BatchedExecution:
    """The `EagerExecution` of one run of a batch."""

    alone: EagerExecution
    batch: RunBatch

    def may_take(self, stage: NewActivity) -> bool:
        """As alone, and only what others can wait for, and what may be lost with any of them."""
        name = stage.request.name
        return (
            self.batch.may_call(name)
            and self.batch.may_lose(name)  # guard: what is tried once waits for nobody
            and self.alone.may_take(stage)
        )

    def perform(self, claim: Claim, work: Callable[[], Claim | None]) -> Claim | None:
        """As alone."""
        return self.alone.perform(claim, work)
