"""Two at once, and neither keeps to our verbs: the record itself refuses the second (store/schema/rules.py).

The statements here are written by hand and have no guards, as an operator's would, or those of a verb whose
guard somebody has broken. Each race is played with its rules in place; then with each rule it needs taken away,
and is expected to go wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from orchestrator import Flow, RunStatus, hours, process, stage
from orchestrator.engine.operations.cancel import Cancelling, cancel
from orchestrator.engine.turn import advance
from orchestrator.store.schema import rules
from tests.harness import Database, Harness, Thread, meanwhile, wait_until_blocked

HOLD = """UPDATE perennial.run SET turn_token = gen_random_uuid(), turn_worker = gen_random_uuid(),
    turn_claimed_at = perennial.now(), turn_lease_seconds = 6, turn_losses = turn_losses + 1"""
CLAIM = "UPDATE perennial.activity SET state = 'claimed', worker_id = gen_random_uuid(), claimed_at = perennial.now()"
SETTLE = "UPDATE perennial.activity SET state = 'done', result = '1', settled_at = perennial.now()"
DECIDE = "UPDATE perennial.approval SET state = 'approved', decided_by = 'bob', decided_at = perennial.now()"
CONSUME = "UPDATE perennial.signal SET consumed_key = 'go'"
FIRE = "UPDATE perennial.timer SET state = 'fired', fired_at = perennial.now()"
TELL = "UPDATE perennial.history SET actor = 'nobody'"
FORGET = "DELETE FROM perennial.history"
CLOSE = """UPDATE perennial.run SET status = 'cancelled', closed_at = perennial.now(), turn_token = NULL,
    turn_worker = NULL, turn_claimed_at = NULL"""
LET_GO = (
    "UPDATE perennial.activity SET state = 'cancelled', settled_at = perennial.now() WHERE settled_at IS NULL",
    "UPDATE perennial.approval SET state = 'cancelled' WHERE state = 'open'",
    "UPDATE perennial.timer SET state = 'cancelled' WHERE state = 'armed'",
    "DELETE FROM perennial.outbox",
)
OPENS = {
    "activity": """INSERT INTO perennial.activity (run_id, key, ordinal, kind, name, state)
        SELECT id, 'late', 9, 'stage', 'work', 'pending' FROM perennial.run""",
    "approval": """INSERT INTO perennial.approval (run_id, key, name, assignees)
        SELECT id, 'late', 'late', '{bob}' FROM perennial.run""",
    "timer": """INSERT INTO perennial.timer (id, run_id, key, kind, due_at)
        SELECT gen_random_uuid(), id, 'late', 'sleep', perennial.now() FROM perennial.run""",
}


def waits(harness: Harness) -> Any:
    """A run with a stage handed off, an approval asked, timers armed and a signal in its buffer."""

    @stage(registry=harness.registry)
    def work() -> int:
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.gather(
            flow.stage(work), flow.approval("m", assign=["bob"], timeout=hours(1)), flow.sleep(9)
        )

    run = harness.start(p)
    advance(harness.context, run.run_id)
    harness.client.signal(run, "go")
    return run


@contextmanager
def refused(rule: str) -> Iterator[None]:
    with pytest.raises(psycopg.errors.IntegrityError) as error:
        yield
    assert error.value.diag.constraint_name == rule


def the_second_is_refused(harness: Harness, statement: str, rule: str) -> None:
    """Both write the same row; the second waits for the first, and finds what it has done."""
    waits(harness)
    with harness.database.psycopg() as first:
        first.execute(statement)
        second = meanwhile(harness, lambda connection: connection.execute(statement))
        first.commit()
        with refused(rule):
            second.outcome()


# -- the races -----------------------------------------------------------------------------------


def two_turns_are_opened(harness: Harness) -> None:
    the_second_is_refused(harness, HOLD, "run_turn_is_held")


def one_attempt_is_claimed_twice(harness: Harness) -> None:
    the_second_is_refused(harness, f"{CLAIM} WHERE key = 'work'", "activity_claim_stands")


def one_activity_is_settled_twice(harness: Harness) -> None:
    the_second_is_refused(harness, f"{SETTLE} WHERE key = 'work'", "activity_settled_stands")


def one_approval_is_decided_twice(harness: Harness) -> None:
    the_second_is_refused(harness, DECIDE, "approval_closed_stands")


def one_signal_is_consumed_twice(harness: Harness) -> None:
    the_second_is_refused(harness, CONSUME, "signal_consumed_stands")


def one_timer_is_fired_twice(harness: Harness) -> None:
    the_second_is_refused(harness, f"{FIRE} WHERE kind = 'sleep'", "timer_ended_stands")


def one_run_is_closed_twice(harness: Harness) -> None:
    waits(harness)
    with harness.database.psycopg() as first:
        for statement in (CLOSE, *LET_GO):
            first.execute(statement)
        second = meanwhile(harness, lambda connection: connection.execute(CLOSE))
        first.commit()
        with refused("run_closed_stands"):
            second.outcome()


def history_is_changed_while_somebody_holds_it(harness: Harness) -> None:
    waits(harness)
    with harness.database.psycopg() as first:
        first.execute("SELECT FROM perennial.history FOR UPDATE")
        second = meanwhile(harness, lambda connection: connection.execute(TELL))
        first.commit()
        with refused("history_stands"):
            second.outcome()


def history_is_deleted_beside_somebody_who_may(harness: Harness) -> None:
    """What one transaction has said it drops, another may not."""
    run = waits(harness)
    told = harness.events(run)
    with harness.database.psycopg() as owner:
        owner.execute("SET LOCAL perennial.drop_history_before = 'infinity'")
        owner.execute(FORGET)
        second = meanwhile(harness, lambda connection: connection.execute(FORGET))
        owner.rollback()
        with refused("history_stays"):
            second.outcome()
    assert harness.events(run) == told


def something_opens_while_its_run_closes(harness: Harness, what: str) -> None:
    """The close is not committed yet: who opens waits for it, and is refused. Who commits last is not seen by
    the other, so each must look.
    """
    run = waits(harness)
    with harness.database.psycopg() as operator, harness.database.psycopg() as late:
        cancel(operator, run.run_id, Cancelling("ann", ""))
        opening = Thread(lambda: late.execute(OPENS[what]))
        wait_until_blocked(harness.database, or_ended=opening)
        operator.commit()
        with refused(f"{what}_of_open_run"):
            opening.outcome()
    harness.assert_ended_cleanly(run)


def a_run_closes_while_something_opens(harness: Harness, what: str) -> None:
    """The close has looked before the other committed, and doesn't see it; the look at its end does."""
    run = waits(harness)
    with harness.database.psycopg() as first:
        first.execute(OPENS[what])
        operator = meanwhile(
            harness, lambda connection: cancel(connection, run.run_id, Cancelling("ann", ""))
        )
        first.commit()
        with refused("run_leaves_nothing_open"):
            operator.outcome()
    assert harness.status(run) is RunStatus.RUNNING
    harness.client.cancel(run)
    harness.assert_ended_cleanly(run)


def of(race: Callable[[Harness, str], None], what: str) -> Callable[[Harness], None]:
    def played(harness: Harness) -> None:
        race(harness, what)

    played.__name__ = f"{race.__name__}-{what}"
    return played


# -- without the rules ---------------------------------------------------------------------------


@dataclass(frozen=True)
class WithoutRule:
    """The record as if it had no such rule."""

    name: str

    @contextmanager
    def on(self, database: Database) -> Iterator[None]:
        (rule,) = [rule for rule in rules.RULES if rule.name == self.name]
        alter = f"ALTER TABLE perennial.{rule.table}"
        database.rows(f"{alter} DISABLE TRIGGER {rule.name}")
        try:
            yield
        finally:
            database.rows(f"{alter} ENABLE TRIGGER {rule.name}")


@dataclass(frozen=True)
class WithoutLock:
    """The record as if what opens something looked at its run, and locked nothing."""

    name: str = "lock"

    @contextmanager
    def on(self, database: Database) -> Iterator[None]:
        function = rules.RUN_IS_CLOSED.replace("CREATE", "CREATE OR REPLACE")
        assert "FOR SHARE" in function
        database.rows(function.replace("FOR SHARE", ""))
        try:
            yield
        finally:
            database.rows(function)


RACES: list[tuple[Callable[[Harness], None], tuple[WithoutRule | WithoutLock, ...]]] = [
    (two_turns_are_opened, (WithoutRule("run_turn_is_held"),)),
    (one_attempt_is_claimed_twice, (WithoutRule("activity_claim_stands"),)),
    (one_activity_is_settled_twice, (WithoutRule("activity_settled_stands"),)),
    (one_approval_is_decided_twice, (WithoutRule("approval_closed_stands"),)),
    (one_signal_is_consumed_twice, (WithoutRule("signal_consumed_stands"),)),
    (one_timer_is_fired_twice, (WithoutRule("timer_ended_stands"),)),
    (one_run_is_closed_twice, (WithoutRule("run_closed_stands"),)),
    (history_is_changed_while_somebody_holds_it, (WithoutRule("history_stands"),)),
    (history_is_deleted_beside_somebody_who_may, (WithoutRule("history_stays"),)),
    *(
        (
            of(something_opens_while_its_run_closes, what),
            (WithoutRule(f"{what}_of_open_run"), WithoutLock()),
        )
        for what in OPENS
    ),
    *(
        (
            of(a_run_closes_while_something_opens, what),
            (
                WithoutRule("run_leaves_nothing_open"),
                WithoutRule(f"{what}_of_open_run"),
                WithoutLock(),
            ),
        )
        for what in OPENS
    ),
]
GOES_WRONG = (AssertionError, pytest.fail.Exception)


@pytest.mark.parametrize("race", [race for race, _ in RACES], ids=lambda race: race.__name__)
def test_the_record_refuses_the_second(harness, race):
    race(harness)


@pytest.mark.parametrize(
    ("race", "without"),
    [(race, without) for race, needs in RACES for without in needs],
    ids=lambda each: each.name if hasattr(each, "name") else each.__name__,
)
def test_without_its_rule_the_second_is_written(harness, race, without):
    with without.on(harness.database), pytest.raises(GOES_WRONG):
        race(harness)


def test_a_refusal_at_the_end_of_a_statements_own_transaction_reaches_who_wrote_it(harness):
    """A verb is one statement that commits by itself; what is judged at its commit is not lost on the way."""
    run = waits(harness)
    with (
        harness.context.connection() as connection,
        pytest.raises(IntegrityError, match="run_leaves_nothing_open"),
    ):
        connection.execute(text(CLOSE))
    assert harness.status(run) is RunStatus.RUNNING
