"""Each verb's guard: what it writes, and what it leaves alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text

from orchestrator.core.journal import ActivityState
from orchestrator.store.transitions import (
    approvals,
    lost_attempts,
    outbox,
    signals,
    timers,
    turns,
    workers,
)
from orchestrator.store.transitions.claim import (
    claim_activity_if_pending,
    remember_step_if_claimed,
    retry_attempt_if_claimed,
)
from orchestrator.store.transitions.close import close_run_if_open, move_run_if_in
from orchestrator.store.transitions.fire import Fired, fire_timers_if_due
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.processes import InputOf
from orchestrator.store.transitions.start import NewRun, Terms, start_runs

WORKER = uuid4()
NOON = "2030-01-01 12:00:00+00"


@pytest.fixture
def record(connection: Connection) -> Connection:
    connection.execute(text(f"SET LOCAL perennial.now = '{NOON}'"))
    connection.execute(
        text(
            "INSERT INTO perennial.process (name, version, fingerprint, kind, spec) VALUES ('p', 1, '', 'python', '{}')"
        )
    )
    return connection


@pytest.fixture
def run_id(record: Connection) -> UUID:
    new = NewRun(uuid4(), None, "null", Terms("{}", None, "x"))
    checked = InputOf(1, None, None)
    (started,) = start_runs(record, "p", [new], version=None, checked=checked) or ()
    return started.run_id


def value(connection: Connection, sql: str) -> object:
    return connection.execute(text(sql)).scalar_one()


def open_stage(
    connection: Connection,
    run_id: UUID,
    key: str = "work",
    state: str = "pending",
    attempt: int = 1,
) -> None:
    connection.execute(
        text(
            """INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state, attempt, worker_id, claimed_at)
            VALUES (:run_id, :key, 1, 'stage', 'work', :state, :attempt, :worker, perennial.now())"""
        ),
        {"run_id": run_id, "key": key, "state": state, "attempt": attempt, "worker": WORKER},
    )


# -- claims and attempts -------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["claimed", "retrying"])
def test_only_a_pending_attempt_is_claimed(record, run_id, state):
    open_stage(record, run_id, state=state)
    assert claim_activity_if_pending(record, run_id, "work", 1, worker_id=WORKER) is None


@pytest.mark.parametrize("attempt", [1, 3])
def test_only_the_attempt_that_is_due_is_claimed(record, run_id, attempt):
    open_stage(record, run_id, attempt=2)
    assert claim_activity_if_pending(record, run_id, "work", attempt, worker_id=WORKER) is None
    assert claim_activity_if_pending(record, run_id, "work", 2, worker_id=WORKER) is not None


def test_a_claim_takes_its_own_handoff_and_leaves_the_others(record, run_id):
    open_stage(record, run_id)
    for key in ("work", "other"):
        outbox.hand_off(record, Handoff(run_id, key, 1, key, None), relay_after=5)
    assert claim_activity_if_pending(record, run_id, "work", 1, worker_id=WORKER)
    rows = record.execute(text("SELECT key FROM perennial.outbox ORDER BY key")).all()
    assert [row.key for row in rows] == ["", "other"]


@pytest.mark.parametrize(("state", "attempt"), [("pending", 1), ("claimed", 2), ("retrying", 1)])
def test_a_step_is_remembered_for_the_claimed_attempt_alone(record, run_id, state, attempt):
    open_stage(record, run_id, state=state, attempt=attempt)
    assert not remember_step_if_claimed(
        record,
        run_id,
        parent_key="work",
        parent_attempt=1,
        key="work/f",
        ordinal=1,
        name="f",
        result="1",
    )


def test_a_failed_attempt_rests_with_the_next_number_and_a_timer(record, run_id):
    open_stage(record, run_id, state="claimed")
    is_ours, armed = retry_attempt_if_claimed(
        record,
        run_id,
        "work",
        1,
        error={"type": "E"},
        delay_seconds=30,
        actor="w",
        active_milliseconds=7,
        queue="q",
        horizon_seconds=60,
    )
    assert is_ours
    assert armed is not None
    assert (armed.remaining_seconds, armed.queue) == (30, "q")
    row = record.execute(text("SELECT state, attempt, error FROM perennial.activity")).one()
    assert tuple(row) == ("retrying", 2, {"type": "E"})
    assert value(record, "SELECT due_at - perennial.now() FROM perennial.timer") == timedelta(
        seconds=30
    )
    assert value(record, "SELECT active_milliseconds FROM perennial.run") == 7


# -- turns ---------------------------------------------------------------------------------------


def hold(
    connection: Connection, run_id: UUID, token: UUID, revision: int = 0, worker: UUID = WORKER
) -> int | None:
    return turns.hold_turn(
        connection, run_id, revision=revision, turn_token=token, worker_id=worker, dead_after=6
    )


def test_a_turn_is_held_by_one_until_it_is_released(record, run_id):
    mine, theirs = uuid4(), uuid4()
    assert hold(record, run_id, mine) == 0
    assert hold(record, run_id, mine) == 0
    assert hold(record, run_id, theirs) is None
    turns.release_turn(record, run_id, turn_token=theirs)
    assert hold(record, run_id, theirs) is None
    turns.release_turn(record, run_id, turn_token=mine)
    assert hold(record, run_id, theirs) == 0


@pytest.mark.parametrize(
    ("claimed_seconds_ago", "beat_seconds_ago", "is_free"),
    [
        (1, None, False),
        (7, None, True),
        (7, 1, False),
        (7, 7, True),
        (1, 7, False),
        (3600, 2, False),
    ],
)
def test_a_held_turn_is_freed_when_its_worker_has_been_silent_for_long(
    record, run_id, claimed_seconds_ago, beat_seconds_ago, is_free
):
    """By that one verb, which counts it. To hold a turn judges nobody."""
    hold(record, run_id, uuid4())
    record.execute(
        text(
            "UPDATE perennial.run SET turn_claimed_at = perennial.now() - :ago * interval '1 second'"
        ),
        {"ago": claimed_seconds_ago},
    )
    if beat_seconds_ago is not None:
        workers.beat(record, [WORKER], name="w", pid=1)
        record.execute(
            text(
                "UPDATE perennial.worker SET heartbeat_at = perennial.now() - :ago * interval '1 second'"
            ),
            {"ago": beat_seconds_ago},
        )
    freed = turns.free_turn_if_lost(record, run_id, dead_after=6)
    assert (freed is not None) is is_free
    assert hold(record, run_id, uuid4(), worker=uuid4()) == (1 if is_free else None)


@pytest.mark.parametrize("status", ["paused", "incident", "cancelled"])
def test_the_turn_of_a_run_that_does_not_move_is_not_held(record, run_id, status):
    record.execute(
        text(
            "UPDATE perennial.run SET status = :status, error = '{}',"
            " closed_at = CASE WHEN :status = 'cancelled' THEN perennial.now() END"
        ),
        {"status": status},
    )
    assert hold(record, run_id, uuid4()) is None


# -- facts ---------------------------------------------------------------------------------------


def test_every_fact_raises_the_revision(record, run_id):
    open_wait(record, run_id, "a", "sleep")

    def revision() -> object:
        return value(record, "SELECT revision FROM perennial.run")

    facts = [
        lambda: signals.signal_run_if_open(
            record, run_id, name="n", payload="1", signal_id=None, sender="x"
        ),
        lambda: move_run_if_in(
            record, run_id, status="paused", from_statuses=["running"], actor="x", event="paused"
        ),
        lambda: move_run_if_in(
            record, run_id, status="running", from_statuses=["paused"], actor="x", event="resumed"
        ),
        lambda: lost_attempts.raise_revision(record, run_id),
        lambda: fire(record, arm(record, run_id, 0)),
        lambda: close_run_if_open(record, run_id, status="cancelled", actor="x", error=None),
    ]
    for count, fact in enumerate(facts, start=1):
        fact()
        assert revision() == count


def test_what_is_refused_raises_nothing(record, run_id):
    assert signals.signal_run_if_open(
        record, run_id, name="n", payload="1", signal_id="a", sender="x"
    )
    assert not signals.signal_run_if_open(
        record, run_id, name="n", payload="1", signal_id="a", sender="x"
    )
    assert not move_run_if_in(
        record, run_id, status="running", from_statuses=["paused"], actor="x", event="resumed"
    )
    assert (
        approvals.decide_if_allowed(record, run_id, "m", outcome="approved", by="bob", comment="")
        is None
    )
    assert value(record, "SELECT revision FROM perennial.run") == 1


def test_one_advance_is_enough_and_a_new_fact_never_waits_for_an_old_ones_interval(record, run_id):
    record.execute(
        text("UPDATE perennial.outbox SET publish_at = perennial.now() + interval '1 hour'")
    )
    assert outbox.ask_for_turn(record, run_id, relay_after=5) is not None
    soon = "publish_at <= perennial.now() + interval '5 seconds'"
    assert value(record, f"SELECT count(*) FROM perennial.outbox WHERE {soon}") == 1
    assert value(record, "SELECT count(*) FROM perennial.outbox") == 1


def test_a_closed_run_asks_for_no_turn(record, run_id):
    close_run_if_open(record, run_id, status="cancelled", actor="x", error=None)
    assert outbox.ask_for_turn(record, run_id, relay_after=5) is None
    assert not signals.signal_run_if_open(
        record, run_id, name="n", payload="1", signal_id=None, sender="x"
    )
    assert not close_run_if_open(record, run_id, status="expired", actor="x", error=None)
    assert value(record, "SELECT status FROM perennial.run") == "cancelled"


# -- handoffs ------------------------------------------------------------------------------------


def test_a_handoff_that_nobody_claims_is_sent_again_at_growing_intervals(record, run_id):
    delays = []
    for _ in range(9):
        (due,) = outbox.take_due_handoffs(record, relay_after=5, dead_after=6, limit=10)
        assert not outbox.take_due_handoffs(record, relay_after=5, dead_after=6, limit=10)
        delays.append(
            value(
                record,
                "SELECT extract(epoch FROM publish_at - perennial.now())::int FROM perennial.outbox",
            )
        )
        record.execute(text("UPDATE perennial.outbox SET publish_at = perennial.now()"))
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert due.run_id == run_id


def test_a_later_attempts_handoff_replaces_the_earlier(record, run_id):
    for attempt in (1, 2):
        outbox.hand_off(record, Handoff(run_id, "work", attempt, "work", "q"), relay_after=5)
    row = record.execute(
        text("SELECT attempt, publishes FROM perennial.outbox WHERE key = 'work'")
    ).one()
    assert tuple(row) == (2, 1)


def test_when_redis_was_emptied_every_handoff_is_due_at_once(record, run_id):
    outbox.hand_off(record, Handoff(run_id, "work", 1, "work", "q"), relay_after=500)
    outbox.make_all_handoffs_due(record)
    assert len(outbox.take_due_handoffs(record, relay_after=5, dead_after=6, limit=10)) == 2


# -- timers --------------------------------------------------------------------------------------


def fire(connection: Connection, timer_id: UUID) -> Fired:
    return fire_timers_if_due(connection, [timer_id], relay_after=5)


def open_wait(
    connection: Connection, run_id: UUID, key: str, kind: str, state: str = "pending"
) -> None:
    connection.execute(
        text(
            """INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state, settled_at)
            VALUES (:run_id, :key, 1, :kind, :key, :state, CASE WHEN :state = 'done' THEN perennial.now() END)"""
        ),
        {"run_id": run_id, "key": key, "kind": kind, "state": state},
    )


def arm(connection: Connection, run_id: UUID, seconds: float, **columns: object) -> UUID:
    timer_id = uuid4()
    connection.execute(
        text(
            """INSERT INTO perennial.timer (id, run_id, key, kind, level, due_at, state, indexed, fired_at)
            VALUES (:id, :run_id, :key, :kind, :level, perennial.now() + :seconds * interval '1 second', :state,
            :indexed, CASE WHEN :state = 'fired' THEN perennial.now() END)"""
        ),
        {
            "id": timer_id,
            "run_id": run_id,
            "key": "a",
            "kind": "sleep",
            "level": 0,
            "seconds": seconds,
            "state": "armed",
            "indexed": False,
            **columns,
        },
    )
    return timer_id


def test_a_run_expires_when_its_timer_is_due_and_not_before(record, run_id):
    timer_id = arm(record, run_id, 1, key="", kind="expiry")
    (seen,) = fire(record, arm(record, run_id, 0, key="", kind="expiry")).left
    assert (seen.run_id, seen.kind) == (run_id, "expiry")

    def expire() -> bool:
        return close_run_if_open(
            record, run_id, status="expired", actor="timer", error={}, timer_id=timer_id
        )

    assert not expire()
    record.execute(text("SET LOCAL perennial.now = '2030-01-01 12:00:01+00'"))
    assert expire()
    ends = f"SELECT id = '{timer_id}' FROM perennial.timer WHERE state = 'fired'"
    assert value(record, ends) is True
    assert not expire()


@pytest.mark.parametrize(
    ("seconds", "state", "is_due"),
    [(0, "armed", True), (1, "armed", False), (-9, "fired", False), (-9, "cancelled", False)],
)
def test_only_an_armed_timer_that_is_due_is_fired(record, run_id, seconds, state, is_due):
    open_wait(record, run_id, "a", "sleep")
    timer_id = arm(record, run_id, seconds, state=state)
    assert bool(fire(record, timer_id).handoffs) is is_due
    assert fire(record, uuid4()) == Fired()
    assert fire(record, timer_id).left == ()
    ended = value(record, "SELECT state FROM perennial.timer")
    assert ended == ("fired" if is_due else state)


def test_a_timer_that_has_nothing_left_to_do_is_cancelled(record, run_id):
    open_wait(record, run_id, "a", "sleep", state="done")
    timer_id = arm(record, run_id, 0)
    assert fire(record, timer_id) == Fired()
    assert value(record, "SELECT state FROM perennial.timer") == "cancelled"
    assert value(record, "SELECT revision FROM perennial.run") == 0


def test_a_timer_of_which_no_kind_knows_stays_for_a_worker_that_has_it(record, run_id):
    open_wait(record, run_id, "a", "stage")
    timer_id = arm(record, run_id, 0)
    (left,) = fire(record, timer_id).left
    assert (left.id, left.kind, left.is_known) == (timer_id, "sleep", False)
    assert value(record, "SELECT state FROM perennial.timer") == "armed"


def test_each_timer_within_the_horizon_is_indexed_once(record, run_id):
    soon, _later = arm(record, run_id, 60), arm(record, run_id, 3601)
    arm(record, run_id, 5, state="cancelled")
    assert [
        timer.id for timer in timers.take_timers_to_index(record, horizon_seconds=3600, limit=10)
    ] == [soon]
    assert not timers.take_timers_to_index(record, horizon_seconds=3600, limit=10)


def test_the_index_is_rebuilt_page_by_page(record, run_id):
    made = {arm(record, run_id, seconds, indexed=True) for seconds in (1, 1, 1, 2, 3)}
    found, after = [], (datetime.min.replace(tzinfo=UTC), UUID(int=0))
    while True:
        page, after = timers.indexed_timers(record, after=after, limit=2)
        found += [timer.id for timer in page]
        if len(page) < 2:
            break
    assert len(found) == len(made)
    assert set(found) == made


# -- the lost ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claimed_seconds_ago", "beat_seconds_ago", "timeout_seconds", "is_lost"),
    [
        (5, None, None, False),
        (6, None, None, True),
        (60, 5, None, False),
        (60, 6, None, True),
        (5, 60, None, False),
        (60, 0, 50, True),
        (60, 0, 51, False),
    ],
)
def test_an_attempt_is_lost_when_its_worker_is_silent_or_its_time_is_up(
    record, run_id, *, claimed_seconds_ago, beat_seconds_ago, timeout_seconds, is_lost
):
    open_stage(record, run_id, state="claimed")
    record.execute(
        text(
            "UPDATE perennial.activity SET timeout_seconds = :timeout,"
            " claimed_at = perennial.now() - :ago * interval '1 second'"
        ),
        {"ago": claimed_seconds_ago, "timeout": timeout_seconds},
    )
    if beat_seconds_ago is not None:
        workers.beat(record, [WORKER], name="w", pid=1)
        record.execute(
            text(
                "UPDATE perennial.worker SET heartbeat_at = perennial.now() - :ago * interval '1 second'"
            ),
            {"ago": beat_seconds_ago},
        )
    patience = {"dead_after": 6, "timeout_grace": 10}
    assert bool(workers.lost_attempts(record, **patience, limit=10)) is is_lost
    care = workers.what_needs_care(record, horizon_seconds=60, grace_seconds=2, **patience)
    assert care.attempts_lost is is_lost


def test_old_workers_are_forgotten_unless_something_is_claimed_by_them(record, run_id):
    open_stage(record, run_id, state="claimed")
    workers.beat(record, [WORKER, uuid4()], name="w", pid=1)
    record.execute(
        text("UPDATE perennial.worker SET heartbeat_at = perennial.now() - interval '2 days'")
    )
    workers.forget_old_workers(record)
    assert value(record, "SELECT id FROM perennial.worker") == WORKER


def test_a_lost_attempt_is_handed_out_or_failed_once(record, run_id):
    open_stage(record, run_id, state="claimed")
    assert lost_attempts.hand_out_again_if_claimed(record, run_id, "work", 1, error={}).attempt == 2
    assert lost_attempts.hand_out_again_if_claimed(record, run_id, "work", 1, error={}) is None
    assert not lost_attempts.fail_attempt_if_claimed(record, run_id, "work", 2, error={})
    assert value(record, "SELECT state FROM perennial.activity") == ActivityState.PENDING


# -- approvals -----------------------------------------------------------------------------------


@pytest.fixture
def approval(record: Connection, run_id: UUID) -> UUID:
    record.execute(
        text(
            """INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state)
            VALUES (:run_id, 'm', 1, 'approval', 'm', 'pending')"""
        ),
        {"run_id": run_id},
    )
    record.execute(
        text(
            """INSERT INTO perennial.approval (run_id, key, name, assignees, escalations, deadline)
            VALUES (:run_id, 'm', 'm', '{bob}', '[{"assignees": ["carol", "bob"]}]',
                perennial.now() + interval '1 hour')"""
        ),
        {"run_id": run_id},
    )
    return run_id


def test_an_escalation_adds_each_person_once(record, approval):
    for level in (1, 1, 9):
        timer_id = arm(record, approval, 0, key="m", kind="escalation", level=level)
        assert fire(record, timer_id) == Fired()
        assert value(record, "SELECT assignees FROM perennial.approval") == ["bob", "carol"]
        assert value(record, "SELECT escalation_level FROM perennial.approval") == level
    assert value(record, "SELECT count(*) FROM perennial.timer WHERE state = 'fired'") == 3
    assert value(record, "SELECT revision FROM perennial.run") == 0


def time_out(record: Connection, run_id: UUID) -> Fired:
    return fire(record, arm(record, run_id, 0, key="m", kind="approval-timeout"))


def test_a_decision_settles_its_activity_and_is_kept_as_a_vote(record, approval):
    decision = approvals.decide_if_allowed(
        record, approval, "m", outcome="approved", by="bob", comment="fine"
    )
    assert decision is not None
    assert (decision["outcome"], decision["by"], decision["escalated"]) == (
        "approved",
        "bob",
        False,
    )
    row = record.execute(text("SELECT state, result FROM perennial.activity")).one()
    assert tuple(row) == ("done", decision)
    assert value(record, "SELECT comment FROM perennial.approval_vote") == "fine"
    assert not time_out(record, approval).handoffs
    assert value(record, "SELECT state FROM perennial.approval") == "approved"


@pytest.mark.parametrize(
    ("by", "name", "minutes"), [("eve", "m", 0), ("bob", "n", 0), ("bob", "m", 60)]
)
def test_a_decision_that_is_not_allowed_writes_nothing(record, approval, by, name, minutes):
    record.execute(text(f"SET LOCAL perennial.now = '2030-01-01 12:{minutes % 60:02}:00+00'"))
    if minutes == 60:
        record.execute(text("SET LOCAL perennial.now = '2030-01-01 13:00:00+00'"))
    assert (
        approvals.decide_if_allowed(record, approval, name, outcome="approved", by=by, comment="")
        is None
    )
    assert value(record, "SELECT state FROM perennial.approval") == "open"
    assert value(record, "SELECT count(*) FROM perennial.history WHERE event = 'approved'") == 0


def test_a_timeout_settles_its_activity_once(record, approval):
    assert time_out(record, approval).handoffs
    assert not time_out(record, approval).handoffs
    assert value(record, "SELECT result ->> 'outcome' FROM perennial.activity") == "timed_out"
