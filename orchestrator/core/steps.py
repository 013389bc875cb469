"""`step`: a call inside a stage that is done once and remembered.

Outside a run it just calls the function, so a stage is tested as plain Python.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Protocol, TypeVar
from uuid import UUID

from orchestrator.core.callables import check_step, is_asynchronous, name_of, place_of
from orchestrator.core.driving import refuse_in_flow
from orchestrator.errors import DefinitionError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

AGAIN = "#again"
"""In a key: what comes after it is a further round of attempts of the stage whose key stands before (`core.rounds`)."""


class StepRunner(Protocol):
    """What the engine puts behind `step` while a stage is at work."""

    def __call__(
        self, function: Callable[..., R], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> R:
        """The remembered result, or the function's, once it is recorded."""


@dataclass(frozen=True, slots=True)
class StageContext:
    """Which activity this code is working on."""

    run_id: UUID
    key: str
    attempt: int
    run_step: StepRunner
    is_asynchronous: bool = False
    """Whether the stage is an `async def`."""
    beats: Any = None
    """Its heartbeats (`core.heartbeats.Beats`), if it may have some."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this activity: give it to services that deduplicate."""
        return f"{self.run_id}/{key_at_first(self.key)}"


def key_at_first(key: str) -> str:
    """The key of a stage at its first round of attempts."""
    return key.rpartition(f"{AGAIN}/")[0] or key


_current: ContextVar[StageContext | None] = ContextVar("perennial_stage", default=None)
_current_step: ContextVar[str | None] = ContextVar("perennial_step", default=None)


def step(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `function` once in the life of this activity; a later attempt gets the recorded result.

    A crash inside the call repeats it; a crash after its result was recorded does not. Steps are told
    apart by the function's name and by their order, so call them in the same order on every attempt.
    In an `async def` stage steps are `async def`s too, and awaited: `await step(upload, path)`.
    In a flow, use `flow.step`. Raises DefinitionError: this can't be a step, or not of this stage.
    """
    check_step(function, how="step")
    context = _current.get()
    if context is None:
        refuse_in_flow(step)
        return function(*args, **kwargs)
    if is_asynchronous(function) != context.is_asynchronous:
        _refuse_mixture(function, context)
    return context.run_step(function, args, kwargs)


def _refuse_mixture(function: Callable[..., object], context: StageContext) -> None:
    """A step that would hold up the loop, or that nobody would await. In a `def` stage's own loop there is one."""
    if context.is_asynchronous:
        raise DefinitionError(
            f"an `async def` stage calls a plain function as a step, {name_of(function)}: all stages of this process"
            " would wait for it",
            where=place_of(function),
            remedy="Write the step as an `async def`, and await it: what blocks in it goes to `asyncio.to_thread`.",
        )
    try:
        get_running_loop()
    except RuntimeError:
        raise DefinitionError(
            f"a stage that is a plain `def` calls an `async def` as a step, {name_of(function)}",
            where=place_of(function),
            remedy="Write the stage as an `async def` too: `await step(…)`.",
        ) from None


def idempotency_key() -> str | None:
    """`<run id>/<activity key>` of the stage or step at work, the same on every attempt.

    None outside a run.
    """
    refuse_in_flow(idempotency_key)
    context = _current.get()
    step_key = _current_step.get()
    if step_key is not None:
        return step_key
    return context.idempotency_key if context else None


def stage_at_work() -> StageContext | None:
    """The stage that this code is a part of."""
    return _current.get()


def working_on(context: StageContext) -> _Standing[StageContext]:
    """For the engine: this thread works on that activity."""
    return _Standing(_current, context)


def working_on_step(idempotency: str) -> _Standing[str]:
    """For the engine: this thread works on that step."""
    return _Standing(_current_step, idempotency)


class _Standing(Generic[T]):
    """A context variable has that value while the block runs. A class, and no generator: it is made for each call."""

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: ContextVar[T | None], value: T) -> None:
        self._variable, self._value = variable, value

    def __enter__(self) -> None:
        self._token = self._variable.set(self._value)

    def __exit__(self, *_error: object) -> None:
        self._variable.reset(self._token)
