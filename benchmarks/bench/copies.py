"""A million runs in minutes: the rows of one real run, copied under new ids, in every table it has rows in.

Copies differ from the run in nothing but ids, business keys, and what `changes` says. Each goes on like a
run of its own (tests/benchmarks/test_copies.py). Their rows lie as those of runs that came one after the
other; triggers and foreign keys are not asked, and no dead rows are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from rich.console import Console
from rich.progress import Progress
from sqlalchemy import Connection, Engine, Table, text

from orchestrator.store.schema.tables import (
    activity,
    approval,
    approval_vote,
    history,
    run,
    signal,
    timer,
)

SHARE = 10_000
"""Copies made in one transaction."""

TABLES = (run, activity, approval, approval_vote, timer, signal, history)

Changes = Mapping[str, str]
"""SQL by column, as `timer.due_at`; `copy.number` counts the copies from 1."""


def copy_run(
    engine: Engine, run_id: UUID, count: int, *, changes: Changes | None = None, console: Console
) -> None:
    """Make so many copies of that run."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{count:,} copies", total=count)
        for first in range(1, count + 1, SHARE):
            last = min(first + SHARE - 1, count)
            with (
                engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
                connection.begin(),
            ):
                _copy_share(connection, run_id, first, last, changes or {})
            progress.advance(task, last - first + 1)


def _copy_share(
    connection: Connection, run_id: UUID, first: int, last: int, changes: Changes
) -> None:
    connection.execute(text("SET LOCAL session_replication_role = replica"))
    connection.execute(
        text(
            """CREATE TEMP TABLE copy ON COMMIT DROP AS
            SELECT number, uuidv7() AS id FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS number"""
        ),
        {"first": first, "last": last},
    )
    for table in TABLES:
        connection.execute(text(_copying(table, changes)), {"run_id": run_id})


def _copying(table: Table, changes: Changes) -> str:
    owner = "id" if table is run else "run_id"
    columns = [column.name for column in table.columns if column.identity is None]
    values = [_value_of(table, column, owner, changes) for column in columns]
    order = ", history.id" if table is history else ""
    return (
        f"INSERT INTO {table.fullname} ({', '.join(columns)}) SELECT {', '.join(values)} "
        f"FROM copy, {table.fullname} WHERE {table.name}.{owner} = :run_id ORDER BY copy.number{order}"
    )


def _value_of(table: Table, column: str, owner: str, changes: Changes) -> str:
    name = f"{table.name}.{column}"
    if name in changes:
        return changes[name]
    if column == owner:
        return "copy.id"
    if column == "id":
        return "uuidv7()"
    if column == "asked":  # mixed with the id of the run: a copy's are not compared
        return f"regexp_replace({name}, '=[0-9a-f]+', '=?', 'g')"
    if column == "business_key":
        return f"{name} || '-' || copy.id"
    return name
