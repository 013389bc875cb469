"""A worker goes on in place with the stage that its commit has opened (docs/adr/0012)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from orchestrator import Flow, Retry, RunStatus, process, stage, step
from orchestrator.engine import turn
from orchestrator.engine.eager.execution import advance_eagerly, run_stage_eagerly
from orchestrator.store.transitions.claim import Claim
from tests.eager import GoesOn
from tests.harness import Harness
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="each test says itself how far a worker goes on")


class Watched(GoesOn):
    """Goes on with the stages that it is told, or all; `before` is called before each."""

    def __init__(self, *only: str, before: Callable[[Claim], Any] = lambda _: None) -> None:
        self.only, self.before, self.done = only, before, []

    def may_take(self, opened: Any) -> bool:
        return not self.only or opened.request.name in self.only

    def perform(self, claim: Claim, work: Callable[[], Claim | None]) -> Claim | None:
        self.before(claim)
        self.done.append((claim.name, claim.attempt))
        return work()


class InATask(Watched):
    """As Celery does: a task's failure is told, and goes no further."""

    def perform(self, claim: Claim, work: Callable[[], Claim | None]) -> Claim | None:
        try:
            return super().perform(claim, work)
        except Exception:  # noqa: BLE001 - whatever it is
            return None


def three_stages(harness: Harness, middle: Callable[[int], int] = abs) -> Any:
    @stage(registry=harness.registry)
    def first(number: int) -> int:
        return number + 1

    @stage(registry=harness.registry, retry=Retry(max_attempts=3, delay_seconds=5))
    def second(number: int) -> int:
        return middle(number)

    @stage(registry=harness.registry)
    def third(number: int) -> int:
        return step(abs, -number - 1)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.stage(third, await flow.stage(second, await flow.stage(first, 0)))

    return p


def handoffs(harness: Harness) -> list[str]:
    return [handoff.key for handoff in harness.messenger.handed_off]


def test_a_run_goes_from_its_start_to_its_end_without_a_message(harness):
    run, worker = harness.start(three_stages(harness)), Watched()
    advance_eagerly(harness.context, run.run_id, worker)
    assert harness.client.result(run) == 2
    assert worker.done == [("first", 1), ("second", 1), ("third", 1)]
    assert handoffs(harness) == []
    harness.assert_ended_cleanly(run)


def test_the_record_is_as_if_messages_had_come(harness):
    p = three_stages(harness)
    by_messages = harness.run(p)
    execution = harness.start(p)
    advance_eagerly(harness.context, execution.run_id, Watched())
    lines = "SELECT key, scope, ordinal, parent_key, kind, name, state, attempt, queue, policy, timeout_seconds, input, result FROM perennial.activity"  # noqa: E501
    runs = "SELECT process, status, stage, previous_stage, waiting_for, revision, turn_revision, output, error FROM perennial.run"  # noqa: E501
    for sql, column in ((lines, "run_id"), (runs, "id")):
        found = [
            sorted(map(repr, harness.database.rows(f"{sql} WHERE {column} = '{run.run_id}'")))
            for run in (by_messages, execution)
        ]
        assert found[0] == found[1]


def test_what_may_not_be_taken_is_handed_off(harness):
    run, worker = harness.start(three_stages(harness)), Watched("first", "third")
    advance_eagerly(harness.context, run.run_id, worker)
    assert handoffs(harness) == ["second"]
    run_stage_eagerly(harness.context, run.run_id, "second", 1, worker)
    assert worker.done == [("first", 1), ("third", 1)]
    assert harness.client.result(run) == 2


def test_of_stages_side_by_side_one_is_taken(harness):
    @stage(registry=harness.registry)
    def work(number: int) -> int:
        return number

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[int]:
        return list(await flow.gather(*(flow.stage(work, number) for number in range(3))))

    run, worker = harness.start(p), Watched()
    advance_eagerly(harness.context, run.run_id, worker)
    assert len(worker.done) == 1
    assert len(handoffs(harness)) == 2
    harness.drain()
    assert harness.client.result(run) == [0, 1, 2]


def test_a_claim_is_beaten_for_as_long_as_it_is_worked_on(harness):
    """Guards `holding` around all that is taken over: a claim without a heartbeat would be done twice."""
    held = []

    def look(claim: Claim) -> None:
        owner = harness.database.value(
            f"SELECT worker_id FROM perennial.activity WHERE key = '{claim.key}' AND state = 'claimed'"
        )
        held.append(owner in harness.context.identity.leased_ids())

    run = harness.start(three_stages(harness))
    advance_eagerly(harness.context, run.run_id, Watched(before=look))
    assert held == [True, True, True]
    assert harness.context.identity.leased_ids() == []


def test_a_stage_that_fails_in_place_rests_until_its_retry(harness):
    def fails(_: int) -> int:
        raise ConnectionError

    run, worker = harness.start(three_stages(harness, fails)), Watched()
    advance_eagerly(harness.context, run.run_id, worker)
    assert worker.done == [("first", 1), ("second", 1)]
    state = "SELECT state || attempt FROM perennial.activity WHERE key = 'second'"
    assert harness.database.value(state) == "retrying2"


def test_a_fact_that_comes_while_a_stage_is_worked_on_in_place_is_seen(harness):
    """Guards the revision of the run that a worker goes on with."""

    @stage(registry=harness.registry)
    def work() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        await flow.stage(work, key="one")
        await flow.stage(work, key="two")
        return [await flow.signal("news")]

    run = harness.start(p)

    def tell(claim: Claim) -> None:
        if claim.key == "two":
            harness.client.signal(run, "news", 7)

    advance_eagerly(harness.context, run.run_id, Watched(before=tell))
    harness.drain()
    assert harness.client.result(run) == [7]


def test_a_run_that_is_paused_meanwhile_records_its_stage_and_stops(harness):
    run = harness.start(three_stages(harness))

    def pause(claim: Claim) -> None:
        if claim.key == "second":
            harness.client.operations.pause(run)

    worker = Watched(before=pause)
    advance_eagerly(harness.context, run.run_id, worker)
    assert harness.status(run) is RunStatus.PAUSED
    assert worker.done == [("first", 1), ("second", 1)]
    harness.client.operations.resume(run)
    harness.drain()
    assert harness.client.result(run) == 2


def test_a_commit_whose_answer_is_lost_leaves_no_claim_with_a_living_worker(harness, monkeypatch):
    """It has claimed the next stage, and its worker doesn't know: on another connection it finds its own stage
    recorded, and goes its way. Guards the hold around the commit.
    """
    commit, tries = turn.commit_turn_if_unchanged, []

    def commit_and_be_cut(*arguments: Any, **options: Any) -> Any:
        committed = commit(*arguments, **options)
        tries.append(1)
        if len(tries) == 2:
            no_answer = Exception("no answer came")
            raise OperationalError("commit", {}, no_answer, connection_invalidated=True)
        return committed

    monkeypatch.setattr(turn, "commit_turn_if_unchanged", commit_and_be_cut)
    run = harness.start(three_stages(harness))
    with harness.context.identity.lease() as before:
        pass
    advance_eagerly(harness.context, run.run_id, Watched())
    claimed = "SELECT worker_id FROM perennial.activity WHERE key = 'second' AND state = 'claimed'"
    assert harness.database.value(claimed) == before
    with harness.context.identity.lease() as after:
        assert harness.context.identity.leased_ids() == [after]
        assert after != before


def test_a_stage_whose_end_cannot_be_recorded_is_left_by_its_worker(harness, monkeypatch):
    """Celery's tracer keeps the failure to itself. Guards the hold around each task of its own."""
    commit, tries = turn.commit_turn_if_unchanged, []

    def away_at_the_last(*arguments: Any, **options: Any) -> Any:
        tries.append(1)
        if len(tries) == 4:
            raise OperationalError("commit", {}, Exception("Postgres is away"))
        return commit(*arguments, **options)

    monkeypatch.setattr(turn, "commit_turn_if_unchanged", away_at_the_last)
    run, worker = harness.start(three_stages(harness)), InATask()
    with harness.context.identity.lease() as before:
        pass
    advance_eagerly(harness.context, run.run_id, worker)
    assert worker.done == [("first", 1), ("second", 1), ("third", 1)]
    with harness.context.identity.lease() as after:
        assert after != before


@pytest.mark.parametrize("action", ["signal", "step"])
def test_nothing_is_taken_over_with_what_the_run_in_hand_would_lack(harness, action):
    """An inline step that this turn recorded, a signal that it consumed: the next turn reads them."""

    @stage(registry=harness.registry)
    def work() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        found = await (flow.signal("go") if action == "signal" else flow.step(abs, -1))
        await flow.stage(work)
        return found

    run, worker = harness.start(p), Watched()
    if action == "signal":
        harness.client.signal(run, "go", 1)
    advance_eagerly(harness.context, run.run_id, worker)
    assert worker.done == []
    harness.drain()
    assert harness.client.result(run) == 1


def test_a_stage_with_steps_of_before_is_not_taken_over(harness):
    """A retried stage's steps are in the record, and a claim reads them. Guards `_to_take` in `engine.turn`."""
    called: list[int] = []
    fails = [True]

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def shaky() -> int:
        count = step(count_up, called)
        if fails:
            raise ConnectionError
        return count

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.stage(shaky)

    run = harness.run(p)
    fails.clear()
    harness.client.operations.retry(run)
    watched = Watched()
    advance_eagerly(harness.context, run.run_id, watched)
    assert watched.done == []
    harness.drain()
    assert harness.client.result(run) == 1
    assert called == [1]


def count_up(called: list[int]) -> int:
    called.append(1)
    return len(called)
