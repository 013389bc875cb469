"""An operator's verb against another's, and against workers: one of them has its way, and the other is told.

Two real connections each: the first holds the run's lock, the second waits for it.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from orchestrator import Flow, Retry, RunStatus, process, stage
from orchestrator.core.reentry.change import Change, Copy
from orchestrator.core.reentry.retry import Retrying
from orchestrator.core.reentry.rewind import Rewinding
from orchestrator.core.reentry.settle import ByHand, Editing
from orchestrator.engine.operations.retry import RETRY
from orchestrator.engine.operations.rewind import REWIND
from orchestrator.engine.operations.settle import EDIT, SKIP
from orchestrator.engine.turn import advance
from orchestrator.errors import OperationRefused, RunNotClosed
from orchestrator.store.reads.standing import read_standing
from orchestrator.store.transitions import outbox
from orchestrator.store.transitions.claim import claim_activity_if_pending
from orchestrator.store.transitions.fork import fork_if_unchanged
from orchestrator.store.transitions.reenter import lock_standing, re_enter_if_unchanged
from tests.harness import Harness, Thread, wait_until_blocked


@pytest.fixture
def failed(harness: Harness) -> Any:
    """A run whose stage has failed, and would not again."""
    is_away = [True]

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def shaky() -> str:
        if is_away:
            is_away.clear()
            raise ConnectionError("away")
        return "back"

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        return await flow.stage(shaky)

    run = harness.run(p, key="k")
    assert harness.status(run) is RunStatus.FAILED
    return run


def retry(harness: Harness, connection: Any, run: Any, **how: Any) -> Any:
    return RETRY.apply(harness.context, connection, run.run_id, Retrying(), by="ann", **how)


@pytest.mark.parametrize("operation", [None, "op-7"])
def test_two_operators_retry_a_run_at_once(harness, failed, operation):
    """It is done once. The same operation is told so; another operator, that the run goes on."""
    with harness.database.psycopg() as first:
        assert retry(harness, first, failed, operation=operation).is_applied
        second = Thread(
            lambda: harness.client.operations.retry(failed, by="bob", operation=operation)
        )
        wait_until_blocked(harness.database)
        first.commit()
        if operation is None:
            with pytest.raises(OperationRefused, match="goes on by itself"):
                second.outcome()
        else:
            assert second.outcome().is_applied is False
    harness.drain()
    assert harness.client.result(failed) == "back"
    assert harness.events(failed).count("retried") == 1


@pytest.mark.parametrize("retries_first", [True, False])
def test_a_retry_and_a_restart_at_once(harness, failed, retries_first):
    """One run has the key, and goes on."""
    restart = harness.client.operations.restart
    with harness.database.psycopg() as first:
        if retries_first:
            retry(harness, first, failed)
            second = Thread(lambda: restart(failed))
            refusal = pytest.raises(RunNotClosed)
        else:
            new = restart(failed, connection=first)
            second = Thread(lambda: harness.client.operations.retry(failed))
            refusal = pytest.raises(OperationRefused, match=f"started anew as {new.run_id}")
        wait_until_blocked(harness.database)
        first.commit()
        with refusal:
            second.outcome()
    harness.drain()
    assert harness.client.result("k") == "back"
    assert len(harness.client.list(status=[RunStatus.COMPLETED])) == 1


def test_a_verb_changes_the_run_that_it_has_read(harness, failed):
    """Guards the revision in the statement's WHERE: whoever calls it without the lock."""
    with harness.context.transaction() as connection:
        standing = read_standing(connection, failed.run_id)
    assert standing is not None
    harness.database.rows("UPDATE perennial.run SET revision = revision + 1")
    with harness.context.transaction() as connection:
        change = Change("retried", RunStatus.RUNNING)
        assert re_enter_if_unchanged(connection, standing, change, actor="ann", detail={}) is None
    assert harness.status(failed) is RunStatus.FAILED
    assert "retried" not in harness.events(failed)


def test_a_copy_is_of_the_run_that_was_read(harness, failed):
    """Guards the revision in `fork_run`: whoever calls it without the lock."""
    with harness.context.transaction() as connection:
        standing = read_standing(connection, failed.run_id)
    assert standing is not None
    harness.database.rows("UPDATE perennial.run SET revision = revision + 1")
    copy = Copy(at=None, business_key=None, kept=(), put_back=(), with_steps=())
    with harness.context.transaction() as connection:
        assert fork_if_unchanged(connection, standing, copy, actor="ann", detail={}) is None
    assert len(harness.client.list()) == 1


def test_an_operators_crash_before_its_commit_leaves_nothing(harness, failed):
    """And after it the relay brings the message, whoever else is there."""
    before = harness.client.history(failed)
    with harness.database.psycopg() as connection:
        retry(harness, connection, failed)
        connection.rollback()
    assert (harness.status(failed), harness.client.history(failed)) == (RunStatus.FAILED, before)
    harness.assert_ended_cleanly(failed)
    with harness.database.psycopg() as connection:
        retry(harness, connection, failed)
        connection.commit()
    harness.drain()
    assert harness.client.result(failed) == "back"


@pytest.fixture
def at_work(harness: Harness) -> Any:
    """A run whose stage is handed off, and what claims it."""

    @stage(registry=harness.registry)
    def work() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(work)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    return run


def claim(connection: Any, run: Any) -> Any:
    return claim_activity_if_pending(connection, run.run_id, "work", 1, worker_id=uuid4())


def claim_by_itself(harness: Harness, run: Any) -> Any:
    with harness.context.connection() as connection:
        return claim(connection, run)


def test_a_claim_waits_for_an_operators_verb(harness, at_work):
    """It locks no run. Guards the lock of what is open in `lock_open_to_re_enter`."""
    with harness.database.psycopg() as operator:
        assert lock_standing(operator, at_work.run_id) is not None
        worker = Thread(lambda: claim_by_itself(harness, at_work))
        wait_until_blocked(harness.database)
        operator.rollback()
        assert worker.outcome() is not None


VERBS = {
    "skip": (SKIP, ByHand("work")),
    "edit": (EDIT, Editing("work", "{}")),
    "rewind": (REWIND, Rewinding("work")),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_worker_claims_what_an_operator_changes(harness, at_work, verb):
    """Whoever comes first has it: the worker finds its attempt gone, or the operator who works on it."""
    it, given = VERBS[verb]
    with harness.database.psycopg() as worker:
        assert claim(worker, at_work) is not None
        operator = Thread(
            lambda: harness.client.operations._do(
                it,
                at_work,
                given,
                by="ann",
                reason="",
                dry_run=False,
                digest=None,
                operation=None,
                connection=None,
            )
        )
        wait_until_blocked(harness.database)
        worker.commit()
        with pytest.raises(OperationRefused, match="is being worked on"):
            operator.outcome()
        worker.execute(
            "UPDATE perennial.activity SET state = 'pending', worker_id = NULL,"
            " claimed_at = NULL, attempt = 2"
        )
        worker.commit()
    if verb == "edit":
        return
    with harness.database.psycopg() as operator_first:
        it.apply(harness.context, operator_first, at_work.run_id, given, by="ann")
        late = Thread(lambda: claim_by_itself(harness, at_work))
        operator_first.commit()
        assert late.outcome() is None
    harness.drain()
    assert harness.status(at_work) is RunStatus.COMPLETED
    harness.assert_ended_cleanly(at_work)


def test_a_message_that_found_its_run_ended_forgets_no_turn(harness, at_work):
    """An operator has let the run go on since. Guards the condition of `forget_advance`."""
    harness.drain()
    assert harness.status(at_work) is RunStatus.COMPLETED
    harness.client.operations.rewind(at_work, "work", even_if_completed=True)
    with harness.context.connection() as connection:
        outbox.forget_advance(connection, at_work.run_id)
    harness.drain()
    assert harness.status(at_work) is RunStatus.COMPLETED
    assert harness.events(at_work).count("stage done") == 2


def test_a_turn_commits_while_an_operator_rewinds(harness, at_work):
    """It was decided on a journal that is no more: it writes nothing, and is taken again."""
    harness.drain()
    with harness.database.psycopg() as operator:
        REWIND.apply(
            harness.context,
            operator,
            at_work.run_id,
            Rewinding("work", even_if_completed=True),
            by="ann",
        )
        late = Thread(lambda: advance(harness.context, at_work.run_id))
        operator.commit()
        late.outcome()
    harness.drain()
    assert harness.status(at_work) is RunStatus.COMPLETED
    assert harness.events(at_work).count("stage done") == 2
    harness.assert_ended_cleanly(at_work)
