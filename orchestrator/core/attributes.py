"""Attributes of a run: typed values by name, which people search runs by.

    written(…)      what a flow says, as JSON text; raises PayloadError for what no attribute can be
    given(…)        the same for a start, where any JSON is kept
    conditions(…)   what a search asks for, as data

Each value is plain JSON in the record, in a form whose order is the order of its values: numbers as numbers, moments as
text in UTC of one length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, TypeAlias, cast, get_args

from orchestrator.core import codec
from orchestrator.core.checks import WORDS_LENGTH_MAX, check_moment, composed
from orchestrator.errors import DefinitionError, PayloadError

AttributeValue: TypeAlias = str | int | Decimal | bool | datetime | date | Enum | Sequence[str]
"""What an attribute may be: of numbers the exact ones, moments with a time zone, enums by their values."""

Operator = Literal["=", "<", "<=", ">", ">=", "in", "contains"]
"""How a search compares: `in` has several values, of which it is one; `contains` is for lists of text."""

Searched: TypeAlias = AttributeValue | tuple[Operator, AttributeValue | Sequence[AttributeValue]]
"""What a search asks of an attribute: a value that it is, or how it compares with one."""

NAMES_MAX = 64
"""So many attributes a flow may set."""

BYTES_MAX = 16_384
"""Of all that a flow has set, as JSON."""

TEXT_CHARACTERS_MAX = 1_000
LIST_ITEMS_MAX = 100
DIGITS_MAX = 100
VALUES_SEARCHED_MAX = 100
STATUS_CHARACTERS_MAX = 500

_TYPES = (
    "an attribute is a str, an int, a Decimal, a bool, a datetime with a time zone, a date, an enum, "
    "or a list of str"
)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that a search asks. `values`: JSON texts; more than one for `in` alone."""

    name: str
    operator: Operator
    values: tuple[str, ...]

    def __str__(self) -> str:
        """`amount >= 100`."""
        return f"{self.name} {self.operator} {' or '.join(self.values)}"


# -- what is set -------------------------------------------------------------------------------------


def checked_name(name: object) -> str:
    """Raises PayloadError."""
    if not isinstance(name, str) or not 0 < len(name) <= WORDS_LENGTH_MAX or not name.isprintable():
        raise PayloadError(
            f"{str(name)[:40]!r} can't name an attribute: use 1 to {WORDS_LENGTH_MAX} printable characters"
        )
    return composed(name)


def value_text(name: str, value: object) -> str:
    """The JSON text of an attribute's value. Raises PayloadError."""
    found = _text_of(name, value)
    if found is None:
        raise PayloadError(
            f"the attribute {name!r} can't be {str(value)[:40]!r}, of the type {type(value).__name__}: {_TYPES}"
        )
    return found


def _text_of(name: str, value: object) -> str | None:  # noqa: PLR0911 - a line for each type
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _of_str(name, value)
    if isinstance(value, int | Decimal):
        return _of_number(name, value)
    if isinstance(value, datetime):
        return codec.encode(_moment(name, value), what=f"attribute {name!r}")
    if isinstance(value, date):
        return codec.encode(value.isoformat(), what=f"attribute {name!r}")
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        if len(value) > LIST_ITEMS_MAX:
            raise PayloadError(
                f"the attribute {name!r} is a list of {len(value)}; the bound is {LIST_ITEMS_MAX}"
            )
        return f"[{','.join(_of_str(name, each) for each in value)}]"
    return None


def _of_str(name: str, value: str) -> str:
    if len(value) > TEXT_CHARACTERS_MAX:
        raise PayloadError(
            f"the attribute {name!r} has {len(value)} characters; the bound is {TEXT_CHARACTERS_MAX}. What is long is "
            "an input's or a result's"
        )
    return codec.encode(str(value), what=f"attribute {name!r}")


def _of_number(name: str, value: int | Decimal) -> str:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise PayloadError(f"the attribute {name!r} is {value}: a number is finite")
        if abs(value.adjusted()) <= DIGITS_MAX and len(value.as_tuple().digits) <= DIGITS_MAX:
            return f"{value:f}"
    elif abs(value) < 10**DIGITS_MAX:
        return str(int(value))
    raise PayloadError(f"the attribute {name!r} is a number of more than {DIGITS_MAX} digits")


def _moment(name: str, value: datetime) -> str:
    try:
        check_moment(value, what=f"the attribute {name!r}")
    except DefinitionError as error:
        raise PayloadError(str(error)) from None
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z".rjust(27, "0")


def written(
    named: Mapping[str, AttributeValue | None], before: Mapping[str, str]
) -> dict[str, str]:
    """What a flow has said of its run, by names, as JSON texts: `before`, and this. None takes one away.

    Raises PayloadError.
    """
    said = {
        **before,
        **{
            checked_name(name): "null" if value is None else value_text(name, value)
            for name, value in named.items()
        },
    }
    if len(said) > NAMES_MAX:
        raise PayloadError(f"a flow sets {len(said)} attributes; the bound is {NAMES_MAX}")
    size = sum(len(name) + len(text) for name, text in said.items())
    if size > BYTES_MAX:
        raise PayloadError(
            f"the attributes of a run have {size} characters; the bound is {BYTES_MAX}. They are what runs are "
            "searched by: what is long is an input's or a result's"
        )
    return said


def as_object(texts: Mapping[str, str]) -> str:
    """One JSON object of them."""
    return f"{{{','.join(f'{codec.encode_name(name)}:{text}' for name, text in texts.items())}}}"


def given(attributes: Mapping[str, Any] | None, *, what: str) -> str:
    """The attributes of a start: what an attribute may be in its form, and any other JSON as it is.

    Raises PayloadError.
    """
    if not attributes:
        return "{}"
    plain = {name: value for name, value in attributes.items() if not _is_ours(value)}
    if plain:
        codec.encode(plain, what=what)
    texts = {
        checked_name(name): codec.encode(value, what=what)
        if name in plain
        else value_text(name, value)
        for name, value in attributes.items()
    }
    return as_object(texts)


def _is_ours(value: object) -> bool:
    return isinstance(value, Decimal | date | Enum)


def status_text(text: object) -> str:
    """A sentence for people. Raises PayloadError."""
    if not isinstance(text, str):
        raise PayloadError(f"flow.status is given {type(text).__name__}: it takes a sentence")
    if len(text) > STATUS_CHARACTERS_MAX or not (text.isprintable() or not text):
        raise PayloadError(
            f"flow.status is given {text[:40]!r}: it takes one line of at most {STATUS_CHARACTERS_MAX} printable "
            "characters"
        )
    return composed(text)


# -- what is searched --------------------------------------------------------------------------------


def conditions(where: Mapping[str, Searched]) -> tuple[Condition, ...]:
    """What a search asks for. Raises PayloadError."""
    return tuple(_conditions(where))


def _conditions(where: Mapping[str, Searched]) -> Iterator[Condition]:
    for given_name, asked in where.items():
        name = checked_name(given_name)
        operator, value = cast("tuple[str, Any]", asked if _is_comparison(asked) else ("=", asked))
        if operator not in get_args(Operator):
            raise PayloadError(
                f"where={{{name!r}: ({operator!r}, …)}}: compare by one of {', '.join(get_args(Operator))}"
            )
        values: tuple[object, ...] = (value,)
        if operator == "in":
            if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset):
                raise PayloadError(f"where={{{name!r}: ('in', …)}} takes a list of values")
            values = tuple(value)
        if operator == "contains" and not isinstance(value, str):
            raise PayloadError(f"where={{{name!r}: ('contains', …)}} takes a text of the list")
        if not 0 < len(values) <= VALUES_SEARCHED_MAX:
            raise PayloadError(
                f"where={{{name!r}: …}} is given {len(values)} values; from 1 to {VALUES_SEARCHED_MAX} are searched"
            )
        yield Condition(
            name, cast("Operator", operator), tuple(value_text(name, each) for each in values)
        )


def _is_comparison(asked: object) -> bool:
    return (
        isinstance(asked, tuple) and len(asked) == 2 and isinstance(asked[0], str)  # noqa: PLR2004 - how, and what
    )


_TYPED = re.compile(r"\s*([^<>=]+?)\s*(<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)


def typed(text: str) -> Condition | None:
    """A condition as a person types it: `amount>=100`, `due<2026-12-01`, `team=sales`. None: it is none.

    What is no JSON is a text; a moment with a time zone is one.
    """
    found = _TYPED.fullmatch(text)
    if found is None:
        return None
    name, operator, value = found.groups()
    return next(_conditions({name: (cast("Operator", operator), _value_of(value))}))


def _value_of(value: str) -> Any:
    try:
        plain = codec.parse(value)
    except ValueError:
        plain = value
    if isinstance(plain, float):
        return Decimal(value)
    if isinstance(plain, str) and _MOMENT.match(plain):
        try:
            moment = datetime.fromisoformat(plain)
        except ValueError:
            return plain
        return moment if moment.tzinfo is not None else plain
    return plain
