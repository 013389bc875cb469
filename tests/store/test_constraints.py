"""What the record refuses to hold, whoever writes it."""

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

RUN = uuid4()


@pytest.fixture
def record(connection: Connection) -> Connection:
    connection.execute(
        text("INSERT INTO perennial.process (name, version, fingerprint, kind, spec) VALUES ('p', 1, '', 'python', '{}')")
    )
    connection.execute(
        text("INSERT INTO perennial.run (id, process, version, business_key, status) VALUES (:id, 'p', 1, 'k', 'running')"),
        {"id": RUN},
    )
    return connection


@pytest.mark.parametrize(
    ("refused", "by"),
    [
        ("INSERT INTO perennial.run (id, process, version, status) VALUES (gen_random_uuid(), 'p', 1, 'sleeping')", "run_status_check"),
        ("INSERT INTO perennial.run (id, process, version, status) VALUES (gen_random_uuid(), 'p', 2, 'running')", "run_process_fkey"),
        (
            "INSERT INTO perennial.run (id, process, version, business_key, status) "
            "VALUES (gen_random_uuid(), 'p', 1, 'k', 'running')",
            "run_process_business_key_key",
        ),
        ("UPDATE perennial.run SET status = 'completed'", "run_closed_check"),
        ("UPDATE perennial.run SET closed_at = perennial.now()", "run_closed_check"),
        (
            "INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state) "
            "VALUES (:id, 'a', 1, 'stage', 'a', 'claimed')",
            "activity_claim_check",
        ),
        (
            "INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state) "
            "VALUES (:id, 'a', 1, 'stage', 'a', 'done')",
            "activity_settled_check",
        ),
        (
            "INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state, settled_at) "
            "VALUES (:id, 'a', 1, 'stage', 'a', 'pending', perennial.now())",
            "activity_settled_check",
        ),
        (
            "INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state, attempt) "
            "VALUES (:id, 'a', 1, 'stage', 'a', 'pending', 0)",
            "activity_attempt_check",
        ),
        (
            "INSERT INTO perennial.approval (run_id, key, name, assignees, state) VALUES (:id, 'm', 'm', '{bob}', 'approved')",
            "approval_decided_check",
        ),
        (
            "INSERT INTO perennial.timer (id, run_id, key, kind, due_at, state) "
            "VALUES (gen_random_uuid(), :id, 'a', 'sleep', perennial.now(), 'fired')",
            "timer_fired_check",
        ),
        (
            "INSERT INTO perennial.timer (id, run_id, key, kind, due_at) "
            "VALUES (gen_random_uuid(), :id, 'a', 'someday', perennial.now())",
            "timer_kind_check",
        ),
        ("INSERT INTO perennial.process (name, version, fingerprint, kind, spec) VALUES ('p', 0, '', 'python', '{}')", "process_version_check"),
    ],
)
def test_the_record_refuses_what_contradicts_itself(record, refused, by):
    with pytest.raises(IntegrityError, match=by):
        record.execute(text(refused), {"id": RUN})


def test_a_run_without_a_key_is_no_duplicate(record):
    for _ in range(2):
        record.execute(
            text("INSERT INTO perennial.run (id, process, version, status) VALUES (gen_random_uuid(), 'p', 1, 'running')")
        )


def test_deleting_a_run_takes_what_hangs_on_it_and_leaves_its_history(record):
    record.execute(
        text("INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state) VALUES (:id, 'a', 1, 'stage', 'a', 'pending')"),
        {"id": RUN},
    )
    record.execute(text("INSERT INTO perennial.history (run_id, actor, event) VALUES (:id, 'x', 'started')"), {"id": RUN})
    record.execute(text("DELETE FROM perennial.run"))
    assert record.execute(text("SELECT count(*) FROM perennial.activity")).scalar() == 0
    assert record.execute(text("SELECT count(*) FROM perennial.history")).scalar() == 1
