"""A run's history as one line of JSON, and what code at hand makes of it: for who has no database, as a team's CI.

    written_history(run, ..., with_values=False)   a line; without values by default
    read_history(line)                             a History
    check_history(history, process, registry)      as `check_run`, or MASKED: it hangs on values that were left out

Kept in any case: ids, keys, kinds, names, times, states, types of errors, and how approvals ended.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from dis import get_instructions
from types import CellType, CodeType, FunctionType
from typing import Any
from uuid import UUID

from orchestrator.core.checking import Class, Verdict, check_run
from orchestrator.core.definition import Process, Registry
from orchestrator.core.journal import Activity, ActivityKind, ActivityState, BufferedSignal
from orchestrator.core.outcome import RunContext
from orchestrator.core.run import RunStatus
from orchestrator.core.versions.masking import WAYS, filled, masked
from orchestrator.errors import DefinitionError

FORMAT = 1

_OF_A_DECISION = ("approval", "outcome", "at", "escalated")
"""What stays of a decision: who decided, and why, are values."""

HANGS_ON_VALUES = (
    "its path hangs on values that were left out, so nobody can say: export it with --values, or check it in the "
    "database"
)


@dataclass(frozen=True, slots=True)
class History:
    """A run as it was exported. `is_masked`: its values were left out."""

    context: RunContext
    status: RunStatus
    journal: tuple[Activity, ...]
    signals: tuple[BufferedSignal, ...]
    needs_turn: bool
    is_masked: bool


def written_history(
    run: RunContext,
    journal: Sequence[Activity],
    signals: Sequence[BufferedSignal],
    *,
    status: RunStatus,
    needs_turn: bool,
    with_values: bool = False,
) -> str:
    """One line of JSON."""
    document = {
        "perennial_history": FORMAT,
        "masked": not with_values,
        "id": str(run.id),
        "process": run.process,
        "version": run.version,
        "code_revision": run.code_revision,
        "business_key": run.business_key if with_values else None,
        "input": _shown(run.input, with_values),
        "created_at": run.created_at.isoformat(),
        "chapter": run.chapter,
        "chapter_at": run.chapter_at and run.chapter_at.isoformat(),
        "status": status,
        "needs_turn": needs_turn,
        "journal": [_line_of(each, with_values=with_values) for each in journal],
        "signals": [
            {
                "id": str(each.id),
                "name": each.name,
                "payload": _shown(each.payload, with_values),
                "received_at": each.received_at.isoformat(),
                "received_revision": each.received_revision,
            }
            for each in signals
        ],
    }
    return json.dumps(document, separators=(",", ":"))


def _shown(value: Any, with_values: bool) -> Any:  # noqa: FBT001 - a value and whether it is one
    return value if with_values else masked(value)


def _line_of(each: Activity, *, with_values: bool) -> dict[str, Any]:
    result, error = each.result, each.error
    if not with_values:
        kept = _OF_A_DECISION if each.kind == ActivityKind.APPROVAL else ()
        shown = {name: result[name] for name in kept if name in result} if kept and result else {}
        result = {**masked(result), **shown} if shown else masked(result)
        error = None if error is None else _masked_error(error)
    return {
        "key": each.key,
        "scope": each.scope,
        "ordinal": each.ordinal,
        "kind": each.kind,
        "name": each.name,
        "state": each.state,
        "attempt": each.attempt,
        "result": result,
        "error": error,
        "settled_at": None if each.settled_at is None else each.settled_at.isoformat(),
        "settled_revision": each.settled_revision,
        "asked": each.asked if with_values else None,
    }


def _masked_error(error: dict[str, Any]) -> dict[str, Any]:
    """What a flow may look at, without its values."""
    kept: dict[str, Any] = {"type": error.get("type"), "message": "(left out)"}
    if "types" in error:
        kept["types"] = error["types"]
    if "attributes" in error:
        kept["attributes"] = masked(error["attributes"])
    return kept


def read_history(line: str, *, where: str = "") -> History:
    """The history that a line holds. Raises DefinitionError: it is none, or of another format."""
    try:
        it = json.loads(line)
        if it["perennial_history"] != FORMAT:
            raise DefinitionError(
                f"is a history of format {it['perennial_history']}, and this release reads {FORMAT}",
                where=where,
                remedy="Export it with this release.",
            )
        return _history_of(it)
    except (ValueError, KeyError, TypeError) as error:
        raise DefinitionError(
            f"is no exported history ({type(error).__name__})",
            where=where,
            remedy="`perennial export` writes them.",
        ) from None


def _history_of(it: dict[str, Any]) -> History:
    return History(
        RunContext(
            UUID(it["id"]),
            it["process"],
            it["version"],
            it["business_key"],
            it["input"],
            datetime.fromisoformat(it["created_at"]),
            it["code_revision"],
            it.get("chapter", 1),
            datetime.fromisoformat(it["chapter_at"]) if it.get("chapter_at") else None,
        ),
        RunStatus(it["status"]),
        tuple(
            Activity(
                **{
                    **line,
                    "kind": ActivityKind(line["kind"]),
                    "state": ActivityState(line["state"]),
                    "settled_at": line["settled_at"] and datetime.fromisoformat(line["settled_at"]),
                }
            )
            for line in it["journal"]
        ),
        tuple(
            BufferedSignal(
                UUID(each["id"]),
                each["name"],
                each["payload"],
                datetime.fromisoformat(each["received_at"]),
                each["received_revision"],
            )
            for each in it["signals"]
        ),
        it["needs_turn"],
        it["masked"],
    )


def check_history(history: History, process: Process, *, registry: Registry) -> Verdict:
    """What the code makes of it. Of one without values: what it makes of all stand-ins alike, or MASKED."""
    if not history.is_masked:
        return _checked(history, process, registry)
    found = [_checked(_with_stand_ins(history, way), process, registry) for way in WAYS]
    first = found[0]
    if any(each != first for each in found):
        return Verdict(Class.MASKED, HANGS_ON_VALUES)
    if first.found in (Class.CONTRADICTS, Class.BREAKS) and _looks_at_values(process):
        return Verdict(Class.MASKED, f"{HANGS_ON_VALUES}. With stand-ins: {first.reason}")
    if first.found is Class.UNREADABLE and "Field required" not in first.reason:
        return Verdict(Class.MASKED, f"{HANGS_ON_VALUES}. With stand-ins: {first.reason}")
    return first


def _looks_at_values(process: Process) -> bool:
    """Whether its flow may choose its way by a value: it, or a function that it names, has a jump."""
    if process.kind != "python":
        return False
    plain = inspect.unwrap(process.flow)
    return not isinstance(plain, FunctionType) or any(map(_has_jump, _codes_from(plain)))


def _codes_from(function: FunctionType) -> list[CodeType]:
    """Its code, and that of the functions that it names or holds, and so on; not of our own and others' packages."""
    found: dict[CodeType, None] = {}
    to_see = [function]
    while to_see:
        each = to_see.pop()
        if each.__code__ in found:
            continue
        found[each.__code__] = None
        cells = [_held_by(cell) for cell in each.__closure__ or ()]
        named = [each.__globals__.get(name) for name in each.__code__.co_names]
        to_see += [
            other
            for other in (*cells, *named)
            if isinstance(other, FunctionType) and not other.__module__.startswith("orchestrator.")
        ]
    return list(found)


def _held_by(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _has_jump(code: CodeType) -> bool:
    return any(
        ("JUMP" in each.opname and "_IF_" in each.opname) or each.opname == "FOR_ITER"
        for each in get_instructions(code)
    ) or any(_has_jump(each) for each in code.co_consts if isinstance(each, CodeType))


def _with_stand_ins(history: History, way: int) -> History:
    return replace(
        history,
        context=replace(history.context, input=filled(history.context.input, way)),
        journal=tuple(replace(each, result=filled(each.result, way)) for each in history.journal),
        signals=tuple(replace(each, payload=filled(each.payload, way)) for each in history.signals),
    )


def _checked(history: History, process: Process, registry: Registry) -> Verdict:
    return check_run(
        process,
        history.context,
        history.journal,
        history.signals,
        registry=registry,
        status=history.status,
        needs_turn=history.needs_turn,
    )
