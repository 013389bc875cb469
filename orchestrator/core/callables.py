"""Which callables may be a stage, a step, a flow, or say whom an approval asks.

Each is taken or refused where it is given, with the line and what to do instead: what can't be called,
awaited or recorded would otherwise fail at its first run, or be done in silence.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

from orchestrator.errors import DefinitionError

_NOT_PLAIN = inspect.CO_ITERABLE_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_SELVES = ("self", "cls")


def name_of(function: Callable[..., Any]) -> str:
    """`provision_access` is `provision-access`."""
    return _dashed(str(getattr(function, "__name__", type(function).__name__)))


@functools.lru_cache(maxsize=4096)
def _dashed(name: str) -> str:
    return name.rpartition(".")[2].replace("_", "-")


def where_of(function: Callable[..., Any]) -> str:
    """`module:qualified.name`, to find the definition again."""
    plain = inspect.unwrap(function)
    return f"{getattr(plain, '__module__', '?')}:{getattr(plain, '__qualname__', repr(plain))}"


def place_of(function: Callable[..., Any]) -> str:
    """`module:qualified.name (file:line)`, as errors name it."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    where = where_of(function)
    return f"{where} ({code.co_filename}:{code.co_firstlineno})" if code is not None else where


def check_stage_function(function: Any) -> None:
    """A stage is a function, a bound method, or a Celery task that is a plain `def`. Raises DefinitionError."""
    _refuse_what_is_no_function(function, "stage", remedy="@stage(name=…, queue=…)")
    _refuse_what_never_ends_in_a_value(function, "a stage")
    _refuse_unbound_method(function, "a stage")
    if is_celery_task(function) and is_asynchronous(function):
        raise DefinitionError(
            "a Celery task can't be an `async def`: Celery awaits nothing",
            where=place_of(function),
            remedy="Make the function itself a stage: @stage without @app.task.",
        )


def check_assignees(function: Any) -> None:
    """The function of an approval takes the run's input, and returns people. Raises DefinitionError."""
    _refuse_what_is_no_function(function, "approval", remedy='@approval("boss", escalate_to=[…])')
    _refuse_what_never_ends_in_a_value(function, "an approval's function")
    if is_asynchronous(function):
        raise DefinitionError(
            "an approval's function can't be an `async def`: it is called again on every replay",
            where=place_of(function),
            remedy="Write a plain `def`; what it has to ask of others, ask in a stage before.",
        )
    _refuse_unbound_method(function, "an approval's function")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise DefinitionError(
            "an approval's function is given the run's input, and nothing else",
            where=place_of(function),
            remedy="Let it take one argument.",
        ) from None


def check_flow_function(function: Any) -> None:
    """A flow is an `async def` that takes the Flow and at most one input. Raises DefinitionError."""
    _refuse_what_is_no_function(function, "process", remedy="@process(version=1)")
    if inspect.isasyncgenfunction(function):
        raise DefinitionError(
            "a process is an `async def` without `yield`",
            where=place_of(function),
            remedy="Return the result at the end.",
        )
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(
            "a process is an `async def`", where=place_of(function), remedy="Write `async def`."
        )
    _refuse_unbound_method(function, "a process")
    parameters = list(inspect.signature(function).parameters.values())
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) not in (1, 2) or any(each.kind not in by_position for each in parameters):
        raise DefinitionError(
            "a flow takes the Flow and at most one input, by position",
            where=place_of(function),
            remedy="Put several values into a dataclass or a pydantic model.",
        )


def check_step(function: Any, *, how: str) -> None:
    """A step is anything that can be called and ends in a value. `how` is what was called (`flow.step`).

    It is asked at every step of every replay, so that a plain function costs one look at its flags.
    Raises DefinitionError.
    """
    if type(function) is FunctionType and not function.__code__.co_flags & _NOT_PLAIN:
        return
    if not callable(function):
        if inspect.iscoroutine(function):
            function.close()
        raise DefinitionError(
            f"{how} is given {_short(function)}, which can't be called",
            remedy=f"Give the function and its arguments apart: {how}(upload, path), "
            f"not {how}(upload(path)).",
        )
    _refuse_what_never_ends_in_a_value(function, f"what {how} calls")


def own_names(function: Any) -> frozenset[str]:
    """The names of parameters that `function` declares and nobody has bound yet; empty where none can be read."""
    try:
        names = frozenset(
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        )
    except (TypeError, ValueError):
        return frozenset()
    bound = function.keywords if isinstance(function, functools.partial) else ()
    return names.difference(bound)


def _refuse_what_is_no_function(function: Any, what: str, *, remedy: str) -> None:
    """Not what can't be called, nor what is called but has no name and no annotations of its own."""
    if not callable(function):
        problem = f"@{what} is given {_short(function)}, which is no function"
        raise DefinitionError(problem, remedy=f"Name what you give: `{remedy}`.")
    kind = (
        "a class"
        if inspect.isclass(function)
        else "a functools.partial"
        if isinstance(function, functools.partial)
        else "an object that can be called"
        if not hasattr(inspect.unwrap(function), "__qualname__")
        else None
    )
    if kind is not None:
        raise DefinitionError(
            f"@{what} takes a function, not {kind}",
            where=place_of(function),
            remedy="Write a function that calls it.",
        )


def _refuse_what_never_ends_in_a_value(function: Any, what: str) -> None:
    """Also behind a partial, a bound method, an object's `__call__` and a Celery task's `run`."""
    plain = _what_is_called(function)
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise DefinitionError(
            f"{what} can't `yield`: it is done when it returns",
            where=place_of(function),
            remedy="Return a list.",
        )


def is_asynchronous(function: Any) -> bool:
    """Whether a call of it is awaited: an `async def`, also behind a partial, a method, an object's `__call__`."""
    if type(function) is FunctionType:
        return bool(function.__code__.co_flags & inspect.CO_COROUTINE)
    return inspect.iscoroutinefunction(_what_is_called(function))


def time_limit_of_task(function: Any) -> float | None:
    """A Celery task's own, in seconds, the soft one first. Of anything else: none."""
    if not is_celery_task(function):
        return None
    return getattr(function, "soft_time_limit", None) or getattr(function, "time_limit", None)


def remedy_for_no_stage(given: Any) -> str:
    """What to write where `flow.stage` is given what is no stage."""
    if inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given):
        return "It yields: return a list, and decorate it."
    if not is_celery_task(given):
        return "Decorate it, or use flow.step for a function."
    name = name_of(given)
    return (
        f"Make the Celery task a stage where it is defined, so that every worker knows it: "
        f"{name.replace('-', '_')}_stage = stage(name={name!r})({name.replace('-', '_')}). Its routes, time limit "
        "and autoretry_for stay what they are."
    )


def is_celery_task(function: Any) -> bool:
    """Whether that is a Celery task, as far as can be said without Celery."""
    return hasattr(function, "apply_async") and hasattr(function, "run")


def _what_is_called(function: Any) -> Any:
    plain = function
    while isinstance(plain, (functools.partial, staticmethod)):
        plain = plain.func if isinstance(plain, functools.partial) else plain.__func__
    if is_celery_task(plain):
        plain = plain.run
    if not inspect.isroutine(plain) and not inspect.isclass(plain):
        plain = getattr(plain, "__call__", plain)  # noqa: B004 - it is called; the question is how
    return plain


def _refuse_unbound_method(function: Any, what: str) -> None:
    """A method in its class's body: nobody would hand it its object."""
    name = getattr(function, "__qualname__", "").rpartition("<locals>.")[2]
    if "." not in name or not inspect.isfunction(function):
        return
    first = next(iter(inspect.signature(function).parameters), None)
    if first in _SELVES:
        raise DefinitionError(
            f"{what} can't be a method: its {first!r} is in no record",
            where=place_of(function),
            remedy="Write a function beside the class, or make it a @staticmethod.",
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"  # noqa: PLR2004 - a line's half
