"""Read what failed, by cause: how many, since when, which; and what operators have said of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, array

from orchestrator.core.causes import Cause, CauseSummary, Sample, cause_in
from orchestrator.core.run import RunStatus
from orchestrator.store.reads.selecting import CAUSE, OLD_ERRORS_MAX, with_status
from orchestrator.store.schema.tables import cause, run

GROUPS_MAX = 1_000
"""So many causes are read, the newest."""

SAMPLES = 3
"""So many runs of each are named."""

_SHORT_ERROR: ColumnElement[Any] = run.c.error.op("-")(literal_column("'traceback'"))


@dataclass(slots=True)
class _Group:
    """What is known of a cause so far; `runs` are samples, the newest first."""

    cause: Cause
    processes: set[str] = field(default_factory=set)
    count: int = 0
    incidents: int = 0
    since_mended: int = 0
    times: list[datetime] = field(default_factory=list)
    runs: list[UUID] = field(default_factory=list)
    without_cause: list[datetime] = field(default_factory=list)
    """When those came up that an older release has recorded."""

    def add(self, row: Any) -> None:
        self.processes.add(row.process)
        self.count += row.count
        self.incidents += row.incidents
        self.since_mended += row.since_mended
        self.times += [row.first, row.last]
        self.runs += row.samples


def read_causes(
    connection: Connection,
    *,
    process: str | None = None,
    failed_since: datetime | None = None,
    with_failed: bool = True,
    digest: str | None = None,
) -> list[CauseSummary]:
    """What is parked, and what failed, by cause; the newest first.

    Of all incidents that are open and, `with_failed`, of what failed since `failed_since` (None: ever). `digest`: that
    cause alone. At most GROUPS_MAX; of what an older release has recorded, OLD_ERRORS_MAX errors are looked at.
    """
    errors = _errors(process, failed_since, with_failed=with_failed)
    groups: dict[str, _Group] = {}
    rows = connection.execute(_by_cause(errors, digest)).all()
    named = _errors_of(connection, [row.samples[0] for row in rows])
    for row in rows:
        its_cause = cause_in(named.get(row.samples[0]), row.process)
        groups.setdefault(row.digest, _Group(its_cause)).add(row)
    for row in connection.execute(_without_cause(errors)):
        its_cause = cause_in(row.error, row.process)
        if digest in (None, its_cause.digest):
            group = groups.setdefault(its_cause.digest, _Group(its_cause))
            group.add(row)
            group.without_cause.append(row.last)
    said = _said(connection, groups)
    keys = _keys_of(
        connection, (each for group in groups.values() for each in group.runs[:SAMPLES])
    )
    found = [_summary(digest, group, said.get(digest), keys) for digest, group in groups.items()]
    return sorted(found, key=lambda each: each.last, reverse=True)[:GROUPS_MAX]


def _errors(process: str | None, failed_since: datetime | None, *, with_failed: bool) -> FromClause:
    """The runs that are parked, by their index, and those that failed, by that of errors."""
    told = (run.c.id, run.c.process, CAUSE.label("digest"))
    of_one = [] if process is None else [run.c.process == process]
    parked = select(*told, literal_column("1").label("parked"), run.c.last_progress_at.label("at"))
    ways = [parked.where(*of_one, *with_status({RunStatus.INCIDENT}))]
    if with_failed:
        failed = select(*told, literal_column("0").label("parked"), run.c.closed_at.label("at"))
        since = [] if failed_since is None else [run.c.closed_at >= failed_since]
        ways.append(failed.where(*of_one, *since, *with_status({RunStatus.FAILED})))
    return union_all(*ways).subquery("errors")


def _by_cause(errors: FromClause, digest: str | None) -> Any:
    e = errors.c
    newest = func.array_agg(aggregate_order_by(e.id, e.at.desc(), e.id.desc()))
    return (
        select(
            e.digest,
            e.process,
            func.count().label("count"),
            func.sum(e.parked).label("incidents"),
            func.count().filter(e.at > cause.c.mended_at).label("since_mended"),
            func.min(e.at).label("first"),
            func.max(e.at).label("last"),
            newest[1:SAMPLES].label("samples"),
        )
        .outerjoin_from(errors, cause, cause.c.digest == e.digest)
        .where(e.digest.is_not(None) if digest is None else e.digest == digest)
        .group_by(e.digest, e.process)
        .order_by(func.max(e.at).desc())
        .limit(GROUPS_MAX)
    )


def _without_cause(errors: FromClause) -> Any:
    e = errors.c
    return (
        select(
            e.process,
            _SHORT_ERROR.label("error"),
            literal_column("1").label("count"),
            e.parked.label("incidents"),
            literal_column("0").label("since_mended"),
            e.at.label("first"),
            e.at.label("last"),
            array([e.id]).label("samples"),
        )
        .join_from(errors, run, run.c.id == e.id)
        .where(e.digest.is_(None))
        .order_by(e.at.desc())
        .limit(OLD_ERRORS_MAX)
    )


def _errors_of(connection: Connection, ids: Collection[UUID]) -> dict[UUID, Any]:
    query = select(run.c.id, _SHORT_ERROR.label("error")).where(run.c.id.in_(ids))
    return {row.id: row.error for row in connection.execute(query)}


def _keys_of(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, str | None]:
    query = select(run.c.id, run.c.business_key).where(run.c.id.in_(list(ids)))
    return {row.id: row.business_key for row in connection.execute(query)}


def _said(connection: Connection, digests: Collection[str]) -> dict[str, Any]:
    query = select(cause).where(cause.c.digest.in_(list(digests)))
    return {row.digest: row for row in connection.execute(query)}


def _summary(
    digest: str, group: _Group, said: Any | None, keys: dict[UUID, str | None]
) -> CauseSummary:
    samples = tuple(Sample(each, keys.get(each)) for each in group.runs[:SAMPLES])
    since_mended = group.since_mended
    if said is not None and said.mended_at is not None:
        since_mended += sum(at > said.mended_at for at in group.without_cause)
    facts = (
        ()
        if said is None
        else (
            said.note,
            said.noted_by,
            said.muted_by,
            said.muted_at,
            said.mended_by,
            said.mended_at,
        )
    )
    return CauseSummary(
        digest,
        group.cause,
        tuple(sorted(group.processes)),
        group.count,
        group.incidents,
        min(group.times),
        max(group.times),
        samples,
        since_mended,
        *facts,
    )
