"""Waiting costs less: fewer indexes, none that a run's status is in, and tables that are vacuumed in time.

Expand only: each index that goes is replaced by one that serves what a worker of the release before asks.
(docs/adr/0020)
"""

from __future__ import annotations

from alembic import op

from orchestrator.store.schema.migrations.versions.v0002_the_record_refuses import LOCK

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

RUN = """
ALTER TABLE perennial.run
    ADD CONSTRAINT run_business_key_process_key UNIQUE (business_key, process),
    DROP CONSTRAINT run_process_business_key_key,
    ADD CONSTRAINT run_incident_check CHECK (status <> 'incident' OR error IS NOT NULL);
DROP INDEX perennial.run_business_key;
DROP INDEX perennial.run_incident;
CREATE INDEX run_incident ON perennial.run (id) WHERE closed_at IS NULL AND error IS NOT NULL;
"""

HISTORY = """
CREATE INDEX history_of_run ON perennial.history (run_id);
ALTER TABLE perennial.history DROP CONSTRAINT history_pkey;
"""

# What is not due soon stands in `timer_to_index` alone, and what is in Redis's index in this one alone.
TIMER = """
CREATE INDEX timer_indexed ON perennial.timer (due_at) WHERE state = 'armed' AND indexed;
DROP INDEX perennial.timer_due;
"""

# Dead rows are made at a steady pace, however many runs are retained: a share of the whole table, as is the
# default, would let them pile up with its age.
TUNING = """
ALTER TABLE perennial.activity SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE perennial.timer SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE perennial.approval SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE perennial.signal SET (autovacuum_vacuum_scale_factor = 0.02);
"""


def upgrade() -> None:
    """Exchange the indexes."""
    for script in (LOCK, RUN, HISTORY, TIMER, TUNING):
        op.execute(script)


def downgrade() -> None:
    """As it was."""
    op.execute(LOCK)
    op.execute(
        """
ALTER TABLE perennial.run
    ADD CONSTRAINT run_process_business_key_key UNIQUE (process, business_key),
    DROP CONSTRAINT run_business_key_process_key, DROP CONSTRAINT run_incident_check;
DROP INDEX perennial.run_incident;
CREATE INDEX run_business_key ON perennial.run (business_key) WHERE business_key IS NOT NULL;
CREATE INDEX run_incident ON perennial.run (id) WHERE status = 'incident';
ALTER TABLE perennial.history ADD CONSTRAINT history_pkey PRIMARY KEY (run_id, id);
DROP INDEX perennial.history_of_run;
CREATE INDEX timer_due ON perennial.timer (due_at) WHERE state = 'armed';
DROP INDEX perennial.timer_indexed;
ALTER TABLE perennial.activity RESET (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE perennial.timer RESET (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE perennial.approval RESET (autovacuum_vacuum_scale_factor);
ALTER TABLE perennial.signal RESET (autovacuum_vacuum_scale_factor);
"""
    )
