"""`Flow`: everything a process author may await.

Calling a method schedules; awaiting waits. So `a = flow.stage(x); b = flow.stage(y)` runs both at
once, and `await flow.gather(a, b)` waits for them. Between awaits a flow is pure: no clock
(`flow.now`), no randomness, no I/O outside a stage or a step, since it is replayed from its journal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, ParamSpec, TypeVar, cast, overload
from uuid import UUID

from orchestrator.core.approval_requests import Escalate, request_approval
from orchestrator.core.approvals import Decision
from orchestrator.core.calendars import BusinessTime, Calendar, Clock
from orchestrator.core.callables import check_step, name_of, own_names, remedy_for_no_stage
from orchestrator.core.checks import check_moment, composed, due_in
from orchestrator.core.definition import Stage
from orchestrator.core.durations import Duration, seconds_of
from orchestrator.core.flow_branches import FlowBranches
from orchestrator.core.flow_callbacks import Callbacks
from orchestrator.core.flow_children import Children
from orchestrator.core.flow_every import Series
from orchestrator.core.flow_poll import Polls
from orchestrator.core.flow_run import AsAWhole
from orchestrator.core.flow_undo import Undoes
from orchestrator.core.flow_waits import Waits
from orchestrator.core.kinds import (
    KINDS,
    AskPeople,
    Sleep,
    StageCall,
    StepCall,
)
from orchestrator.core.kinds.base import Ask
from orchestrator.core.kinds.step import checked_options
from orchestrator.core.pending import Pending, Recorder
from orchestrator.core.retries import Retry
from orchestrator.core.rounds import Rounds
from orchestrator.core.undo_lists import Compensation, compensation_of
from orchestrator.core.voting import Needs
from orchestrator.errors import DefinitionError

P = ParamSpec("P")
R = TypeVar("R")

_AS_EVER: dict[str, Any] = {"retry": Retry()}
_OF_STEPS = frozenset({"key", "retry", "compensate", "at_most_once", "error_attributes"})
_frame = sys._getframe  # noqa: SLF001 - one frame, where `inspect.stack` would take them all


class Flow(FlowBranches, AsAWhole, Callbacks, Children, Polls, Series, Undoes, Waits):
    """Handed to a process's `async def`. Everything it returns can be awaited, and may take weeks."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        run_id: UUID,
        business_key: str | None,
        process: str,
        version: int,
    ) -> None:
        self._recorder = recorder
        self.run_id = run_id
        self.business_key = business_key
        self.process = process
        self.version = version
        self._unawaited = recorder.unawaited

    @property
    def now(self) -> datetime:
        """The time of the last fact this flow has seen; the same on every replay."""
        return self._recorder.now

    @overload
    def stage(
        self,
        stage: Stage[P, None],
        /,
        *args: Any,
        compensate: Callable[P, Any],
        key: str | None = ...,
        **kwargs: Any,
    ) -> Pending[None]: ...
    @overload
    def stage(
        self,
        stage: Stage[..., R],
        /,
        *args: Any,
        compensate: Callable[[R], Any],
        key: str | None = ...,
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def stage(
        self, stage: Stage[..., R], /, *args: Any, key: str | None, **kwargs: Any
    ) -> Pending[R]: ...
    @overload
    def stage(self, stage: Stage[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Pending[R]: ...
    @overload
    def stage(
        self,
        stage: str,
        /,
        *args: Any,
        key: str | None = ...,
        compensate: Any = ...,
        **kwargs: Any,
    ) -> Pending[Any]: ...
    def stage(self, stage: Any, /, *args: Any, **kwargs: Any) -> Pending[Any]:
        """Hand off to a stage; awaiting gives its result.

        `key`: its name in the journal, by default the stage's. `compensate`: the stage that undoes it when the flow
        fails, or is cancelled with compensation; it takes this one's result, or the same arguments where this one
        returns nothing. Where the stage has parameters of these names, they are meant. Raises InvalidArguments here,
        and ActivityFailed at the await when its attempts are used up; where its definition says `on_exhausted=ask(…)`,
        when those people don't let it be tried again.
        """
        found = self._recorder.find_stage(stage) if isinstance(stage, str) else stage
        if not isinstance(found, Stage):
            found = self._recorder.stage_of_task(found) or found
        if not isinstance(found, Stage):
            raise DefinitionError(
                f"flow.stage takes a @stage, not {found!r}",
                remedy=remedy_for_no_stage(found),
            )
        key = None if "key" in found.parameters else kwargs.pop("key", None)
        undone_by = None
        if kwargs and "compensate" not in found.parameters:
            undone_by = kwargs.pop("compensate", None)
        call = StageCall(found, found.bind(args, kwargs))
        if undone_by is not None:
            call.compensation = self._compensation(found.name, call, args, kwargs, undone_by)
        pending = self._asked(found.name, key, call)
        if undone_by is not None:
            self._recorder.note_undoable(pending.request, call.compensation)
        return pending if found.on_exhausted is None else self._in_rounds(pending, call)

    @overload
    def step(
        self,
        function: Callable[P, Coroutine[Any, Any, None]],
        /,
        *args: Any,
        compensate: Callable[P, Any],
        key: str | None = ...,
        retry: Retry = ...,
        at_most_once: bool = ...,
        error_attributes: Sequence[str] = ...,
        **kwargs: Any,
    ) -> Pending[None]: ...
    @overload
    def step(
        self,
        function: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        compensate: Callable[[R], Any],
        key: str | None = ...,
        retry: Retry = ...,
        at_most_once: bool = ...,
        error_attributes: Sequence[str] = ...,
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def step(
        self,
        function: Callable[P, None],
        /,
        *args: Any,
        compensate: Callable[P, Any],
        key: str | None = ...,
        retry: Retry = ...,
        at_most_once: bool = ...,
        error_attributes: Sequence[str] = ...,
        **kwargs: Any,
    ) -> Pending[None]: ...
    @overload
    def step(
        self,
        function: Callable[..., R],
        /,
        *args: Any,
        compensate: Callable[[R], Any],
        key: str | None = ...,
        retry: Retry = ...,
        at_most_once: bool = ...,
        error_attributes: Sequence[str] = ...,
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def step(
        self,
        function: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        key: str | None,
        retry: Retry = ...,
        at_most_once: bool = ...,
        error_attributes: Sequence[str] = ...,
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def step(
        self,
        function: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        retry: Retry,
        at_most_once: bool = ...,
        error_attributes: Sequence[str] = ...,
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def step(
        self,
        function: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        at_most_once: bool,
        error_attributes: Sequence[str] = ...,
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def step(
        self,
        function: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        error_attributes: Sequence[str],
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def step(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Pending[R]: ...
    @overload
    def step(
        self,
        function: Callable[..., R],
        /,
        *args: Any,
        key: str | None,
        retry: Retry = ...,
        at_most_once: bool = ...,
        error_attributes: Sequence[str] = ...,
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def step(
        self,
        function: Callable[..., R],
        /,
        *args: Any,
        retry: Retry,
        at_most_once: bool = ...,
        error_attributes: Sequence[str] = ...,
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def step(
        self,
        function: Callable[..., R],
        /,
        *args: Any,
        at_most_once: bool,
        error_attributes: Sequence[str] = ...,
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def step(
        self,
        function: Callable[..., R],
        /,
        *args: Any,
        error_attributes: Sequence[str],
        **kwargs: Any,
    ) -> Pending[R]: ...
    @overload
    def step(
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Pending[R]: ...
    def step(self, function: Any, /, *args: Any, **kwargs: Any) -> Pending[Any]:
        """Call a short function (or await an `async def`) in the turn itself, once; awaiting gives what is remembered.

        `key`: its name in the journal, by default the function's. `retry`: a Retry. `at_most_once`: its beginning is
        recorded before it is called; where its worker dies in it, the await raises StepInterrupted, and it is not
        called again. `error_attributes`: which attributes of an error that it raises the flow gets to see.
        `compensate`: the stage that undoes it, as of a stage. Where the function has parameters of these names, they
        are meant. Raises ActivityFailed at the await when its attempts are used up.
        """
        check_step(function, how="flow.step")
        options: dict[str, Any] = {}
        if not _OF_STEPS.isdisjoint(kwargs):
            theirs = own_names(function)
            options = {name: kwargs.pop(name) for name in _OF_STEPS.intersection(kwargs) - theirs}
        key, undone_by = options.pop("key", None), options.pop("compensate", None)
        more = checked_options(options) if options else _AS_EVER
        call, name = StepCall(function, args, kwargs, **more), name_of(function)
        if undone_by is not None:
            call.compensation = self._compensation(name, call, args, kwargs, undone_by)
        pending = self._asked(name, key, call)
        if undone_by is not None:
            self._recorder.note_undoable(pending.request, call.compensation)
        return pending

    def _compensation(
        self, name: str, call: Ask, args: tuple[Any, ...], kwargs: dict[str, Any], stage: Any
    ) -> Compensation:
        found = self._recorder.find_stage(stage) if isinstance(stage, str) else stage
        return compensation_of(name, call.result_type, args, kwargs, found)

    def sleep(self, duration: Duration, *, key: str | None = None) -> Pending[None]:
        """Wait for a timedelta, or for seconds; what is over already is over. Costs a few rows, however long."""
        delay = seconds_of(duration, what="flow.sleep")
        ask = Sleep(delay_seconds=due_in(delay, what="flow.sleep"))
        return self._asked("sleep", key, ask)

    def sleep_until(self, at: datetime, *, key: str | None = None) -> Pending[None]:
        """Wait until a moment, which must carry a time zone."""
        if not isinstance(at, datetime):
            raise DefinitionError(
                f"flow.sleep_until is given {at!r}, a {type(at).__name__}",
                remedy="Give a datetime with a time zone, or use flow.sleep for a duration.",
            )
        check_moment(at, what="flow.sleep_until")
        return self._asked("sleep", key, Sleep(at=at))

    def approval(
        self,
        name: str,
        *,
        assign: Sequence[str],
        escalate: Escalate | None = None,
        timeout: Duration | BusinessTime | None = None,
        calendar: Calendar | None = None,
        needs: Needs = 1,
        rejects: int | None = 1,
        exclude: Sequence[str] = (),
        key: str | None = None,
    ) -> Pending[Decision]:
        """Ask people to decide; awaiting gives a Decision: approved, rejected or timed out.

        Any one of `assign` decides; with `needs`, so many of them have to approve ("all": as many as are asked at
        first), and `rejects` rejections reject (None: it goes on as long as enough can still approve). The Decision
        is a VotedDecision then. `exclude`: who may not decide, whoever asks them: the requester, say, or who decided
        before. After each duration of `escalate` its people may decide too. A time that
        is over already is over now: an approval with such a `timeout` times out without a decision.

        Durations are elapsed time, or working time of the `calendar`: `business_days(2)`, `business_hours(16)`,
        counted from `flow.now`. Its moments are recorded as it asks: a calendar that is changed afterwards moves none.
        """
        name = composed(name)
        clock = None if calendar is None else Clock(self.now, calendar)
        ask = request_approval(
            name,
            assign=assign,
            escalate=escalate,
            timeout=timeout,
            clock=clock,
            needs=needs,
            rejects=rejects,
            exclude=exclude,
        )
        return self._asked(name, key, AskPeople(ask))

    def patched(self, name: str) -> bool:
        """Guard changed code: True for a run that comes here first with this code, False for one that was further.

        `if flow.patched("two-reviews"): … else: …`, with the new code above and the former below. The answer is the
        same at each replay: the first True is marked in the journal. Once `perennial check` says that no open run needs
        the former code, take it away with the question: marks that nobody asks for count for nothing.
        """
        return self._recorder.patched(composed(name))

    def ask(self, ask: Ask, name: str, *, key: str | None = None) -> Pending[Any]:
        """Ask for something of a kind that is registered (`core.kinds.register`); awaiting gives its answer.

        `name` is what people read, and `key` its name in the journal. The kinds that come with Perennial have methods
        of their own.
        """
        if KINDS.get(getattr(ask, "kind", None)) is not type(ask):  # type: ignore[arg-type]  # it may be anything
            raise DefinitionError(
                f"flow.ask is given {ask!r}, which is of no registered kind",
                remedy="Define it as a subclass of Ask, and call core.kinds.register with that class.",
            )
        pending = self._asked(composed(name), key, ask)
        if isinstance(ask, StageCall) and ask.stage.on_exhausted is not None:
            return self._in_rounds(pending, ask)
        return pending

    def _in_rounds(self, pending: Pending[Any], call: StageCall) -> Pending[Any]:
        """What is awaited in its place: where it is exhausted, people say whether it is tried again."""
        pending.is_awaited()
        rounds: Rounds[Any] = Rounds(pending, call, self._recorder)
        self._unawaited.note(pending.key, rounds, _frame(2), must_be_awaited=True)
        return cast("Pending[Any]", rounds)  # it is awaited as one, by itself and among others

    def _asked(
        self, name: str, key: str | None, ask: Ask, made: type[Pending[Any]] = Pending
    ) -> Pending[Any]:
        """Called by the very method that the flow calls, whose line is remembered."""
        if key is not None and not isinstance(key, str):
            raise DefinitionError(
                f"{ask.kind} {name} is given the key {key!r}", remedy="Keys are text: str(…)."
            )
        request = self._recorder.request(name, key, ask)
        pending = made(request, self._unawaited)
        self._unawaited.note(request.key, pending, _frame(2), must_be_awaited=ask.must_be_awaited)
        return pending
