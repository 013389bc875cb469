"""How an author defines: three decorators, each of which checks all that can be checked without running anything.

    @stage(queue="iam", retry=Retry(max_attempts=8), timeout_seconds=1800)
    def provision_access(request: AccessRequest) -> Grant: ...

    @process(version=1)
    async def access_request(flow: Flow, request: AccessRequest) -> Grant | None: ...

Defining is pure: nothing connects, and no environment is read.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Never,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from orchestrator.core.annotations import hints_of, input_of
from orchestrator.core.callables import (
    check_assignees,
    check_flow_function,
    check_stage_function,
    is_asynchronous,
    name_of,
    place_of,
    time_limit_of_task,
    where_of,
)
from orchestrator.core.checks import check_delay, check_name, check_queue
from orchestrator.core.definition import (
    Approval,
    AsyncStage,
    Process,
    Registry,
    Stage,
    TypedProcess,
    default_registry,
)
from orchestrator.core.durations import Duration, seconds_or_none
from orchestrator.core.ending_early import CLEAN_UP_SECONDS, IN_SPEC, CleanUp
from orchestrator.core.error_attributes import check_attributes
from orchestrator.core.fingerprints import meaning_of, source_of, text_of
from orchestrator.core.flow_source import check_source
from orchestrator.core.on_exhausted import OnExhausted
from orchestrator.core.retries import Retry
from orchestrator.errors import DefinitionError

if TYPE_CHECKING:
    from orchestrator.core.flow import Flow

P = ParamSpec("P")
I = TypeVar("I")  # noqa: E741 - the input's
R = TypeVar("R")

_AS_EVER = Retry()

STAGE_TIMEOUT_SECONDS = 3600.0
"""How long one attempt of a stage may run when its author says nothing."""


class StageDecorator(Protocol):
    """`@stage(…)`: of a function, or of an `async def`."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncStage[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Stage[P, R]: ...


@overload
def stage(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncStage[P, R]: ...
@overload
def stage(function: Callable[P, R], /) -> Stage[P, R]: ...
@overload
def stage(
    *,
    name: str | None = ...,
    queue: str | None = ...,
    retry: Retry = ...,
    timeout_seconds: Duration | None = ...,
    heartbeat_seconds: Duration | None = ...,
    at_most_once: bool = ...,
    error_attributes: Sequence[str] = ...,
    on_exhausted: OnExhausted | None = ...,
    always: bool = ...,
    registry: Registry | None = ...,
) -> StageDecorator: ...
def stage(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    retry: Retry = _AS_EVER,
    timeout_seconds: Duration | None = STAGE_TIMEOUT_SECONDS,
    heartbeat_seconds: Duration | None = None,
    at_most_once: bool = False,
    error_attributes: Sequence[str] = (),
    on_exhausted: OnExhausted | None = None,
    always: bool = False,
    registry: Registry | None = None,
) -> Any:
    """Make a function, an `async def`, or a Celery task that exists a stage.

    `name`: by default the function's, with dashes; also the Celery task's name. `queue`: None is the
    app's default. `timeout_seconds`: of one attempt, in seconds or as a timedelta. A Celery task's own time limit,
    the soft one first, stands where none is given. `heartbeat_seconds`: an attempt
    that calls no `heartbeat` for so long has failed. `at_most_once`: it is never tried again, not even where its worker
    dies: then the flow meets WorkerLost. `error_attributes`: which attributes of an error that it raises a flow gets to
    see. `on_exhausted`: people who are asked whether it is tried again, once its attempts are used up, also where its
    last worker died: `ask("it-ops")`. `always`: in a declarative process, run it even after an approval was refused or
    timed out. Raises DefinitionError.
    """

    def define(target: Callable[..., Any]) -> Stage[..., Any]:
        check_stage_function(target)
        chosen = name or _own_name(target, "stage")
        check_name("stage", chosen, place_of(target))
        check_queue(queue, where=place_of(target))
        own_limit = time_limit_of_task(target)
        is_given = timeout_seconds is not STAGE_TIMEOUT_SECONDS or own_limit is None
        timeout = seconds_or_none(
            timeout_seconds if is_given else own_limit, what="timeout_seconds"
        )
        if timeout is not None:
            if not timeout > 0:
                raise DefinitionError("timeout_seconds must be positive", where=place_of(target))
            check_delay(timeout, what=f"the timeout of stage {chosen!r}")
        silence = seconds_or_none(heartbeat_seconds, what="heartbeat_seconds")
        if silence is not None:
            if not silence > 0:
                raise DefinitionError("heartbeat_seconds must be positive", where=place_of(target))
            check_delay(silence, what=f"heartbeat_seconds of stage {chosen!r}")
        policy = retry
        if at_most_once:
            if retry is not _AS_EVER:
                raise DefinitionError(
                    f"stage {chosen!r} is done at most once, and given a Retry",
                    where=place_of(target),
                    remedy="Leave out one of the two: at_most_once=True is never tried again.",
                )
            policy = Retry(max_attempts=1, on_lost="raise")
        if on_exhausted is not None:
            if not isinstance(on_exhausted, OnExhausted):
                raise DefinitionError(
                    f"stage {chosen!r} is given on_exhausted={on_exhausted!r}",
                    where=place_of(target),
                    remedy='Say who is asked: on_exhausted=ask("it-ops").',
                )
            policy = replace(policy, on_lost="raise")
        made = AsyncStage if is_asynchronous(target) else Stage
        defined: Stage[..., Any] = made(
            target,
            name=chosen,
            queue=queue,
            retry=policy,
            timeout_seconds=timeout,
            always=always,
            error_attributes=check_attributes(error_attributes, where=place_of(target)),
            at_most_once=at_most_once,
            heartbeat_seconds=silence,
            on_exhausted=on_exhausted,
        )
        (registry or default_registry).add_stage(defined)
        return defined

    return define if function is None else define(function)


@overload
def approval(function: Callable[[Any], Sequence[str]], /) -> Approval: ...
@overload
def approval(
    name: str | None = None,
    *,
    escalate_to: Sequence[str] = ...,
    registry: Registry | None = ...,
) -> Callable[[Callable[[Any], Sequence[str]]], Approval]: ...
def approval(
    name: Any = None,
    *,
    escalate_to: Sequence[str] = (),
    registry: Registry | None = None,
) -> Any:
    """Register an approval for declarative processes; the function names the people to ask.

    It takes the run's input and must be pure: it is called again on every replay. `name`: by default the
    function's, with dashes. Raises DefinitionError.
    """

    def define(assignees: Callable[[Any], Sequence[str]]) -> Approval:
        check_assignees(assignees)
        chosen = name if isinstance(name, str) else _own_name(assignees, "approval")
        check_name("approval", chosen, place_of(assignees))
        if isinstance(escalate_to, str):
            raise DefinitionError(
                "escalate_to is a list of people or groups, not one string",
                where=place_of(assignees),
            )
        defined = Approval(chosen, assignees, tuple(escalate_to), where_of(assignees))
        (registry or default_registry).add_approval(defined)
        return defined

    return define if name is None or isinstance(name, str) else define(name)


class ProcessDecorator(Protocol):
    """`@process(version=…)`: of a flow that takes an input, or of one that takes none."""

    @overload
    def __call__(
        self, flow: Callable[[Flow, I], Coroutine[Any, Any, R]], /
    ) -> TypedProcess[I, R]: ...
    @overload
    def __call__(
        self, flow: Callable[[Flow], Coroutine[Any, Any, R]], /
    ) -> TypedProcess[None, R]: ...


def process(
    *misplaced: Never,
    version: int = 0,
    name: str | None = None,
    queue: str | None = None,
    expires_after: Duration | None = None,
    on_error: Literal["park", "fail"] = "park",
    clean_up_within: Duration | None = None,
    compensate_when_expired: bool = False,
    registry: Registry | None = None,
) -> ProcessDecorator:
    """Make an `async def` flow a process: `@process(version=1)`.

    `queue`: where its turns are taken, None for the app's default. `expires_after`: a run that has not
    ended by then is closed as `expired`. `on_error`: an exception that flow code raises and nothing catches is most
    often a bug, so it parks its run as an incident, which goes on once the flow is mended; with "fail" it ends the run
    as `failed`. `clean_up_within`: a run that is cancelled, or has expired, is not closed at once: RunCancelled is
    raised at its await, its `finally` blocks run, and it is closed when they have ended, or that time is over.
    `compensate_when_expired`: what it has done is undone then, when its time is over. Raises DefinitionError.
    """
    given: tuple[Any, ...] = (version, *misplaced)  # not every author runs mypy
    if len(given) > 1 or type(given[0]) is not int or given[0] < 1:
        raise DefinitionError(
            "a process has a version; versions count from 1",
            where=place_of(given[-1]) if callable(given[-1]) else "@process",
            remedy="Write `@process(version=1)`.",
        )

    def define(flow: Callable[..., Coroutine[Any, Any, Any]]) -> Process:
        check_flow_function(flow)
        if on_error not in ("park", "fail"):
            raise DefinitionError(
                f'on_error is "park" or "fail", not {on_error!r}', where=place_of(flow)
            )
        where = where_of(flow)
        chosen = name or name_of(flow)
        check_name("process", chosen, place_of(flow))
        check_queue(queue, where=place_of(flow))
        check_source(flow)
        input_type, takes_input = input_of(flow)
        expires = seconds_or_none(expires_after, what=f"expires_after of process {chosen!r}")
        if expires is not None:
            check_delay(expires, what=f"expires_after of process {chosen!r}")
        clean_up = _clean_up(chosen, clean_up_within, undoes_when_expired=compensate_when_expired)
        defined = Process(
            name=chosen,
            version=version,
            flow=flow,
            input_type=input_type,
            takes_input=takes_input,
            result_type=hints_of(flow).get("return", Any),
            queue=queue,
            expires_after_seconds=expires or None,
            on_error=on_error,
            spec={
                "flow": where,
                "source": source_of(flow),
                "means": meaning_of(flow, decorators=(process,)),
                **({} if on_error == "park" else {"on_error": on_error}),
                **({} if clean_up is None else {IN_SPEC: clean_up.as_spec()}),
            },
            where=where,
            source=text_of(flow),
            decorators=(process,),
        )
        (registry or default_registry).add_process(defined)
        return defined

    return cast("ProcessDecorator", define)


def _clean_up(
    process: str, within: Duration | None, *, undoes_when_expired: bool
) -> CleanUp | None:
    what = f"clean_up_within of process {process!r}"
    seconds = seconds_or_none(within, what=what)
    if seconds is None:
        return CleanUp(CLEAN_UP_SECONDS, undoes_when_expired=True) if undoes_when_expired else None
    check_delay(seconds, what=what)
    return CleanUp(seconds, undoes_when_expired)


def _own_name(function: Callable[..., Any], what: str) -> str:
    """The function's own; a lambda has none."""
    if getattr(function, "__name__", "") == "<lambda>":
        raise DefinitionError(
            f"a lambda has no name for the {what} to take",
            where=place_of(function),
            remedy="Give one: name=…, or write a `def`.",
        )
    return name_of(function)
