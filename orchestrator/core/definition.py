"""What a program has: stages, approvals and processes, and the registry that holds them.

An author makes them with the decorators of `core.decorators`, a deployment of YAML with `core.declarative`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from orchestrator.core.annotations import hints_of, parameters_of
from orchestrator.core.callables import is_celery_task, place_of, where_of
from orchestrator.core.compiled import meaning_of_compiled, way_of_compiled
from orchestrator.core.driving import STAGE_INSTEAD, refuse_in_flow
from orchestrator.core.on_exhausted import OnExhausted
from orchestrator.core.reached import Reached, reached_by
from orchestrator.core.retries import Retry
from orchestrator.errors import DefinitionError, InvalidArguments, UnknownProcess, UnknownStage

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
I_contra = TypeVar("I_contra", contravariant=True)


class Stage(Generic[P, R_co]):
    """A unit of work that is its own Celery task. Called directly, it is just its function.

    Not in a flow: there it would be done unrecorded, and again at each replay.
    """

    instead_in_flow = STAGE_INSTEAD
    is_asynchronous = False
    """Whether it is an `async def`."""
    hands_on_tokens = False
    """Whether this process has given it a callback's token."""

    def __init__(
        self,
        function: Callable[P, R_co],
        *,
        name: str,
        queue: str | None,
        retry: Retry,
        timeout_seconds: float | None,
        always: bool,
        error_attributes: tuple[str, ...] = (),
        at_most_once: bool = False,
        heartbeat_seconds: float | None = None,
        on_exhausted: OnExhausted | None = None,
    ) -> None:
        self.function = function
        self.on_exhausted = on_exhausted
        self.error_attributes = error_attributes
        self.at_most_once = at_most_once
        self.heartbeat_seconds = heartbeat_seconds
        self.name = name
        self.queue = queue
        self.retry = retry
        self.timeout_seconds = timeout_seconds
        self.always = always
        self.where = where_of(function)
        self.__doc__ = function.__doc__
        self.__name__ = name
        self.__wrapped__ = function
        self.parameters = parameters_of(function, self.where)
        self._signature = inspect.signature(function)
        self._is_all_by_position = all(
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            for parameter in self._signature.parameters.values()
        )
        self.result_type = hints_of(function).get("return", Any)

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


class AsyncStage(Stage[P, R_co]):
    """A stage that is an `async def`: it is awaited on the event loop of its process, beside others.

    Called directly, it is its function: await it.
    """

    is_asynchronous = True

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R_co]: ...


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
    on_error: Literal["park", "fail"] = "park"
    """What becomes of a run whose flow raises what it doesn't catch, and what is no activity's failure."""
    spec: dict[str, Any] = field(default_factory=dict, repr=False)
    where: str = ""
    source: str | None = field(default=None, repr=False, compare=False)
    """The text of its flow, if it is known: people are shown what a deployment changes."""
    decorators: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    """Of ours, on its flow: what they were given is recorded apart."""

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

    @property
    def fingerprint_by_way(self) -> dict[str, str]:
        """Each by the way in which it was taken, the best first. Two definitions are compared by one way alone.

        `program` is of the flow and of all that it rests on. A flow without source has none, and is known by its
        compiled code; what older releases took of it has a name of its own.
        """
        if self.kind != "python":
            return {"spec": self.fingerprint}
        meaning, lines = self.fingerprints
        compiled = self._compiled
        reached = self._reached
        if reached is None:
            return {**compiled, "names": meaning, "names in lines": lines}
        more = _without(self.spec, "flow", "source", "means")
        program = self._fingerprint_of({**more, "program": reached.fingerprint})
        return {"program": program, "meaning": meaning, "lines": lines, **compiled}

    @property
    def unseen(self) -> tuple[str, ...]:
        """What its flow names of its own package, and no fingerprint is of, in words."""
        if self.kind != "python":
            return ()
        reached = self._reached
        return ("the flow, which has no source",) if reached is None else reached.unseen

    @property
    def _reached(self) -> Reached | None:
        """Looked at when it is first asked for: a helper may stand below its flow."""
        looked = self._looked_at()
        if "reached" not in looked:
            looked["reached"] = reached_by(
                self.flow,
                decorators=self.decorators,
                types=(self.input_type, self.result_type),
                hints_in=_hints_in,
            )
        found: Reached | None = looked["reached"]
        return found

    def _looked_at(self) -> dict[str, Any]:
        """What was found, while its module has the names that it had: it may be in the middle of its import."""
        names = len(getattr(inspect.unwrap(self.flow), "__globals__", ()))
        looked = _LOOKED_AT.setdefault(self.flow, {})
        if looked.get("names") != names:
            looked.clear()
            looked["names"] = names
        return looked

    @property
    def _compiled(self) -> dict[str, str]:
        looked = self._looked_at()
        if "compiled" not in looked:
            looked["compiled"] = meaning_of_compiled(self.flow)
        more = _without(self.spec, "flow", "source", "means")
        return {way_of_compiled(): self._fingerprint_of({**more, "code": looked["compiled"]})}

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


if TYPE_CHECKING:

    class TypedProcess(Process, Generic[I_contra, R_co]):
        """A process as its decorator knows it: what its runs take and give. None: they take nothing."""

        def _takes_and_gives(self, value: I_contra) -> R_co: ...

else:
    TypedProcess = Process


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

    def stage_of_task(self, task: Any) -> Stage[..., Any] | None:
        """The stage that this Celery task was made, `stage(name=…)(task)`. None: it is no task, or none was made of it.

        Raises DefinitionError: several were.
        """
        if not is_celery_task(task):
            return None
        name = task.name
        made = [
            stage
            for stage in self.stages.values()
            if is_celery_task(stage.function) and getattr(stage.function, "name", None) == name
        ]
        if len(made) > 1:
            raise DefinitionError(
                f"task {name} is {len(made)} stages: {', '.join(sorted(each.name for each in made))}",
                remedy="Give flow.stage the one that is meant, or its name.",
            )
        return made[0] if made else None

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


_LOOKED_AT: WeakKeyDictionary[Callable[..., Any], dict[str, Any]] = WeakKeyDictionary()
"""What was found of each flow."""


def _hints_in(value: object) -> Iterable[object] | None:
    """The types that a stage takes and gives; nothing of what else is ours. None: it is none of ours."""
    if isinstance(value, Stage):
        return [*hints_of(value.function).values()]
    if is_celery_task(value):  # a stage too, which the flow names by its task
        task: Any = value
        return [*hints_of(task.run).values()]
    if isinstance(value, Approval):
        return ()
    return () if isinstance(value, Process) else None


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
