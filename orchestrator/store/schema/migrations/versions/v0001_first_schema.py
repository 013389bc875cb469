"""The first schema: runs, their journal, approvals, timers, signals, history, outbox, workers."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Time has one door. Everything asks `perennial.now()`; a test moves it for its session with
# `SET perennial.now`. Within one statement it stands still.
NOW = """
CREATE FUNCTION perennial.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('perennial.now', true), '')::timestamptz, statement_timestamp())
$$;
"""

TABLES = """
CREATE TABLE perennial.history (
    run_id UUID NOT NULL,
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    actor TEXT NOT NULL,
    event TEXT NOT NULL,
    key TEXT,
    attempt INTEGER,
    from_status TEXT,
    to_status TEXT,
    detail JSONB,
    CONSTRAINT history_pkey PRIMARY KEY (run_id, id)
);
CREATE TABLE perennial.outbox (
    run_id UUID NOT NULL,
    key TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    task TEXT NOT NULL,
    queue TEXT,
    publish_at TIMESTAMP WITH TIME ZONE NOT NULL,
    publishes INTEGER DEFAULT '0' NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    CONSTRAINT outbox_pkey PRIMARY KEY (run_id, key)
);
CREATE INDEX outbox_due ON perennial.outbox (publish_at);
CREATE TABLE perennial.process (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    kind TEXT NOT NULL,
    spec JSONB NOT NULL,
    queue TEXT,
    expires_after_seconds DOUBLE PRECISION,
    deployed_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    deployed_by TEXT DEFAULT '' NOT NULL,
    CONSTRAINT process_pkey PRIMARY KEY (name, version),
    CONSTRAINT process_version_check CHECK (version >= 1),
    CONSTRAINT process_kind_check CHECK (kind IN ('python', 'declarative'))
);
CREATE TABLE perennial.schedule (
    name TEXT NOT NULL,
    process TEXT NOT NULL,
    cron TEXT NOT NULL,
    timezone TEXT DEFAULT 'UTC' NOT NULL,
    input JSONB,
    enabled BOOLEAN DEFAULT true NOT NULL,
    next_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT schedule_pkey PRIMARY KEY (name)
);
CREATE TABLE perennial.worker (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    heartbeat_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    CONSTRAINT worker_pkey PRIMARY KEY (id)
);
CREATE TABLE perennial.run (
    id UUID NOT NULL,
    process TEXT NOT NULL,
    version INTEGER NOT NULL,
    business_key TEXT,
    status TEXT NOT NULL,
    stage TEXT,
    previous_stage TEXT,
    waiting_for TEXT,
    revision BIGINT DEFAULT '0' NOT NULL,
    turn_revision BIGINT DEFAULT '-1' NOT NULL,
    turn_token UUID,
    turn_worker UUID,
    turn_claimed_at TIMESTAMP WITH TIME ZONE,
    turn_losses INTEGER DEFAULT '0' NOT NULL,
    queue TEXT,
    input JSONB,
    output JSONB,
    error JSONB,
    attributes JSONB DEFAULT '{}'::jsonb NOT NULL,
    parent_id UUID,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    last_progress_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    closed_at TIMESTAMP WITH TIME ZONE,
    active_milliseconds BIGINT DEFAULT '0' NOT NULL,
    CONSTRAINT run_pkey PRIMARY KEY (id),
    CONSTRAINT run_process_fkey FOREIGN KEY(process, version) REFERENCES perennial.process (name, version),
    CONSTRAINT run_process_business_key_key UNIQUE (process, business_key),
    CONSTRAINT run_status_check CHECK (status IN ('running', 'waiting', 'paused', 'incident',
        'completed', 'failed', 'cancelled', 'expired')),
    CONSTRAINT run_closed_check CHECK ((closed_at IS NOT NULL)
        = (status IN ('completed', 'failed', 'cancelled', 'expired')))
);
CREATE INDEX run_business_key ON perennial.run (business_key) WHERE business_key IS NOT NULL;
CREATE INDEX run_incident ON perennial.run (id) WHERE status = 'incident';
CREATE INDEX run_open ON perennial.run (id) WHERE closed_at IS NULL;
CREATE TABLE perennial.activity (
    run_id UUID NOT NULL,
    key TEXT NOT NULL,
    scope TEXT DEFAULT '' NOT NULL,
    ordinal INTEGER NOT NULL,
    parent_key TEXT,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER DEFAULT '1' NOT NULL,
    queue TEXT,
    worker_id UUID,
    policy JSONB,
    timeout_seconds DOUBLE PRECISION,
    input JSONB,
    result JSONB,
    error JSONB,
    opened_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    claimed_at TIMESTAMP WITH TIME ZONE,
    settled_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT activity_pkey PRIMARY KEY (run_id, key),
    CONSTRAINT activity_kind_check CHECK (kind IN ('stage', 'step', 'approval', 'signal', 'sleep')),
    CONSTRAINT activity_state_check CHECK (state IN ('pending', 'claimed', 'retrying', 'done', 'failed',
        'timed_out', 'cancelled')),
    CONSTRAINT activity_claim_check CHECK (state <> 'claimed' OR (worker_id IS NOT NULL AND claimed_at IS NOT NULL)),
    CONSTRAINT activity_settled_check CHECK ((settled_at IS NOT NULL)
        = (state IN ('done', 'failed', 'timed_out', 'cancelled'))),
    CONSTRAINT activity_attempt_check CHECK (attempt >= 1),
    CONSTRAINT activity_run_id_fkey FOREIGN KEY(run_id) REFERENCES perennial.run (id) ON DELETE CASCADE
);
CREATE INDEX activity_claimed ON perennial.activity (worker_id) WHERE state = 'claimed';
CREATE TABLE perennial.approval (
    run_id UUID NOT NULL,
    key TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT DEFAULT 'open' NOT NULL,
    assignees TEXT[] NOT NULL,
    escalations JSONB DEFAULT '[]'::jsonb NOT NULL,
    escalation_level INTEGER DEFAULT '0' NOT NULL,
    quorum INTEGER DEFAULT '1' NOT NULL,
    opened_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    deadline TIMESTAMP WITH TIME ZONE,
    decided_by TEXT,
    decided_at TIMESTAMP WITH TIME ZONE,
    comment TEXT DEFAULT '' NOT NULL,
    CONSTRAINT approval_pkey PRIMARY KEY (run_id, key),
    CONSTRAINT approval_state_check CHECK (state IN ('open', 'approved', 'rejected', 'timed_out', 'cancelled')),
    CONSTRAINT approval_decided_check CHECK ((decided_by IS NOT NULL) = (state IN ('approved', 'rejected'))),
    CONSTRAINT approval_quorum_check CHECK (quorum = 1),
    CONSTRAINT approval_run_id_fkey FOREIGN KEY(run_id) REFERENCES perennial.run (id) ON DELETE CASCADE
);
CREATE INDEX approval_inbox ON perennial.approval USING gin (assignees) WHERE state = 'open';
CREATE INDEX approval_open ON perennial.approval (opened_at) WHERE state = 'open';
CREATE TABLE perennial.approval_vote (
    run_id UUID NOT NULL,
    key TEXT NOT NULL,
    person TEXT NOT NULL,
    outcome TEXT NOT NULL,
    comment TEXT DEFAULT '' NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    CONSTRAINT approval_vote_pkey PRIMARY KEY (run_id, key, person),
    CONSTRAINT approval_vote_outcome_check CHECK (outcome IN ('approved', 'rejected')),
    CONSTRAINT approval_vote_run_id_fkey FOREIGN KEY(run_id) REFERENCES perennial.run (id) ON DELETE CASCADE
);
CREATE TABLE perennial.signal (
    id UUID NOT NULL,
    run_id UUID NOT NULL,
    name TEXT NOT NULL,
    signal_id TEXT,
    payload JSONB,
    sender TEXT DEFAULT '' NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    consumed_key TEXT,
    CONSTRAINT signal_pkey PRIMARY KEY (id),
    CONSTRAINT signal_run_id_signal_id_key UNIQUE (run_id, signal_id),
    CONSTRAINT signal_run_id_fkey FOREIGN KEY(run_id) REFERENCES perennial.run (id) ON DELETE CASCADE
);
CREATE INDEX signal_buffered ON perennial.signal (run_id) WHERE consumed_key IS NULL;
CREATE TABLE perennial.timer (
    id UUID NOT NULL,
    run_id UUID NOT NULL,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    attempt INTEGER DEFAULT '1' NOT NULL,
    level INTEGER DEFAULT '0' NOT NULL,
    state TEXT DEFAULT 'armed' NOT NULL,
    indexed BOOLEAN DEFAULT false NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE NOT NULL,
    armed_at TIMESTAMP WITH TIME ZONE DEFAULT perennial.now() NOT NULL,
    fired_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT timer_pkey PRIMARY KEY (id),
    CONSTRAINT timer_kind_check CHECK (kind IN ('sleep', 'signal-timeout', 'escalation', 'approval-timeout',
        'retry', 'expiry')),
    CONSTRAINT timer_state_check CHECK (state IN ('armed', 'fired', 'cancelled')),
    CONSTRAINT timer_fired_check CHECK ((fired_at IS NOT NULL) = (state = 'fired')),
    CONSTRAINT timer_run_id_fkey FOREIGN KEY(run_id) REFERENCES perennial.run (id) ON DELETE CASCADE
);
CREATE INDEX timer_due ON perennial.timer (due_at) WHERE state = 'armed';
CREATE INDEX timer_of_run ON perennial.timer (run_id) WHERE state = 'armed';
CREATE INDEX timer_to_index ON perennial.timer (due_at) WHERE state = 'armed' AND NOT indexed;

"""

# Rows of these change often and never grow in their indexed columns: leave room for HOT updates, and
# vacuum them before they bloat.
TUNING = """
ALTER TABLE perennial.run SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE perennial.outbox SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE perennial.worker SET (fillfactor = 50);
"""


def upgrade() -> None:
    """Create everything."""
    for script in (NOW, TABLES, TUNING):
        op.execute(script)


def downgrade() -> None:
    """Drop everything but the schema itself."""
    for table in (
        "schedule",
        "worker",
        "outbox",
        "signal",
        "timer",
        "history",
        "approval_vote",
        "approval",
        "activity",
        "run",
        "process",
    ):
        op.execute(f"DROP TABLE perennial.{table}")
    op.execute("DROP FUNCTION perennial.now()")
