"""Attempts of `async def` stages under way: nobody's thread waits for them.

    AsyncStages.begin      claim the attempt, and start its coroutine; its caller is free
    AsyncStages.finish     at its end, on a thread aside: settle it and take the turn that follows
    AsyncStages.drain      a worker goes down: until all have ended
    AsyncStages.give_back  it has no time for that: other workers do them anew

Each attempt is claimed by an id of its own, which beats while its coroutine lives, and falls silent if its end
can't be recorded. At most `limit` are under way in a process: who begins one more waits, before it claims anything,
so that the message stays with this worker, and its handoff with the record. (docs/adr/0053)
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from orchestrator.core.definition import Stage
from orchestrator.core.steps import StageContext, working_on
from orchestrator.engine.context import EngineContext
from orchestrator.engine.event_loop import EVENT_LOOP, Call
from orchestrator.engine.hooks import HookedAttempt, info_of
from orchestrator.engine.stage import (
    Ended,
    claim_stage,
    encoded,
    prepare,
    work_and_settle,
)
from orchestrator.engine.stage_heartbeats import BeatsOfStage, flushing
from orchestrator.faults import reach
from orchestrator.store.transitions import capabilities
from orchestrator.store.transitions.claim import Claim

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2

TOGETHER_MAX = 40
"""So many that have ended are settled by one thread at once."""


@dataclass(eq=False)
class UnderWay:
    """An attempt whose coroutine is on the loop."""

    stage: Stage[..., Any]
    claim: Claim
    worker_id: UUID
    started: float
    call: Call = field(default_factory=Call)
    beats: BeatsOfStage | None = None
    hooked: HookedAttempt | None = None
    is_over: bool = False
    """Whether its end is recorded, or nobody's to record any more."""

    @property
    def arguments(self) -> tuple[str, str, int]:
        """What its message has asked for."""
        return str(self.claim.run.context.id), self.claim.key, self.claim.attempt


OnEnd = Callable[[UnderWay, EngineContext], None]
Settling = Callable[[EngineContext], None]
Together = Callable[[EngineContext, Sequence[Settling]], None]


def one_by_one(context: EngineContext, settlings: Sequence[Settling]) -> None:
    """Settle each by itself: the rule, and all there is without `engine.eager`."""
    for settling in settlings:
        settling(context)


class AsyncStages:
    """Those of one process. `finished` is called aside with each that has ended; it calls `finish`."""

    def __init__(
        self, context: EngineContext, *, limit: int, together: Together = one_by_one
    ) -> None:
        """`together`: how those that have ended at once are settled."""
        self._context, self._together = context, together
        self._ended: deque[Settling] = deque()
        self._slots = threading.BoundedSemaphore(limit)
        self._changed = threading.Condition()
        self._under_way: set[UnderWay] = set()
        self.is_closed = False
        """Whether no more is begun, as the worker goes down."""

    def begin(
        self,
        stage: Stage[..., Any],
        run_id: UUID,
        key: str,
        attempt: int,
        *,
        on_end: OnEnd,
    ) -> bool:
        """Whether its coroutine is under way. Not if the attempt is not to be done now, or has ended at once.

        `on_end` is called on a thread aside, when its coroutine has ended, with the context to settle it in: it calls
        `finish`. Waits for a place.
        """
        self._slots.acquire()  # guard: so many async stages at once
        try:
            under_way = self._claimed(stage, run_id, key, attempt, on_end)
        except BaseException:
            self._slots.release()
            raise
        if under_way is None:
            self._slots.release()
        return under_way is not None

    def _claimed(
        self,
        stage: Stage[..., Any],
        run_id: UUID,
        key: str,
        attempt: int,
        on_end: OnEnd,
    ) -> UnderWay | None:
        context, identity = self._context, self._context.identity
        worker_id = identity.hold()
        try:
            claim = claim_stage(context, run_id, key, attempt, worker_id=worker_id)
            under_way = None
            if claim is not None:
                under_way = self._started(stage, claim, worker_id, on_end)
                if under_way is None:
                    work_and_settle(context, claim)  # it can't be called: that is its end
        except BaseException as error:
            identity.let_go(worker_id, error)
            raise
        if under_way is None:
            identity.let_go(worker_id)
        return under_way

    def _started(
        self,
        stage: Stage[..., Any],
        claim: Claim,
        worker_id: UUID,
        on_end: OnEnd,
    ) -> UnderWay | None:
        """None: its arguments can't be read, or it raises when it is called."""
        try:
            standing, arguments = prepare(self._context, stage, claim)
            with working_on(standing):
                coroutine = stage(**arguments)
        except Exception:  # noqa: BLE001 - it is raised again where that is recorded
            return None
        under_way = UnderWay(stage, claim, worker_id, self._context.monotonic())
        under_way.beats = standing.beats
        if self._context.reports.hooks is not None:
            under_way.hooked = self._context.reports.hooks.attempt(info_of(claim))
            try:
                under_way.hooked.begin()
            except BaseException:
                coroutine.close()
                raise
        with self._changed:
            self._under_way.add(under_way)
        reach("before", "work")
        if under_way.hooked is None:
            self._begin(under_way, standing, coroutine, on_end)
        else:
            under_way.hooked.context.run(self._begin, under_way, standing, coroutine, on_end)
        return under_way

    def _begin(
        self, under_way: UnderWay, standing: StageContext, coroutine: Any, on_end: OnEnd
    ) -> None:
        with working_on(standing):
            under_way.call = EVENT_LOOP.begin(
                coroutine,
                timeout_seconds=under_way.stage.timeout_seconds,
                on_end=lambda call: self._on_loop(under_way, call, on_end),
            )

    def _on_loop(self, under_way: UnderWay, call: Call, on_end: OnEnd) -> None:
        """It has ended."""
        under_way.call = call
        self._ended.append(lambda context: self._over(under_way, on_end, context))
        EVENT_LOOP.do_aside(self._settle_some)

    def _settle_some(self) -> None:
        """Of those that have ended by now; for each that has, this is called once."""
        some: list[Settling] = []
        with suppress(IndexError):
            while len(some) < TOGETHER_MAX:
                some.append(self._ended.popleft())
        if some:
            self._together(self._context, some)

    def _over(self, under_way: UnderWay, on_end: OnEnd, context: EngineContext) -> None:
        failure: BaseException | None = None
        try:
            if not under_way.is_over:
                on_end(under_way, context)
            elif under_way.hooked is not None:
                under_way.hooked.given_back()
        except BaseException as error:  # this thread is nobody's who could do anything about it
            failure = error
            log.exception(
                "the end of %s of run %s could not be recorded",
                under_way.claim.key,
                under_way.claim.run.context.id,
            )
        finally:
            identity = self._context.identity
            # guard: an async stage whose end is not recorded falls silent
            if not under_way.is_over:
                failure = failure or RuntimeError("its end is not recorded")
            identity.let_go(under_way.worker_id, failure)
            del failure
            with self._changed:
                self._under_way.discard(under_way)
                self._changed.notify_all()
            self._slots.release()

    def finish(self, under_way: UnderWay, context: EngineContext) -> None:
        """Record what its coroutine came to, and take the turn that follows. In what `on_end` does."""
        stage, call = under_way.stage, under_way.call

        def result() -> str:
            value = flushing(under_way.beats, call.result)
            reach("after", "work")
            return encoded(stage, value)

        hooked = under_way.hooked
        ended = result if hooked is None else partial(hooked.end, result)
        work_and_settle(context, under_way.claim, Ended(under_way.started, ended))
        under_way.is_over = True

    def drain(self, *, is_hurried: Callable[[], bool] = lambda: False) -> None:
        """Begin no more, and wait for all that are under way. If it `is_hurried`, they are given back."""
        self.is_closed = True
        with self._changed:
            while self._under_way and not is_hurried():
                self._changed.wait_for(lambda: not self._under_way, timeout=_LOOK_SECONDS)
            hurried = list(self._under_way)
        if hurried:
            self.give_back(hurried)

    def give_back(self, those: list[UnderWay] | None = None) -> None:
        """Cancel them; other workers do them anew, at once and as no further try."""
        self.is_closed = True
        context = self._context
        for under_way in list(self._under_way) if those is None else those:
            if under_way.stage.at_most_once:  # guard: what is done at most once is not given back
                EVENT_LOOP.cancel(under_way.call)  # and that is its end, or else its silence
                continue
            under_way.is_over = True
            EVENT_LOOP.cancel(under_way.call)
            claim, run = under_way.claim, under_way.claim.run.context
            with suppress(Exception), context.connection() as connection:  # else its silence tells
                capabilities.give_back_attempt_if_claimed(
                    connection,
                    run.id,
                    claim.key,
                    claim.attempt,
                    why="its worker is shut down",
                    actor=context.identity.name,
                    relay_after=context.settings.relay_after_seconds,
                )
