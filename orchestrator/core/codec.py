"""Values in and out of the record: JSON by pydantic, by the type that the author declared.

    encode(value, declared)         JSON text, proved to come back
    keep(value, declared)           the same, with the value as it will be read
    decode(plain, declared)         a value of the record as its declared type
    check_declared(declared)        before anything is done whose result it is

An undeclared type is plain JSON. What is written is read back at once, and compared (core.proof): a value that
would come back otherwise is refused where it is made, and not found out after a crash. For plain data one
comparison is enough. Names of fields are written, and read with their aliases beside them, so that models with
aliases travel too. Adapters are compiled once per type.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, from_json, to_json

from orchestrator.core import jsonb
from orchestrator.core.proof import difference, loss_of
from orchestrator.errors import InvalidInput, PayloadError, PayloadMismatch

PAYLOAD_BYTES_MAX = 1024 * 1024
"""The largest input, result or signal the record takes (DESIGN §7)."""

MESSAGE_LENGTH_MAX = 10_000

# How pydantic's warnings quote a value: the words of 2.9, and those of later releases.
_EXPECTED = re.compile(r"PydanticSerializationUnexpectedValue\(Expected (`[^`]+`)")
"""What pydantic says of a value that isn't of the declared type."""

_QUOTED_VALUE = re.compile(
    r" with value `.*?`(?= - serialized value may)|input_value=.*?, (?=input_type=[\w.]+\]\))",
    re.DOTALL,
)
_NO_CONSTANTS_LOST = ConfigDict(ser_json_inf_nan="constants")

# Ways to write a value, the first that comes back. Each author's own, as every release has written; then without
# what is computed, so that a model that takes no extras takes itself; then by aliases.
_WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"by_alias": False, "round_trip": True},
    {"by_alias": True, "round_trip": True},
)

_PLAIN = frozenset({"str", "int", "bool", "none", "float", "any"})

_SCALARS = frozenset({str, int, bool, float})
"""Of these, what JSON reads is the value already, whatever pydantic would make of it."""

_INTEGER_BITS_MAX = 64
_TEXT_LENGTH_MAX = 10_000
"""Numbers and texts within these bounds are written the short way."""


class Undeclared:
    """The type of what has an annotation that can't be read: its value must be plain data."""

    def __init__(self, why: str) -> None:
        self.why = why


@dataclass(frozen=True, slots=True)
class Kept:
    """A value as the record keeps it (`text`), and as it will be read ever after."""

    text: str
    value: Any


@dataclass(frozen=True, slots=True)
class _Type:
    """A declared type, compiled. `is_plain`: made of JSON's own types; `has_any`: some of it is undeclared."""

    adapter: TypeAdapter[Any]
    is_plain: bool
    has_any: bool


def _is_plain(schema: Any) -> bool:
    """Nothing that validates, converts or constrains: what JSON reads is the value already."""
    match schema:
        case {"type": "list", "items_schema": inner, **rest} if not rest:
            return _is_plain(inner)
        case {"type": "nullable", "schema": inner, **rest} if not rest:
            return _is_plain(inner)
        case {
            "type": "dict",
            "keys_schema": {"type": "str"} as keys,
            "values_schema": inner,
            **rest,
        }:
            return not rest and _is_plain(keys) and _is_plain(inner)
        case {"type": kind, **rest}:
            return kind in _PLAIN and not rest
        case _:
            return False


def _has_any(schema: Any) -> bool:
    match schema:
        case {"type": "any"}:
            return True
        case dict():
            return any(map(_has_any, schema.values()))
        case list() | tuple():
            return any(map(_has_any, schema))
        case _:
            return False


@lru_cache(maxsize=4096)
def _type_of(declared: Any) -> _Type:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(declared, config=_NO_CONSTANTS_LOST)
    except PydanticUserError:  # models and dataclasses bring their own configuration
        adapter = TypeAdapter(declared)
    schema = adapter.core_schema
    return _Type(adapter, is_plain=_is_plain(schema), has_any=_has_any(schema))


_ANY = _type_of(Any)


def _type(declared: Any) -> _Type:
    if declared is Any:
        return _ANY
    try:
        return _type_of(declared)
    except TypeError:  # an unhashable annotation, such as Annotated[..., {}]
        return _type_of.__wrapped__(declared)


def check_declared(declared: Any, *, what: str) -> None:
    """Raises PayloadError: values of that type can't be written at all, so there is no use in making one."""
    if declared is Any or isinstance(declared, Undeclared):
        return
    try:
        _type(declared)
    except Exception as error:  # noqa: BLE001 - an author's own schema
        message = (
            f"{what} is declared as {_type_name(declared)}, which can't be written as JSON: {_first_line(error)}. "
            "Declare plain data, a dataclass or a pydantic model."
        )
        raise PayloadError(message) from None


def encode(value: Any, declared: Any = Any, *, what: str) -> str:
    """`value` as JSON text, by its declared type. `what` names it in errors (`result of stage x`).

    Raises PayloadError: not serialisable, larger than 1 MiB, not storable as Postgres jsonb, or it would not come
    back equal.
    """
    return _keep(value, declared, what)[0]


def keep(value: Any, declared: Any = Any, *, what: str) -> Kept:
    """`encode`, with the value as it will be read from now on. Raises PayloadError."""
    text, back, is_plain = _keep(value, declared, what)
    return Kept(text, jsonb.in_order(back) if is_plain else back)


def _keep(value: Any, declared: Any, what: str) -> tuple[str, Any, bool]:
    """The text, and what is read of it; plain data are not yet in the order in which they come back."""
    text = _scalar(value, declared)
    if text is not None:
        return text, value, True
    text = _written(value, declared, what, _WAYS[0])
    plain = _parsed(text, what)
    if _is_equal(plain, value) and _is_plain_by(declared, text):
        return text, plain, True
    if isinstance(declared, Undeclared):
        message = f"{what}: a {type(value).__name__} comes back only as its declared type, but {declared.why}"
        raise PayloadError(message)
    if declared is Any:
        _refuse_losses(value, text, what)
        return text, plain, True
    return _proved(value, declared, what, text, jsonb.in_order(plain))


def _scalar(value: Any, declared: Any) -> str | None:
    """The same for what most arguments and results are, without the long way round. None: it needs that."""
    kind = type(value)
    if declared is not kind and declared is not Any:
        return None
    if kind is bool:
        return "true" if value else "false"
    if kind is int and value.bit_length() <= _INTEGER_BITS_MAX:
        return str(value)
    if kind is str and len(value) <= _TEXT_LENGTH_MAX and value.isprintable() and value.isascii():
        return to_json(value).decode()
    return None


def _is_plain_by(declared: Any, text: str) -> bool:
    """Its plain data are the value. A None goes through pydantic's serializers whatever is declared."""
    if declared is Any or isinstance(declared, Undeclared):
        return True
    return _type(declared).is_plain and "null" not in text


def _is_equal(plain: Any, value: Any) -> bool:
    try:
        return bool(plain == value)
    except Exception:  # noqa: BLE001 - an author's `__eq__`, or one that answers with an array
        return False


def _proved(value: Any, declared: Any, what: str, text: str, plain: Any) -> tuple[str, Any, bool]:
    """Written so that it comes back. Raises PayloadError: in none of the ways it does."""
    found = _type(declared)
    first = ""
    for way in _WAYS:
        if way:
            text = _written(value, declared, what, way)
            plain = jsonb.in_order(_parsed(text, what))
        try:
            back = _validated(plain, found)
        except BaseException as error:  # noqa: BLE001 - whatever an author's validators raise
            _raise_what_is_not_of_the_value(error)
            says = f"what is written of it is not taken back ({_problems(error)})"
        else:
            plain_of = partial(_plain_of, way) if found.has_any else None
            differs = difference(back, value, plain_of=plain_of)
            if differs is None:
                if found.has_any:
                    _refuse_doubles(text, what)
                return text, back, False
            says = str(differs)
        first = first or says
    _refuse_doubles(text, what)
    message = (
        f"{what}: a {type(value).__name__} would not come back as {_type_name(declared)} as it is: {first}. Let its "
        "validators read what its serializers write, or declare another type (docs/types.md)."
    )
    raise PayloadError(message)


def _written(value: Any, declared: Any, what: str, way: dict[str, Any]) -> str:
    try:
        written = _type(_known(declared)).adapter.dump_json(value, warnings="error", **way)
        text = written.decode()
    except BaseException as error:  # noqa: BLE001 - whatever an author's serializers raise
        _raise_what_is_not_of_the_value(error)
        message = (
            f"{what}: a {type(value).__name__} can't be written as JSON: {_why_unwritable(error)}. "
            "Use plain data, a dataclass or a pydantic model, and declare its type."
        )
        raise PayloadError(message) from None
    if len(written) > PAYLOAD_BYTES_MAX:
        message = (
            f"{what} is {len(written)} bytes; the bound is {PAYLOAD_BYTES_MAX}. "
            "Store it elsewhere and pass a reference."
        )
        raise PayloadError(message)
    problem = jsonb.problem_of(text)
    if problem is not None:
        raise PayloadError(f"{what} {problem}.")
    return jsonb.settled(text)


def _parsed(text: str, what: str) -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        message = (
            f"{what} can't be read back: {error}. Lists and objects may stand {jsonb.DEPTH_MAX} deep in each other; "
            "flatten it, or write it as text."
        )
        raise PayloadError(message) from None


def _validated(plain: Any, declared: _Type) -> Any:
    return declared.adapter.validate_json(to_json(plain), by_alias=True, by_name=True)


def _known(declared: Any) -> Any:
    return Any if isinstance(declared, Undeclared) else declared


def _plain_of(way: dict[str, Any], value: Any) -> Any:
    """What an undeclared part was written as."""
    return from_json(_type(Any).adapter.dump_json(value, **way))


def _refuse_losses(value: Any, text: str, what: str) -> None:
    loss = loss_of(value)
    if loss is not None:
        raise PayloadError(f"{what}: {loss}.")
    _refuse_doubles(text, what)


def _refuse_doubles(text: str, what: str) -> None:
    """Keys that are two in Python and one in JSON: 1 and "1"."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            double = next(key for key in keys if keys.count(key) > 1)
            raise PayloadError(
                f"{what} has two keys that JSON writes as {double[:40]!r}, so one would be lost. "
                "Use text as keys."
            )
        return found

    json.loads(text, object_pairs_hook=once)


def decode(value: Any, declared: Any = Any, *, what: str) -> Any:
    """A JSON value (as parsed from the record) as its declared type. Raises PayloadError."""
    if type(value) is declared and declared in _SCALARS:
        return value
    declared = _known(declared)
    if isinstance(value, jsonb.Unreadable):
        raise PayloadError(f"{what} can't be read: {value.why}")
    if declared is Any:
        return value
    try:
        return _validated(value, _type(declared))
    except BaseException as error:  # noqa: BLE001 - whatever an author's validators raise
        _raise_what_is_not_of_the_value(error)
        message = f"{what} doesn't fit {_type_name(declared)}: {_problems(error)}"
        raise PayloadError(message) from None


def decode_recorded(value: Any, declared: Any = Any, *, what: str) -> Any:
    """`decode`, of what this process's own code has recorded. Raises PayloadMismatch: it was other code."""
    if type(value) is declared and declared in _SCALARS:
        return value
    try:
        return decode(value, declared, what=what)
    except PayloadError as error:
        name = _type_name(declared)
        message = (
            f"{error}. It was recorded by other code: give this worker the code that was deployed, "
            f"or let {name} take the old form too."
        )
        raise PayloadMismatch(message) from None


def check_input(value: Any, declared: Any, *, what: str) -> str:
    """A run's input as JSON text: an object of the declared type, or plain data that fits it.

    Raises InvalidInput with pydantic's message.
    """
    try:
        checked = _type(declared).adapter.validate_python(value) if declared is not Any else value
    except BaseException as error:  # noqa: BLE001 - whatever an author's validators raise
        _raise_what_is_not_of_the_value(error)
        message = f"{what}: {_problems(error)}"
        raise InvalidInput(message) from None
    return encode(checked, declared, what=what)


@lru_cache(maxsize=4096)
def encode_name(name: str) -> str:
    """A name of a parameter as JSON text."""
    return to_json(name).decode()


def parse(text: str) -> Any:
    """JSON text as plain data, as it will be read from the record."""
    return jsonb.parse(text)


def _raise_what_is_not_of_the_value(error: BaseException) -> None:
    """What ends a process or an attempt goes through; call it where an error was caught."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    if type(error).__name__ == "SoftTimeLimitExceeded":  # Celery's class; the core knows no Celery
        raise error


def _problems(error: BaseException) -> str:
    """What pydantic says, place by place, without the values: they may be secret."""
    if not isinstance(error, ValidationError):
        return _first_line(error)
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
        for problem in found
    )


def _why_unwritable(error: BaseException) -> str:
    """Without the values that pydantic's warnings quote: they may be secret."""
    expected = _EXPECTED.search(str(error))
    if expected is not None:
        return f"Expected {expected[1]}"
    if isinstance(error, PydanticSerializationError | PydanticUserError | ValueError | TypeError):
        return _QUOTED_VALUE.sub("", str(error))
    return type(error).__name__


def _first_line(error: BaseException) -> str:
    """Pydantic's own words; of others' errors the type alone, since their words may quote values."""
    if isinstance(error, PydanticUserError | PydanticSerializationError):
        return str(error).splitlines()[0]
    return type(error).__name__


def readable(message: str) -> str:
    """A message as Postgres can keep it: no NUL, no lone surrogates, of bounded length."""
    plain = message[:MESSAGE_LENGTH_MAX].replace("\x00", "\\x00")
    return plain.encode("utf-8", errors="backslashreplace").decode()


def _type_name(declared: Any) -> str:
    return getattr(declared, "__name__", str(declared))
