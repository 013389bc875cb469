"""Proof that what is written comes back: the value beside what was read of it.

    difference(back, value, ...)  where they differ, in words; None: they are equal
    loss_of(value)                what plain JSON loses of an undeclared value

Equal is what `==` says. Where a type has no `==` of its own, its parts say, and moments are equal that are
one instant with one offset, whatever their zones are called.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

_SECRETS = (SecretStr, SecretBytes, Secret)
_CONTAINERS = (list, tuple, set, frozenset)

IS_HIDDEN = "is a secret, which is written as stars and can't come back. Pass the name under which a stage finds it"


@dataclass(frozen=True, slots=True)
class Difference:
    """`where` is the path to it; `what` says how it differs, without the values: they may be secret."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where} {self.what}" if self.where else self.what


def difference(
    back: Any, value: Any, *, plain_of: Callable[[Any], Any] | None, where: str = ""
) -> Difference | None:
    """Where `back`, as it was read, differs from the `value` that was written. None: nowhere.

    `plain_of`: how an undeclared part is written, where the declared type has such parts. None: it has none.
    """
    if back is value or _says_equal(back, value) or _is_one_moment(back, value):
        return None
    if isinstance(value, _SECRETS):
        return Difference(where or "it", IS_HIDDEN)
    pairs = _parts(back, value) if type(back) is type(value) else None
    if pairs is not None:
        differences = (
            difference(a, b, plain_of=plain_of, where=f"{where}.{name}" if where else name)
            for name, a, b in pairs
        )
        return next(filter(None, differences), None)
    if plain_of is not None and _is_plain_form(back, value, plain_of):
        return loss_of(value, where)
    return _differs(back, value, where)


def loss_of(value: Any, where: str = "") -> Difference | None:
    """What the plain JSON of an undeclared value would lose, and its reader not miss. None: nothing."""
    if isinstance(value, _SECRETS):
        return Difference(where or "it", IS_HIDDEN)
    if isinstance(value, Iterator):
        return Difference(
            where or "it",
            f"of type {type(value).__name__} can be gone through only once. Use a list",
        )
    for name, part in _parts_of(value):
        found = loss_of(part, f"{where}.{name}" if where else name)
        if found is not None:
            return found
    return None


def _says_equal(back: Any, value: Any) -> bool:
    try:
        return bool(back == value)
    except Exception:  # noqa: BLE001 - an author's `__eq__`, or one that answers with an array
        return False


def _differs(back: Any, value: Any, where: str) -> Difference:
    was, now = type(value).__name__, type(back).__name__
    read = (
        f"is of type {was} and read back as {now}"
        if was != now
        else "is read back as another value"
    )
    return Difference(where or "it", read)


def _is_one_moment(back: Any, value: Any) -> bool:
    """Also in an hour that a zone has twice, where Python never calls two moments of two zones equal."""
    if not isinstance(value, datetime) or not isinstance(back, datetime):
        return False
    here, there = value.replace(tzinfo=None, fold=0), back.replace(tzinfo=None, fold=0)
    return here == there and back.utcoffset() == value.utcoffset()


def _is_plain_form(back: Any, value: Any, plain_of: Callable[[Any], Any]) -> bool:
    try:
        return type(back) in (str, int, float, bool, list, dict) and _says_equal(
            back, plain_of(value)
        )
    except Exception:  # noqa: BLE001 - it has no plain form
        return False


def _parts(back: Any, value: Any) -> list[tuple[str, Any, Any]] | None:
    """The parts of both, by name. None: they have none, or not the same."""
    if isinstance(value, BaseModel):
        return _parts_of_models(back, value)
    ours: dict[Any, Any]
    theirs: dict[Any, Any]
    if isinstance(value, list | tuple):
        ours, theirs = dict(enumerate(value)), dict(enumerate(back))
    elif isinstance(value, Mapping) and not isinstance(value, OrderedDict):
        ours, theirs = dict(value), dict(back)
    elif is_dataclass(value) or _compares_by_identity(value):
        ours, theirs = _attributes(value), _attributes(back)
    else:
        return None
    if not ours or ours.keys() != theirs.keys():
        return None
    return [(str(name), theirs[name], part) for name, part in ours.items()]


def _parts_of_models(back: BaseModel, value: BaseModel) -> list[tuple[str, Any, Any]] | None:
    theirs = {**_attributes(back), **(back.__pydantic_extra__ or {}), **_private(back)}
    ours = {**_attributes(value), **(value.__pydantic_extra__ or {}), **_private(value)}
    names = type(value).model_fields.keys() | (value.__pydantic_extra__ or {}).keys()
    names |= _private(value).keys() | _private(back).keys()  # not what a cached property has left
    if not names <= theirs.keys() or not names <= ours.keys():
        return None
    return [(name, theirs[name], ours[name]) for name in sorted(names)]


def _private(model: BaseModel) -> dict[str, Any]:
    return getattr(model, "__pydantic_private__", None) or {}


def _compares_by_identity(value: Any) -> bool:
    return "__eq__" not in {name for kind in type(value).__mro__[:-1] for name in vars(kind)}


def _attributes(value: Any) -> dict[str, Any]:
    if is_dataclass(value):
        return {each.name: getattr(value, each.name, None) for each in fields(value)}
    slots = {
        name: getattr(value, name)
        for kind in type(value).__mro__
        for name in _names_of(getattr(kind, "__slots__", ()))
        if hasattr(value, name)
    }
    return {**slots, **getattr(value, "__dict__", {})}


def _names_of(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _parts_of(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, _CONTAINERS):
        return [(str(at), part) for at, part in enumerate(value)]
    if isinstance(value, BaseModel):
        # A field may be left out on purpose; what is written of it is what counts.
        written = {
            name: part
            for name, part in value.__dict__.items()
            if (field := type(value).model_fields.get(name)) is not None and not field.exclude
        }
        return [*written.items(), *(value.__pydantic_extra__ or {}).items()]
    if is_dataclass(value):
        return list(_attributes(value).items())
    return []
