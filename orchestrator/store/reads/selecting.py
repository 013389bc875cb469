"""Find runs by a filter (`core.selection`): for lists, and for verbs over many runs.

conditions    the filter's part of a WHERE, for whoever lists runs
select_runs   the runs that it means, each with its revision, by the indexes of open runs and of errors
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    any_,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB

from orchestrator.core.attributes import Condition, as_object
from orchestrator.core.causes import cause_in
from orchestrator.core.checks import composed
from orchestrator.core.run import RunStatus
from orchestrator.core.selection import OPEN, WITHOUT_RESULT, Between, RunFilter, Selected
from orchestrator.store.schema.tables import run

OLD_ERRORS_MAX = 10_000
"""So many errors that an older release has recorded, without a cause, are looked at."""

# As the index `run_error` has it: its text must be the same, and no parameter stands in it.
CAUSE: ColumnElement[str] = run.c.error.op("->>")(literal_column("'cause'"))
_CAUSE_IS: ColumnElement[Any] = run.c.error.op("->")(literal_column("'cause_is'"))

_TOLD = (run.c.id, run.c.revision, run.c.process, run.c.version, run.c.status, run.c.business_key)


def conditions(asked: RunFilter) -> list[ColumnElement[bool]]:
    """What a run must be. An error that was recorded without a cause matches none."""
    found = [*_plain_conditions(asked)]
    if asked.cause is not None:
        found.append(literal(asked.cause) == CAUSE)
    if asked.error_type is not None:
        found.append(_in_cause("type") == literal(asked.error_type))
    if asked.stage is not None:
        found.append(or_(run.c.stage == asked.stage, _in_cause("place") == literal(asked.stage)))
    if asked.names_an_error:
        found.append(run.c.error.is_not(None))
    return found


def _plain_conditions(asked: RunFilter) -> Iterator[ColumnElement[bool]]:
    if asked.process is not None:
        yield run.c.process == asked.process
    if asked.version is not None:
        yield run.c.version == asked.version
    if asked.code_revision is not None:
        yield run.c.code_revision == asked.code_revision
    if asked.statuses:
        yield from with_status(asked.statuses)
    if asked.waiting_for is not None:
        yield func.starts_with(run.c.waiting_for, asked.waiting_for)
    if asked.key is not None:
        keys = {composed(asked.key), asked.key}
        yield or_(run.c.business_key.in_(keys), run.c.former_key.in_(keys))
    if asked.key_prefix is not None:
        yield func.starts_with(run.c.business_key, composed(asked.key_prefix))
    yield from _within(run.c.created_at, asked.created)
    yield from _within(run.c.closed_at, asked.closed)
    yield from _within(run.c.last_progress_at, asked.progressed)
    if asked.progressed.after is not None:
        # What has ended since has moved since: said once more for the index.
        yield or_(run.c.closed_at.is_(None), run.c.closed_at >= asked.progressed.after)
    if asked.attributes:
        yield run.c.attributes.contains(dict(asked.attributes))
    if asked.where:
        yield from by_attributes(asked.where)


def by_attributes(where: Sequence[Condition]) -> Iterator[ColumnElement[bool]]:
    """What is compared by value is found by the index; and, for others, only values of the same type are compared.

    Found first, in a query of its own: Postgres knows little of how rare a value is, and might read all runs instead.
    """
    by_value = [each for each in where if each.operator in ("=", "in", "contains")]
    if by_value:
        there = run.alias("there")
        found = select(there.c.id).where(
            there.c.attributes != text("'{}'::jsonb"),  # as the index has it
            *(or_(*_with_value(there.c.attributes, each)) for each in by_value),
        )
        yield run.c.id == any_(func.array(found.scalar_subquery()))
    for each in where:
        value = run.c.attributes.op("->")(each.name)
        if each.operator == "=":
            yield value == _json(each.values[0])
        elif each.operator not in ("in", "contains"):
            other = _json(each.values[0])
            yield func.jsonb_typeof(value) == func.jsonb_typeof(other)
            yield value.op(each.operator, is_comparison=True)(other)


def _with_value(attributes: Any, asked: Condition) -> Iterator[ColumnElement[bool]]:
    for value in asked.values:
        held = f"[{value}]" if asked.operator == "contains" else value
        yield attributes.op("@>", is_comparison=True)(_json(as_object({asked.name: held})))


def _json(value: str) -> Any:
    return cast(literal(value, Text), JSONB)


def with_status(statuses: Collection[RunStatus]) -> Iterator[ColumnElement[bool]]:
    """In one of these; and what is always so of such a run, which its index is made of."""
    yield run.c.status.in_(sorted(map(str, statuses)))
    if not any(status.is_closed for status in statuses):
        yield run.c.closed_at.is_(None)
    if all(status.is_closed for status in statuses):
        yield run.c.closed_at.is_not(None)
    if set(statuses) <= WITHOUT_RESULT | {RunStatus.INCIDENT}:
        yield run.c.error.is_not(None)


def _within(column: ColumnElement[Any], between: Between) -> Iterator[ColumnElement[bool]]:
    if between.after is not None:
        yield column >= between.after
    if between.before is not None:
        yield column < between.before


def _in_cause(what: str) -> ColumnElement[str]:
    return _CAUSE_IS.op("->>")(literal_column(f"'{what}'"))


def select_runs(
    connection: Connection, asked: RunFilter, statuses: Collection[RunStatus], *, limit: int
) -> list[Selected]:
    """The runs of these statuses that the filter means, by id; at most `limit`.

    What an older release has recorded without a cause is compared by the one that it gets now: of such runs
    OLD_ERRORS_MAX are looked at.
    """
    found = [_selected(row) for row in connection.execute(_by_index(asked, statuses).limit(limit))]
    if asked.names_an_error or asked.stage is not None:
        found += _of_an_older_release(
            connection, asked, statuses, known={each.id for each in found}
        )
    return sorted(found, key=lambda each: each.id)[:limit]


def _by_index(asked: RunFilter, statuses: Collection[RunStatus]) -> Select[Any]:
    """Open runs by their index, and those that ended without a result by theirs; or all by their key."""
    parts = [frozenset(statuses) & OPEN, frozenset(statuses) - OPEN]
    if asked.key is not None:
        parts = [frozenset(statuses)]
    ways = [
        select(*_TOLD, CAUSE.label("cause")).where(*conditions(asked), *with_status(part))
        for part in parts
        if part
    ]
    together = union_all(*ways).subquery("selected")
    return select(together).order_by(together.c.id)


def _of_an_older_release(
    connection: Connection, asked: RunFilter, statuses: Collection[RunStatus], *, known: set[Any]
) -> Iterator[Selected]:
    marked = frozenset(statuses) & {RunStatus.FAILED, RunStatus.INCIDENT}
    for part in (marked & OPEN, marked - OPEN):
        if not part:
            continue
        query = (
            select(*_TOLD, run.c.error.op("-")("traceback").label("error"), run.c.stage)
            .where(*_plain_conditions(asked), *with_status(part), and_(CAUSE.is_(None)))
            .order_by(run.c.id)
            .limit(OLD_ERRORS_MAX)
        )
        for row in connection.execute(query):
            cause = cause_in(row.error, row.process)
            if (
                row.id not in known
                and asked.cause in (None, cause.digest)
                and asked.error_type in (None, cause.type)
                and asked.stage in (None, cause.place, row.stage)
            ):
                yield _selected(row, cause.digest)


def _selected(row: Any, cause: str | None = None) -> Selected:
    return Selected(
        row.id,
        row.revision,
        row.process,
        row.version,
        RunStatus(row.status),
        row.business_key,
        cause or row.cause,
    )
