"""The JSON Schema of what a process takes: made where it is deployed, for whoever starts runs without its code.

It is of what pydantic would read, so it is wider than `TypeAdapter.json_schema()` where that is narrower than
pydantic itself: where a validator of the author's comes first, a field has several names, or a set comes as a
list with something in it twice. Whoever checks by it (engine/validation.py) refuses nothing that the process takes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from orchestrator.core.codec import Undeclared

SCHEMA_BYTES_MAX = 64 * 1024
"""A larger schema isn't kept: each start would have to walk it."""


@dataclass(frozen=True, slots=True)
class InputSchema:
    """`schema` None: nothing is known of the input, and `why` says so. `digest` tells schemas apart.

    `size`: of its text.
    """

    schema: dict[str, Any] | None = None
    digest: str | None = None
    why: str = ""
    size: int = 0


@lru_cache(maxsize=1024)
def _schema_of(declared: Any) -> InputSchema:
    try:
        schema = TypeAdapter(declared).json_schema(schema_generator=_AsPydanticReads)
        text = _as_the_record_keeps(schema)
    except Exception as error:  # noqa: BLE001 - an author's own hooks may raise anything
        first_line = (str(error).splitlines() or [""])[0]
        return InputSchema(why=f"no JSON Schema can be made of its type: {first_line}")
    if len(text) > SCHEMA_BYTES_MAX:
        return InputSchema(
            why=f"the JSON Schema of its type has {len(text)} bytes; the bound is {SCHEMA_BYTES_MAX}"
        )
    return InputSchema(schema, hashlib.sha256(text.encode()).hexdigest(), size=len(text))


def _as_the_record_keeps(schema: JsonSchemaValue) -> str:
    """Its text. Raises ValueError for what Postgres's jsonb refuses."""
    text = json.dumps(schema, sort_keys=True, ensure_ascii=False, allow_nan=False)
    text.encode()  # a lone surrogate is none of UTF-8
    if "\\u0000" in text:
        message = "it holds a NUL character"
        raise ValueError(message)
    return text


def input_schema_of(declared: Any) -> InputSchema:
    """The schema of a declared type; one without a schema where its type says nothing, or none can be made."""
    if declared is Any:
        return InputSchema(why="its type isn't declared")
    if isinstance(declared, Undeclared):
        return InputSchema(why=declared.why)
    try:
        return _schema_of(declared)
    except TypeError:  # an unhashable annotation, such as Annotated[..., {}]
        return _schema_of.__wrapped__(declared)


class _AsPydanticReads(GenerateJsonSchema):
    """Anything where pydantic's schema says less than, or other than, what its validators do."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:  # noqa: ARG002 - pydantic's
        """What has no schema may be anything; all around it has one."""
        return {}

    def function_before_schema(self, schema: Any) -> JsonSchemaValue:  # noqa: ARG002 - pydantic's
        """The author's function may take other forms, and make the declared one of them."""
        return {}

    def function_wrap_schema(self, schema: Any) -> JsonSchemaValue:  # noqa: ARG002 - pydantic's
        """As before."""
        return {}

    def call_schema(self, schema: Any) -> JsonSchemaValue:  # noqa: ARG002 - pydantic's
        """A named tuple, which may come as a list or as an object."""
        return {}

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        """Without the default itself: that is the process's own, and may be secret."""
        return self.generate_inner(schema["schema"])

    def enum_schema(self, schema: Any) -> JsonSchemaValue:
        """An enum that finds members for other values may take anything."""
        finds_others = schema["cls"]._missing_.__func__ is not Enum._missing_.__func__  # type: ignore[attr-defined]
        return {} if finds_others else super().enum_schema(schema)

    def str_schema(self, schema: Any) -> JsonSchemaValue:
        """A text that is changed before it is judged may look otherwise."""
        found = super().str_schema(schema)
        changes = ("strip_whitespace", "to_lower", "to_upper")
        if any(schema.get(change) for change in changes) or any(
            getattr(self._config, f"str_{change}") for change in changes
        ):
            for name in ("pattern", "maxLength", "minLength"):
                found.pop(name, None)
        return found

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        """A number, or a text of one; the digits are for pydantic to judge."""
        found = super().decimal_schema(schema)
        for form in found.get("anyOf", ()):
            form.pop("pattern", None)
        return found

    def set_schema(self, schema: Any) -> JsonSchemaValue:
        """A list with something in it twice is taken, and counted once."""
        return _may_repeat(super().set_schema(schema))

    def frozenset_schema(self, schema: Any) -> JsonSchemaValue:
        """As a set."""
        return _may_repeat(super().frozenset_schema(schema))

    def tagged_union_schema(self, schema: Any) -> JsonSchemaValue:
        """Any of the forms: where one is wider than its type, two may fit."""
        found = super().tagged_union_schema(schema)
        if "oneOf" in found:
            found["anyOf"] = found.pop("oneOf")
        return found

    def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: FBT001 - pydantic's
        """Not by this name, where it has others."""
        return super().field_is_required(field, total) and field.get("validation_alias") is None

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        """Its fields by their names too, since the record is read by name and by alias."""
        return self._by_all_names(super().model_schema(schema), schema)

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        """As a model."""
        return self._by_all_names(super().dataclass_schema(schema), schema)

    def typed_dict_schema(self, schema: Any) -> JsonSchemaValue:
        """As a model."""
        return self._by_all_names(super().typed_dict_schema(schema), schema)

    def _by_all_names(self, found: JsonSchemaValue, schema: Any) -> JsonSchemaValue:
        for name, field in _fields_of(schema):
            alias = field.get("validation_alias")
            if alias is None:
                continue
            properties = found.setdefault("properties", {})
            if not isinstance(alias, str):  # a choice of names, or a path into something else
                found.pop("additionalProperties", None)
                properties.setdefault(name, {})
                continue
            properties.setdefault(name, properties.get(alias, {}))
            if super().field_is_required(field, schema.get("total", True)):
                either = [{"required": [alias]}, {"required": [name]}]
                found.setdefault("allOf", []).append({"anyOf": either})
        return found


def _fields_of(schema: Any) -> list[tuple[str, Any]]:
    """The fields of a model, a dataclass or a typed dictionary, by name."""
    while schema["type"] not in ("model-fields", "dataclass-args", "typed-dict"):
        if not isinstance(schema.get("schema"), dict):
            return []
        schema = schema["schema"]
    fields = schema.get("fields", {})
    if isinstance(fields, dict):
        return list(fields.items())
    return [(field["name"], field) for field in fields]


def _may_repeat(found: JsonSchemaValue) -> JsonSchemaValue:
    for name in ("uniqueItems", "maxItems"):
        found.pop(name, None)
    return found
