"""An input to copy: what a process takes, filled in as far as its type says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.core.definition import Process

_DEPTH_MAX = 8
_VALUES: dict[str, Any] = {
    "string": "...",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "null": None,
    "array": [],
}
_STRINGS = {
    "date": "2030-01-31",
    "date-time": "2030-01-31T12:00:00Z",
    "time": "12:00:00",
    "duration": "PT1H",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": "ann@example.com",
    "uri": "https://example.com/",
}


def example_input(process: Process) -> str | None:
    """JSON text of the form that the process takes; None if it takes nothing, or nobody can say."""
    from pydantic import TypeAdapter

    if not process.takes_input:
        return None
    try:
        schema = TypeAdapter(process.input_type).json_schema()
    except Exception:  # noqa: BLE001 - an author's type may raise what it likes; there is no example then
        return None
    return json.dumps(_filled(schema, schema.get("$defs", {}), 0), ensure_ascii=False)


def _filled(schema: dict[str, Any], definitions: dict[str, Any], depth: int) -> Any:
    if depth > _DEPTH_MAX:  # a type that holds itself
        return None
    inner = _inner(schema, definitions)
    if inner is not None:
        return _filled(inner, definitions, depth + 1)
    for several in ("examples", "enum"):
        if schema.get(several):
            return schema[several][0]
    for one in ("const", "default"):
        if one in schema:
            return schema[one]
    kind = schema.get("type")
    if kind in _VALUES:
        return _plain(schema, kind, definitions, depth)
    properties = schema.get("properties", {})
    return {
        name: _filled(properties.get(name, {}), definitions, depth + 1)
        for name in schema.get("required", properties)
    }


def _inner(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    """What a schema refers to, or the first of several forms."""
    found: dict[str, Any] | None = definitions.get(schema.get("$ref", "").rpartition("/")[2])
    for several in ("anyOf", "oneOf", "allOf"):
        if "default" not in schema and schema.get(several):
            found = schema[several][0]
    return found


def _plain(schema: dict[str, Any], kind: str, definitions: dict[str, Any], depth: int) -> Any:
    if kind == "string":
        return _STRINGS.get(schema.get("format", ""), _VALUES[kind])
    if kind == "array" and schema.get("minItems"):
        return [_filled(schema.get("items", {}), definitions, depth + 1)]
    return schema.get("minimum", _VALUES[kind])
