"""What a process takes, as its deployment says: checked wherever a run is started, whatever is imported there.

`Contract` is what a starter knows of a deployed process, and `Contracts` keeps what a client has learnt. A start
says by which schema its input was checked, and Postgres starts nothing by another one.

The schema is read as pydantic reads (`"3"` is an int to it): what is refused here, the process would not take.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from orchestrator.core import codec
from orchestrator.core.schemas import input_schema_of
from orchestrator.errors import InvalidInput
from orchestrator.store.processes import InputOf

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError as Unfit

    from orchestrator.core.definition import Process

PROBLEMS_MAX = 10
"""So many are told of one input."""

CONTRACTS_MAX = 1_000
"""So many are kept: a client that starts more processes learns again."""


@dataclass(frozen=True)
class Contract:
    """What a deployed version takes, as a starter knows it."""

    process: str
    takes: InputOf

    def written(self, value: Any, definition: Process | None) -> str:
        """`value` as JSON text, that the process takes. Raises InvalidInput and PayloadError.

        `definition`: this version as this program has it, if it has it. Where it takes what the deployed one
        takes, its own type has judged.
        """
        declared = definition.input_type if definition is not None else Any
        what = f"input of {self.process}"
        text = codec.check_input(value, declared, what=what)
        if self.takes.schema is not None and (
            definition is None or input_schema_of(declared).digest != self.takes.digest
        ):
            problems = list(_problems(self._validator, codec.parse(text)))
            if problems:
                given = "; none was given" if value is None else ""
                message = f"{what} version {self.takes.version}: {'; '.join(problems)}{given}"
                raise InvalidInput(message)
        return text

    @cached_property
    def _validator(self) -> Any:
        return _validator_of(self.takes.schema or {})


class Contracts:
    """What this client knows of deployed processes. It may be old: each start is told so by the record."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int | None], Contract] = {}

    def find(self, process: str, version: int | None) -> Contract | None:
        """What is known of that version, or of the newest (None)."""
        return self._known.get((process, version))

    def learn(self, process: str, version: int | None, takes: InputOf) -> Contract:
        """From here on this is known of that version, or of the newest (None)."""
        if len(self._known) >= CONTRACTS_MAX:
            self._known.clear()
        contract = self._known[process, version] = Contract(process, takes)
        return contract


def problems_in(value: Any, schema: dict[str, Any]) -> list[str]:
    """What of a value of plain JSON doesn't fit, in words and without the values; empty where it fits."""
    return list(_problems(_validator_of(schema), value))


def _problems(validator: Any, value: Any) -> Iterator[str]:
    """What doesn't fit, place by place, without the values: they may be secret."""
    from referencing.exceptions import Unresolvable

    try:
        for count, unfit in enumerate(validator.iter_errors(value)):
            if count == PROBLEMS_MAX:
                yield "and more"
                return
            yield from _told(unfit)
    except (
        Unresolvable,
        re.error,
        RecursionError,
    ):  # by a schema of the author's own: not ours to judge by
        return


def _validator_of(schema: dict[str, Any]) -> Any:
    """jsonschema's, which reads types, enums and formats as pydantic does, and fetches nothing."""
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.validators import extend
    from referencing import Registry

    formats = FormatChecker(formats=())
    for name, kind in _FORMATS.items():
        formats.checks(name)(_takes(kind))
    rules = Draft202012Validator.VALIDATORS
    reading = extend(
        Draft202012Validator, {"type": _type_as_pydantic(rules), "enum": _enum_as_pydantic(rules)}
    )
    return reading(schema, registry=Registry(), format_checker=formats)


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


def _told(unfit: Unfit) -> Iterator[str]:
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
            yield from _told(each)
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
