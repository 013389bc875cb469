"""Read operations over many runs: where each stands, and what became of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Text, cast, func, select

from orchestrator.core.bulk import LineState, OperationState, OperationView, Result
from orchestrator.store.reads.finding import now
from orchestrator.store.schema.tables import operation, operation_run, run


def read_operations(connection: Connection, *, limit: int) -> list[OperationView]:
    """Those that were applied, the newest first."""
    query = (
        select(operation)
        .where(operation.c.state != OperationState.PREVIEWED)
        .order_by(operation.c.id.desc())
        .limit(limit)
    )
    return [_view(connection, row) for row in connection.execute(query).all()]


def find_operations(connection: Connection, reference: str) -> list[OperationView]:
    """Up to two whose id is that, or begins so."""
    query = (
        select(operation)
        .where(func.starts_with(cast(operation.c.id, Text), reference.lower()))
        .order_by(operation.c.id)
        .limit(2)
    )
    return [_view(connection, row) for row in connection.execute(query).all()]


def find_preview(connection: Connection, digest: str) -> OperationView | None:
    """The operation with that digest that nobody has applied yet."""
    query = select(operation).where(
        operation.c.digest == digest, operation.c.state == OperationState.PREVIEWED
    )
    row = connection.execute(query).first()
    return None if row is None else _view(connection, row)


def read_results(
    connection: Connection,
    operation_id: UUID,
    *,
    state: LineState | None,
    after: int,
    limit: int,
) -> list[Result]:
    """What became of its runs, in their order."""
    query = (
        select(operation_run, run.c.business_key)
        .outerjoin(run, run.c.id == operation_run.c.run_id)
        .where(operation_run.c.operation_id == operation_id, operation_run.c.ordinal > after)
        .order_by(operation_run.c.ordinal)
        .limit(limit)
    )
    if state is not None:
        query = query.where(operation_run.c.state == state)
    return [
        Result(row.ordinal, row.run_id, row.business_key, LineState(row.state), row.result, row.at)
        for row in connection.execute(query)
    ]


def _view(connection: Connection, row: Any) -> OperationView:
    return OperationView(
        row.id,
        row.verb,
        row.arguments,
        row.filter,
        row.digest,
        row.by,
        row.reason,
        OperationState(row.state),
        row.rate_per_second,
        row.created_at,
        row.finished_at,
        row.runs,
        row.counts if row.counts is not None else _counts(connection, row.id),
        row.held_by,
        row.held_until,
        row.holder is not None and row.held_until > now(connection),
    )


def _counts(connection: Connection, operation_id: UUID) -> Mapping[str, int]:
    """Of one that is going on."""
    query = (
        select(operation_run.c.state, func.count().label("lines"))
        .where(operation_run.c.operation_id == operation_id)
        .group_by(operation_run.c.state)
    )
    return {row.state: row.lines for row in connection.execute(query)}
