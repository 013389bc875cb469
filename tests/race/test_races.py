"""Two at once, on two real connections: the loser writes nothing, and no wake-up is lost.

Each race is a function that plays it out. `tests/guards` plays most of them again with a guard cut out of
the SQL, and expects them to go wrong.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from orchestrator import Flow, Outcome, Retry, RunStatus, hours, process, stage
from orchestrator.core.definition import Process
from orchestrator.core.journal import ActivityState
from orchestrator.core.outcome import TurnOutcome
from orchestrator.core.replay import take_turn
from orchestrator.engine import decisions, deliver
from orchestrator.engine.fire import fire
from orchestrator.engine.operations import by_hand
from orchestrator.engine.operations.cancel import Cancelling, cancel
from orchestrator.engine.signal_forms import SignalForms
from orchestrator.engine.stage import run_stage
from orchestrator.engine.sweep import sweep
from orchestrator.engine.turn import advance
from orchestrator.errors import (
    AlreadyDecided,
    DecisionRefused,
    DecisionTooLate,
    PerennialError,
    RunCancelling,
    RunClosed,
)
from orchestrator.store.reads import loading
from orchestrator.store.transitions import lost_attempts, outbox, settle, turns
from orchestrator.store.transitions.claim import (
    FlowStep,
    claim_activity_if_pending,
    remember_flow_step_if_held,
    remember_step_if_claimed,
    retry_attempt_if_claimed,
)
from orchestrator.store.transitions.commit import commit_turn_if_unchanged
from orchestrator.store.transitions.commit_content import TurnCommit
from orchestrator.store.transitions.fire import Fired, fire_timers_if_due
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.settle import Settlement
from tests.architecture.countdown import Countdown, Push
from tests.harness import Harness, Thread, meanwhile, wait_until_blocked

TURNS = {"relay_after": 5.0, "horizon_seconds": 3600.0}


# -- what the races play with --------------------------------------------------------------------


def works(harness: Harness) -> Process:
    @stage(registry=harness.registry, retry=Retry(max_attempts=5))
    def work() -> str:
        return "done"

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        return await flow.stage(work)

    return p


def listens(harness: Harness) -> Process:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        return await flow.signal("go")

    return p


def asks(harness: Harness) -> Process:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        decision = await flow.approval("m", assign=["bob", "carol"], timeout=hours(1))
        return f"{decision.outcome} by {decision.by}"

    return p


def at_work(harness: Harness) -> Any:
    """A run whose stage is handed off."""
    run = harness.start(works(harness))
    advance(harness.context, run.run_id)
    return run


def claim(connection: Any, run: Any, attempt: int = 1) -> Any:
    return claim_activity_if_pending(connection, run.run_id, "work", attempt, worker_id=uuid4())


def hand_out_again(connection: Any, run: Any) -> None:
    """What recovery does in its transaction."""
    runs_row = connection.execute(
        "SELECT FROM perennial.run WHERE id = %s FOR NO KEY UPDATE", [run.run_id]
    )
    assert runs_row.rowcount == 1
    assert lost_attempts.hand_out_again_if_claimed(
        connection, run.run_id, "work", 1, error={"type": "WorkerLost"}
    )
    lost_attempts.raise_revision(connection, run.run_id)


def settlement(harness: Harness, attempt: int = 1) -> Settlement:
    return Settlement("work", attempt, "work", ActivityState.DONE, harness.now, result='"stale"')


def decide(connection: Any, run: Any, outcome: Outcome, by: str) -> Any:
    return decisions.decide(connection, run.run_id, "m", outcome, by=by, comment="")


def vote(connection: Any, run: Any, outcome: Outcome, by: str) -> Any:
    return decisions.vote(connection, run.run_id, "m", outcome, by=by, comment="")


def turn_of(harness: Harness, run: Any) -> TurnCommit:
    """A turn that has read and decided, and is about to commit."""
    with harness.context.connection() as connection:
        loaded = loading.load_run(connection, run.run_id)
    assert loaded is not None
    outcome = take_turn(
        harness.registry.process("p"),
        loaded.context,
        loaded.journal,
        loaded.signals,
        registry=harness.registry,
        perform_step=lambda *_: pytest.fail("no step here"),
    )
    return TurnCommit(run.run_id, loaded.revision, loaded.status, outcome, **TURNS)


def commits(connection: Any, turn: TurnCommit) -> Any:
    return commit_turn_if_unchanged(connection, turn)


# -- the races -----------------------------------------------------------------------------------


def two_claims_of_one_attempt(harness: Harness) -> None:
    run = at_work(harness)
    with harness.database.psycopg() as first:
        assert claim(first, run) is not None
        second = meanwhile(harness, lambda connection: claim(connection, run))
        first.commit()
        assert second.outcome() is None


def a_claim_after_a_cancellation(harness: Harness) -> None:
    run = at_work(harness)
    with harness.database.psycopg() as operator:
        cancel(operator, run.run_id, Cancelling("ann", ""))
        worker = meanwhile(harness, lambda connection: claim(connection, run))
        operator.commit()
        assert worker.outcome() is None
    harness.assert_ended_cleanly(run)


def a_cancellation_after_a_claim(harness: Harness) -> None:
    run = at_work(harness)
    with harness.database.psycopg() as worker:
        claimed = claim(worker, run)
        operator = meanwhile(
            harness, lambda connection: cancel(connection, run.run_id, Cancelling("ann", ""))
        )
        worker.commit()
        operator.outcome()
        assert (
            settle.record_settlement_if_claimed(
                worker, run.run_id, settlement(harness, claimed.attempt), actor="w", relay_after=5
            )
            is None
        )
    harness.assert_ended_cleanly(run)


def a_cancellation_while_a_turn_opens_things(harness: Harness) -> None:
    """What the turn opened came after the cancellation's first look, and goes with the run all the same."""
    run = harness.start(asks(harness))
    opening = turn_of(harness, run)
    with harness.database.psycopg() as turn:
        assert commits(turn, opening)
        operator = meanwhile(
            harness, lambda connection: cancel(connection, run.run_id, Cancelling("ann", ""))
        )
        turn.commit()
        operator.outcome()
    harness.assert_ended_cleanly(run)
    assert harness.database.value("SELECT state FROM perennial.approval") == "cancelled"


def undoes(connection: Any, run: Any) -> None:
    cancel(connection, run.run_id, Cancelling("ann", "", compensate=True))


def two_operators_cancel_a_run_that_cleans_up(harness: Harness) -> None:
    """The second is told that it is being cancelled, and there is one fact of it."""
    run = at_work(harness)
    with harness.database.psycopg() as operator:
        undoes(operator, run)
        second = meanwhile(harness, lambda connection: undoes(connection, run))
        operator.commit()
        with pytest.raises(RunCancelling, match="--now"):
            second.outcome()
    facts = "SELECT count(*) FROM perennial.history WHERE event = 'cancelling'"
    assert harness.database.value(facts) == 1
    harness.drain()
    assert harness.client.get(run).status is RunStatus.CANCELLED
    harness.assert_ended_cleanly(run)


def a_run_that_ends_while_it_is_to_clean_up(harness: Harness) -> None:
    """What came before the cancellation counts, as any fact; a turn that has ended it tells the operator so."""
    run = harness.start(listens(harness))
    advance(harness.context, run.run_id)
    harness.client.signal(run, "go", "gone")
    ending = turn_of(harness, run)
    with harness.database.psycopg() as operator:
        undoes(operator, run)
        turn = meanwhile(harness, lambda connection: commits(connection, ending))
        operator.commit()
        assert turn.outcome() is None
    harness.drain()
    assert harness.client.result(run) == "gone"
    other = harness.start(listens(harness))
    advance(harness.context, other.run_id)
    harness.client.signal(other, "go", "gone")
    ending = turn_of(harness, other)
    with harness.database.psycopg() as turn_of_other:
        assert commits(turn_of_other, ending)
        late = meanwhile(harness, lambda connection: undoes(connection, other))
        turn_of_other.commit()
        with pytest.raises(RunClosed):
            late.outcome()
    assert harness.client.get(other).status is RunStatus.COMPLETED


def a_cancellation_while_an_attempt_fails(harness: Harness) -> None:
    run = at_work(harness)
    with harness.database.psycopg() as worker:
        claim(worker, run)
        worker.commit()
        assert fails(worker, run) == (True, None)
        operator = meanwhile(
            harness, lambda connection: cancel(connection, run.run_id, Cancelling("ann", ""))
        )
        worker.commit()
        operator.outcome()
    harness.assert_ended_cleanly(run)


def fails(connection: Any, run: Any) -> Any:
    return retry_attempt_if_claimed(
        connection,
        run.run_id,
        "work",
        1,
        error={"type": "ValueError"},
        delay_seconds=100,
        actor="w",
        active_milliseconds=1,
        queue=None,
        horizon_seconds=60,
    )


def a_claim_after_the_turn_that_closed_its_run(harness: Harness) -> None:
    run = at_work(harness)
    closing = replace(
        turn_of(harness, run), outcome=TurnOutcome(RunStatus.COMPLETED, output="null")
    )
    with harness.database.psycopg() as turn:
        assert commits(turn, closing)
        worker = meanwhile(harness, lambda connection: claim(connection, run))
        turn.commit()
        assert worker.outcome() is None
    harness.assert_ended_cleanly(run)


def a_turn_that_closes_a_run_after_a_claim(harness: Harness) -> None:
    run = at_work(harness)
    closing = replace(
        turn_of(harness, run), outcome=TurnOutcome(RunStatus.COMPLETED, output="null")
    )
    with harness.database.psycopg() as worker:
        assert claim(worker, run)
        turn = meanwhile(harness, lambda connection: commits(connection, closing))
        worker.commit()
        assert turn.outcome()
    harness.assert_ended_cleanly(run)


def a_signal_while_a_turn_decides(harness: Harness) -> None:
    """The turn has read no signal; the signal finds an `advance` there already, and leaves none of its own."""
    run = harness.start(listens(harness))
    with harness.database.psycopg() as sender:
        assert deliver.signal(
            sender, run.run_id, "go", "heard", signal_id=None, by="", forms=SignalForms()
        )
        turn = Thread(lambda: advance(harness.context, run.run_id))
        wait_until_blocked(harness.database)
        sender.commit()
        turn.outcome()
    harness.drain()
    assert harness.client.get(run).output == "heard"


def a_signal_while_a_turn_commits(harness: Harness) -> None:
    run = harness.start(listens(harness))
    deciding = turn_of(harness, run)
    with harness.database.psycopg() as turn:
        assert commits(turn, deciding)
        sender = meanwhile(
            harness,
            lambda connection: deliver.signal(
                connection, run.run_id, "go", 1, signal_id=None, by="", forms=SignalForms()
            ),
        )
        turn.commit()
        assert sender.outcome()
    harness.drain()
    assert harness.client.get(run).output == 1


def two_decisions_at_once(harness: Harness) -> None:
    run = harness.run(asks(harness))
    with harness.database.psycopg() as bob:
        decide(bob, run, Outcome.APPROVED, "bob")
        carol = meanwhile(
            harness, lambda connection: decide(connection, run, Outcome.REJECTED, "carol")
        )
        bob.commit()
        with pytest.raises(AlreadyDecided) as refused:
            carol.outcome()
        assert refused.value.by == "bob"
    harness.drain()
    assert harness.client.get(run).output == "approved by bob"
    assert harness.database.value("SELECT count(*) FROM perennial.approval_vote") == 1


def two_votes_at_once(harness: Harness) -> None:
    """Each would be the first of two; the second waits, sees the other, and decides."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        return (await flow.approval("m", assign=["bob", "carol", "dave"], needs=2)).outcome

    run = harness.run(p)
    with harness.database.psycopg() as bob:
        assert vote(bob, run, Outcome.APPROVED, "bob").outcome is Outcome.OPEN
        carol = meanwhile(
            harness, lambda connection: vote(connection, run, Outcome.APPROVED, "carol")
        )
        bob.commit()
        assert carol.outcome().outcome is Outcome.APPROVED
    harness.drain()
    assert harness.client.get(run).output == "approved"


def two_decisions_of_one_person_at_once(harness: Harness) -> None:
    run = harness.run(asks(harness))
    with harness.database.psycopg() as window:
        decide(window, run, Outcome.APPROVED, "bob")
        other_window = meanwhile(
            harness, lambda connection: decide(connection, run, Outcome.APPROVED, "bob")
        )
        window.commit()
        with pytest.raises(AlreadyDecided):
            other_window.outcome()


def two_answers_at_once(harness: Harness) -> None:
    """The second waits on the run's row, and finds the wait answered."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> float:
        push: Push = await flow.ask(Countdown(3600), "launch")
        return push.seconds

    run = harness.run(p)
    with harness.database.psycopg() as ann:
        assert deliver.answer(ann, run.run_id, "launch", Push(1), by="ann")
        bob = meanwhile(
            harness,
            lambda connection: deliver.answer(connection, run.run_id, "launch", Push(2), by="bob"),
        )
        ann.commit()
        assert bob.outcome() is False
    told = "SELECT count(*) FROM perennial.history WHERE event = 'countdown pushed back'"
    assert harness.database.value(told) == 1
    harness.drain()
    assert harness.client.result(run) == 1


def timeout_of(harness: Harness, run: Any) -> Any:
    return harness.database.value("SELECT id FROM perennial.timer WHERE kind = 'approval-timeout'")


def a_timeout_while_a_decision_is_taken(harness: Harness) -> None:
    at = harness.freeze()
    run = harness.run(asks(harness))
    timer_id = timeout_of(harness, run)
    with harness.database.psycopg() as bob:
        bob.execute(f"SET perennial.now = '{(at + timedelta(minutes=59)).isoformat()}'")
        decide(bob, run, Outcome.APPROVED, "bob")
        harness.move(hours=1)
        deadline = Thread(lambda: fire(harness.context, timer_id))
        wait_until_blocked(harness.database)
        bob.commit()
        assert deadline.outcome() == []
    harness.drain()
    assert harness.client.get(run).output == "approved by bob"


def a_decision_while_its_approval_times_out(harness: Harness) -> None:
    at = harness.freeze()
    run = harness.run(asks(harness))
    timer_id = timeout_of(harness, run)
    harness.move(hours=1)
    with harness.database.psycopg() as deadline:
        assert fire_timers_if_due(deadline, [timer_id], relay_after=5).handoffs
        bob = meanwhile(
            harness,
            lambda connection: decide(connection, run, Outcome.APPROVED, "bob"),
            at=at + timedelta(minutes=59),
        )
        deadline.commit()
        with pytest.raises(DecisionTooLate):
            bob.outcome()
    assert harness.database.value("SELECT state FROM perennial.approval") == "timed_out"


def a_turn_that_is_refused(harness: Harness) -> None:
    """It leaves no handoff, and the `advance` stays for the turn that sees what it didn't."""
    run = harness.start(works(harness))
    handoff = Handoff(run.run_id, "work", 1, "work", None)
    deciding = replace(turn_of(harness, run), handoffs=(handoff,))
    with harness.database.psycopg() as sender:
        deliver.signal(sender, run.run_id, "go", 1, signal_id=None, by="", forms=SignalForms())
        turn = meanwhile(harness, lambda connection: commits(connection, deciding))
        sender.commit()
        assert turn.outcome() is None
    assert [row.key for row in harness.database.rows("SELECT key FROM perennial.outbox")] == [""]


def two_turns_of_one_revision(harness: Harness) -> None:
    run = harness.start(works(harness))
    deciding = turn_of(harness, run)
    with harness.database.psycopg() as first:
        assert commits(first, deciding)
        second = meanwhile(harness, lambda connection: commits(connection, deciding))
        first.commit()
        assert second.outcome() is None
    assert harness.client.get(run).revision == deciding.revision + 1


def a_stale_attempt_commits_after_it_was_handed_out_again(harness: Harness) -> None:
    """Even with the revision of this very moment, the result of a lost attempt moves nothing."""
    run = at_work(harness)
    with harness.database.psycopg() as connection:
        claim(connection, run)
        hand_out_again(connection, run)
        connection.commit()
        stale = replace(
            turn_of(harness, run),
            outcome=TurnOutcome(RunStatus.COMPLETED, output='"stale"'),
            settlement=settlement(harness),
        )
        assert commits(connection, stale) is None
    assert harness.status(run) is RunStatus.RUNNING


def a_stale_attempt_settles_while_it_is_handed_out_again(harness: Harness) -> None:
    run = at_work(harness)
    with harness.database.psycopg() as recovery:
        claim(recovery, run)
        recovery.commit()
        hand_out_again(recovery, run)
        worker = meanwhile(
            harness,
            lambda connection: settle.record_settlement_if_claimed(
                connection, run.run_id, settlement(harness), actor="w", relay_after=5
            ),
        )
        recovery.commit()
        assert worker.outcome() is None
    row = harness.database.rows("SELECT state, attempt, result FROM perennial.activity")[0]
    assert (row.state, row.attempt, row.result) == ("pending", 2, None)
    assert "stage done" not in harness.events(run)


def a_stale_attempt_fails_while_it_is_handed_out_again(harness: Harness) -> None:
    run = at_work(harness)
    with harness.database.psycopg() as recovery:
        claim(recovery, run)
        recovery.commit()
        hand_out_again(recovery, run)
        worker = meanwhile(
            harness,
            lambda connection: fails(connection, run),
        )
        recovery.commit()
        assert worker.outcome() == (False, None)
    row = harness.database.rows("SELECT state, attempt FROM perennial.activity")[0]
    assert (row.state, row.attempt) == ("pending", 2)
    assert harness.open_things(run)["timers"] == 0


def a_step_is_recorded_while_its_attempt_is_handed_out_again(harness: Harness) -> None:
    run = at_work(harness)
    with harness.database.psycopg() as recovery:
        claim(recovery, run)
        recovery.commit()
        hand_out_again(recovery, run)
        worker = meanwhile(
            harness,
            lambda connection: remember_step_if_claimed(
                connection,
                run.run_id,
                parent_key="work",
                parent_attempt=1,
                key="work/charge",
                ordinal=1,
                name="charge",
                result="1",
            ),
        )
        recovery.commit()
        assert worker.outcome() is False
    assert harness.database.value("SELECT count(*) FROM perennial.activity") == 1


def two_recoveries_of_one_attempt(harness: Harness) -> None:
    run = at_work(harness)
    with harness.context.connection() as connection:
        claim(connection, run)
    harness.freeze()
    harness.move(minutes=1)
    with harness.database.psycopg() as first:
        hand_out_again(first, run)
        second = Thread(lambda: sweep(harness.worker("worker-2")))
        wait_until_blocked(harness.database)
        first.commit()
        second.outcome()
    assert harness.database.value("SELECT attempt FROM perennial.activity") == 2
    assert "attempt handed out again" not in harness.events(run)  # the second did nothing


def a_turn_commits_while_another_holds_it(harness: Harness) -> None:
    run = harness.start(works(harness))
    deciding = turn_of(harness, run)
    with harness.database.psycopg(autocommit=True) as connection:
        assert hold(connection, run, deciding) is not None
        assert commits(connection, deciding) is None
    assert harness.client.get(run).revision == deciding.revision


def hold(connection: Any, run: Any, turn: TurnCommit, token: UUID | None = None) -> Any:
    return turns.hold_turn(
        connection,
        run.run_id,
        revision=turn.revision,
        turn_token=token or uuid4(),
        worker_id=uuid4(),
        dead_after=6,
    )


def two_workers_hold_one_turn(harness: Harness) -> None:
    run = harness.start(works(harness))
    deciding = turn_of(harness, run)
    with harness.database.psycopg() as first:
        assert hold(first, run, deciding) is not None
        second = meanwhile(harness, lambda connection: hold(connection, run, deciding))
        first.commit()
        assert second.outcome() is None


def a_turn_is_held_while_a_fact_comes(harness: Harness) -> None:
    run = harness.start(listens(harness))
    deciding = turn_of(harness, run)
    with harness.database.psycopg() as sender:
        deliver.signal(sender, run.run_id, "go", 1, signal_id=None, by="", forms=SignalForms())
        worker = meanwhile(harness, lambda connection: hold(connection, run, deciding))
        sender.commit()
        assert worker.outcome() is None


def a_turn_is_held_that_was_read_before_a_step_was_recorded(harness: Harness) -> None:
    """Its holder was lost after the step; this one has read a journal without it."""
    run = harness.start(works(harness))
    deciding = turn_of(harness, run)
    with harness.database.psycopg(autocommit=True) as connection:
        lost = uuid4()
        assert hold(connection, run, deciding, lost) is not None
        assert remember(connection, run, lost)
        lose_turn(connection)
        assert hold(connection, run, deciding) is None


def lose_turn(connection: Any) -> None:
    """Its holder was never heard of again, and maintenance has freed it."""
    connection.execute(
        "UPDATE perennial.run SET turn_claimed_at = turn_claimed_at - interval '1 hour'"
    )
    (row,) = connection.execute("SELECT id FROM perennial.run").fetchall()
    assert turns.free_turn_if_lost(connection, row[0], dead_after=6) is not None


def remember(connection: Any, run: Any, token: UUID) -> bool:
    step = FlowStep("charge", "", 1, "charge", ActivityState.DONE, 1, result="1")
    remembered = remember_flow_step_if_held(
        connection, run.run_id, step, turn_token=token, queue=None, horizon_seconds=60
    )
    return remembered is not None


def two_turns_with_an_inline_step(harness: Harness) -> None:
    """Two workers, one step: the second leaves while the first is inside it."""
    inside, may_end, called = threading.Event(), threading.Event(), []

    def charge() -> int:
        called.append(1)
        inside.set()
        assert may_end.wait(10)
        return len(called)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.step(charge)

    run = harness.start(p)
    other = harness.worker("worker-2")
    first = Thread(lambda: advance(harness.context, run.run_id))
    assert inside.wait(10)
    threading.Timer(
        0.2, may_end.set
    ).start()  # only where the guard is cut out does the second get inside
    advance(other, run.run_id)
    may_end.set()
    first.outcome()
    harness.drain()
    assert called == [1]
    assert harness.client.get(run).output == 1


def an_inline_step_is_recorded_after_its_turn_was_taken_over(harness: Harness) -> None:
    run = harness.start(works(harness))
    deciding = turn_of(harness, run)
    with harness.database.psycopg(autocommit=True) as connection:
        lost = uuid4()
        assert hold(connection, run, deciding, lost) is not None
        lose_turn(connection)
        assert hold(connection, run, deciding) is not None
        assert not remember(connection, run, lost)
    assert harness.database.value("SELECT count(*) FROM perennial.activity") == 0


def two_starts_with_one_key(harness: Harness) -> None:
    p = listens(harness)
    harness.client.processes.deploy(p)
    with harness.database.psycopg() as first:
        started = harness.client.start(p, key="REQ-1", connection=first)
        second = meanwhile(
            harness, lambda connection: harness.client.start(p, key="REQ-1", connection=connection)
        )
        first.commit()
        again = second.outcome()
    assert (again.run_id, again.created) == (started.run_id, False)
    assert harness.database.value("SELECT count(*) FROM perennial.outbox") == 1


def a_start_whose_rival_is_rolled_back(harness: Harness) -> None:
    p = listens(harness)
    harness.client.processes.deploy(p)
    with harness.database.psycopg() as first:
        gone = harness.client.start(p, key="REQ-1", connection=first)
        second = meanwhile(
            harness, lambda connection: harness.client.start(p, key="REQ-1", connection=connection)
        )
        first.rollback()
        started = second.outcome()
    assert started.created
    assert started.run_id != gone.run_id
    harness.drain()
    assert harness.status(started) is RunStatus.WAITING


def one_signal_sent_twice_at_once(harness: Harness) -> None:
    run = harness.run(listens(harness))

    def send(connection: Any) -> bool:
        return deliver.signal(
            connection, run.run_id, "go", 1, signal_id="payment-7", by="", forms=SignalForms()
        )

    with harness.database.psycopg() as first:
        assert send(first)
        second = meanwhile(harness, send)
        first.commit()
        assert second.outcome() is False
    assert harness.database.value("SELECT count(*) FROM perennial.signal") == 1


def a_signal_to_a_run_that_is_being_cancelled(harness: Harness) -> None:
    run = harness.run(listens(harness))
    with harness.database.psycopg() as operator:
        cancel(operator, run.run_id, Cancelling("ann", ""))
        sender = meanwhile(
            harness,
            lambda connection: deliver.signal(
                connection, run.run_id, "go", 1, signal_id=None, by="", forms=SignalForms()
            ),
        )
        operator.commit()
        with pytest.raises(PerennialError, match="is cancelled"):
            sender.outcome()
    assert harness.database.value("SELECT count(*) FROM perennial.signal") == 0
    harness.assert_ended_cleanly(run)


def a_turn_that_looks_while_its_run_is_resumed(harness: Harness) -> None:
    """The turn reads `incident` and leaves; what resumes the run leaves an advance of its own."""
    is_mended: list[int] = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        if not is_mended:
            raise KeyError("a bug")
        return "done"

    run = harness.run(p)
    is_mended.append(1)
    with harness.database.psycopg() as operator:
        by_hand.resume(operator, run.run_id, by="ann")
        advance(harness.context, run.run_id)
        operator.commit()
    harness.drain()
    assert harness.client.get(run).output == "done"


def a_turn_commits_after_its_run_was_paused(harness: Harness) -> None:
    run = harness.start(works(harness))
    deciding = turn_of(harness, run)
    with harness.database.psycopg(autocommit=True) as connection:
        by_hand.pause(connection, run.run_id, by="ann")
        assert commits(connection, replace(deciding, revision=deciding.revision + 1)) is None
    assert harness.status(run) is RunStatus.PAUSED


def one_timer_fired_twice_at_once(harness: Harness) -> None:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.sleep(0)
        await flow.signal("go")

    run = harness.start(p)
    advance(harness.context, run.run_id)
    timer_id = harness.database.value("SELECT id FROM perennial.timer")
    with harness.database.psycopg() as first:
        assert fire_timers_if_due(first, [timer_id], relay_after=5).handoffs
        second = Thread(lambda: fire(harness.context, timer_id))
        wait_until_blocked(harness.database)
        first.commit()
        assert second.outcome() == []
    assert harness.database.value("SELECT state FROM perennial.timer") == "fired"


def an_escalation_fired_twice_at_once(harness: Harness) -> None:
    """It raises no revision: that it is armed no more says it alone."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.approval("m", assign=["bob"], escalate={hours(0.5): ["carol"]})

    harness.freeze()
    run = harness.run(p)
    harness.move(minutes=30)
    timer_id = harness.database.value("SELECT id FROM perennial.timer WHERE kind = 'escalation'")
    with harness.database.psycopg() as first:
        assert fire_timers_if_due(first, [timer_id], relay_after=5) == Fired()
        second = Thread(lambda: fire(harness.context, timer_id))
        wait_until_blocked(harness.database)
        first.commit()
        assert second.outcome() == []
    told = "SELECT count(*) FROM perennial.history WHERE event = 'approval escalated'"
    assert harness.database.value(told) == 1
    assert harness.status(run) is RunStatus.WAITING


def a_signal_while_its_wait_times_out(harness: Harness) -> None:
    """The deadline waits for the run's lock, and does not see the signal: it looks again."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        return await flow.signal("go", timeout=hours(1))

    harness.freeze()
    run = harness.run(p)
    harness.move(hours=1)
    timer_id = harness.database.value("SELECT id FROM perennial.timer")
    with harness.database.psycopg() as sender:
        harness.client.signal(run, "go", "in time", connection=sender)
        deadline = Thread(lambda: fire(harness.context, timer_id))
        wait_until_blocked(harness.database)
        sender.commit()
        assert len(deadline.outcome()) == 1
    harness.drain()
    assert harness.client.result(run) == "in time"


def a_timer_fires_while_its_run_is_cancelled(harness: Harness) -> None:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.sleep(0)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    timer_id = harness.database.value("SELECT id FROM perennial.timer")
    with harness.database.psycopg() as operator:
        cancel(operator, run.run_id, Cancelling("ann", ""))
        timer = Thread(lambda: fire(harness.context, timer_id))
        wait_until_blocked(harness.database)
        operator.commit()
        assert timer.outcome() == []
    harness.assert_ended_cleanly(run)
    assert harness.database.value("SELECT state FROM perennial.timer") == "cancelled"


def two_relays_share_what_is_due(harness: Harness) -> None:
    p = listens(harness)
    harness.client.processes.deploy(p)
    harness.client.start_many(p, [None] * 4)

    def take(connection: Any, limit: int) -> list[Handoff]:
        connection.execute("SET LOCAL lock_timeout = '1s'")
        return list(outbox.take_due_handoffs(connection, relay_after=5, dead_after=6, limit=limit))

    with harness.database.psycopg() as first, harness.database.psycopg() as second:
        some, others = take(first, 2), take(second, 10)
        assert len(some) == len(others) == 2
        assert not {one.run_id for one in some} & {other.run_id for other in others}


def a_handoff_is_claimed_while_a_relay_sends_it_again(harness: Harness) -> None:
    """The claim waits for the relay, and then takes the row that the relay has moved."""
    run = at_work(harness)
    harness.database.rows("UPDATE perennial.outbox SET publish_at = perennial.now()")
    with harness.database.psycopg() as relay:
        due = outbox.take_due_handoffs(relay, relay_after=5, dead_after=6, limit=10)
        assert len(due) == 1
        worker = meanwhile(harness, lambda connection: claim(connection, run))
        relay.commit()
        assert worker.outcome()
    assert harness.database.value("SELECT count(*) FROM perennial.outbox") == 0


RACES: list[Callable[[Harness], None]] = [
    two_claims_of_one_attempt,
    a_claim_after_a_cancellation,
    a_cancellation_after_a_claim,
    a_cancellation_while_a_turn_opens_things,
    two_operators_cancel_a_run_that_cleans_up,
    a_run_that_ends_while_it_is_to_clean_up,
    a_cancellation_while_an_attempt_fails,
    a_claim_after_the_turn_that_closed_its_run,
    a_turn_that_closes_a_run_after_a_claim,
    a_signal_while_a_turn_decides,
    a_signal_while_a_turn_commits,
    two_decisions_at_once,
    two_votes_at_once,
    two_answers_at_once,
    two_decisions_of_one_person_at_once,
    a_timeout_while_a_decision_is_taken,
    a_decision_while_its_approval_times_out,
    a_turn_that_is_refused,
    two_turns_of_one_revision,
    a_stale_attempt_commits_after_it_was_handed_out_again,
    a_stale_attempt_settles_while_it_is_handed_out_again,
    a_stale_attempt_fails_while_it_is_handed_out_again,
    a_step_is_recorded_while_its_attempt_is_handed_out_again,
    two_recoveries_of_one_attempt,
    a_turn_commits_while_another_holds_it,
    two_workers_hold_one_turn,
    a_turn_is_held_while_a_fact_comes,
    a_turn_is_held_that_was_read_before_a_step_was_recorded,
    two_turns_with_an_inline_step,
    an_inline_step_is_recorded_after_its_turn_was_taken_over,
    two_starts_with_one_key,
    a_start_whose_rival_is_rolled_back,
    one_signal_sent_twice_at_once,
    a_signal_to_a_run_that_is_being_cancelled,
    a_turn_that_looks_while_its_run_is_resumed,
    a_turn_commits_after_its_run_was_paused,
    one_timer_fired_twice_at_once,
    an_escalation_fired_twice_at_once,
    a_signal_while_its_wait_times_out,
    a_timer_fires_while_its_run_is_cancelled,
    two_relays_share_what_is_due,
    a_handoff_is_claimed_while_a_relay_sends_it_again,
]


@pytest.mark.parametrize("race", RACES, ids=lambda race: race.__name__)
def test_the_loser_writes_nothing_and_no_wake_up_is_lost(harness, race):
    race(harness)


# -- everything at once --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_a_crowd_finds_no_deadlock_and_leaves_nothing_open(harness, seed):
    """Random verbs of five parties on a few runs: none hangs, Postgres kills none, and all runs end cleanly."""
    print(f"seed {seed}")

    @stage(registry=harness.registry, retry=Retry(delay_seconds=0))
    def work(number: int) -> int:
        return number

    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        numbers = await flow.gather(*(flow.stage(work, number) for number in range(3)))
        go = flow.signal("go", timeout=hours(1))
        await flow.approval(
            "m", assign=["bob", "carol"], escalate={hours(1): ["dora"]}, timeout=hours(2)
        )
        await flow.step(total, numbers)
        with suppress(TimeoutError):
            await go
        return await flow.step(total, numbers)

    harness.client.processes.deploy(p)
    crowd = [harness.client.start(p, key=f"run-{number}") for number in range(6)]

    def party(number: int) -> list[str]:
        chance = random.Random(seed * 100 + number)
        context, client = harness.worker(f"worker-{number}"), harness.client
        troubles: list[str] = []
        verbs: list[Callable[[Any], Any]] = [
            lambda run: advance(context, run.run_id),
            lambda run: [
                run_stage(context, run.run_id, key, 1) for key in ("work", "work#2", "work#3")
            ],
            lambda run: client.signal(run, "go", 1, signal_id=str(chance.randrange(3))),
            lambda run: client.approve(run, "m", by=chance.choice(["bob", "carol", "eve"])),
            client.operations.pause,
            client.operations.resume,
            lambda _: sweep(context),
            lambda _: client.start_many(
                p, [None] * 3, keys=chance.sample([f"run-{n}" for n in range(8)], 3)
            ),
            lambda run: client.cancel(run) if chance.random() < 0.1 else None,
        ]
        for _ in range(60):
            try:
                chance.choice(verbs)(chance.choice(crowd))
            except PerennialError:
                pass
            except Exception as error:  # noqa: BLE001 - reported below
                troubles.append(f"{type(error).__name__}: {error}"[:300])
        return troubles

    parties = [Thread(lambda number=number: party(number)) for number in range(5)]
    troubles = [trouble for each in parties for trouble in each.outcome()]
    assert troubles == []
    harness.freeze()
    for _ in range(3):  # what the crowd's messengers collected is lost: sweeps find it
        for summary in harness.client.list(limit=100):
            with suppress(PerennialError):
                harness.client.operations.resume(summary.id)
            with suppress(DecisionRefused):
                harness.client.approve(summary.id, "m", by="bob")
            with suppress(PerennialError):
                harness.client.signal(summary.id, "go", 1)
        harness.recover(3)
    for summary in harness.client.list(limit=100):
        harness.assert_ended_cleanly(summary.id)
        assert summary.status in (RunStatus.COMPLETED, RunStatus.CANCELLED)
