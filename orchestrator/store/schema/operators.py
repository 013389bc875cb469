"""The tables of operators: what they have said of causes, and their verbs over many runs."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from orchestrator.store.schema.columns import metadata
from orchestrator.store.schema.columns import now as _now
from orchestrator.store.schema.columns import time as _time

# What operators have said of a cause: a row is made when they first do.
cause = Table(
    "cause",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    Column("noted_by", Text),
    _time("noted_at"),
    Column("muted_by", Text),
    _time("muted_at"),
    Column("mended_by", Text),
    _time("mended_at"),
    CheckConstraint("(muted_by IS NULL) = (muted_at IS NULL)", name="muted"),
    CheckConstraint("(mended_by IS NULL) = (mended_at IS NULL)", name="mended"),
)

# A verb over many runs: the exact set that was previewed, and what became of each.
operation = Table(
    "operation",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("verb", Text, nullable=False),
    Column("arguments", JSONB, nullable=False),
    Column("filter", JSONB, nullable=False),
    Column("digest", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="previewed"),
    Column("rate_per_second", Double),
    Column("runs", Integer, nullable=False),
    Column("counts", JSONB),
    # Who is at it, until when at the least.
    Column("holder", Uuid),
    Column("held_by", Text),
    _time("held_until"),
    _now("created_at"),
    _time("finished_at"),
    CheckConstraint(
        "state IN ('previewed', 'running', 'paused', 'stopped', 'finished')", name="state"
    ),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (state IN ('stopped', 'finished'))", name="finished"
    ),
    CheckConstraint("holder IS NULL OR state = 'running'", name="holder"),
    Index("operation_digest", "digest", postgresql_where=text("state = 'previewed'")),
)

operation_run = Table(
    "operation_run",
    metadata,
    Column(
        "operation_id",
        Uuid,
        ForeignKey("perennial.operation.id", ondelete="CASCADE"),
        primary_key=True,
        nullable=False,
    ),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    # The run may be deleted when it is old; what was done to it stays.
    Column("run_id", Uuid, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("state", Text, nullable=False, server_default="to do"),
    Column("result", Text, nullable=False, server_default=""),
    _time("at"),
    CheckConstraint("state IN ('to do', 'done', 'skipped', 'refused', 'failed')", name="state"),
    CheckConstraint("(at IS NULL) = (state = 'to do')", name="at"),
)

# What a team has said of a process: nothing of it is changed. `version` and `former_version` of 'current' are None
# for the newest version that is served.
process_history = Table(
    "process_history",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("process", Text, nullable=False),
    _now("at"),
    Column("by", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("version", Integer),
    Column("former_version", Integer),
    Column("reason", Text, nullable=False, server_default=""),
    CheckConstraint("event IN ('current', 'retired', 'unretired')", name="event"),
    Index("process_history_of_process", "process", "id"),
)

# What a plan of migration has changed of a run, so that it can be undone until the run's next step.
migration = Table(
    "migration",
    metadata,
    Column("plan_id", Text, primary_key=True),
    Column("run_id", Uuid, ForeignKey("perennial.run.id", ondelete="CASCADE"), primary_key=True),
    Column("from_version", Integer, nullable=False),
    Column("to_version", Integer, nullable=False),
    Column("before", JSONB, nullable=False),
    Column("after_revision", BigInteger, nullable=False),
    _now("at"),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    _time("undone_at"),
    Index("migration_of_run", "run_id"),
)
