"""Each rule of the record (store/schema/rules.py): what it refuses, how it says so, and what it lets be."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from orchestrator.store.schema.rules import RULES

OPEN, CLOSED, WORKER = UUID(int=1), UUID(int=2), UUID(int=3)

# A run with everything open and one of each that is over, and a run that has ended.
RECORD = f"""
INSERT INTO perennial.process (name, version, fingerprint, kind, spec) VALUES ('p', 1, '', 'python', '{{}}');
INSERT INTO perennial.run (id, process, version, status, revision, turn_token, turn_worker, turn_claimed_at,
    turn_lease_seconds) VALUES ('{OPEN}', 'p', 1, 'running', 7, gen_random_uuid(), '{WORKER}', perennial.now(), 6);
INSERT INTO perennial.run (id, process, version, status, closed_at) VALUES ('{CLOSED}', 'p', 1, 'completed',
    perennial.now());
INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state, attempt, worker_id, claimed_at, settled_at)
    VALUES ('{OPEN}', 'at-work', 1, 'stage', 'a', 'claimed', 2, '{WORKER}', perennial.now(), NULL),
    ('{OPEN}', 'over', 2, 'stage', 'a', 'done', 1, '{WORKER}', perennial.now(), perennial.now());
INSERT INTO perennial.approval (run_id, key, name, assignees, state, decided_by) VALUES
    ('{OPEN}', 'asked', 'm', '{{bob}}', 'open', NULL), ('{OPEN}', 'over', 'm', '{{bob}}', 'approved', 'bob');
INSERT INTO perennial.approval_vote (run_id, key, person, outcome) VALUES ('{OPEN}', 'over', 'bob', 'approved');
INSERT INTO perennial.timer (id, run_id, key, kind, due_at, state, fired_at) VALUES
    (gen_random_uuid(), '{OPEN}', 'armed', 'sleep', perennial.now(), 'armed', NULL),
    (gen_random_uuid(), '{OPEN}', 'over', 'sleep', perennial.now(), 'fired', perennial.now()),
    (gen_random_uuid(), '{OPEN}', 'withdrawn', 'sleep', perennial.now(), 'cancelled', NULL),
    (gen_random_uuid(), '{OPEN}', 'ends-the-run', 'expiry', perennial.now(), 'cancelled', NULL);
INSERT INTO perennial.signal (id, run_id, name, consumed_key) VALUES (gen_random_uuid(), '{OPEN}', 'over', 'go'),
    (gen_random_uuid(), '{OPEN}', 'buffered', NULL);
INSERT INTO perennial.outbox (run_id, key, attempt, task, publish_at) VALUES ('{OPEN}', '', 1, 'advance',
    perennial.now());
INSERT INTO perennial.history (run_id, actor, event, key, at) VALUES ('{OPEN}', 'x', 'y', 'old', '2020-01-01'),
    ('{OPEN}', 'x', 'y', 'new', '2025-01-01');
"""


@pytest.fixture
def record(connection: Connection) -> Connection:
    connection.execute(text(RECORD))
    return connection


RUN = "UPDATE perennial.run SET"
NO_TURN = "turn_token = NULL, turn_worker = NULL, turn_claimed_at = NULL"
END = f"{RUN} status = 'cancelled', closed_at = perennial.now(), {NO_TURN} WHERE id = '{OPEN}'"
NOTHING_OPEN = {
    "activity": "UPDATE perennial.activity SET state = 'cancelled', settled_at = now() WHERE settled_at IS NULL",
    "approval": "UPDATE perennial.approval SET state = 'cancelled' WHERE state = 'open'",
    "timer": "UPDATE perennial.timer SET state = 'cancelled' WHERE state = 'armed'",
    "outbox": "DELETE FROM perennial.outbox",
}
DROP_OLD = "SET LOCAL perennial.drop_history_before = '2024-01-01'"


def all_but(left: str) -> str:
    return ";".join(statement for table, statement in NOTHING_OPEN.items() if table != left)


# By rule: statements that break it.
REFUSED = {
    "run_closed_stands": [
        f"{RUN} status = 'failed' WHERE id = '{CLOSED}'",
        f"{RUN} status = 'running', closed_at = NULL WHERE id = '{CLOSED}'",
        f"{RUN} closed_at = perennial.now() WHERE id = '{CLOSED}'",
        f"{RUN} output = '1' WHERE id = '{CLOSED}'",
        f"{RUN} error = '{{}}' WHERE id = '{CLOSED}'",
    ],
    "run_revision_grows": [f"{RUN} revision = 6 WHERE id = '{OPEN}'"],
    "run_turn_is_held": [
        f"{RUN} turn_token = gen_random_uuid() WHERE id = '{OPEN}'",
        (
            f"{RUN} turn_token = gen_random_uuid(), turn_worker = gen_random_uuid(), turn_claimed_at = perennial.now(),"
            f" turn_losses = turn_losses + 1 WHERE id = '{OPEN}'"
        ),
    ],
    "run_leaves_nothing_open": [f"{END}; {all_but(left)}" for left in NOTHING_OPEN],
    "activity_settled_stands": [
        "UPDATE perennial.activity SET result = '2' WHERE key = 'over'",
        "UPDATE perennial.activity SET state = 'failed', settled_at = perennial.now() WHERE key = 'over'",
        "UPDATE perennial.activity SET state = 'pending', settled_at = NULL, attempt = 2 WHERE key = 'over'",
        "UPDATE perennial.activity SET key = 'another' WHERE key = 'over'",
    ],
    "activity_attempts_grow": ["UPDATE perennial.activity SET attempt = 1 WHERE key = 'at-work'"],
    "activity_claim_stands": [
        "UPDATE perennial.activity SET worker_id = gen_random_uuid() WHERE key = 'at-work'",
        "UPDATE perennial.activity SET state = 'pending', worker_id = NULL, claimed_at = NULL WHERE key = 'at-work'",
    ],
    "activity_of_open_run": [
        (
            "INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state)"
            f" VALUES ('{CLOSED}', 'at-work', 1, 'stage', 'a', 'pending')"
        ),
        f"UPDATE perennial.activity SET run_id = '{CLOSED}' WHERE key = 'at-work'",
    ],
    "approval_closed_stands": [
        "UPDATE perennial.approval SET state = 'rejected', decided_by = 'eve' WHERE key = 'over'",
        "UPDATE perennial.approval SET state = 'open', decided_by = NULL WHERE key = 'over'",
        "UPDATE perennial.approval SET comment = 'never mind' WHERE key = 'over'",
    ],
    "approval_of_open_run": [
        f"INSERT INTO perennial.approval (run_id, key, name, assignees) VALUES ('{CLOSED}', 'asked', 'm', '{{bob}}')"
    ],
    "approval_vote_stands": ["UPDATE perennial.approval_vote SET outcome = 'rejected'"],
    "timer_ended_stands": [
        f"UPDATE perennial.timer SET state = '{state}', fired_at = {at} WHERE key = '{key}'"
        for key in ("over", "withdrawn")
        for state, at in (("armed", "NULL"), ("fired", "perennial.now()"), ("cancelled", "NULL"))
    ],
    "timer_of_open_run": [
        (
            "INSERT INTO perennial.timer (id, run_id, key, kind, due_at)"
            f" VALUES (gen_random_uuid(), '{CLOSED}', 'armed', 'sleep', perennial.now())"
        )
    ],
    "signal_consumed_stands": [
        "UPDATE perennial.signal SET consumed_key = 'go#2' WHERE name = 'over'",
        "UPDATE perennial.signal SET consumed_key = NULL WHERE name = 'over'",
    ],
    "history_stands": [
        "UPDATE perennial.history SET actor = 'somebody else'",
        f"{DROP_OLD}; UPDATE perennial.history SET actor = 'somebody else' WHERE key = 'old'",
    ],
    "history_stays": [
        "DELETE FROM perennial.history WHERE key = 'old'",
        f"{DROP_OLD}; DELETE FROM perennial.history",
        "SET LOCAL perennial.drop_history_before = ''; DELETE FROM perennial.history",
    ],
    "history_is_not_emptied": [
        "TRUNCATE perennial.history",
        f"{DROP_OLD}; TRUNCATE perennial.history",
    ],
}
CASES = [
    pytest.param(rule, statement, id=f"{rule.name}-{number}")
    for rule in RULES
    for number, statement in enumerate(REFUSED[rule.name], start=1)
]


def write(record: Connection, statements: str) -> None:
    """Write, and let what is judged at the end of a transaction be judged now."""
    for statement in statements.split(";"):
        record.execute(text(statement))
    record.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))


@pytest.mark.parametrize(("rule", "statement"), CASES)
def test_the_record_refuses_what_breaks_a_rule(record, rule, statement):
    with pytest.raises(IntegrityError) as refused:
        write(record, statement)
    cause = refused.value.orig
    assert isinstance(cause, psycopg.errors.IntegrityConstraintViolation)
    assert cause.diag.constraint_name == rule.name
    assert cause.diag.table_name == rule.table


@pytest.mark.parametrize(("rule", "statement"), CASES)
def test_without_its_rule_it_is_written(record, rule, statement):
    record.execute(text(f"ALTER TABLE perennial.{rule.table} DISABLE TRIGGER {rule.name}"))
    write(record, statement)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "UPDATE perennial.activity SET result = '2' WHERE key = 'over'",
            f"an activity that is settled never changes: activity over of run {OPEN} (rule activity_settled_stands)",
        ),
        (
            f"{END}; {all_but('timer')}",
            (
                "a run that ends leaves nothing open, but timer sleep of armed is armed:"
                f" run {OPEN} (rule run_leaves_nothing_open)"
            ),
        ),
        ("TRUNCATE perennial.history", "history stays: history (rule history_is_not_emptied)"),
    ],
)
def test_a_refusal_says_what_is_wrong_where_and_by_which_rule(record, statement, says):
    with pytest.raises(IntegrityError) as refused:
        write(record, statement)
    assert refused.value.orig.diag.message_primary == says


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(f"{END}; {all_but('')}", id="a run is closed before what it leaves"),
        pytest.param(f"{all_but('')}; {END}", id="a run is closed after what it leaves"),
        pytest.param(
            f"{RUN} attributes = '{{}}' WHERE id = '{CLOSED}'", id="a closed run is annotated"
        ),
        pytest.param(
            "UPDATE perennial.activity SET state = 'retrying', attempt = 3 WHERE key = 'at-work';"
            "UPDATE perennial.activity SET state = 'pending', worker_id = NULL WHERE key = 'at-work';"
            "UPDATE perennial.activity SET state = 'claimed', worker_id = gen_random_uuid() WHERE key = 'at-work'",
            id="the next attempt is another worker's",
        ),
        pytest.param(
            "INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state, settled_at)"
            f" VALUES ('{CLOSED}', 's', 1, 'step', 's', 'done', perennial.now())",
            id="a step is remembered as its run closes",
        ),
        pytest.param(
            f"{RUN} turn_claimed_at = turn_claimed_at - interval '7 seconds';"
            f"{RUN} turn_token = gen_random_uuid() WHERE id = '{OPEN}'",
            id="a lost turn is taken over",
        ),
        pytest.param(
            f"{RUN} turn_lease_seconds = NULL; {RUN} turn_token = gen_random_uuid() WHERE id = '{OPEN}'",
            id="a turn is taken from a worker of 0.1",
        ),
        pytest.param(
            "UPDATE perennial.timer SET state = 'fired', fired_at = perennial.now() WHERE kind = 'expiry'",
            id="an expiry is fired by a worker of 0.1",
        ),
        pytest.param(
            f"{DROP_OLD}; DELETE FROM perennial.history WHERE key = 'old'",
            id="old history is dropped by who says so",
        ),
        pytest.param(f"DELETE FROM perennial.run WHERE id = '{OPEN}'", id="a run is deleted"),
    ],
)
def test_the_rules_let_be_what_is_right(record, statement):
    write(record, statement)


def test_a_turn_whose_worker_beats_is_held_however_long_ago_it_was_taken(record):
    write(
        record,
        "UPDATE perennial.run SET turn_claimed_at = perennial.now() - interval '1 hour' WHERE turn_token IS NOT NULL;"
        f"INSERT INTO perennial.worker (id, name, pid) VALUES ('{WORKER}', 'w', 1)",
    )
    with pytest.raises(IntegrityError, match="run_turn_is_held"):
        write(record, f"{RUN} turn_token = gen_random_uuid() WHERE id = '{OPEN}'")


def test_every_rule_has_a_statement_that_breaks_it():
    assert {rule.name for rule in RULES} == {name for name, broken in REFUSED.items() if broken}
