"""The rows that the commit of a turn is given, each kind in one parameter."""

from __future__ import annotations

from orchestrator.store.rowset import RowSet

# What is known of each turn. Lists are rows of their own, found by their run.
TURNS = RowSet(
    "turns",
    """run_id uuid, revision bigint, turn_token uuid, status text, stage text, waiting_for text,
    output text, error jsonb, closes boolean, goes_on boolean, queue text, unsettled text[],
    consumed_keys text[], active_milliseconds bigint, settled_key text, settled_attempt int,
    settled_state text, settled_result text, settled_error jsonb, settled_at timestamptz, outstanding int,
    attributes text, status_text text, children int""",
)
ACTIVITIES = RowSet(
    "opened",
    """run_id uuid, key text, scope text, ordinal int, kind text, name text, state text, attempt int, queue text,
    policy jsonb, timeout_seconds float8, asked text, input text, result text, error jsonb, settled_at timestamptz,
    settled_revision bigint, worker_id uuid, claims boolean,
    child_id uuid""",
)
SIGNALS = RowSet("consumed", "run_id uuid, key text, signal_id uuid")
TIMERS = RowSet(
    "timers",
    "run_id uuid, id uuid, key text, kind text, level int, delay_seconds float8, at timestamptz",
)
APPROVALS = RowSet(
    "approvals",
    """run_id uuid, key text, name text, assignees text[], escalations jsonb, timeout_seconds float8,
    deadline timestamptz, edition int, rule jsonb""",
)
HANDOFFS = RowSet("handoffs", "run_id uuid, key text, attempt int, task text, queue text")
HISTORY = RowSet(
    "history",
    """run_id uuid, actor text, event text, key text, attempt int, from_status text, to_status text,
    detail jsonb""",
)
