"""What the annotations of an author's function say: its parameters, its input and its result.

hints_of(function)        all of them. Raises DefinitionError: one can't be read at run time
parameters_of(function)   of a stage, by name
input_of(flow)            its type, and whether the flow takes one
result_type_of(function)  of any callable, and remembered
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints
from weakref import WeakKeyDictionary

from orchestrator.core.callables import place_of, where_of
from orchestrator.core.codec import Undeclared
from orchestrator.errors import DefinitionError


def parameters_of(function: Callable[..., Any], where: str) -> dict[str, Any]:
    hints = hints_of(function)
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


def input_of(flow: Callable[..., Any]) -> tuple[Any, bool]:
    parameters = list(inspect.signature(flow).parameters.values())
    if len(parameters) == 1:
        return Any, False
    return hints_of(flow).get(parameters[1].name, Any), True


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
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
        return hints_of(function).get("return", Any)
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
