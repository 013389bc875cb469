"""The verbs that let a run go another way (engine.operations.re_enter), said of many runs.

Each is applied to one run as to one alone: under the run's lock, once for an operation, with who, why and the operation
in its history. A preview looks at one run of each group by the verb's own preview.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core import codec
from orchestrator.core.on_exhausted import FAILED_BY_HAND
from orchestrator.core.reentry.retry import Retrying
from orchestrator.core.reentry.rewind import Rewinding
from orchestrator.core.reentry.settle import ByHand, Editing
from orchestrator.core.run import RunStatus
from orchestrator.core.selection import OPEN
from orchestrator.engine.context import EngineContext
from orchestrator.engine.operations.bulk_verb import BulkVerb, VerbCall
from orchestrator.engine.operations.re_enter import Verb
from orchestrator.engine.operations.retry import RETRY
from orchestrator.engine.operations.rewind import REWIND
from orchestrator.engine.operations.settle import COMPLETE, EDIT, FAIL, SKIP

A = TypeVar("A")

_FAILED = frozenset({RunStatus.FAILED})
_ENDED_BADLY = _FAILED | {RunStatus.CANCELLED, RunStatus.EXPIRED}


def _of_many(
    verb: Verb[A],
    what: str,
    make: Callable[[Mapping[str, Any]], A],
    *,
    acts_on: frozenset[RunStatus],
    by_default: frozenset[RunStatus],
    needs: frozenset[str] = frozenset(),
    takes: frozenset[str] = frozenset(),
) -> BulkVerb:
    """The verb, for each run of a set. `make`: its arguments of JSON; `needs`: those that must be given."""

    def perform(
        context: EngineContext, connection: Connection, run_id: UUID, asked: VerbCall
    ) -> str:
        result = verb.apply(
            context,
            connection,
            run_id,
            make(asked.arguments),
            by=asked.by,
            reason=asked.reason,
            operation=str(asked.operation),
        )
        return "" if result.preview is None else ", ".join(result.preview.goes_on)

    def look(
        context: EngineContext, connection: Connection, run_id: UUID, asked: VerbCall
    ) -> tuple[str, ...]:
        shown = verb.preview(context, connection, run_id, make(asked.arguments))
        again = (f"done again: {each}" for each in shown.repeats)
        gone = (f"counts no more: {each}" for each in shown.drops)
        return (*shown.goes_on, *again, *gone, *shown.notes)

    return BulkVerb(
        verb.name, what, acts_on, by_default, perform, needs | takes, needs, look, check=make
    )


def _more_time(given: Mapping[str, Any]) -> timedelta | None:
    seconds = given.get("expires_in_seconds")
    return None if seconds is None else timedelta(seconds=seconds)


def _retrying(given: Mapping[str, Any]) -> Retrying:
    return Retrying(version=given.get("version"), expires_in=_more_time(given))


def _rewinding(given: Mapping[str, Any]) -> Rewinding:
    return Rewinding(given["to"], expires_in=_more_time(given))


def _with_result(given: Mapping[str, Any]) -> ByHand:
    result = codec.encode(given.get("result"), what=f"result of {given['key']}")
    return ByHand(given["key"], result, expires_in=_more_time(given))


def _with_error(given: Mapping[str, Any]) -> ByHand:
    error = {"type": FAILED_BY_HAND, "message": codec.readable(str(given["error"]))}
    return ByHand(given["key"], error=error)


def _editing(given: Mapping[str, Any]) -> Editing:
    return Editing(given["key"], codec.encode(dict(given["arguments"]), what="arguments"))


_KEY, _TIME = frozenset({"key"}), frozenset({"expires_in_seconds"})

RE_ENTRY = (
    _of_many(
        RETRY,
        "go on from where they failed; what is done is not done again",
        _retrying,
        acts_on=_FAILED | {RunStatus.INCIDENT},
        by_default=_FAILED,
        takes=_TIME | {"version"},
    ),
    _of_many(
        REWIND,
        "go back to a point, and on from there",
        _rewinding,
        acts_on=OPEN | _ENDED_BADLY,
        by_default=OPEN | _FAILED,
        needs=frozenset({"to"}),
        takes=_TIME,
    ),
    *(
        _of_many(
            verb,
            what,
            _with_result,
            acts_on=OPEN | _FAILED,
            by_default=OPEN | _FAILED,
            needs=_KEY,
            takes=_TIME | {"result"},
        )
        for verb, what in (
            (SKIP, "leave an activity out, and go on with the given result"),
            (COMPLETE, "go on with an activity done elsewhere, with the given result"),
        )
    ),
    _of_many(
        FAIL,
        "meet the given error at an activity",
        _with_error,
        acts_on=OPEN,
        by_default=OPEN,
        needs=_KEY | {"error"},
    ),
    _of_many(
        EDIT,
        "make the next attempt of a stage with other arguments",
        _editing,
        acts_on=OPEN,
        by_default=OPEN,
        needs=_KEY | {"arguments"},
    ),
)
