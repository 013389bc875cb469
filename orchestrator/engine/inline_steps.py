"""Inline steps: what a flow does itself between two commands, while its worker holds the run's turn.

TurnLease.perform   call a step, and record it before the flow goes on: it isn't called again
TurnLease.hold      keep other workers out, and be counted as lost if this one dies in the turn
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Self
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, SQLAlchemyError
from uuid_utils.compat import uuid7

from orchestrator.core import codec
from orchestrator.core.annotations import result_type_of
from orchestrator.core.branches import TurnAbandoned
from orchestrator.core.failures import FAILURES, clear_frames, error_of
from orchestrator.core.journal import Activity, ActivityKind, ActivityState
from orchestrator.core.kinds import Request, StepCall
from orchestrator.core.retries import Verdict, tried_since, with_verdict
from orchestrator.core.retry_later import RetryLater
from orchestrator.core.steps import working_on_step
from orchestrator.engine.context import EngineContext
from orchestrator.engine.event_loop import awaited
from orchestrator.engine.hooks import attempt_info
from orchestrator.engine.refusal import in_plain_characters, refused
from orchestrator.engine.reports import FailedAttempt
from orchestrator.store.reads.finding import now as database_now
from orchestrator.store.reads.loading import LoadedRun
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import exits, turns
from orchestrator.store.transitions.claim import FlowStep, Remembered, remember_flow_step_if_held

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
"""For whom the moment does not matter."""

TURN_LOSSES_MAX = 5
"""So many workers lost in one turn, one after the other, park the run: its step kills them."""


class TurnPoisoned(BaseException):
    """An inline step of this run kills its workers. Not for flow code to catch."""


class HandedBack(TurnAbandoned):
    """Others must not wait for this run's inline step: another message brings it to a worker."""


class FactCame(TurnAbandoned):
    """A step is recorded, and before it a fact that this try has not read: the next one sees both, in their order.

    A flow that went on would do so without that fact, and at each later pass with it.
    """


class TurnLease:
    """One worker's hold on a run's turn, if it comes to need one. Given back at the block's end."""

    def __init__(self, context: EngineContext, connection: AnyConnection, run_id: UUID) -> None:
        self.context, self.connection, self.run_id = context, connection, run_id
        self.token: UUID | None = None
        self.is_held = False
        self.steps_recorded = 0
        """By this try at the turn: each has raised the run's revision by one."""
        self._stack: ExitStack | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stack is not None:
            self._stack.__exit__(kind, error, trace)

    def begin_try(self) -> None:
        """The run has been read anew, with the steps that an earlier try has recorded."""
        self.steps_recorded = 0

    def committed(self) -> None:
        """The turn is committed, and the hold has ended with it."""
        self.is_held = False

    def perform(self, loaded: LoadedRun, request: Request, entry: Activity | None) -> Activity:
        """Run a step of the flow under the held turn, and record it before the flow goes on."""
        try:
            return self._perform_held(loaded, request, entry)
        except SQLAlchemyError as error:  # guard: errors of the record are no flow's
            raise TurnAbandoned(f"step {request.key} could not be recorded") from error

    def _perform_held(
        self, loaded: LoadedRun, request: Request, entry: Activity | None
    ) -> Activity:
        if self.context.batch is not None:
            self.context.batch.step_aside(request.name)
        self.acquire(loaded)
        assert isinstance(request.ask, StepCall)  # noqa: S101 - replay asks for nothing else
        attempt = entry.attempt if entry else 1
        # guard: a step that was begun once is not called again
        if request.ask.at_most_once and entry is not None:
            end, raised = _interrupted(request, entry), None
        else:
            if request.ask.at_most_once:
                self._record_beginning(loaded, request)
            end, raised = self._call(loaded, request, request.ask, entry)
        try:
            remembered = self._remember(loaded, end)
        except DataError as refusal:  # and it always will: the step isn't called again for that
            if raised is None:
                raised = refused(f"what step {request.key} came to", refusal)
                end = replace(end, state=ActivityState.FAILED, result=None, error=error_of(raised))
            else:
                end = replace(end, error=in_plain_characters(end.error or {}))
            remembered = self._remember(loaded, end)
        if remembered is None:
            raise TurnAbandoned(f"the turn was lost while step {request.key} ran")
        self.steps_recorded += 1
        if remembered.armed is not None:
            self.context.messenger.arm([remembered.armed])
        self._report(loaded, end, attempt, raised)
        # guard: no step after an unseen fact
        if remembered.revision != loaded.revision + self.steps_recorded:
            raise FactCame(f"a fact came while step {request.key} ran")
        return Activity(
            key=end.key,
            scope=end.scope,
            ordinal=end.ordinal,
            kind=ActivityKind.STEP,
            name=end.name,
            state=end.state,
            attempt=end.attempt,
            result=None if end.result is None else codec.parse(end.result),
            error=end.error,
            settled_at=remembered.settled_at,
            settled_revision=remembered.revision,
        )

    def _record_beginning(self, loaded: LoadedRun, request: Request) -> None:
        """Of a step that is called at most once: from here on it counts as called."""
        begun = _end_of(request)(state=ActivityState.PENDING, attempt=1)
        if self._remember(loaded, begun) is None:
            raise TurnAbandoned(f"the turn was lost before step {request.key} was called")
        self.steps_recorded += 1

    def _remember(self, loaded: LoadedRun, end: FlowStep) -> Remembered | None:
        return remember_flow_step_if_held(
            self.connection,
            self.run_id,
            end,
            turn_token=self.token or uuid7(),
            queue=loaded.queue,
            horizon_seconds=self.context.settings.horizon_seconds,
        )

    def _report(
        self, loaded: LoadedRun, end: FlowStep, attempt: int, raised: BaseException | None
    ) -> None:
        """Once it is recorded."""
        reports, rests = self.context.reports, end.state is ActivityState.RETRYING
        if raised is not None:
            reports.attempt_failed(
                FailedAttempt(
                    loaded.context,
                    ActivityKind.STEP,
                    end.key,
                    end.name,
                    attempt,
                    end.error or {},
                    raised,
                    end.delay_seconds if rests else None,
                )
            )
        if reports.hooks is not None and not rests:
            reports.hooks.settled(
                loaded.context, ActivityKind.STEP, key=end.key, name=end.name, error=end.error
            )
        if raised is not None:
            clear_frames(raised)

    def acquire(self, loaded: LoadedRun) -> None:
        if self.is_held:
            return
        if self._stack is None:
            self._stack = ExitStack()
        worker_id = self._stack.enter_context(self.context.identity.lease())
        self._stack.push(self._release)
        self.token = self.token or uuid7()
        self.is_held = True  # or may be, if no answer comes
        losses = turns.hold_turn(
            self.connection,
            self.run_id,
            revision=loaded.revision,
            turn_token=self.token,
            worker_id=worker_id,
            dead_after=self.context.settings.dead_after_seconds,
        )
        if losses is None:
            self.is_held = False
            raise TurnAbandoned("another worker holds the turn, or a fact has just come")
        if losses >= TURN_LOSSES_MAX:  # guard: a step that kills its workers parks
            reason = exits.exit_reason(
                self.connection, self.run_id, since=loaded.context.created_at
            )
            last = f"; the last one died ({reason})" if reason else ""
            raise TurnPoisoned(
                f"{losses} workers in a row were lost in this run's turn, at the same step{last}. "
                "Mend what the flow calls there, then resume"
            )

    def _release(self, kind: type[BaseException] | None, *_details: object) -> None:
        """Give a held turn back. Not when this worker is being killed: then it counts as lost.

        If that fails, whoever holds goes on under a new id, so that the turn isn't kept by a living one.
        """
        if kind is None and self.is_held and self.token is not None:
            if isinstance(self.connection, Connection) and self.connection.invalidated:
                self.connection.rollback()  # it was cut: on to another
            turns.release_turn(self.connection, self.run_id, turn_token=self.token)

    def _call(
        self, loaded: LoadedRun, request: Request, call: StepCall, entry: Activity | None
    ) -> tuple[FlowStep, BaseException | None]:
        """The step's end; and what it raised, if it failed."""
        attempt = entry.attempt if entry else 1
        started = self.context.monotonic()
        end = _end_of(request)
        try:
            with self.context.calling(request.name):
                result = self._hooked(loaded, request, call, attempt)
            return end(state=ActivityState.DONE, attempt=attempt, result=result), None
        except FAILURES as error:  # whatever a step raises is its outcome
            elapsed = self.context.monotonic() - started
            verdict, since = self._judged(call, entry, error, elapsed)
            failure = with_verdict(
                error_of(error, call.error_attributes), call.retry, verdict, since
            )
            if verdict.delay_seconds is None:
                return end(state=ActivityState.FAILED, attempt=attempt, error=failure), error
            rests = end(
                state=ActivityState.RETRYING,
                attempt=attempt + 1,
                error=failure,
                delay_seconds=verdict.delay_seconds,
            )
            return rests, error

    def _hooked(self, loaded: LoadedRun, request: Request, call: StepCall, attempt: int) -> str:
        """What it comes to, between its hooks if there are some."""
        hooks = self.context.reports.hooks
        if hooks is None:
            return self._result_of(request, call)
        info = attempt_info(
            loaded.context,
            ActivityKind.STEP,
            key=request.key,
            name=request.name,
            attempt=attempt,
        )
        return hooks.around(info, partial(self._result_of, request, call))

    def _result_of(self, request: Request, call: StepCall) -> str:
        """As JSON text."""
        declared, what = result_type_of(call.function), f"result of step {request.name}"
        codec.check_declared(declared, what=what)
        with working_on_step(f"{self.run_id}/{request.key}"):
            value = awaited(self.context.call_step(call.function, call.args, call.kwargs))
        return codec.encode(value, declared, what=what)

    def _judged(
        self, call: StepCall, entry: Activity | None, error: BaseException, elapsed: float
    ) -> tuple[Verdict, datetime]:
        """What follows, and when the first attempt began; by Postgres' clock where that matters."""
        retry = call.retry
        now = LONG_AGO
        if retry.give_up_after is not None or issubclass(type(error), RetryLater):
            with self.context.connection() as connection:
                now = database_now(connection)
        since = tried_since(entry.error if entry else None, now - timedelta(seconds=elapsed))
        verdict = retry.judge(
            entry.attempt if entry else 1,
            error,
            random=self.context.random(),
            now=now,
            tried_since=since,
        )
        return verdict, since


def _end_of(request: Request) -> partial[FlowStep]:
    return partial(
        FlowStep,
        key=request.key,
        scope=request.scope,
        ordinal=request.ordinal,
        name=request.name,
        asked=request.asked,
    )


def _interrupted(request: Request, entry: Activity) -> FlowStep:
    """A step that was begun, and has no end: who was to record it has died, or was too late.

    One that has failed before its code was changed to this had its one call too.
    """
    interrupted = {
        "type": "StepInterrupted",
        "message": f"step {request.name} was begun, and its end was not recorded: it may be done, in part or not at"
        " all, and is not called again",
    }
    return _end_of(request)(
        state=ActivityState.FAILED, attempt=entry.attempt, error=entry.error or interrupted
    )
