"""What a flow means where it has no source: its compiled code, of one release of Python.

A fingerprint of it holds for that release alone (`sys.implementation.cache_tag`), whether the code was compiled here
or came compiled: where it stands, its docstring and its local names don't count.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

PARTS_MAX = 500
"""So many functions are followed."""


def package_of(module: str) -> str:
    """The package that a module is of, also where it is run by its name (`python -m shop.deploy`)."""
    if module == "__main__":
        spec = getattr(sys.modules.get(module), "__spec__", None)
        module = spec.name if spec is not None else module
    return module.partition(".")[0]


def way_of_compiled() -> str:
    """The way in which this Python takes it."""
    return f"code of {sys.implementation.cache_tag}"


def meaning_of_compiled(flow: Callable[..., Any]) -> str:
    """SHA-256 of the flow's code, and of that of the functions of its package that it names."""
    start: Any = inspect.unwrap(flow)
    package = package_of(start.__module__)
    todo, seen = [start], {id(start)}
    found: list[str] = []
    while todo and len(found) < PARTS_MAX:
        function = todo.pop(0)
        found.append("\n".join(_written(function.__code__, function.__doc__)))
        for name in _names_in(function.__code__):
            value = function.__globals__.get(name)
            helper = inspect.unwrap(value) if callable(value) else None
            if (
                isinstance(helper, FunctionType)
                and package_of(helper.__module__) == package
                and id(helper) not in seen
            ):
                seen.add(id(helper))
                todo.append(helper)
    return hashlib.sha256("\n\n".join(found).encode()).hexdigest()


def _docstring_of(code: CodeType) -> str | None:
    """Of a function within: its first constant, if that is a text; a lambda has none."""
    first = code.co_consts[0] if code.co_consts and not code.co_name.startswith("<") else None
    return first if isinstance(first, str) else None


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names_in(each)


def _written(code: CodeType, doc: str | None) -> Iterator[str]:
    yield code.co_code.hex()
    yield f"{code.co_argcount} {code.co_kwonlyargcount} {code.co_posonlyargcount} {code.co_flags} {code.co_nlocals}"
    yield repr(code.co_names)
    yield getattr(code, "co_exceptiontable", b"").hex()
    for place, each in enumerate(code.co_consts):
        if isinstance(each, CodeType):
            yield from _written(each, _docstring_of(each))
        elif place == 0 and (each is None or (doc is not None and each == doc)):
            yield "its docstring, or none"
        elif isinstance(each, frozenset):
            yield repr(sorted(map(repr, each)))
        else:
            yield repr(each)
