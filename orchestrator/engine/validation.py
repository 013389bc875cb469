"""Whether a value of plain JSON fits a JSON Schema, read as pydantic reads (`"3"` is an int to it), and in words.

What is refused here, the model that the schema was made of would not take either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError as Unfit

PROBLEMS_MAX = 10
"""So many are told of one value."""


class Validator:
    """One schema's. Making one costs about as much as using it: keep it with what the schema belongs to."""

    def __init__(self, schema: dict[str, Any]) -> None:
        from referencing import Registry

        reading, formats = _reading()
        self._validator = reading(schema, registry=Registry(), format_checker=formats)

    def problems(self, value: Any) -> list[str]:
        """What doesn't fit, place by place, without the values, which may be secret; empty where it fits."""
        return list(_problems(self._validator, value))


def _problems(validator: Any, value: Any) -> Iterator[str]:
    """What doesn't fit, place by place, without the values: they may be secret."""
    from referencing.exceptions import Unresolvable

    try:
        for count, unfit in enumerate(validator.iter_errors(value)):
            if count == PROBLEMS_MAX:
                yield "and more"
                return
            yield from _in_words(unfit)
    except (
        Unresolvable,
        re.error,
        RecursionError,
    ):  # by a schema of the author's own: not ours to judge by
        return


@cache
def _reading() -> tuple[Any, Any]:
    """The class of jsonschema that reads types, enums and formats as pydantic does, and fetches nothing."""
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.validators import extend

    formats = FormatChecker(formats=())
    for name, kind in _FORMATS.items():
        formats.checks(name)(_takes(kind))
    rules = Draft202012Validator.VALIDATORS
    reading = extend(
        Draft202012Validator, {"type": _type_as_pydantic(rules), "enum": _enum_as_pydantic(rules)}
    )
    return reading, formats


_FORMATS: dict[str, Any] = {
    "date-time": datetime,
    "date": date,
    "time": time,
    "duration": timedelta,
    "uuid": UUID,
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
}
_OF_TIME = frozenset({"date-time", "date", "time", "duration"})
_NUMBERS: dict[str, Any] = {"integer": int, "number": float, "boolean": bool}


def _takes(kind: Any) -> Callable[[object], bool]:
    adapter = TypeAdapter(kind)

    def takes(value: object) -> bool:
        try:
            adapter.validate_python(value)
        except ValidationError:
            return False
        return True

    return takes


_TAKES = {name: _takes(kind) for name, kind in _NUMBERS.items()}


def _type_as_pydantic(rules: Any) -> Callable[..., Iterator[Unfit]]:
    """A number may come as text, and a time as a number."""
    judge = rules["type"]

    def check(validator: Any, types: Any, value: Any, schema: Any) -> Iterator[Unfit]:
        of_time = schema.get("format") in _OF_TIME
        for name in [types] if isinstance(types, str) else types:
            if name in _TAKES and isinstance(value, str | int | float) and _TAKES[name](value):
                return
            if of_time and name == "string" and isinstance(value, int | float):
                return
        yield from judge(validator, types, value, schema)

    return check


def _enum_as_pydantic(rules: Any) -> Callable[..., Iterator[Unfit]]:
    judge = rules["enum"]

    def check(validator: Any, values: Any, value: Any, schema: Any) -> Iterator[Unfit]:
        if not (isinstance(value, str) and any(_is_number(value, each) for each in values)):
            yield from judge(validator, values, value, schema)

    return check


def _is_number(text: str, number: object) -> bool:
    try:
        return isinstance(number, int | float) and float(text) == number
    except ValueError:
        return False


# -- in words ------------------------------------------------------------------------------------


def _in_words(unfit: Unfit) -> Iterator[str]:
    """As pydantic would say it: the place, and what was expected there."""
    place = ".".join(map(str, unfit.absolute_path))
    if unfit.validator == "required" and isinstance(unfit.instance, dict):
        name = next(
            (name for name in unfit.validator_value if f"{name!r} is a required" in unfit.message),
            "a field",
        )
        yield f"{f'{place}.' if place else ''}{name}: Field required"
    elif unfit.validator == "anyOf" and unfit.context:
        yield from _of_the_nearest(unfit, place)
    else:
        yield f"{f'{place}: ' if place else ''}{_expected(unfit)}"


def _of_the_nearest(unfit: Unfit, place: str) -> Iterator[str]:
    """Of several forms, what the one that comes nearest lacks; where none comes near, all that may be there."""
    forms: dict[Any, list[Unfit]] = {}
    for each in unfit.context or ():
        forms.setdefault(each.schema_path[0], []).append(each)
    far = [form for form in forms.values() if form[0].validator == "type" and not form[0].path]
    near = [form for form in forms.values() if form not in far]
    if near:
        for each in min(near, key=len):
            yield from _in_words(each)
    else:
        kinds = dict.fromkeys(_kind(form[0].schema) for form in far)
        yield f"{f'{place}: ' if place else ''}Input should be {' or '.join(kinds)}"


def _expected(unfit: Unfit) -> str:
    rule, expected = unfit.validator, unfit.validator_value
    match rule:
        case "type":
            return f"Input should be {_kind(unfit.schema)}"
        case "enum":
            return f"Input should be one of {', '.join(map(repr, expected))}"
        case "const":
            return f"Input should be {expected!r}"
        case "format":
            return f"Input should be a valid {expected}"
        case "additionalProperties":
            known = unfit.schema.get("properties", {}) if isinstance(unfit.schema, dict) else {}
            extra = sorted(name for name in unfit.instance if name not in known)
            return f"Extra inputs are not permitted: {', '.join(extra)}"
        case _:
            return f"Input should fit {rule} {expected!r}"


_A_KIND = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "a boolean",
    "null": "null",
}


def _kind(schema: Any) -> str:
    """`an object with traveller, city`, `an integer`, `a date-time`."""
    types = schema.get("type", "something else")
    names = [types] if isinstance(types, str) else types
    told = " or ".join(_A_KIND.get(name, name) for name in names)
    if schema.get("format") in _FORMATS:
        return f"a {schema['format']}"
    fields = list(schema.get("required", ()))
    return f"{told} with {', '.join(fields)}" if fields and told == "an object" else told
