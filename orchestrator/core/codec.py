"""Values in and out of the record: JSON by pydantic, by the type that the author declared.

An undeclared type is plain JSON. Adapters are compiled once per type.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, from_json, to_json

from orchestrator.errors import InvalidInput, PayloadError, RecordedOtherwise

PAYLOAD_BYTES_MAX = 1024 * 1024
"""The largest input, result or signal the record takes (DESIGN §7)."""


MESSAGE_LENGTH_MAX = 10_000

_UNWRITABLE = (PydanticSerializationError, PydanticUserError, ValueError, TypeError)
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # an escaped NUL, not text that speaks of one
_NOT_JSON = re.compile(r"NaN|Infinity")
# How pydantic's warnings quote a value: the words of 2.9, and those of later releases.
_QUOTED_VALUE = re.compile(
    r" with value `.*?`(?= - serialized value may)|input_value=.*?, (?=input_type=[\w.]+\]\))",
    re.DOTALL,
)
_NO_CONSTANTS_LOST = ConfigDict(ser_json_inf_nan="constants")


@lru_cache(maxsize=4096)
def _adapter_of(declared: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(declared, config=_NO_CONSTANTS_LOST)
    except PydanticUserError:  # models and dataclasses bring their own configuration
        return TypeAdapter(declared)


def _adapter(declared: Any) -> TypeAdapter[Any]:
    try:
        return _adapter_of(declared)
    except TypeError:  # an unhashable annotation, such as Annotated[..., {}]
        return TypeAdapter(declared)


def encode(value: Any, declared: Any = Any, *, what: str) -> str:
    """`value` as JSON text, by its declared type. `what` names it in errors (`result of stage x`).

    Raises PayloadError: not serialisable, larger than 1 MiB, or not storable as Postgres jsonb.
    """
    try:
        written = _adapter(declared).dump_json(value, warnings="error")
    except _UNWRITABLE as error:
        why = _QUOTED_VALUE.sub("", str(error))  # values may be secret
        message = (
            f"{what}: a {type(value).__name__} can't be written as JSON: {why}. "
            "Use plain data, a dataclass or a pydantic model, and declare its type."
        )
        raise PayloadError(message) from None
    if len(written) > PAYLOAD_BYTES_MAX:
        message = (
            f"{what} is {len(written)} bytes; the bound is {PAYLOAD_BYTES_MAX}. "
            "Store it elsewhere and pass a reference."
        )
        raise PayloadError(message)
    text = written.decode()
    if _NOT_JSON.search(text) and _has_constants(text):
        message = f"{what} holds NaN or an infinity, which JSON lacks. Use None, or text."
        raise PayloadError(message)
    if _NUL.search(text):
        message = (
            f"{what} holds a NUL character, which Postgres's jsonb can't keep. Strip it first."
        )
        raise PayloadError(message)
    return text


def decode(value: Any, declared: Any = Any, *, what: str) -> Any:
    """A JSON value (as parsed from the record) as its declared type. Raises PayloadError."""
    if declared is Any:
        return value
    try:
        return _adapter(declared).validate_json(to_json(value))
    except (ValidationError, PydanticUserError) as error:
        message = f"{what} doesn't fit {_type_name(declared)}: {_problems(error)}"
        raise PayloadError(message) from None


def decode_recorded(value: Any, declared: Any = Any, *, what: str) -> Any:
    """`decode`, of what this process's own code has recorded. Raises RecordedOtherwise: it was other code."""
    try:
        return decode(value, declared, what=what)
    except PayloadError as error:
        name = _type_name(declared)
        message = (
            f"{error}. It was recorded by other code: give this worker the code that was deployed, "
            f"or let {name} take the old form too."
        )
        raise RecordedOtherwise(message) from None


def check_input(value: Any, declared: Any, *, what: str) -> str:
    """A run's input as JSON text: an object of the declared type, or plain data that fits it.

    Raises InvalidInput with pydantic's message.
    """
    try:
        checked = _adapter(declared).validate_python(value) if declared is not Any else value
    except (ValidationError, PydanticUserError) as error:
        message = f"{what}: {_problems(error)}"
        raise InvalidInput(message) from None
    return encode(checked, declared, what=what)


def readable(message: str) -> str:
    """A message as Postgres can keep it: no NUL, no lone surrogates, of bounded length."""
    plain = message[:MESSAGE_LENGTH_MAX].replace("\x00", "\\x00")
    return plain.encode("utf-8", errors="backslashreplace").decode()


def parse(text: str) -> Any:
    """JSON text as plain data."""
    return from_json(text)


def _problems(error: ValidationError | PydanticUserError) -> str:
    """What pydantic says, place by place, without the values: they may be secret."""
    if isinstance(error, PydanticUserError):
        return str(error)
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
        for problem in found
    )


def _has_constants(text: str) -> bool:
    """True when NaN or an infinity stands outside of strings."""
    found: list[str] = []
    json.loads(text, parse_constant=found.append)
    return bool(found)


def _type_name(declared: Any) -> str:
    return getattr(declared, "__name__", str(declared))
