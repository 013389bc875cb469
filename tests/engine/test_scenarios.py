"""Whole runs on Postgres, without Celery: what a run goes through, from its start to its end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from orchestrator import (
    ActivityFailed,
    Fail,
    Flow,
    Outcome,
    Registry,
    Retry,
    RunStatus,
    approval,
    hours,
    idempotency_key,
    load_process,
    process,
    stage,
    step,
)
from orchestrator.engine.fire import fire
from orchestrator.engine.stage import run_stage
from orchestrator.engine.sweep import rebuild_index, sweep
from orchestrator.engine.turn import advance
from orchestrator.errors import (
    AlreadyDecided,
    DecisionTooEarly,
    DecisionTooLate,
    InvalidInput,
    NotAssigned,
    PayloadError,
    PerennialError,
    ProcessChanged,
    RunClosed,
    RunFailed,
    RunNotClosed,
    RunNotFound,
    UnknownProcess,
)
from orchestrator.store.transitions import workers
from tests.modes import EAGER, NOTIFY_OFF, SWEEPS_ONLY, all_but, modes_of

NOW_OR_NEVER = Retry(max_attempts=1)


@pytest.fixture
def r(harness) -> Registry:
    return harness.registry


def waits_for_go(r: Registry) -> Any:
    @process(version=1, registry=r)
    async def waiting(flow: Flow, value: Any = None) -> Any:
        return await flow.signal("go")

    return waiting


# -- starts --------------------------------------------------------------------------------------


def test_a_run_goes_through_its_stages_and_keeps_its_result(harness, r):
    @stage(registry=r)
    def double(number: int) -> int:
        return 2 * number

    @process(version=1, registry=r)
    async def p(flow: Flow, number: int) -> int:
        return await flow.stage(double, await flow.stage(double, number))

    run = harness.run(p, 3)
    assert harness.client.result(run) == 12
    passed_on = "stage taken over" if harness.mode is EAGER else "stage handed off"
    stages = [passed_on, "stage done", passed_on, "stage done"]
    assert harness.events(run) == ["started", *stages, "completed"]
    harness.assert_ended_cleanly(run)


def test_a_business_key_starts_one_run(harness, r):
    p = waits_for_go(r)
    first = harness.start(p, key="REQ-1")
    again = harness.client.start(p, key="REQ-1")
    assert (first.created, again.created, again.run_id) == (True, False, first.run_id)
    assert harness.client.get("REQ-1").id == first.run_id
    assert harness.database.value("SELECT count(*) FROM perennial.outbox") == 1


def test_a_batch_answers_in_the_order_of_its_inputs(harness, r):
    p = waits_for_go(r)
    old = harness.start(p, key="b")
    started = harness.client.start_many(p, [1, 2, 3, 4], keys=["a", "b", None, "a"])
    assert [run.created for run in started] == [True, False, True, True]
    assert started[1].run_id == old.run_id
    assert started[0].run_id == started[3].run_id
    assert [harness.client.get(run).input for run in (started[0], started[2])] == [1, 3]


@pytest.mark.parametrize("kind", ["psycopg", "sqlalchemy", "session"])
@pytest.mark.parametrize("commits", [True, False])
def test_a_start_is_part_of_its_callers_transaction(harness, r, kind, commits):
    p = waits_for_go(r)
    harness.client.processes.deploy(p)

    def in_transaction(connection: Any) -> None:
        harness.client.start(p, key="REQ-1", connection=connection)
        connection.commit() if commits else connection.rollback()

    if kind == "psycopg":
        with harness.database.psycopg() as connection:
            in_transaction(connection)
    elif kind == "sqlalchemy":
        with harness.database.engine.connect() as connection:
            in_transaction(connection)
    else:
        with Session(harness.database.engine) as session:
            in_transaction(session)
    harness.drain()
    if commits:
        assert harness.status("REQ-1") is RunStatus.WAITING
    else:
        assert harness.database.value("SELECT count(*) FROM perennial.run") == 0
        assert harness.database.value("SELECT count(*) FROM perennial.outbox") == 0


def test_what_cannot_be_started_is_refused_early(harness, r):
    @process(version=1, registry=r)
    async def p(flow: Flow, number: int) -> None: ...

    with pytest.raises(UnknownProcess, match="deploy it with"):
        harness.client.start(p, 1)
    harness.client.processes.deploy(p)
    with pytest.raises(InvalidInput, match="valid integer"):
        harness.client.start(p, "seven")
    with pytest.raises(UnknownProcess):
        harness.client.start("p", 1, version=2)
    with pytest.raises(PayloadError, match="1 to 500"):
        harness.client.start(p, 1, key="k" * 501)
    with pytest.raises(PayloadError, match="one key for each"):
        harness.client.start_many(p, [1, 2], keys=["a"])
    assert harness.database.value("SELECT count(*) FROM perennial.run") == 0


def test_a_deployed_version_keeps_its_content(harness):
    def version_of(doc: str) -> Any:
        async def p(flow: Flow) -> None: ...

        made = process(version=1, name="p", registry=Registry())(p)
        made.spec["doc"] = doc
        return made

    assert harness.client.processes.deploy(version_of("a"))[0].created
    assert not harness.client.processes.deploy(version_of("a"))[0].created
    harness.client.start("p", key="k1")
    with pytest.raises(ProcessChanged, match=r"1 run.* 1 .*open: k1 \(running\).*version to 2"):
        harness.client.processes.deploy(version_of("b"))


def test_a_run_stays_with_the_version_it_started_with(harness, r):
    async def first(flow: Flow) -> int:
        await flow.signal("go")
        return 1

    async def second(flow: Flow) -> int:
        return 2

    old = harness.run(process(version=1, name="p", registry=r)(first))
    new = harness.run(process(version=2, name="p", registry=r)(second))
    harness.client.signal(old, "go")
    harness.drain()
    assert (harness.client.result(old), harness.client.result(new)) == (1, 2)


# -- stages --------------------------------------------------------------------------------------


def test_a_failed_attempt_is_made_again_by_a_timer(harness, r):
    tries = []

    @stage(registry=r, retry=Retry(max_attempts=3, delay_seconds=60, backoff=2, jitter=0))
    def flaky() -> str:
        tries.append(idempotency_key())
        if len(tries) < 3:
            raise ConnectionError("refused")
        return "done"

    @process(version=1, registry=r)
    async def p(flow: Flow) -> str:
        return await flow.stage(flaky)

    harness.freeze()
    run = harness.run(p)
    assert len(tries) == 1
    (wait,) = harness.client.get(run).waits
    assert wait.detail == "attempt 1 failed: ConnectionError: refused"
    assert wait.next[0].at == harness.now + timedelta(seconds=60)
    harness.move(seconds=59)
    harness.drain()
    assert len(tries) == 1
    harness.move(seconds=1)
    harness.drain()
    assert len(tries) == 2
    harness.move(seconds=120)
    harness.drain()
    assert harness.client.result(run) == "done"
    assert set(tries) == {f"{run.run_id}/flaky"}
    harness.assert_ended_cleanly(run)


@pytest.mark.parametrize("error", [Fail("no"), KeyError("listed"), PayloadError("unwritable")])
def test_some_errors_are_not_tried_again(harness, r, error):
    tries = []

    @stage(registry=r, retry=Retry(delay_seconds=0, non_retryable=(KeyError,)))
    def broken() -> None:
        tries.append(1)
        raise error

    @process(version=1, registry=r)
    async def p(flow: Flow) -> None:
        await flow.stage(broken)

    run = harness.run(p)
    assert len(tries) == 1
    assert harness.status(run) is RunStatus.FAILED
    with pytest.raises(RunFailed, match=type(error).__name__):
        harness.client.result(run)
    harness.assert_ended_cleanly(run)


def test_used_up_attempts_are_the_flows_to_handle(harness, r):
    @stage(registry=r, retry=Retry(max_attempts=2, delay_seconds=0))
    def broken() -> None:
        raise ValueError("never")

    @process(version=1, registry=r)
    async def p(flow: Flow) -> str:
        try:
            await flow.stage(broken)
        except ActivityFailed as error:
            return f"{error.error_type} after {error.attempts}"
        return "?"

    assert harness.client.result(harness.run(p)) == "ValueError after 2"


def test_a_result_that_does_not_fit_names_the_stage_and_the_type(harness, r):
    @stage(registry=r)
    def wrong() -> int:
        return "seven"  # type: ignore[return-value]

    @process(version=1, registry=r)
    async def p(flow: Flow) -> None:
        await flow.stage(wrong)

    message = harness.client.get(harness.run(p)).error["message"]
    assert "result of stage wrong: a str can't be written" in message


def test_a_step_that_was_recorded_is_never_called_again(harness, r):
    called = []

    def create_account(user: str) -> str:
        called.append(idempotency_key())
        return f"account-{user}"

    def send_mail() -> None:
        called.append(idempotency_key())

    @stage(registry=r, retry=Retry(delay_seconds=0))
    def provision(user: str) -> str:
        account = step(create_account, user)
        step(send_mail)
        step(send_mail)
        if len(called) == 3:
            called.append("crash")
            raise ConnectionError
        return account

    @process(version=1, registry=r)
    async def p(flow: Flow) -> str:
        return await flow.stage(provision, "ann")

    run = harness.run(p)
    assert harness.client.result(run) == "account-ann"
    key = f"{run.run_id}/provision"
    assert called == [f"{key}/create-account", f"{key}/send-mail", f"{key}/send-mail#2", "crash"]


def test_a_message_that_comes_twice_or_late_does_no_harm(harness, r):
    done = []

    @stage(registry=r)
    def work() -> None:
        done.append(1)

    @process(version=1, registry=r)
    async def p(flow: Flow) -> None:
        await flow.stage(work)

    run = harness.start(p)
    for _ in range(3):
        advance(harness.context, run.run_id)
    for attempt in (2, 1, 1, 3):
        run_stage(harness.context, run.run_id, "work", attempt)
    advance(harness.context, run.run_id)
    run_stage(harness.context, run.run_id, "unknown", 1)
    assert done == [1]
    assert harness.status(run) is RunStatus.COMPLETED


def test_every_message_may_be_lost(harness, r):
    """No message is ever delivered but those that a sweep finds in the outbox, late."""

    @stage(registry=r, retry=Retry(delay_seconds=1))
    def work(number: int) -> int:
        return number

    @process(version=1, registry=r)
    async def p(flow: Flow) -> int:
        first = await flow.stage(work, 1)
        await flow.sleep(10)
        await flow.signal("go")
        return first + await flow.stage(work, 2)

    harness.freeze()
    run = harness.start(p)
    harness.client.signal(run, "go")
    for _ in range(30):
        if harness.status(run).is_closed:
            break
        harness.messenger.handed_off.clear()
        harness.move(seconds=20)
        sweep(harness.context)
        found, harness.messenger.handed_off = harness.messenger.handed_off, []
        for message in found:
            harness.deliver(message)
    assert harness.client.result(run) == 3


# -- lost workers --------------------------------------------------------------------------------


def test_a_dead_workers_attempt_is_handed_out_again(harness, r):
    attempts = []

    @stage(registry=r)
    def work() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise SystemExit  # the process ends here
        return len(attempts)

    @process(version=1, registry=r)
    async def p(flow: Flow) -> int:
        return await flow.stage(work)

    harness.freeze()
    run = harness.start(p)
    with pytest.raises(SystemExit):
        harness.drain()
    harness.move(seconds=5)
    assert sweep(harness.context).attempts_recovered == 0
    harness.move(seconds=1)
    assert sweep(harness.context).attempts_recovered == 1
    harness.drain()
    assert harness.client.result(run) == 2
    assert "attempt handed out again" in harness.events(run)


def test_a_worker_that_beats_keeps_its_claim(harness, r):
    @stage(registry=r, timeout_seconds=3600)
    def work() -> str:
        for _ in range(10):
            harness.database.rows(
                "UPDATE perennial.activity SET claimed_at = claimed_at - interval '1 minute'"
            )
            with other.connection() as connection:
                (held,) = harness.context.identity.leased_ids()
                workers.beat(connection, [held], name="worker-1", pid=1)
            assert sweep(other).attempts_recovered == 0
        return "undisturbed"

    @process(version=1, registry=r)
    async def p(flow: Flow) -> str:
        return await flow.stage(work)

    other = harness.worker("worker-2")
    assert harness.client.result(harness.run(p)) == "undisturbed"


def test_an_attempt_that_overran_its_timeout_is_handed_out_again_though_its_worker_beats(
    harness, r
):
    attempts = []

    @stage(registry=r, timeout_seconds=60, retry=Retry(max_attempts=2))
    def work() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            harness.database.rows(
                "UPDATE perennial.activity SET claimed_at = claimed_at - interval '71 seconds'"
            )
            with other.connection() as connection:
                (held,) = harness.context.identity.leased_ids()
                workers.beat(connection, [held], name="worker-1", pid=1)
            assert sweep(other).attempts_recovered == 1
            return "too late"
        return "second"

    @process(version=1, registry=r)
    async def p(flow: Flow) -> str:
        return await flow.stage(work)

    other = harness.worker("worker-2")
    run = harness.run(p)
    harness.freeze()
    harness.recover(2)
    assert harness.client.result(run) == "second"
    assert [
        entry.detail.get("type") for entry in harness.client.history(run) if "again" in entry.event
    ] == ["StageTimedOut"]


def test_a_stage_that_overran_its_last_attempt_fails_and_one_that_lost_its_last_worker_parks(
    harness, r
):
    @stage(registry=r, timeout_seconds=60, retry=NOW_OR_NEVER)
    def overruns() -> None:
        raise SystemExit

    @stage(registry=r, timeout_seconds=3600, retry=NOW_OR_NEVER)
    def kills() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise SystemExit
        return "mended"

    tries: list[int] = []

    @process(version=1, registry=r)
    async def p(flow: Flow, name: str) -> str:
        return await flow.stage(name)

    harness.freeze()
    late, poisoned = harness.start(p, "overruns"), harness.start(p, "kills")
    for run in (late, poisoned):
        advance(harness.context, run.run_id)
        with pytest.raises(SystemExit):
            run_stage(harness.context, run.run_id, harness.client.get(run).stage, 1)
    harness.messenger.handed_off.clear()
    harness.move(seconds=75)
    for _ in (late, poisoned):
        sweep(harness.context)
    harness.drain()
    assert harness.client.get(late).error["type"] == "ActivityFailed"
    assert "StageTimedOut" in harness.client.get(late).error["message"]
    view = harness.client.get(poisoned)
    assert (view.status, view.error["type"]) == (RunStatus.INCIDENT, "WorkerLost")
    harness.drain()
    assert len(tries) == 1
    harness.client.operations.resume(poisoned, by="operator")
    harness.drain()
    assert harness.client.result(poisoned) == "mended"
    assert harness.client.get(poisoned).error is None


# -- waits ---------------------------------------------------------------------------------------


def access(r: Registry) -> Any:
    @process(version=1, registry=r)
    async def access_request(flow: Flow) -> list[Any]:
        manager = await flow.approval(
            "manager", assign=["bob"], escalate={hours(24): ["director"]}, timeout=hours(48)
        )
        return [
            manager.outcome,
            manager.by,
            manager.reason,
            manager.escalated,
            flow.now.isoformat(),
        ]

    return access_request


def test_a_waiting_run_answers_the_five_questions(harness, r):
    at = harness.freeze()
    run = harness.run(access(r))
    view = harness.client.get(run)
    assert view.status is RunStatus.WAITING
    assert harness.client.list()[0].waiting_for == "approval manager"
    (wait,) = view.waits
    assert (wait.name, wait.who, wait.since) == ("manager", ("bob",), at)
    assert [(upcoming.what, upcoming.at) for upcoming in wait.next] == [
        ("escalates to director", at + hours(24)),
        ("times out", at + hours(48)),
    ]
    assert view.next_timer_at == at + hours(24)


def test_an_approval_escalates_and_then_others_may_decide(harness, r):
    at = harness.freeze()
    run = harness.run(access(r))
    with pytest.raises(NotAssigned) as refused:
        harness.client.approve(run, by="director")
    assert refused.value.assignees == ("bob",)
    harness.move(hours=24)
    harness.drain()
    assert harness.client.get(run).waits[0].who == ("bob", "director")
    harness.client.reject(run, "manager", by="director", comment="not this year")
    harness.drain()
    now = (at + hours(24)).isoformat()
    assert harness.client.result(run) == ["rejected", "director", "not this year", True, now]
    harness.assert_ended_cleanly(run)


def test_an_approval_times_out_at_its_deadline(harness, r):
    at = harness.freeze()
    run = harness.run(access(r))
    harness.move(hours=48)
    with pytest.raises(DecisionTooLate, match="nobody had decided"):
        harness.client.approve(
            run, by="bob"
        )  # its timer hasn't fired yet, and it is too late all the same
    harness.drain()
    assert harness.client.result(run) == ["timed_out", None, "", True, (at + hours(48)).isoformat()]
    with pytest.raises(DecisionTooLate):
        harness.client.approve(run, by="bob")


def test_decisions_early_second_foreign_and_unknown_are_refused_and_say_who_decided(harness, r):
    @stage(registry=r)
    def check() -> None: ...

    @process(version=1, registry=r)
    async def p(flow: Flow) -> None:
        await flow.stage(check)
        await flow.approval("manager", assign=["bob"])
        await flow.signal("go")

    run = harness.start(p)
    with pytest.raises(DecisionTooEarly):
        harness.client.approve(run, by="bob")
    advance(harness.context, run.run_id)
    with pytest.raises(DecisionTooEarly, match="waits for stage check"):
        harness.client.approve(run, "manager", by="bob")
    harness.drain()
    with pytest.raises(NotAssigned):
        harness.client.approve(run, by="eve")
    with pytest.raises(DecisionTooEarly):
        harness.client.approve(run, "security", by="bob")
    decision = harness.client.approve(run, by="bob", comment="fine")
    assert (decision.outcome, decision.by, decision.reason) == (Outcome.APPROVED, "bob", "fine")
    for by in ("bob", "eve"):
        with pytest.raises(AlreadyDecided) as refused:
            harness.client.reject(run, "manager", by=by)
        assert (refused.value.by, refused.value.outcome) == ("bob", "approved")
    harness.drain()
    harness.client.cancel(run)
    with pytest.raises(AlreadyDecided):
        harness.client.reject(run, "manager", by="bob")
    assert harness.database.value("SELECT count(*) FROM perennial.approval_vote") == 1


def test_signals_are_buffered_and_deduplicated(harness, r):
    @process(version=1, registry=r)
    async def p(flow: Flow) -> list[Any]:
        return [await flow.signal("n"), await flow.signal("n")]

    run = harness.start(p)
    assert harness.client.signal(run, "n", 1, signal_id="a")
    assert not harness.client.signal(run, "n", 1, signal_id="a")
    harness.drain()
    assert not harness.client.signal(run, "n", 1, signal_id="a")  # consumed, and still known
    assert harness.client.signal(run, "n", 2)
    harness.drain()
    assert harness.client.result(run) == [1, 2]
    with pytest.raises(RunClosed):
        harness.client.signal(run, "n", 3)


def test_a_signal_times_out_unless_it_came_before(harness, r):
    @process(version=1, registry=r)
    async def p(flow: Flow) -> str:
        try:
            return await flow.signal("go", timeout=hours(1))
        except TimeoutError:
            return "timed out"

    harness.freeze()
    silent, answered = harness.run(p), harness.run(p)
    harness.move(hours=1)
    harness.client.signal(answered, "go", "in time")
    for timer_id in harness.due_timers():
        fire(harness.context, timer_id)  # before any turn saw the signal
    harness.drain()
    harness.move(minutes=1)
    harness.drain()
    assert (harness.client.result(silent), harness.client.result(answered)) == (
        "timed out",
        "in time",
    )
    for run in (silent, answered):
        harness.assert_ended_cleanly(run)


def test_a_sleep_ends_when_its_time_has_come_and_not_before(harness, r):
    @process(version=1, registry=r)
    async def p(flow: Flow) -> str:
        await flow.sleep(timedelta(days=30))
        await flow.sleep_until(flow.now)
        return flow.now.isoformat()

    at = harness.freeze()
    run = harness.run(p)
    (timer,) = harness.database.rows("SELECT id FROM perennial.timer")
    assert fire(harness.context, timer.id) == []
    harness.move(days=30)
    harness.drain()
    assert harness.client.result(run) == (at + timedelta(days=30)).isoformat()
    assert fire(harness.context, timer.id) == []


@modes_of(
    *all_but(SWEEPS_ONLY, NOTIFY_OFF),
    because="it sweeps by hand, and looks at an index that must be there",
)
def test_timers_within_the_horizon_go_to_the_index_and_the_others_later(harness, r):
    @process(version=1, registry=r)
    async def p(flow: Flow) -> None:
        await flow.gather(flow.sleep(hours(1)), flow.sleep(hours(7)))

    at = harness.freeze()
    run = harness.run(p)
    assert [timer.remaining_seconds for timer in harness.messenger.armed] == [3600]
    harness.messenger.armed.clear()
    assert sweep(harness.context).timers_indexed == 0
    harness.move(hours=1)
    harness.drain()
    assert sweep(harness.context).timers_indexed == 1
    assert [timer.remaining_seconds for timer in harness.messenger.armed] == [6 * 3600]
    harness.messenger.armed.clear()
    assert rebuild_index(harness.context) == 1
    assert len(harness.messenger.armed) == 1
    assert harness.client.get(run).next_timer_at == at + hours(7)


@modes_of(*all_but(SWEEPS_ONLY), because="it looks at an index that must be there")
def test_what_a_turn_settles_is_taken_out_of_the_index(harness, r):
    @process(version=1, registry=r)
    async def p(flow: Flow) -> None:
        await flow.signal("go", timeout=hours(1))
        await flow.signal("end")

    run = harness.run(p)
    harness.client.signal(run, "go")
    harness.drain()
    assert harness.messenger.disarmed == [harness.messenger.armed[0].id]
    assert harness.open_things(run)["timers"] == 0


def test_an_overdue_timer_is_fired_by_a_sweep(harness, r):
    @process(version=1, registry=r)
    async def p(flow: Flow) -> None:
        await flow.sleep(60)

    harness.freeze()
    run = harness.run(p)
    harness.move(seconds=61)
    assert sweep(harness.context).timers_fired == 0
    harness.move(seconds=1)
    assert sweep(harness.context).timers_fired == 1
    harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED


# -- operators -----------------------------------------------------------------------------------


def every_wait(r: Registry) -> dict[str, Any]:
    @stage(registry=r)
    def work() -> None: ...

    @stage(registry=r, retry=Retry(delay_seconds=60))
    def broken() -> None:
        raise ValueError

    def fails() -> None:
        raise ValueError

    asks = {
        "stage": lambda flow: flow.stage(work),
        "retry": lambda flow: flow.stage(broken),
        "signal": lambda flow: flow.signal("go", timeout=hours(1)),
        "sleep": lambda flow: flow.sleep(60),
        "approval": lambda flow: flow.approval(
            "m", assign=["bob"], escalate={hours(1): ["c"]}, timeout=hours(2)
        ),
        "step": lambda flow: flow.step(fails, retry=Retry(delay_seconds=60)),
        "gather": lambda flow: flow.gather(flow.sleep(60), flow.signal("x"), flow.stage(broken)),
    }

    def define(name: str) -> Any:
        async def p(flow: Flow) -> None:
            await asks[name](flow)

        return process(
            version=1, name=f"waits-{name}", registry=r, expires_after=timedelta(days=9)
        )(p)

    return {name: define(name) for name in asks}


@pytest.mark.parametrize(
    "name", ["stage", "retry", "signal", "sleep", "approval", "step", "gather"]
)
@pytest.mark.parametrize("how", ["cancel", "expire"])
def test_a_run_is_ended_at_any_wait_and_leaves_nothing_open(harness, r, name, how):
    harness.freeze()
    run = harness.start(every_wait(r)[name])
    advance(harness.context, run.run_id)
    if name != "stage":
        harness.drain()
    assert any(harness.open_things(run).values())
    if how == "cancel":
        harness.client.cancel(run, by="ann", reason="a duplicate")
        assert harness.client.get(run).error == {"type": "Cancelled", "message": "a duplicate"}
    else:
        harness.move(days=9)
        (timer,) = harness.database.rows("SELECT id FROM perennial.timer WHERE kind = 'expiry'")
        fire(harness.context, timer.id)
        assert harness.status(run) is RunStatus.EXPIRED
        (timer,) = harness.database.rows("SELECT state FROM perennial.timer WHERE kind = 'expiry'")
        assert timer.state == "fired"
    harness.assert_ended_cleanly(run)
    with pytest.raises(RunClosed):
        harness.client.cancel(run)
    harness.drain()
    harness.assert_ended_cleanly(run)
    with pytest.raises(RunFailed):
        harness.client.result(run)


@pytest.mark.parametrize("outcome", ["returns", "raises", "steps"])
def test_a_cancellation_fences_the_stage_that_is_at_work(harness, r, outcome):
    called = []

    def effect() -> None:
        called.append(1)

    @stage(registry=r, retry=Retry(delay_seconds=0))
    def work() -> None:
        harness.client.cancel(run)
        if outcome == "raises":
            raise ValueError
        if outcome == "steps":
            step(effect)
            step(effect)

    @process(version=1, registry=r)
    async def p(flow: Flow) -> None:
        await flow.stage(work)
        await flow.stage(work)

    run = harness.start(p)
    harness.drain()
    assert harness.status(run) is RunStatus.CANCELLED
    assert len(called) <= 1  # the first record told it
    assert harness.database.value("SELECT state FROM perennial.activity") == "cancelled"
    harness.assert_ended_cleanly(run)


def test_a_paused_run_rests_and_goes_on_with_what_came_meanwhile(harness, r):
    @stage(registry=r)
    def work() -> int:
        harness.client.operations.pause(run, by="ann")
        return 1

    @process(version=1, registry=r)
    async def p(flow: Flow) -> list[Any]:
        number = await flow.stage(work)
        return [number, await flow.signal("go"), await flow.approval("m", assign=["bob"]) and 1]

    run = harness.start(p)
    harness.drain()
    assert harness.status(run) is RunStatus.PAUSED
    harness.client.signal(run, "go", "came while it rested")
    harness.drain()
    view = harness.client.get(run)
    assert (view.status, view.waits) == (RunStatus.PAUSED, ())
    with pytest.raises(PerennialError, match="is paused"):
        harness.client.operations.pause(run)
    harness.client.operations.resume(run, by="ann")
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING
    harness.client.operations.pause(run)
    harness.client.approve(run, by="bob")
    harness.client.operations.resume(run)
    harness.drain()
    assert harness.client.result(run) == [1, "came while it rested", 1]


def test_no_stage_of_a_paused_run_is_claimed(harness, r):
    done = []

    @stage(registry=r)
    def work() -> None:
        done.append(1)

    @process(version=1, registry=r)
    async def p(flow: Flow) -> None:
        await flow.stage(work)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    harness.client.operations.pause(run)
    harness.drain()
    assert done == []
    harness.client.operations.resume(run)
    harness.drain()
    assert done == [1]


def test_a_mended_incident_goes_on_where_it_stood(harness, r):
    is_mended = []

    @process(version=1, registry=r)
    async def p(flow: Flow) -> str:
        answer = await flow.signal("go", timeout=hours(1))
        if not is_mended:
            raise KeyError("a bug")
        return answer

    run = harness.run(p)
    harness.client.signal(run, "go", "kept")
    harness.drain()
    view = harness.client.get(run)
    assert (view.status, view.error["type"]) == (RunStatus.INCIDENT, "KeyError")
    assert harness.client.list(status=RunStatus.INCIDENT)[0].waiting_for == "an operator"
    harness.client.operations.resume(run)
    harness.drain()
    assert harness.status(run) is RunStatus.INCIDENT
    is_mended.append(1)
    harness.client.operations.resume(run)
    harness.drain()
    assert harness.client.result(run) == "kept"
    harness.assert_ended_cleanly(run)


@modes_of(
    *all_but(EAGER), because="a flow that stays where it is meets its journal when it is replayed"
)
def test_a_contradiction_parks_the_run_with_a_diff_and_goes_on_when_the_code_is_put_back(
    harness, r
):
    @stage(registry=r)
    def a() -> None: ...

    @stage(registry=r)
    def b() -> None: ...

    order = [a, b]

    @process(version=1, registry=r)
    async def p(flow: Flow) -> str:
        for each in order:
            await flow.stage(each)
        await flow.signal("go")
        return "done"

    run = harness.run(p)
    order.reverse()
    harness.client.signal(run, "go")
    harness.drain()
    view = harness.client.get(run)
    assert view.status is RunStatus.INCIDENT
    assert view.error["type"] == "contradiction"
    assert "- 1. stage a   (in the journal)" in view.error["message"]
    assert "+ 1. stage b   (asked by the flow now)" in view.error["message"]
    order.reverse()
    harness.client.operations.resume(run)
    harness.drain()
    assert harness.client.result(run) == "done"


def test_verbs_on_runs_that_are_not_there_say_so(harness, r):
    from uuid import uuid4

    for verb in (
        harness.client.get,
        harness.client.cancel,
        harness.client.operations.pause,
        harness.client.operations.resume,
        lambda run: harness.client.signal(run, "go"),
        lambda run: harness.client.approve(run, "m", by="bob"),
    ):
        for missing in (uuid4(), "no such key"):
            with pytest.raises(RunNotFound):
                verb(missing)


def test_an_open_run_has_no_result_and_says_what_it_waits_for(harness, r):
    run = harness.run(waits_for_go(r))
    with pytest.raises(RunNotClosed, match="signal go"):
        harness.client.result(run)


# -- workers that lack something -----------------------------------------------------------------


@modes_of(*all_but(SWEEPS_ONLY), because="it looks at what a worker says")
def test_a_worker_that_lacks_the_process_leaves_the_run(harness, r):
    @stage(registry=r)
    def work() -> int:
        return 1

    @process(version=1, registry=r)
    async def p(flow: Flow) -> int:
        await flow.stage(work)
        return await flow.stage(work, key="again")

    old = harness.worker("old", registry=Registry())
    has_stage_only = Registry()
    has_stage_only.add_stage(work)
    half = harness.worker("half", registry=has_stage_only)
    harness.freeze()
    run = harness.start(p)
    advance(old, run.run_id)
    assert harness.status(run) is RunStatus.RUNNING
    advance(harness.context, run.run_id)
    run_stage(half, run.run_id, "work", 1)  # it can do the stage, and not take the turn
    assert harness.database.value("SELECT state FROM perennial.activity") == "done"
    assert "stage done" in harness.events(run)
    assert [handoff.task for handoff in half.messenger.handed_off] == ["perennial.advance"]
    harness.move(minutes=1)
    harness.drain()
    assert harness.client.result(run) == 1


def test_a_declarative_run_needs_only_its_spec_and_its_stages(harness):
    def registry() -> Registry:
        made = Registry()

        @stage(registry=made)
        def validate_request(request: dict[str, str]) -> bool:
            return True

        @stage(registry=made)
        def provision_access(request: dict[str, str]) -> str:
            return f"access for {request['user']}"

        @approval("wait-for-manager-approval", escalate_to=["director"], registry=made)
        def managers(request: dict[str, str]) -> list[str]:
            return [request["manager"]]

        return made

    text = """
process:
  name: access-request
  stages: [validate-request, wait-for-manager-approval, provision-access]
  timers: {approval_timeout_hours: 48, escalation_after_hours: 24}
"""
    harness.client.processes.deploy(load_process(text, registry=registry()))
    harness.context = harness.worker("knows stages only", registry=registry())
    assert not harness.context.registry.processes
    harness.freeze()
    yes, no = (
        harness.client.start("access-request", {"user": user, "manager": "bob"})
        for user in ("ann", "carl")
    )
    harness.drain()
    harness.client.approve(yes, by="bob")
    harness.drain()
    harness.move(hours=48)
    harness.drain()
    assert harness.client.result(yes)["results"]["provision-access"] == "access for ann"
    assert harness.client.result(no)["outcome"] == "timed_out"
    for run in (yes, no):
        harness.assert_ended_cleanly(run)


# -- inline steps --------------------------------------------------------------------------------


def test_inline_steps_are_remembered_and_retried_by_timers(harness, r):
    called = []

    def flaky(number: int) -> int:
        called.append(number)
        if len(called) < 3:
            raise ConnectionError("refused")
        return number

    @process(version=1, registry=r)
    async def p(flow: Flow) -> int:
        one = await flow.step(abs, -1)
        return one + await flow.step(flaky, 41, retry=Retry(delay_seconds=60, jitter=0))

    harness.freeze()
    run = harness.run(p)
    assert len(called) == 1
    for _ in range(3):
        advance(harness.context, run.run_id)
    assert len(called) == 1
    harness.move(seconds=60)
    harness.drain()
    harness.move(seconds=120)
    harness.drain()
    assert (called, harness.client.result(run)) == ([41, 41, 41], 42)
    harness.assert_ended_cleanly(run)


def test_a_killed_worker_between_commit_and_step_loses_nothing(harness, r):
    """The turn that went on (a stage's result is recorded, its step not called yet) leaves an advance."""

    class Killed(BaseException): ...

    @stage(registry=r)
    def draw() -> int:
        draws.append(1)
        return len(draws)

    draws: list[int] = []
    steps: list[int] = []

    def double(number: int) -> int:
        steps.append(number)
        if len(steps) == 1:
            raise Killed
        return 2 * number

    @process(version=1, registry=r)
    async def p(flow: Flow) -> int:
        return await flow.step(double, await flow.stage(draw))

    harness.freeze()
    run = harness.start(p)
    with pytest.raises(Killed):
        harness.drain()
    harness.recover()
    assert harness.client.result(run) == 2
    assert (draws, steps) == ([1], [1, 1])


def test_parallel_stages_are_gathered(harness, r):
    @stage(registry=r)
    def square(number: int) -> int:
        return number * number

    @process(version=1, registry=r)
    async def p(flow: Flow) -> int:
        return sum(await flow.gather(*(flow.stage(square, number) for number in range(50))))

    run = harness.run(p)
    assert harness.client.result(run) == sum(number * number for number in range(50))
    assert harness.client.get(run).active_milliseconds >= 0
