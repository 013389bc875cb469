"""Runs that go on together: what each asks alone, they ask in one statement (docs/adr/0014)."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from orchestrator import Flow, Retry, RunStatus, faults, process, stage, step
from orchestrator.core.definition import Process
from orchestrator.core.views import Started
from orchestrator.engine import turn
from orchestrator.engine.context import POOL_SIZE
from orchestrator.engine.eager import batch
from orchestrator.engine.eager.batch import BATCH_MAX, STATEMENT_RUNS_MAX, advance_batch
from orchestrator.engine.eager.call_durations import SHORT_SECONDS, CallDurations
from orchestrator.store.batched import BatchVerb
from orchestrator.store.reads import loading
from orchestrator.store.transitions.commit import commit_turn_if_unchanged
from tests.eager import AlwaysShort, GoesOn, go_in_a_batch
from tests.harness import Harness, wait_for, wait_until_blocked
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="each test says itself what goes on together")

RUNS = 3


class Statements:
    """How often each named statement has run; `before` and `after` are called with the name of each."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.before: Callable[[str], None] = lambda _name: None
        self.after: Callable[[str], None] = lambda _name: None

    def __call__(self, when: str, what: str) -> None:
        if when == "before":
            self.count[what] += 1
            self.before(what)
        else:
            self.after(what)


@pytest.fixture(autouse=True)
def calls_are_timed(harness: Harness) -> None:
    harness.context.call_durations = CallDurations()


@pytest.fixture
def statements() -> Iterator[Statements]:
    heard = Statements()
    faults.listen(heard)
    yield heard
    faults.listen(None)


def three_stages(harness: Harness, work: Callable[[int], int] = abs) -> Process:
    @stage(registry=harness.registry, name="work")
    def worked(number: int) -> int:
        return work(number)

    @process(version=1, registry=harness.registry, name="staged")
    async def p(flow: Flow, number: int) -> int:
        for _ in range(3):
            number = await flow.stage(worked, number)
        return number

    return p


def three_steps(harness: Harness, work: Callable[[int], int] = abs) -> Process:
    @process(version=1, registry=harness.registry, name="stepped")
    async def p(flow: Flow, number: int) -> int:
        for _ in range(3):
            number = await flow.step(called, number)
        return number

    def called(number: int) -> int:
        return work(number)

    return p


def start(harness: Harness, p: Process, count: int = RUNS) -> list[Started]:
    harness.client.processes.deploy(p)
    return [harness.client.start(p, number) for number in range(count)]


def go(harness: Harness, runs: list[Started], *more: UUID) -> None:
    advance_batch(harness.context, [*(run.run_id for run in runs), *more], GoesOn())


def get_used_to(harness: Harness, p: Process) -> None:
    """A first run, alone: from then on its calls are known to be short."""
    stop_the_clock(harness)
    harness.run(p, 0)


def stop_the_clock(harness: Harness) -> None:
    """Nothing takes long: who is asked together depends on no machine."""
    harness.context.monotonic = lambda: 0.0


class Killed(BaseException):
    pass


@contextmanager
def ends_this_worker() -> Iterator[None]:
    """What fails here is no trouble of the run's."""
    try:
        yield
    except AssertionError as failure:
        raise Killed(str(failure)) from failure


def statuses(harness: Harness, runs: list[Started]) -> set[RunStatus]:
    return {harness.status(run) for run in runs}


def assert_the_second_alone_is(status: RunStatus, harness: Harness, runs: list[Started]) -> None:
    """The others have ended well."""
    expected = [RunStatus.COMPLETED, status, RunStatus.COMPLETED]
    assert [harness.status(run) for run in runs] == expected


# -- what it is for ------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "groups"), [(10, 1), (BATCH_MAX, 2)])
def test_many_runs_of_three_stages_cost_the_statements_of_one(harness, statements, count, groups):
    """Or of two, where more go on than ask in one statement."""
    p = three_stages(harness)
    get_used_to(harness, p)
    runs = start(harness, p, count)
    statements.count.clear()
    go(harness, runs)
    assert statuses(harness, runs) == {RunStatus.COMPLETED}
    del statements.count["work"]
    assert statements.count == {"load_run": groups, "commit_turn": 4 * groups}


def test_many_runs_of_three_steps_cost_the_statements_of_one(harness, statements):
    p = three_steps(harness)
    get_used_to(harness, p)
    runs = start(harness, p, 10)
    statements.count.clear()
    go(harness, runs)
    assert statuses(harness, runs) == {RunStatus.COMPLETED}
    assert statements.count == {
        "load_run": 1,
        "hold_turn": 1,
        "remember_flow_step": 3,
        "commit_turn": 1,
    }


def test_the_record_is_as_if_each_had_gone_alone(harness):
    p = three_stages(harness)
    get_used_to(harness, p)
    alone, *others = start(harness, p, 4)
    advance_batch(harness.context, [alone.run_id], GoesOn())
    go(harness, others)
    lines = "SELECT key, scope, ordinal, parent_key, kind, name, state, attempt, queue, policy, timeout_seconds FROM perennial.activity WHERE run_id = :id ORDER BY ordinal"  # noqa: E501
    runs = "SELECT process, status, stage, previous_stage, waiting_for, revision, turn_revision, error FROM perennial.run WHERE id = :id"  # noqa: E501
    told = "SELECT actor, event, key, attempt, from_status, to_status, detail FROM perennial.history WHERE run_id = :id ORDER BY at, key, event"  # noqa: E501
    for sql in (lines, runs, told):
        expected = sorted(map(repr, harness.database.rows(sql, id=alone.run_id)))
        for run in others:
            assert sorted(map(repr, harness.database.rows(sql, id=run.run_id))) == expected
    for number, run in enumerate(others, 1):
        assert harness.client.result(run) == number
        harness.assert_ended_cleanly(run)


def test_runs_of_different_kinds_go_on_together(harness):
    @process(version=1, registry=harness.registry)
    async def waits(flow: Flow, number: int) -> int:
        await flow.approval("m", assign=["bob"])
        return number

    staged, stepped = three_stages(harness), three_steps(harness)
    get_used_to(harness, staged)
    get_used_to(harness, stepped)
    runs = [run for p in (staged, waits, stepped) for run in start(harness, p, 2)]
    go(harness, runs)
    assert [harness.status(run) for run in runs] == [
        *[RunStatus.COMPLETED] * 2,
        *[RunStatus.WAITING] * 2,
        *[RunStatus.COMPLETED] * 2,
    ]


# -- while Postgres is at work -------------------------------------------------------------------

MORE = STATEMENT_RUNS_MAX + RUNS
"""So many that some have to wait until the others' statement is through."""


def test_while_postgres_is_at_work_for_some_the_others_go_on(harness, statements):
    story: list[str] = []

    def work(number: int) -> int:
        story.append("called")
        return number

    statements.after = lambda name: story.append(f"{name} is through")
    p = three_steps(harness, work)
    get_used_to(harness, p)
    runs = start(harness, p, BATCH_MAX)
    story.clear()
    go(harness, runs)
    assert statuses(harness, runs) == {RunStatus.COMPLETED}
    half = ["called"] * STATEMENT_RUNS_MAX
    record = "remember_flow_step is through"
    assert story == [
        *["load_run is through"] * 2,
        *["hold_turn is through", *half] * 2,
        *[record, *half] * 4,
        *[record] * 2,
        *["commit_turn is through"] * 2,
    ]


def test_what_was_sent_is_recorded_though_nobody_reads_the_answer(harness):
    """Its locks wait for no call of another run, and a worker that dies in one has lost nothing of it."""
    calls: list[int] = []
    recorded = "SELECT count(*) FROM perennial.activity WHERE state = 'done'"

    def work(number: int) -> int:
        sent = len(calls) // STATEMENT_RUNS_MAX * STATEMENT_RUNS_MAX
        with ends_this_worker():
            wait_for(
                lambda: harness.database.value(recorded) >= sent, "the record of what was sent"
            )
        calls.append(number)
        return number

    p = three_steps(harness, work)
    harness.context.call_durations = AlwaysShort()
    stop_the_clock(harness)
    runs = start(harness, p, MORE)
    go(harness, runs)
    assert len(calls) == 3 * MORE
    assert statuses(harness, runs) == {RunStatus.COMPLETED}


def what_happens_while_at_work(
    harness: Harness, statements: Statements, name: str
) -> list[list[str]]:
    """Between the beginning and the end of each such statement."""
    whiles: list[list[str]] = []
    story: list[str] = []
    statements.before = lambda begun: story.clear() if begun == name else None
    statements.after = lambda ended: whiles.append(story[:]) if ended == name else None

    def monotonic() -> float:
        story.append("somebody goes on")
        return 0.0

    harness.context.monotonic = monotonic
    return whiles


def test_nobody_goes_on_while_one_is_asked_for_alone(harness, statements):
    """It may wait for a lock; and when each asks alone, the others' calls wait to be recorded."""
    p = three_steps(harness)
    runs = start(harness, p)
    whiles = what_happens_while_at_work(harness, statements, "remember_flow_step")
    go_in_a_batch(harness.context, [run.run_id for run in runs], lambda _run: GoesOn(), enough=1)
    assert whiles == [[]] * 3 * RUNS
    assert statuses(harness, runs) == {RunStatus.COMPLETED}


def test_nobody_goes_on_while_runs_are_loaded(harness, statements):
    """Their journals may be more than a buffer holds: Postgres would keep its transaction open until they are read."""
    runs = start(harness, three_steps(harness), MORE)
    whiles = what_happens_while_at_work(harness, statements, "load_run")
    go(harness, runs)
    assert whiles == [[], []]


def test_nobody_goes_on_who_could_find_no_connection(harness, statements):
    """All threads of a worker would hold one each, and wait for another."""
    runs = start(harness, three_steps(harness), MORE)
    harness.context.call_durations = AlwaysShort()
    for _ in range(POOL_SIZE):
        assert harness.context.spare.acquire(blocking=False)
    whiles = what_happens_while_at_work(harness, statements, "remember_flow_step")
    go(harness, runs)
    assert whiles
    assert not any(whiles)
    assert statuses(harness, runs) == {RunStatus.COMPLETED}


def test_a_worker_that_is_ended_meanwhile_has_recorded_what_it_had_sent(harness):
    def work(number: int) -> int:
        if number == STATEMENT_RUNS_MAX:
            raise Killed
        return number

    p = three_steps(harness, work)
    harness.context.call_durations = AlwaysShort()
    stop_the_clock(harness)
    runs = start(harness, p, MORE)
    with pytest.raises(Killed):
        go(harness, runs)
    assert statuses(harness, runs) == {RunStatus.RUNNING}
    recorded = "SELECT count(DISTINCT run_id) FROM perennial.activity WHERE state = 'done'"
    assert harness.database.value(recorded) == STATEMENT_RUNS_MAX
    assert harness.context.identity.leased_ids() == []


@pytest.mark.usefixtures("thirteen_is_refused")
def test_what_is_refused_meanwhile_is_that_runs_trouble_alone(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, number: int) -> int:
        return 13 if number == 1 else 12

    runs = start(harness, p, MORE)
    with pytest.raises(IntegrityError, match="no_thirteen"):
        go(harness, runs)
    assert [run for run in runs if harness.status(run) is not RunStatus.COMPLETED] == [runs[1]]


# -- one of them is in trouble -------------------------------------------------------------------


def test_one_that_loses_its_race_keeps_no_other_back(harness, statements):
    p = three_steps(harness)
    get_used_to(harness, p)
    runs = start(harness, p)

    def pause_one(name: str) -> None:
        if name == "commit_turn" and harness.status(runs[1]) is RunStatus.RUNNING:
            harness.client.operations.pause(runs[1])

    statements.before = pause_one
    go(harness, runs)
    assert_the_second_alone_is(RunStatus.PAUSED, harness, runs)
    statements.before = lambda _name: None
    harness.client.operations.resume(runs[1])
    harness.drain()
    assert harness.client.result(runs[1]) == 1


@pytest.mark.parametrize("where", ["hold_turn", "remember_flow_step", "commit_turn"])
def test_while_one_run_is_locked_the_others_are_neither_kept_nor_locked(harness, statements, where):
    """A producer that holds one of the runs, and then wants another, must not meet a circle. Guards SKIP LOCKED."""
    p = three_steps(harness)
    get_used_to(harness, p)
    runs = start(harness, p)
    done: list[threading.Thread] = []
    producer = harness.database.psycopg()

    def lock_one(name: str) -> None:
        if name == where and not done:
            lock(runs[1])
            done.append(threading.current_thread())

    def lock(run: Started) -> None:
        sql = "SELECT FROM perennial.run WHERE id = %s FOR NO KEY UPDATE"
        producer.execute(sql, [run.run_id])

    statements.before = lock_one
    worker = threading.Thread(target=go, args=(harness, runs))
    worker.start()
    try:
        wait_until_blocked(harness.database)
        producer.execute("SET lock_timeout TO '300ms'")
        lock(runs[0])
        lock(runs[2])
    finally:
        producer.rollback()
        worker.join()
        producer.close()
    assert statuses(harness, runs) == {RunStatus.COMPLETED}


@pytest.fixture
def thirteen_is_refused(harness: Harness) -> Iterator[None]:
    harness.database.rows(
        "ALTER TABLE perennial.run ADD CONSTRAINT no_thirteen CHECK (output IS DISTINCT FROM '13')"
    )
    yield
    harness.database.rows("ALTER TABLE perennial.run DROP CONSTRAINT no_thirteen")


@pytest.mark.usefixtures("thirteen_is_refused")
def test_what_postgres_refuses_is_that_runs_trouble_alone(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, number: int) -> int:
        return 13 if number == 1 else 12

    runs = start(harness, p)
    with pytest.raises(IntegrityError, match="no_thirteen"):
        go(harness, runs)
    assert_the_second_alone_is(RunStatus.RUNNING, harness, runs)


def test_what_fails_fails_alone_and_is_raised_in_the_end(harness, monkeypatch):
    p = three_stages(harness)
    get_used_to(harness, p)
    runs = start(harness, p)

    class Fails(GoesOn):
        def perform(self, claim: Any, work: Any) -> Any:
            if claim.run.context.id == runs[1].run_id:
                raise LookupError(claim.key)
            return work()

    with pytest.raises(LookupError, match="work"):
        advance_batch(harness.context, [run.run_id for run in runs], Fails())
    assert_the_second_alone_is(RunStatus.RUNNING, harness, runs)


def test_failures_are_let_go_without_a_collection_of_garbage(harness, monkeypatch):
    """Their tracebacks hold what the members and the batch hold: no circle may keep them (fleet.install)."""
    p = three_stages(harness)
    runs = start(harness, p)
    seen: list[weakref.ref[Exception]] = []

    class Trouble(Exception):
        pass

    def fail(connection: object, asks: object) -> None:
        trouble = Trouble()
        seen.append(weakref.ref(trouble))
        raise trouble

    monkeypatch.setattr(loading, "_LOADING", BatchVerb("load_run", fail))
    monkeypatch.setattr(batch.log, "disabled", True)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Trouble) as raised:
            go(harness, runs)
        raised.value.__traceback__ = None  # as `_let_go_of_failure` does
        del raised
        assert [trouble() for trouble in seen] == [None]
    finally:
        gc.enable()


def test_when_no_answer_comes_all_that_asked_go_on_under_another_id(harness, monkeypatch):
    """Their claims may be made, and nobody knows: who made them must not beat for them any more."""
    p = three_stages(harness)
    get_used_to(harness, p)
    runs = start(harness, p)
    tries = []

    def commit_and_be_cut(*arguments: Any, **options: Any) -> Any:
        committed = commit_turn_if_unchanged(*arguments, **options)
        tries.append(1)
        if len(tries) <= RUNS:
            no_answer = Exception("no answer came")
            raise OperationalError("commit", {}, no_answer, connection_invalidated=True)
        return committed

    monkeypatch.setattr(turn, "commit_turn_if_unchanged", commit_and_be_cut)
    with harness.context.identity.lease() as before:
        pass
    with pytest.raises(OperationalError):
        go(harness, runs)
    claims = "SELECT DISTINCT worker_id FROM perennial.activity WHERE state = 'claimed'"
    assert harness.database.value(claims) == before
    with harness.context.identity.lease() as after:
        assert harness.context.identity.leased_ids() == [after]
        assert after != before


@pytest.mark.parametrize("count", [RUNS, MORE])
def test_a_group_whose_connection_is_cut_asks_again_on_another(harness, statements, count):
    p = three_stages(harness)
    get_used_to(harness, p)
    runs = start(harness, p, count)
    commits = []

    def cut_once(name: str) -> None:
        if name == "commit_turn":
            commits.append(name)
            if len(commits) == 3:
                harness.database.cut_connections()

    statements.before = cut_once
    go(harness, runs)
    assert harness.database.value("SELECT DISTINCT status FROM perennial.run") == "completed"


def test_a_worker_that_is_ended_in_one_call_leaves_all_of_them(harness):
    """None goes on; what they held is found by its silence."""
    deadly: list[int] = []

    def work(number: int) -> int:
        if number in deadly:
            raise Killed
        return number

    p = three_steps(harness, work)
    get_used_to(harness, p)
    runs = start(harness, p)
    deadly.append(1)
    with harness.context.identity.lease() as before:
        pass
    with pytest.raises(Killed):
        go(harness, runs)
    assert statuses(harness, runs) == {RunStatus.RUNNING}
    holders = "SELECT DISTINCT turn_worker FROM perennial.run WHERE closed_at IS NULL"
    assert harness.database.value(holders) == before
    assert harness.context.identity.leased_ids() == []
    with harness.context.identity.lease() as after:
        assert after != before


# -- calls that others can't wait for ------------------------------------------------------------


class AlwaysLong(CallDurations):
    def is_short(self, name: str) -> bool:
        del name
        return False


def test_a_stage_that_is_not_known_to_be_short_is_handed_off_but_by_the_last(harness):
    runs = start(harness, three_stages(harness))
    harness.context.call_durations = AlwaysLong()
    go(harness, runs)
    assert [handoff.task for handoff in harness.messenger.handed_off] == ["work"] * RUNS
    harness.drain()
    assert statuses(harness, runs) == {RunStatus.COMPLETED}


def test_a_stage_that_is_tried_once_is_not_claimed_while_another_may_end_the_worker(harness):
    @stage(registry=harness.registry, name="work", retry=Retry(max_attempts=1))
    def work(number: int) -> int:
        return number

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, number: int) -> int:
        return await flow.stage(work, number)

    get_used_to(harness, p)
    runs = start(harness, p)
    go(harness, runs)
    assert [handoff.task for handoff in harness.messenger.handed_off] == ["work"] * RUNS


def test_a_step_that_is_not_known_to_be_short_is_called_for_one_and_the_others_are_handed_back(
    harness, statements
):
    calls: list[int] = []

    def work(number: int) -> int:
        calls.append(number)
        return number

    runs = start(harness, three_steps(harness, work))
    harness.context.call_durations = AlwaysLong()
    go(harness, runs)
    assert calls == [0, 0, 0]
    assert statements.count["hold_turn"] == 1
    assert {handoff.run_id for handoff in harness.messenger.handed_off} == {
        run.run_id for run in runs[1:]
    }
    harness.drain()
    assert [harness.client.result(run) for run in runs] == [0, 1, 2]
    assert calls == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_run_that_is_handed_back_in_the_middle_keeps_its_steps_and_not_its_turn(harness):
    calls: list[int] = []

    def work(number: int) -> int:
        calls.append(number)
        if len(calls) == RUNS:
            harness.context.call_durations.note("called", 100 * SHORT_SECONDS)
        return number

    p = three_steps(harness, work)
    harness.context.call_durations.note("called", 0.0)
    runs = start(harness, p)
    go(harness, runs)
    assert sorted(calls) == [0, 0, 0, 1, 2]
    held = "SELECT count(*) FROM perennial.run WHERE turn_token IS NOT NULL"
    assert harness.database.value(held) == 0
    harness.drain()
    assert sorted(calls) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert statuses(harness, runs) == {RunStatus.COMPLETED}


def test_when_their_time_is_over_they_are_handed_off_and_handed_back(harness):
    staged, stepped = three_stages(harness), three_steps(harness)
    get_used_to(harness, staged)
    get_used_to(harness, stepped)
    runs = [*start(harness, staged), *start(harness, stepped)]
    clock = iter(range(1_000_000))
    harness.context.monotonic = lambda: float(next(clock))
    harness.context.call_durations = AlwaysShort()
    go(harness, runs)
    tasks = Counter(handoff.task for handoff in harness.messenger.handed_off)
    assert tasks["work"] == RUNS
    assert tasks["perennial.advance"] == RUNS - 1
    harness.context.monotonic = lambda: 0.0
    harness.drain()
    assert statuses(harness, runs) == {RunStatus.COMPLETED}


def test_what_was_called_is_recorded_before_the_next_call_if_that_has_taken_long(harness):
    """Guards WITHHELD_SECONDS_MAX: a worker that dies repeats what it has called and not recorded."""
    clock = [0.0]
    calls = []

    def all_but_one_are_recorded() -> bool:
        recorded: int = harness.database.value("SELECT count(*) FROM perennial.activity")
        return len(calls) - recorded <= 1

    def work(number: int) -> int:
        with ends_this_worker():
            wait_for(all_but_one_are_recorded, "the record of what was called")
        calls.append(number)
        clock[0] += 2 * batch.WITHHELD_SECONDS_MAX
        return number

    p = three_steps(harness, work)
    harness.context.monotonic = lambda: clock[0]
    harness.context.call_durations = AlwaysShort()
    runs = start(harness, p, 5)
    harness.context.settings = harness.settings.model_copy(update={"eager_seconds": 1000.0})
    go(harness, runs)
    assert len(calls) == 15
    assert statuses(harness, runs) == {RunStatus.COMPLETED}


def test_short_calls_are_recorded_together(harness, statements):
    recorded: list[int] = []

    def work(number: int) -> int:
        recorded.append(statements.count["remember_flow_step"])
        return number

    stop_the_clock(harness)
    harness.context.call_durations.note("called", 0.0)
    runs = start(harness, three_steps(harness, work))
    go(harness, runs)
    assert recorded == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_without_going_on_in_place_runs_are_advanced_one_after_the_other(harness, statements):
    harness.context.settings = harness.settings.model_copy(update={"eager_seconds": 0.0})
    runs = start(harness, three_steps(harness))
    statements.count.clear()
    go(harness, runs)
    assert statuses(harness, runs) == {RunStatus.COMPLETED}
    assert statements.count["commit_turn"] == RUNS
    assert harness.messenger.handed_off == []


# -- what an author has written ------------------------------------------------------------------


current: ContextVar[int] = ContextVar("current", default=-1)


def test_a_stage_is_called_and_comes_back_before_anything_else_happens(harness):
    """Though it asks Postgres in its middle, for its steps: it may hold what belongs to the thread."""
    story: list[tuple[str, int]] = []
    seen: list[int] = []

    @stage(registry=harness.registry)
    def work(number: int) -> int:
        seen.append(current.get())
        current.set(number)
        story.append(("in", number))
        step(abs, number)
        story.append(("out", number))
        return number

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, number: int) -> int:
        await flow.stage(work, number, key="one")
        return await flow.stage(work, number, key="two")

    get_used_to(harness, p)
    story.clear()
    seen.clear()
    current.set(7)
    runs = start(harness, p)
    go(harness, runs)
    assert statuses(harness, runs) == {RunStatus.COMPLETED}
    assert len(story) == 4 * RUNS
    pairs = list(zip(story[::2], story[1::2], strict=True))
    assert all(a == ("in", b[1]) and b[0] == "out" for a, b in pairs)
    assert [number for (_, number), _ in pairs] == [0, 1, 2, 0, 1, 2]
    assert seen == [7, 7, 7, 0, 1, 2]  # each run's calls have a context of their own, as it was


def test_runs_that_are_named_twice_closed_or_unknown_do_no_harm(harness):
    p = three_stages(harness)
    get_used_to(harness, p)
    runs = start(harness, p)
    go(harness, runs[:1])
    go(harness, [*runs, *runs], UUID(int=7))
    assert statuses(harness, runs) == {RunStatus.COMPLETED}


# -- durations ------------------------------------------------------------------------------------


def test_what_has_never_been_called_is_not_short():
    assert not CallDurations().is_short("work")


def test_a_hiccup_makes_no_short_call_long_and_a_long_one_is_not_forgotten_soon():
    durations = CallDurations()
    for _ in range(10):
        durations.note("work", SHORT_SECONDS / 10)
    durations.note("work", SHORT_SECONDS * 5)
    assert durations.is_short("work")
    durations.note("work", SHORT_SECONDS * 1000)
    for _ in range(20):
        durations.note("work", SHORT_SECONDS / 10)
        assert not durations.is_short("work")
    for _ in range(60):
        durations.note("work", SHORT_SECONDS / 10)
    assert durations.is_short("work")


def test_how_long_a_stage_and_an_inline_step_take_is_noted(harness):
    staged, stepped = three_stages(harness), three_steps(harness)
    get_used_to(harness, staged)
    get_used_to(harness, stepped)
    assert harness.context.call_durations.is_short("work")
    assert harness.context.call_durations.is_short("called")
