"""Values are left out of a history: keys, types and lengths stay, and stand-ins are put in for a replay.

masked(value)       `{"user": {"$masked": "text"}, "days": {"$masked": "integer"}}`
filled(value, way)  with stand-ins, of which there are several `WAYS`: what comes out the same in all of them does
                    not hang on a value, as far as can be seen
"""

from __future__ import annotations

import re
from typing import Any

MASK = "$masked"

_FORMS: tuple[tuple[str, str], ...] = (
    ("date-time", r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*"),
    ("date", r"\d{4}-\d\d-\d\d"),
    ("uuid", r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"),
    ("duration", r"-?P(?=[\dT]).*"),
    ("decimal", r"[-+]?\d+(\.\d+)?"),
    ("email", r"[^@\s]+@[^@\s]+\.[^@\s]+"),
)

_FILLINGS: dict[str, tuple[Any, ...]] = {
    "text": ("a", "Z", "~", "some longer text"),
    "integer": (0, 1, -1, 1_000_000_000),
    "number": (0.5, 1.5, -1.5, 1e9),
    "boolean": (False, True, False, True),
    "date-time": (
        "2001-01-01T00:00:00Z",
        "2099-12-31T23:59:59Z",
        "2026-06-15T12:00:00Z",
        "1970-01-01T00:00:00Z",
    ),
    "date": ("2001-01-01", "2099-12-31", "2026-06-15", "1970-01-01"),
    "uuid": tuple(f"0000000{digit}-0000-4000-8000-000000000000" for digit in "1234"),
    "duration": ("PT1S", "PT1H", "P1D", "P400D"),
    "decimal": ("0", "1", "-1", "1000000000"),
    "email": ("a@example.com", "z@example.org", "b@example.net", "c@example.com"),
}

WAYS = range(4)
"""Each leads to other stand-ins."""


def masked(value: Any) -> Any:
    """Without its values. Nothing (null) stays: it is no value."""
    if isinstance(value, dict):
        return {key: masked(part) for key, part in value.items()}
    if isinstance(value, list):
        return [masked(part) for part in value]
    return None if value is None else {MASK: _form_of(value)}


def _form_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) else "number"
    return next((form for form, like in _FORMS if re.fullmatch(like, value, re.DOTALL)), "text")


def filled(value: Any, way: int) -> Any:
    """With stand-ins for what was masked."""
    if isinstance(value, dict):
        if value.keys() == {MASK}:
            fillings = _FILLINGS.get(str(value[MASK]), _FILLINGS["text"])
            return fillings[way % len(fillings)]
        return {key: filled(part, way) for key, part in value.items()}
    return [filled(part, way) for part in value] if isinstance(value, list) else value
