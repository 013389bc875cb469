"""The tables of schema `perennial` (DESIGN §5), as SQLAlchemy sees them.

`rules` adds what no constraint can say. `migrations/` creates them; a test holds the two to each other.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from orchestrator.store.schema.columns import metadata
from orchestrator.store.schema.columns import now as _now
from orchestrator.store.schema.columns import run_id as _run_id
from orchestrator.store.schema.columns import time as _time
from orchestrator.store.schema.operators import cause, operation, operation_run

__all__ = ["cause", "metadata", "operation", "operation_run"]  # beside those that are defined here

process = Table(
    "process",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("queue", Text),
    Column("expires_after_seconds", Double),
    Column("input_schema", JSONB),
    Column("input_schema_digest", Text),
    _now("deployed_at"),
    Column("deployed_by", Text, nullable=False, server_default=""),
    # The content of this row is that of its revision, the current one: what starts anew stands on it.
    Column("code_revision", Integer, nullable=False, server_default="1"),
    # Whether new runs may count on a worker that can run it, as workers see it; and since when there is none.
    Column("served", Boolean, nullable=False, server_default=text("false")),
    _time("unserved_since"),
    # That a team has set it as the version that new runs take; that it has been retired.
    _time("current_since"),
    Column("current_by", Text, nullable=False, server_default=""),
    _time("retired_at"),
    Column("retired_by", Text, nullable=False, server_default=""),
    CheckConstraint("version >= 1", name="version"),
    CheckConstraint("kind IN ('python', 'declarative')", name="kind"),
)

# What a version held, and holds: amended, it has one revision more (docs/adr/0045).
process_revision = Table(
    "process_revision",
    metadata,
    Column("process", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("code_revision", Integer, primary_key=True, autoincrement=False),
    Column("fingerprint", Text, nullable=False),
    # By the way in which each was taken (core/fingerprints.py).
    Column("fingerprints", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("kind", Text, nullable=False),
    Column("spec", JSONB, nullable=False),
    # The text of a flow, to show what an amendment changes.
    Column("source", Text),
    Column("queue", Text),
    Column("expires_after_seconds", Double),
    Column("input_schema", JSONB),
    Column("input_schema_digest", Text),
    _now("deployed_at"),
    Column("deployed_by", Text, nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    Column("diff", JSONB),
    ForeignKeyConstraint(
        ["process", "version"],
        ["perennial.process.name", "perennial.process.version"],
        ondelete="CASCADE",
    ),
    CheckConstraint("code_revision >= 1", name="code_revision"),
)

run = Table(
    "run",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("process", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("business_key", Text),
    # The key that a run had which has given it up, and the run that has it since, or did the same.
    Column("former_key", Text),
    Column("follows", Uuid),
    Column("followed_by", Uuid),
    Column("status", Text, nullable=False),
    Column("stage", Text),
    Column("previous_stage", Text),
    Column("waiting_for", Text),
    Column("revision", BigInteger, nullable=False, server_default="0"),
    Column("turn_revision", BigInteger, nullable=False, server_default="-1"),
    Column("turn_token", Uuid),
    Column("turn_worker", Uuid),
    _time("turn_claimed_at"),
    Column("turn_lease_seconds", Double),
    Column("turn_losses", Integer, nullable=False, server_default="0"),
    Column("queue", Text),
    Column("input", JSONB),
    Column("output", JSONB),
    Column("error", JSONB),
    Column("attributes", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # Of a child: the run that has started it, and its line there (NULL: nobody awaits it); what the parent's end does
    # to it; how many stand above it. Of a parent: how many it has started (docs/adr/0055).
    Column("parent_id", Uuid),
    Column("parent_key", Text),
    Column("on_parent_end", Text),
    Column("depth", Integer, nullable=False, server_default="0"),
    Column("children", Integer, nullable=False, server_default="0"),
    _now("created_at"),
    _time("started_at"),
    _now("last_progress_at"),
    _time("expires_at"),
    _time("closed_at"),
    Column("active_milliseconds", BigInteger, nullable=False, server_default="0"),
    # The revision of its version that it stands on: only a worker with that code takes its turns.
    Column("code_revision", Integer, nullable=False, server_default="1"),
    # How often an operator has let it go on from its end, and the attempts of stages that have left its journal.
    Column("reentries", Integer, nullable=False, server_default="0"),
    Column("attempts_before", JSONB),
    # How many stages must end before its flow has anything to do, as the turn of that revision saw it.
    Column("outstanding", Integer),
    Column("outstanding_revision", BigInteger),
    # How often its flow has continued as new, and one; and when it did last.
    Column("chapter", Integer, nullable=False, server_default="1"),
    _time("chapter_at"),
    # What its flow has said last to people.
    Column("status_text", Text),
    ForeignKeyConstraint(
        ["process", "version"], ["perennial.process.name", "perennial.process.version"]
    ),
    # The key first: whoever asks by the key alone finds it here too.
    UniqueConstraint("business_key", "process"),
    Index("run_former_key", "former_key", postgresql_where=text("former_key IS NOT NULL")),
    CheckConstraint(
        "status IN ('running', 'waiting', 'paused', 'incident', 'completed', 'failed', 'cancelled', 'expired')",
        name="status",
    ),
    CheckConstraint(
        "(closed_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled', 'expired'))",
        name="closed",
    ),
    CheckConstraint(
        "(turn_token IS NULL) = (turn_worker IS NULL) AND (turn_token IS NULL) = (turn_claimed_at IS NULL)",
        name="turn",
    ),
    CheckConstraint("closed_at IS NULL OR turn_token IS NULL", name="closed_turn"),
    CheckConstraint("status <> 'incident' OR error IS NOT NULL", name="incident"),
    # No index names `status`: a run that waits, and goes on, stays where it is in all of them (HOT).
    Index("run_open", "id", postgresql_where=text("closed_at IS NULL")),
    Index("run_children", "parent_id", "id", postgresql_where=text("parent_id IS NOT NULL")),
    Index("run_incident", "id", postgresql_where=text("closed_at IS NULL AND error IS NOT NULL")),
    # By value (`@>`): a run whose attributes stay as they are stays where it is in it (HOT).
    Index(
        "run_attributes",
        "attributes",
        postgresql_using="gin",
        postgresql_ops={"attributes": "jsonb_path_ops"},
        postgresql_where=text("attributes <> '{}'::jsonb"),
    ),
    # Runs that ended without a result, by cause (core.causes). One that has none was cancelled, has expired, or is an
    # older release's (docs/adr/0048).
    Index(
        "run_error",
        "process",
        text("(error ->> 'cause')"),
        "closed_at",
        postgresql_where=text("error IS NOT NULL AND closed_at IS NOT NULL"),
    ),
)

activity = Table(
    "activity",
    metadata,
    _run_id(primary_key=True),
    Column("key", Text, primary_key=True),
    Column("scope", Text, nullable=False, server_default=""),
    Column("ordinal", Integer, nullable=False),
    Column("parent_key", Text),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("queue", Text),
    Column("worker_id", Uuid),
    Column("policy", JSONB),
    Column("timeout_seconds", Double),
    Column("input", JSONB),
    Column("result", JSONB),
    Column("error", JSONB),
    _now("opened_at"),
    _time("claimed_at"),
    _time("settled_at"),
    # The run's revision that recorded the end: its place among the facts of the run (docs/adr/0030).
    Column("settled_revision", BigInteger),
    # A digest of the arguments, for replay to compare (core/argument_digests.py).
    Column("asked", Text),
    # An open set: what each means says its module (core.kinds).
    CheckConstraint("kind <> ''", name="kind"),
    CheckConstraint(
        "state IN ('pending', 'claimed', 'retrying', 'done', 'failed', 'timed_out', 'cancelled')",
        name="state",
    ),
    CheckConstraint(
        "state <> 'claimed' OR (worker_id IS NOT NULL AND claimed_at IS NOT NULL)", name="claim"
    ),
    CheckConstraint(
        "(settled_at IS NOT NULL) = (state IN ('done', 'failed', 'timed_out', 'cancelled'))",
        name="settled",
    ),
    CheckConstraint("attempt >= 1", name="attempt"),
    Index("activity_claimed", "worker_id", postgresql_where=text("state = 'claimed'")),
)

approval = Table(
    "approval",
    metadata,
    _run_id(primary_key=True),
    Column("key", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="open"),
    Column("assignees", ARRAY(Text), nullable=False),
    Column("escalations", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("escalation_level", Integer, nullable=False, server_default="0"),
    Column("quorum", Integer, nullable=False, server_default="1"),  # LEAVING
    # What has to come together where the first doesn't decide; and that it has, which no release before says.
    Column("rule", JSONB),
    Column("is_reached", Boolean, nullable=False, server_default=text("false")),
    _now("opened_at"),
    _time("deadline"),
    Column("decided_by", Text),
    _time("decided_at"),
    Column("comment", Text, nullable=False, server_default=""),
    # Keys that it had before a migration: links that name them mean this asking.
    Column("former_keys", ARRAY(Text), nullable=False, server_default="{}"),
    # How often what people see of it was changed while it was open, and what the last change was.
    Column("edition", Integer, nullable=False, server_default="0"),
    Column("changed", Text, nullable=False, server_default=""),
    CheckConstraint(
        "state IN ('open', 'approved', 'rejected', 'timed_out', 'cancelled')", name="state"
    ),
    CheckConstraint(
        "(decided_by IS NOT NULL) = (state IN ('approved', 'rejected'))", name="decided"
    ),
    CheckConstraint("quorum = 1", name="quorum"),
    CheckConstraint(
        "rule IS NULL OR is_reached OR state NOT IN ('approved', 'rejected')", name="reached"
    ),
    Index("approval_open", "opened_at", postgresql_where=text("state = 'open'")),
    Index(
        "approval_inbox",
        "assignees",
        postgresql_using="gin",
        postgresql_where=text("state = 'open'"),
    ),
)

approval_vote = Table(
    "approval_vote",
    metadata,
    _run_id(primary_key=True),
    Column("key", Text, primary_key=True),
    Column("person", Text, primary_key=True),
    Column("outcome", Text, nullable=False),
    Column("comment", Text, nullable=False, server_default=""),
    _now("at"),
    CheckConstraint("outcome IN ('approved', 'rejected')", name="outcome"),
)

# No primary key: nothing names a line of history, and the lines of a run share one entry of this index.
history = Table(
    "history",
    metadata,
    Column("run_id", Uuid, nullable=False),
    Column("id", BigInteger, Identity(always=True), nullable=False),
    _now("at"),
    Column("actor", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("key", Text),
    Column("attempt", Integer),
    Column("from_status", Text),
    Column("to_status", Text),
    Column("detail", JSONB),
    Index("history_of_run", "run_id"),
)

timer = Table(
    "timer",
    metadata,
    Column("id", Uuid, primary_key=True),
    _run_id(),
    Column("key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("level", Integer, nullable=False, server_default="0"),
    Column("state", Text, nullable=False, server_default="armed"),
    Column("indexed", Boolean, nullable=False, server_default=text("false")),
    _time("due_at", nullable=False),
    _now("armed_at"),
    _time("fired_at"),
    CheckConstraint("kind <> ''", name="kind"),
    CheckConstraint("state IN ('armed', 'fired', 'cancelled')", name="state"),
    CheckConstraint("(fired_at IS NOT NULL) = (state = 'fired')", name="fired"),
    Index("timer_of_run", "run_id", postgresql_where=text("state = 'armed'")),
    # Each armed timer stands in one of these two.
    Index("timer_indexed", "due_at", postgresql_where=text("state = 'armed' AND indexed")),
    Index("timer_to_index", "due_at", postgresql_where=text("state = 'armed' AND NOT indexed")),
)

signal = Table(
    "signal",
    metadata,
    Column("id", Uuid, primary_key=True),
    _run_id(),
    Column("name", Text, nullable=False),
    Column("signal_id", Text),
    Column("payload", JSONB),
    Column("sender", Text, nullable=False, server_default=""),
    _now("received_at"),
    Column("consumed_key", Text),
    Column("received_revision", BigInteger),
    UniqueConstraint("run_id", "signal_id"),
    Index("signal_buffered", "run_id", postgresql_where=text("consumed_key IS NULL")),
)

# What a partner answers with, by its hash; the token itself only while the stage that hands it on may be tried again
# (docs/adr/0050).
callback = Table(
    "callback",
    metadata,
    Column("hash", Text, primary_key=True),
    _run_id(),
    Column("key", Text, nullable=False),
    Column("stage_key", Text, nullable=False),
    Column("token", Text),
    _now("made_at"),
    Index("callback_of_run", "run_id"),
    Index(
        "callback_in_clear",
        "run_id",
        "key",
        "stage_key",
        unique=True,
        postgresql_where=text("token IS NOT NULL"),
    ),
)

# Where a signal by a correlation key and the wait for it meet: `paid[PAY-1]` (docs/adr/0050).
correlation = Table(
    "correlation",
    metadata,
    Column("name", Text, primary_key=True),
    Column("run_id", Uuid, ForeignKey("perennial.run.id", ondelete="CASCADE")),
    # How often it was claimed; what was sent before a claim, and how much of it claims have taken.
    Column("claims", BigInteger, nullable=False, server_default="0"),
    Column("signals", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("taken", Integer, nullable=False, server_default="0"),
    Column("taken_before", Integer, nullable=False, server_default="0"),
    _time("expires_at", nullable=False),
    Index("correlation_of_run", "run_id", postgresql_where=text("run_id IS NOT NULL")),
    Index("correlation_expires", "expires_at"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("task", Text, nullable=False),
    Column("queue", Text),
    _time("publish_at", nullable=False),
    Column("publishes", Integer, nullable=False, server_default="0"),
    _now("created_at"),
    # What a worker must be able to run, where no living one could when its message came.
    Column("needs", ARRAY(Text)),
    Index("outbox_due", "publish_at"),
    Index("outbox_needs", "run_id", postgresql_where=text("needs IS NOT NULL")),
)

worker = Table(
    "worker",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    _now("started_at"),
    _now("heartbeat_at"),
    # Of a Celery worker as a whole, where the other rows are of its processes: what it can run, which queues it
    # takes from, its code's own queue, and the lock that its session holds while it lives (docs/adr/0046).
    Column("can", ARRAY(Text)),
    Column("queues", ARRAY(Text)),
    Column("queue", Text),
    Column("lock", Integer),
    Index("worker_can", "id", postgresql_where=text("can IS NOT NULL")),
)

LEAVING = {approval.c.quorum}
"""Nothing writes them, and nothing reads them any more. A client of the release before asks for all columns of an
approval: so they stay until the next release, whose migration takes them away."""


def columns_in_use(table: Table) -> list[Column[Any]]:
    """Those of the table but what is to leave it."""
    return [column for column in table.columns if column not in LEAVING]
