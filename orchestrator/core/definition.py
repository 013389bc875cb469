"""What an author defines: stages, approvals and processes, and the registry that holds them.

    @stage(queue="iam", retry=Retry(max_attempts=8), timeout_seconds=1800)
    def provision_access(request: AccessRequest) -> Grant: ...

    @process(version=1)
    async def access_request(flow: Flow, request: AccessRequest) -> Grant | None: ...

Defining is pure: nothing connects, and no environment is read.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Never, ParamSpec, TypeVar, get_type_hints, overload
from weakref import WeakKeyDictionary

from orchestrator.core.callables import (
    check_assignees,
    check_flow_function,
    check_stage_function,
    name_of,
    place_of,
    where_of,
)
from orchestrator.core.checks import check_delay, check_name, check_queue
from orchestrator.core.codec import Undeclared
from orchestrator.core.driving import STAGE_INSTEAD, refuse_in_flow
from orchestrator.core.durations import Duration, seconds_or_none
from orchestrator.core.fingerprints import meaning_of, source_of
from orchestrator.core.flow_source import check_source
from orchestrator.core.retries import Retry
from orchestrator.errors import DefinitionError, InvalidArguments, UnknownProcess, UnknownStage

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

STAGE_TIMEOUT_SECONDS = 3600.0
"""How long one attempt of a stage may run when its author says nothing."""


class Stage(Generic[P, R_co]):
    """A unit of work that is its own Celery task. Called directly, it is just its function.

    Not in a flow: there it would be done unrecorded, and again at each replay.
    """

    instead_in_flow = STAGE_INSTEAD

    def __init__(
        self,
        function: Callable[P, R_co],
        *,
        name: str,
        queue: str | None,
        retry: Retry,
        timeout_seconds: float | None,
        always: bool,
    ) -> None:
        self.function = function
        self.name = name
        self.queue = queue
        self.retry = retry
        self.timeout_seconds = timeout_seconds
        self.always = always
        self.where = where_of(function)
        self.__doc__ = function.__doc__
        self.__name__ = name
        self.__wrapped__ = function
        self.parameters = _parameters_of(function, self.where)
        self._signature = inspect.signature(function)
        self._is_all_by_position = all(
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            for parameter in self._signature.parameters.values()
        )
        self.result_type = _hints_of(function).get("return", Any)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        refuse_in_flow(self)
        return self.function(*args, **kwargs)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by parameter name. Raises InvalidArguments when they don't fit."""
        if not kwargs and len(args) == len(self.parameters) and self._is_all_by_position:
            return dict(zip(self.parameters, args, strict=True))  # as below, for a tenth of it
        try:
            return dict(self._signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise InvalidArguments(f"stage {self.name!r} can't be called so: {error}") from None

    def __repr__(self) -> str:
        return f"<stage {self.name}>"


@dataclass(frozen=True, slots=True)
class Approval:
    """A named approval that a declarative process may ask for.

    `assignees(input)` names the people asked; `escalate_to` those added when it escalates.
    """

    name: str
    assignees: Callable[[Any], Sequence[str]]
    escalate_to: tuple[str, ...] = ()
    where: str = ""

    def __call__(self, value: Any) -> Sequence[str]:
        return self.assignees(value)


@dataclass(frozen=True, slots=True)
class Process:
    """A versioned, immutable definition. `spec` is what is deployed; `flow` is what is driven."""

    name: str
    version: int
    flow: Callable[..., Coroutine[Any, Any, Any]] = field(repr=False)
    kind: str = "python"
    input_type: Any = Any
    result_type: Any = Any
    takes_input: bool = True
    queue: str | None = None
    expires_after_seconds: float | None = None
    spec: dict[str, Any] = field(default_factory=dict, repr=False)
    where: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what it means; two definitions with one fingerprint are the same.

        Of a flow in Python its syntax tree counts, and not where it stands or how it is written.
        """
        if self.kind != "python":
            return self._fingerprint_of(self.spec)
        return self._fingerprint_of(_without(self.spec, "flow", "source"))

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprint, and the one that releases before 0.2 recorded for the same code."""
        if self.kind != "python":
            return (self.fingerprint,)
        return (self.fingerprint, self._fingerprint_of(_without(self.spec, "means")))

    def _fingerprint_of(self, spec: dict[str, Any]) -> str:
        content = {
            "name": self.name,
            "version": self.version,
            "kind": self.kind,
            "queue": self.queue,
            "expires_after_seconds": self.expires_after_seconds,
            "spec": spec,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Registry:
    """The stages, approvals and processes that a program has. There is a default one."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage[..., Any]] = {}
        self.approvals: dict[str, Approval] = {}
        self.processes: dict[tuple[str, int], Process] = {}
        self._stage_listeners: list[Callable[[Stage[..., Any]], None]] = []

    def for_each_stage(self, listener: Callable[[Stage[..., Any]], None]) -> None:
        """Call `listener` with every stage there is, and with each that comes later."""
        self._stage_listeners.append(listener)
        for stage in self.stages.values():
            listener(stage)

    def add_stage(self, stage: Stage[..., Any]) -> None:
        """Raises DefinitionError if another function has the name."""
        known = self.stages.get(stage.name)
        if known is not None and known.where != stage.where:
            raise _taken("stage", stage.name, place_of(stage.function), place_of(known.function))
        self.stages[stage.name] = stage
        for listener in self._stage_listeners:
            listener(stage)

    def add_approval(self, approval: Approval) -> None:
        """Raises DefinitionError if another function has the name."""
        known = self.approvals.get(approval.name)
        if known is not None and known.where != approval.where:
            raise _taken(
                "approval",
                approval.name,
                place_of(approval.assignees),
                place_of(known.assignees),
            )
        self.approvals[approval.name] = approval

    def add_process(self, process: Process) -> None:
        """Raises DefinitionError if this name and version is defined elsewhere."""
        known = self.processes.get((process.name, process.version))
        if known is not None and known.where != process.where:
            what = f"process version {process.version}"
            raise _taken(what, process.name, process.where, known.where)
        self.processes[process.name, process.version] = process

    def stage(self, name: str) -> Stage[..., Any]:
        """The stage of that name. Raises UnknownStage."""
        try:
            return self.stages[name]
        except KeyError:
            raise UnknownStage(
                f"no stage {name!r} is registered here; known: {_listed(self.stages)}"
            ) from None

    def process(self, name: str, version: int | None = None) -> Process:
        """That version, or the newest known here. Raises UnknownProcess."""
        versions = [known for process, known in self.processes if process == name]
        chosen = version if version is not None else max(versions, default=None)
        found = self.processes.get((name, chosen)) if chosen is not None else None
        if found is None:
            wanted = name if version is None else f"{name} version {version}"
            known_names = {process for process, _ in self.processes}
            raise UnknownProcess(
                f"no process {wanted!r} is registered here; known: {_listed(known_names)}"
            )
        return found


default_registry = Registry()


@overload
def stage(function: Callable[P, R], /) -> Stage[P, R]: ...
@overload
def stage(
    *,
    name: str | None = ...,
    queue: str | None = ...,
    retry: Retry = ...,
    timeout_seconds: Duration | None = ...,
    always: bool = ...,
    registry: Registry | None = ...,
) -> Callable[[Callable[P, R]], Stage[P, R]]: ...
def stage(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    retry: Retry = Retry(),  # noqa: B008 - frozen
    timeout_seconds: Duration | None = STAGE_TIMEOUT_SECONDS,
    always: bool = False,
    registry: Registry | None = None,
) -> Any:
    """Make a function (or a Celery task that exists) a stage.

    `name`: by default the function's, with dashes; also the Celery task's name. `queue`: None is the
    app's default. `timeout_seconds`: of one attempt, in seconds or as a timedelta. `always`: in a
    declarative process, run it even after an approval was refused or timed out. Raises DefinitionError.
    """

    def define(target: Callable[..., Any]) -> Stage[..., Any]:
        check_stage_function(target)
        chosen = name or _own_name(target, "stage")
        check_name("stage", chosen, place_of(target))
        check_queue(queue, where=place_of(target))
        timeout = seconds_or_none(timeout_seconds, what="timeout_seconds")
        if timeout is not None:
            if not timeout > 0:
                raise DefinitionError("timeout_seconds must be positive", where=place_of(target))
            check_delay(timeout, what=f"the timeout of stage {chosen!r}")
        defined: Stage[..., Any] = Stage(
            target,
            name=chosen,
            queue=queue,
            retry=retry,
            timeout_seconds=timeout,
            always=always,
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


def process(
    *misplaced: Never,
    version: int = 0,
    name: str | None = None,
    queue: str | None = None,
    expires_after: Duration | None = None,
    registry: Registry | None = None,
) -> Callable[[Callable[..., Coroutine[Any, Any, Any]]], Process]:
    """Make an `async def` flow a process: `@process(version=1)`.

    `queue`: where its turns are taken, None for the app's default. `expires_after`: a run that has not
    ended by then is closed as `expired`. Raises DefinitionError.
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
        where = where_of(flow)
        chosen = name or name_of(flow)
        check_name("process", chosen, place_of(flow))
        check_queue(queue, where=place_of(flow))
        check_source(flow)
        input_type, takes_input = _input_of(flow)
        expires = seconds_or_none(expires_after, what=f"expires_after of process {chosen!r}")
        if expires is not None:
            check_delay(expires, what=f"expires_after of process {chosen!r}")
        defined = Process(
            name=chosen,
            version=version,
            flow=flow,
            input_type=input_type,
            takes_input=takes_input,
            result_type=_hints_of(flow).get("return", Any),
            queue=queue,
            expires_after_seconds=expires or None,
            spec={
                "flow": where,
                "source": source_of(flow),
                "means": meaning_of(flow, decorators=(process,)),
            },
            where=where,
        )
        (registry or default_registry).add_process(defined)
        return defined

    return define


def _own_name(function: Callable[..., Any], what: str) -> str:
    """The function's own; a lambda has none."""
    if getattr(function, "__name__", "") == "<lambda>":
        raise DefinitionError(
            f"a lambda has no name for the {what} to take",
            where=place_of(function),
            remedy="Give one: name=…, or write a `def`.",
        )
    return name_of(function)


def _parameters_of(function: Callable[..., Any], where: str) -> dict[str, Any]:
    hints = _hints_of(function)
    parameters: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
            parameter.POSITIONAL_ONLY,
        ):
            raise DefinitionError(
                f"parameter {parameter} can't be recorded by name",
                where=where,
                remedy="Name each parameter.",
            )
        parameters[parameter.name] = hints.get(parameter.name, Any)
    return parameters


def _input_of(flow: Callable[..., Any]) -> tuple[Any, bool]:
    parameters = list(inspect.signature(flow).parameters.values())
    if len(parameters) == 1:
        return Any, False
    return _hints_of(flow).get(parameters[1].name, Any), True


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    plain = inspect.unwrap(function)
    try:
        return get_type_hints(plain, include_extras=True)
    except NameError as error:
        raise DefinitionError(
            f"its annotations can't be read: {error}",
            where=place_of(plain),
            remedy="Import the name at run time.",
        ) from None


_result_types: WeakKeyDictionary[Callable[..., Any], Any] = WeakKeyDictionary()
"""Weak: a step may be a function that closes over a whole run's data, and is gone with its turn."""


def result_type_of(function: Callable[..., Any]) -> Any:
    """The declared result of any callable; Any where it declares none.

    What declares one that can't be read at run time, as it is imported for type checkers only, is `Undeclared`.
    """
    plain = getattr(function, "__func__", function)  # a bound method is another object each time
    try:
        return _result_types[plain]
    except KeyError:
        found = _result_types[plain] = _result_type_of(function)
        return found
    except TypeError:  # it can't be hashed, or not referred to weakly
        return _result_type_of(function)


def _result_type_of(function: Callable[..., Any]) -> Any:
    try:
        return _hints_of(function).get("return", Any)
    except DefinitionError:
        return _declared_result_of(inspect.unwrap(function))
    except (TypeError, AttributeError):
        return Any


def _declared_result_of(function: Callable[..., Any]) -> Any:
    """The result alone: another annotation may be the one that can't be read."""

    def shim() -> None: ...

    try:
        shim.__annotations__ = {"return": function.__annotations__["return"]}
        scope = getattr(function, "__globals__", {})
        return get_type_hints(shim, globalns=scope, include_extras=True)["return"]
    except KeyError:
        return Any
    except NameError as error:
        return Undeclared(
            f"the annotation of {where_of(function)} can't be read: {error}. Import the name at run time"
        )


def _without(spec: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: part for name, part in spec.items() if name not in names}


def _taken(what: str, name: str, where: str, known: str) -> DefinitionError:
    return DefinitionError(
        f"{what} {name!r} is defined already in {known}",
        where=where,
        remedy="Give one of them a name of its own: name='…'.",
    )


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
