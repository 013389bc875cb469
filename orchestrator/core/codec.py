"""Values in and out of the record: JSON by pydantic, by the type that the author declared.

An undeclared type is plain JSON. Adapters are compiled once per type.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from orchestrator.errors import InvalidInput, PayloadError

PAYLOAD_BYTES_MAX = 1024 * 1024
"""The largest input, result or signal the record takes (DESIGN §7)."""


@lru_cache(maxsize=4096)
def _adapter_of(declared: Any) -> TypeAdapter[Any]:
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
        text = _adapter(declared).dump_json(value, warnings="error").decode()
    except (PydanticSerializationError, ValueError, TypeError) as error:
        message = f"{what}: a {type(value).__name__} can't be written as JSON: {error}"
        raise PayloadError(message) from None
    if len(text) > PAYLOAD_BYTES_MAX:
        message = (
            f"{what} is {len(text)} bytes; the bound is {PAYLOAD_BYTES_MAX}. "
            "Store it elsewhere and pass a reference."
        )
        raise PayloadError(message)
    if "\\u0000" in text:
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
    except ValidationError as error:
        message = f"{what} doesn't fit {_type_name(declared)}: {error}"
        raise PayloadError(message) from None


def check_input(value: Any, declared: Any, *, what: str) -> str:
    """A run's input as JSON text: an object of the declared type, or plain data that fits it.

    Raises InvalidInput with pydantic's message.
    """
    try:
        checked = _adapter(declared).validate_python(value) if declared is not Any else value
    except ValidationError as error:
        message = f"{what}: {error}"
        raise InvalidInput(message) from None
    return encode(checked, declared, what=what)


def _type_name(declared: Any) -> str:
    return getattr(declared, "__name__", str(declared))


def parse(text: str) -> Any:
    """JSON text as plain data."""
    return from_json(text)
