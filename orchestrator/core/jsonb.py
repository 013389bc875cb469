"""JSON as Postgres's jsonb keeps it: what it can't keep, and what it gives back otherwise than it was given.

    problem_of(text)  NUL, NaN, infinities, integers too long to be read
    settled(text)     its numbers as they come back
    parse(text)       plain data, its keys in the order in which they come back
    loads(text)       for readers: what this program can't read is an `Unreadable`, and no error

jsonb drops the order of keys, so a flow that goes through a result would go another way on its replay; and
it writes 1e16 as an integer. What is first seen is therefore what will be read ever after.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic_core import from_json

INTEGER_DIGITS_MAX = 4300
"""The longest integer that Python reads (`sys.int_info.default_max_str_digits`)."""

DEPTH_MAX = 200
"""How deep lists and objects may stand in each other: what pydantic's reader takes."""

SHOWN_CHARACTERS_MAX = 200
"""How much of what can't be read is kept to be shown."""

_STRING = r'"(?:[^"\\]|\\.)*"'
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # an escaped NUL, not text that speaks of one
_NOT_JSON = re.compile(r"NaN|Infinity")
_LONG = re.compile(rf"\d{{{INTEGER_DIGITS_MAX + 1}}}")
_MAY_CHANGE = re.compile(r"\d[eE]\+?\d|-0\.0\b")
_STRING_OR_NUMBER = re.compile(rf"{_STRING}|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.DOTALL)
_PIECE = re.compile(rf"{_STRING}|[\[\]{{}}]|-?\d+|[^\[\]{{}}\"\d]", re.DOTALL)


class Unreadable:
    """Stands where the record holds what this program can't read. It can be shown, and not be worked with."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why

    def __repr__(self) -> str:
        return f"<unreadable: {self.why}>"


def problem_of(text: str) -> str | None:
    """Why jsonb can't keep that JSON text, or Python can't read it back. None: they can."""
    if _NOT_JSON.search(text) and _has_constants(text):
        return "holds NaN or an infinity, which JSON lacks. Use None, or text"
    if _NUL.search(text):
        return "holds a NUL character, which Postgres's jsonb can't keep. Strip it first"
    if len(text) > INTEGER_DIGITS_MAX and _LONG.search(text) and _has_long_integer(text):
        return f"holds an integer of more than {INTEGER_DIGITS_MAX} digits. Write it as text"
    return None


def settled(text: str) -> str:
    """The text, its numbers as jsonb gives them back: a float stays a float, and zero has no sign."""
    if _MAY_CHANGE.search(text) is None:
        return text
    return _STRING_OR_NUMBER.sub(lambda found: _settled_number(found[0]), text)


def parse(text: str) -> Any:
    """JSON text as plain data, as jsonb gives it back. Raises ValueError: not JSON, or deeper than DEPTH_MAX."""
    return in_order(from_json(text))


def in_order(value: Any) -> Any:
    """Plain data, the keys of each object in jsonb's order: the shorter first, then by their bytes."""
    if type(value) is dict:
        keys = list(value)
        if len(keys) > 1:
            keys.sort(key=_place_of)
        return {key: in_order(value[key]) for key in keys}
    if type(value) is list:
        return [in_order(each) for each in value] if _has_objects(value) else value
    return value


def loads(text: str | bytes) -> Any:
    """For readers of the record: never fails. What can't be read stands as an `Unreadable` in its place."""
    try:
        return from_json(text)
    except ValueError:  # too deep for it, or a number too long
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        plain = text.decode(errors="backslashreplace") if isinstance(text, bytes) else text
        return _loads_what_can_be_read(plain)


def _place_of(key: str) -> tuple[int, bytes]:
    written = key.encode("utf-8", errors="surrogatepass")
    return len(written), written


def _has_objects(values: list[Any]) -> bool:
    return any(type(value) in (dict, list) for value in values)


def _settled_number(piece: str) -> str:
    if piece[0] == '"' or not ("e" in piece or "E" in piece or piece == "-0.0"):
        return piece
    if piece == "-0.0":
        return "0.0"
    number = float(piece)
    return f"{int(number)}.0" if number.is_integer() else piece


def _has_constants(text: str) -> bool:
    """True when NaN or an infinity stands outside of strings."""
    found: list[str] = []
    json.loads(text, parse_constant=found.append, parse_int=len)
    return bool(found)


def _has_long_integer(text: str) -> bool:
    """True when such a number stands outside of strings."""
    pieces = (found[0] for found in _STRING_OR_NUMBER.finditer(text))
    return any(
        piece[0] != '"' and len(piece) > INTEGER_DIGITS_MAX and piece.lstrip("-").isdigit()
        for piece in pieces
    )


def _loads_what_can_be_read(text: str) -> Any:
    """The same, without what is too deep, and integers that are too long."""
    kept: list[str] = []
    depth = 0
    for found in _PIECE.finditer(text):
        piece = found[0]
        if piece in "[{":
            depth += 1
        if depth <= DEPTH_MAX:
            kept.append(piece)
        elif depth == DEPTH_MAX + 1 and piece in "[{":
            kept.append("NaN")  # which jsonb never holds
        if piece in "]}":
            depth -= 1
    try:
        return json.loads(
            "".join(kept),
            parse_int=_integer,
            parse_constant=lambda _: Unreadable(f"nested deeper than {DEPTH_MAX} levels"),
        )
    except (ValueError, RecursionError) as error:
        return Unreadable(str(error)[:SHOWN_CHARACTERS_MAX])


def _integer(digits: str) -> Any:
    if len(digits) > INTEGER_DIGITS_MAX:
        return Unreadable(f"an integer of {len(digits)} digits, {digits[:20]}...")
    return int(digits)
