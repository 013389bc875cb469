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
        text(
            "INSERT INTO perennial.process (name, version, fingerprint, kind, spec) VALUES ('p', 1, '', 'python', '{}')"
        )
    )
    connection.execute(
        text(
            "INSERT INTO perennial.run (id, process, version, business_key, status)"
            " VALUES (:id, 'p', 1, 'k', 'running')"
        ),
        {"id": RUN},
    )
    return connection


NEW_RUN = "INSERT INTO perennial.run (id, process, version, business_key, status) VALUES (gen_random_uuid(), "
NEW_ACTIVITY = """INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state, attempt, settled_at)
    VALUES (:id, 'a', 1, 'stage', 'a', """
HOLD = "turn_token = id, turn_worker = id, turn_claimed_at = perennial.now()"
NEW_TIMER = """INSERT INTO perennial.timer (id, run_id, key, due_at, kind, state)
    VALUES (gen_random_uuid(), :id, 'a', perennial.now(), """
NEW_APPROVAL = "INSERT INTO perennial.approval (run_id, key, name, assignees, state) VALUES (:id, 'm', 'm', '{bob}', "
NEW_PROCESS = "INSERT INTO perennial.process (fingerprint, spec, kind, name, version) VALUES ('', '{}', 'python', "


@pytest.mark.parametrize(
    ("refused", "by"),
    [
        (f"{NEW_RUN} 'p', 1, NULL, 'sleeping')", "run_status_check"),
        (f"{NEW_RUN} 'p', 2, NULL, 'running')", "run_process_fkey"),
        (f"{NEW_RUN} 'p', 1, 'k', 'running')", "run_business_key_process_key"),
        ("UPDATE perennial.run SET status = 'completed'", "run_closed_check"),
        ("UPDATE perennial.run SET status = 'incident'", "run_incident_check"),
        ("UPDATE perennial.run SET closed_at = perennial.now()", "run_closed_check"),
        ("UPDATE perennial.run SET turn_token = gen_random_uuid()", "run_turn_check"),
        ("UPDATE perennial.run SET turn_worker = gen_random_uuid()", "run_turn_check"),
        ("UPDATE perennial.run SET turn_claimed_at = perennial.now()", "run_turn_check"),
        (
            f"UPDATE perennial.run SET status = 'failed', closed_at = now(), {HOLD}",
            "run_closed_turn_check",
        ),
        (f"{NEW_ACTIVITY} 'claimed', 1, NULL)", "activity_claim_check"),
        (f"{NEW_ACTIVITY} 'done', 1, NULL)", "activity_settled_check"),
        (f"{NEW_ACTIVITY} 'pending', 1, perennial.now())", "activity_settled_check"),
        (f"{NEW_ACTIVITY} 'pending', 0, NULL)", "activity_attempt_check"),
        (f"{NEW_APPROVAL} 'approved')", "approval_decided_check"),
        (f"{NEW_TIMER} 'sleep', 'fired')", "timer_fired_check"),
        (f"{NEW_TIMER} '', 'armed')", "timer_kind_check"),
        (f"{NEW_PROCESS} 'p', 0)", "process_version_check"),
    ],
)
def test_the_record_refuses_what_contradicts_itself(record, refused, by):
    with pytest.raises(IntegrityError, match=by):
        record.execute(text(refused), {"id": RUN})


def test_a_run_without_a_key_is_no_duplicate(record):
    for _ in range(2):
        record.execute(
            text(
                "INSERT INTO perennial.run (id, process, version, status) VALUES (gen_random_uuid(), 'p', 1, 'running')"
            )
        )


def test_deleting_a_run_takes_what_hangs_on_it_and_leaves_its_history(record):
    record.execute(text(f"{NEW_ACTIVITY} 'pending', 1, NULL)"), {"id": RUN})
    record.execute(
        text("INSERT INTO perennial.history (run_id, actor, event) VALUES (:id, 'x', 'started')"),
        {"id": RUN},
    )
    record.execute(text("DELETE FROM perennial.run"))
    assert record.execute(text("SELECT count(*) FROM perennial.activity")).scalar() == 0
    assert record.execute(text("SELECT count(*) FROM perennial.history")).scalar() == 1
