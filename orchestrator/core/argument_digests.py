"""What a flow asks for, as a few letters that are recorded and compared at each replay: `amount=9f31c0aa,to=…`.

    digest_of(ask, salt)              of the arguments, each by its name
    different_arguments(a, b)         the names of those that differ

A digest is of a value's meaning: the order of keys and of sets, the zone of a time, and fields that are as their
model's defaults say count for nothing, so that a model may be given another field with a default while runs are
open. What can't be told apart without touching it (a generator, a client, a lambda) is not compared, and a secret
is not looked at. Of each argument 32 bits are kept, mixed with the run's id: enough to notice that it is another
one, and not what it was. (docs/adr/0030)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PurePath
from typing import Any
from uuid import UUID
from zlib import crc32

from pydantic import AnyUrl, BaseModel, SecretBytes, SecretStr
from pydantic_core import PydanticUndefined

from orchestrator.core.kinds.base import Ask

NOT_COMPARED = "?"

_AS_TEXT = (UUID, Decimal, PurePath, AnyUrl, IPv4Address, IPv4Network, IPv6Address, IPv6Network)
_PLAIN_FACTORIES = (list, dict, set, tuple, frozenset, str)
_JSONB_KEEPS_AS_INTEGER = 1e15
"""A float of this size comes back from jsonb as an integer, if it is one."""


class _NotComparable(Exception):
    """It is left out: nobody can say whether it is the same."""


def digest_of(ask: Ask, salt: int) -> str:
    """The digest of what is asked for, one part for each argument. Never raises for what an argument is."""
    return ",".join([f"{name}={_digest(value, salt)}" for name, value in ask.compared().items()])


def different_arguments(recorded: str, asked: str) -> list[str]:
    """The names of arguments whose digests differ, or that only one of the two has."""
    if recorded == asked:
        return []
    before, after = _parts(recorded), _parts(asked)
    return [
        name
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
        and NOT_COMPARED not in (before.get(name), after.get(name))
    ]


def _parts(digest: str) -> dict[str, str]:
    pairs = (part.rpartition("=") for part in digest.split(",") if part)
    return {name: value for name, _, value in pairs}


def _digest(value: Any, salt: int) -> str:
    kind = type(value)
    if kind is int or kind is bool or value is None:
        return f"{crc32(repr(value).encode(), salt):x}"
    try:
        written = f'"{value}"' if kind is str else _encode(value)
        return f"{crc32(written.encode('utf-8', 'surrogatepass'), salt):x}"
    except Exception:  # noqa: BLE001 - it is an author's object: whatever it does, it is not compared
        return NOT_COMPARED


def _encode(value: Any) -> str:
    text = _ENCODER.encode(value)
    if "e+" in text or "-0.0" in text:
        text = _ENCODER.encode(_with_plain_numbers(json.loads(text)))
    return text


def _with_plain_numbers(value: Any) -> Any:
    """As jsonb gives numbers back."""
    if isinstance(value, float):
        is_whole = value.is_integer() and abs(value) >= _JSONB_KEEPS_AS_INTEGER
        return int(value) if is_whole else value + 0.0  # -0.0 is 0.0
    if isinstance(value, list):
        return [_with_plain_numbers(each) for each in value]
    if isinstance(value, dict):
        return {name: _with_plain_numbers(each) for name, each in value.items()}
    return value


def _plain(value: Any) -> Any:  # noqa: PLR0911 - one line a type
    """For what JSON has no form for."""
    if isinstance(value, BaseModel):
        return dict(_fields_of(value, _defaults_of_model(type(value))))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dict(_fields_of(value, _defaults_of_dataclass(type(value))))
    if isinstance(value, (set, frozenset)):
        return sorted(_ENCODER.encode(each) for each in value)
    if isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, _AS_TEXT):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, (SecretStr, SecretBytes)):
        return "a secret"
    if isinstance(value, Mapping):
        return dict(value)
    raise _NotComparable


_ENCODER = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain
)


def _fields_of(value: Any, defaults: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields that are not as by default."""
    for name, default in defaults.items():
        found = getattr(value, name)
        if default is PydanticUndefined or (found is not default and not _is_equal(found, default)):
            yield name, found
    yield from (getattr(value, "__pydantic_extra__", None) or {}).items()


def _is_equal(found: Any, default: Any) -> bool:
    return type(found) is type(default) and bool(found == default)


@lru_cache(maxsize=1024)
def _defaults_of_model(model: type[BaseModel]) -> dict[str, Any]:
    return {
        name: _default(field.default, field.default_factory)
        for name, field in model.model_fields.items()
    }


@lru_cache(maxsize=1024)
def _defaults_of_dataclass(kind: type[Any]) -> dict[str, Any]:
    return {
        field.name: _default(
            PydanticUndefined if field.default is dataclasses.MISSING else field.default,
            None if field.default_factory is dataclasses.MISSING else field.default_factory,
        )
        for field in dataclasses.fields(kind)
    }


def _default(default: Any, factory: Any) -> Any:
    """What the field is if nobody says; undefined where it must be said, or is made anew each time."""
    return factory() if factory in _PLAIN_FACTORIES else default
