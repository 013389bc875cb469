"""What a flow may know of an error that a stage or step has raised: its classes by name, and attributes of its author's
choice.

    check_attributes   the names, where they are given
    attributes_of      their values, as far as they are JSON and small: nothing is kept that nobody has named
    types_of           the error's class and its bases, by their full names

Nothing here raises because of what an error is like.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from orchestrator.core.codec import parse, readable
from orchestrator.errors import DefinitionError, name_of_class

NAMES_MAX = 20
VALUE_CHARACTERS_MAX = 2_000
ALL_CHARACTERS_MAX = 4_000
TRACEBACK = "__traceback__"
"""The name by which an author asks for the end of an error's traceback, as text."""

TRACEBACK_CHARACTERS_MAX = 1_000
TYPES_MAX = 12
"""So many classes of an error are kept, its own first."""

_NAME_LENGTH_MAX = 200
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*){0,4}")
_HOSTILE = (Exception, SystemExit, GeneratorExit)
_MRO = type.__dict__["__mro__"]


def check_attributes(names: Any, *, where: str) -> tuple[str, ...]:
    """`status_code`, or `response.status_code`. Raises DefinitionError."""
    given = (names,) if isinstance(names, str) else tuple(names)
    for name in given:
        if not isinstance(name, str) or not _PATH.fullmatch(name):
            raise DefinitionError(
                f"error_attributes is given {name!r}, which is no attribute's name",
                where=where,
                remedy='Give names as they stand in Python: ("code", "response.status_code").',
            )
    if len(given) > NAMES_MAX:
        raise DefinitionError(
            f"error_attributes names {len(given)}", where=where, remedy=f"Name {NAMES_MAX} at most."
        )
    return given


def attributes_of(
    error: BaseException, names: Sequence[str], *, traceback: str = ""
) -> dict[str, Any]:
    """Those that are there, can be written as JSON, and are small enough; in the order of their names.

    `traceback`: its text, of which the end is kept where it is named.
    """
    found: dict[str, Any] = {}
    left = ALL_CHARACTERS_MAX
    for name in names:
        if name == TRACEBACK:
            found[name] = traceback[-TRACEBACK_CHARACTERS_MAX:]
            continue
        try:
            value: Any = error
            for part in name.split("."):
                value = getattr(value, part)
            text = to_json(value, inf_nan_mode="null").decode()
        except _HOSTILE:  # it isn't there, raises, or has no JSON
            continue
        if len(text) <= min(VALUE_CHARACTERS_MAX, left) and "\\u0000" not in text:
            found[name] = parse(text)
            left -= len(text)
    return found


def types_of(error: BaseException) -> list[str]:
    """`app.NotFound`, `builtins.LookupError`, …: the error's own class first. A builtin class is known by its name."""
    try:
        kinds = [kind for kind in _MRO.__get__(type(error)) if kind is not object]
        if kinds[0].__module__ == builtins.__name__:
            return []
        return [readable(name_of_class(kind)[:_NAME_LENGTH_MAX]) for kind in kinds[:TYPES_MAX]]
    except _HOSTILE:
        return []
