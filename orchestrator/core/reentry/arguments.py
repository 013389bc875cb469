"""Other arguments of a stage than its flow has asked for: an operator's, held against what the stage takes."""

from __future__ import annotations

from typing import Any

from orchestrator.core import codec
from orchestrator.core.reentry.standing import NOT_AT_HAND, Code, Entry, listed
from orchestrator.errors import OperationRefused, PayloadError, UnknownStage


def merged_arguments(entry: Entry, given: str, code: Code | None) -> tuple[str, list[str]]:
    """The stage's arguments with those that are given in place of their own, as JSON text, and what to know of it.

    Raises OperationRefused: the stage has no such parameter, or takes another type.
    """
    values: dict[str, Any] = codec.parse(given)
    merged = {**(entry.input or {}), **values}
    text = codec.encode(merged, what=f"arguments of {entry.key}")
    name = entry.activity.name
    try:
        stage = code.registry.stage(name) if code is not None else None
    except UnknownStage:
        stage = None
    if stage is None:
        return text, [f"the stage's {NOT_AT_HAND}: its arguments are taken as they are, as JSON"]
    if strange := [each for each in values if each not in stage.parameters]:
        raise OperationRefused(
            f"stage {name} has no parameter {listed(strange)}; it takes {listed(stage.parameters) or 'nothing'}"
        )
    for each, value in values.items():
        what = f"argument of stage {name}: {each}"
        try:
            codec.decode_recorded(value, stage.parameters[each], what=what)
        except PayloadError as error:
            raise OperationRefused(str(error)) from None
    return text, []
