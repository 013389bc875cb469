"""Flows that stay where their last turn has left them: what they may go on from, and what makes them start anew."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from unittest.mock import patch

import pytest

from orchestrator import Flow, Registry, Retry, process, stage
from orchestrator.core.kept_flow import KeptFlow
from orchestrator.core.replay import Replay
from orchestrator.core.run import RunStatus
from orchestrator.engine import turn
from orchestrator.engine.eager.kept_flows import OPEN_MAX, KeptFlows
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.store.reads.loading import load_run
from orchestrator.store.transitions import claim
from tests.harness import Harness, WireTrace
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="each test says itself who keeps what")


class Passes:
    """How often a flow was replayed from its start, and how often one went on."""

    def __init__(self) -> None:
        self.replayed = self.went_on = 0


@pytest.fixture
def passes() -> Iterator[Passes]:
    seen = Passes()
    take_in = KeptFlow.take_in

    def replays(*args):
        seen.replayed += 1
        return Replay(*args)

    def goes_on(*args):
        seen.went_on += 1
        return take_in(*args)

    with patch.object(turn, "Replay", replays), patch.object(KeptFlow, "take_in", goes_on):
        yield seen


@pytest.fixture(autouse=True)
def keeps(harness: Harness) -> None:
    harness.context.kept_flows = KeptFlows(least_lines=1)


def chain(harness, many=6):
    @stage(registry=harness.registry)
    def add(n: int) -> int:
        return n + 1

    @process(version=1, registry=harness.registry)
    async def adds(flow: Flow) -> int:
        n = 0
        for _ in range(many):
            n = await flow.stage(add, n)
        return n

    return adds


def waiting(harness, called=None):
    """A stage, then a step, then a signal."""
    called = [] if called is None else called

    @stage(registry=harness.registry)
    def first() -> int:
        return 1

    def second() -> int:
        called.append("second")
        return 2

    @process(version=1, registry=harness.registry)
    async def waits(flow: Flow) -> list[int]:
        return [await flow.stage(first), await flow.step(second), await flow.signal("go", type=int)]

    return waits


def test_a_run_is_replayed_once_however_many_its_stages(harness, passes):
    run = harness.run(chain(harness))
    assert harness.client.result(run) == 6
    assert (passes.replayed, passes.went_on) == (1, 6)


def test_what_is_read_for_a_turn_does_not_grow_with_the_journal(harness):
    run = harness.start(chain(harness, 40))
    read = []
    load = claim.loaded_from

    def reads(row, known=None):
        read.append(len(row.journal))
        return load(row, known)

    with patch.object(claim, "loaded_from", reads):
        harness.drain()
    assert harness.client.result(run) == 40
    assert read == [1] * 40


def test_a_signal_a_step_and_a_timer_go_on_from_there(harness, passes):
    harness.freeze()

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[object]:
        said = [await flow.signal("go"), await flow.step(str, 1)]
        await flow.sleep(60)
        return [
            *said,
            await flow.signal("go"),
            (await flow.approval("boss", assign=["ann"])).approved,
        ]

    run = harness.run(p)
    harness.client.signal(run, "go", "a")
    harness.client.signal(run, "go", "b")
    harness.drain()
    harness.move(seconds=61)
    harness.drain()
    harness.client.approve(run, "boss", by="ann")
    harness.drain()
    assert harness.client.result(run) == ["a", "1", "b", True]
    assert passes.replayed == 1


def test_the_turn_of_another_worker_in_between_is_seen(harness, passes):
    run = harness.run(waiting(harness))
    harness.client.signal(run, "other", 0)
    advance(harness.worker("another"), run.run_id)
    harness.client.signal(run, "go", 3)
    harness.drain()
    assert harness.client.result(run) == [1, 2, 3]
    assert passes.went_on >= 1
    assert passes.replayed == 3  # at first; by the other one; and after it


def test_a_journal_that_an_operator_has_rewritten_is_read_again(harness):
    run = harness.run(waiting(harness))
    known = harness.context.kept_flows.known(run.run_id)
    assert known is not None
    harness.client.operations.rewind(run, to="first", by="ann", reason="again")
    with harness.context.connection() as connection:
        again = load_run(connection, run.run_id, known)
    assert again is not None
    assert again.known_revision is None
    harness.client.signal(run, "go", 3)
    harness.drain()
    assert harness.client.result(run) == [1, 2, 3]
    assert harness.events(run).count("stage done") == 2


def test_a_step_of_a_turn_that_was_lost_is_known(harness):
    """Another worker has called the step and recorded it, and died before its commit."""
    called: list[str] = []
    run = harness.start(waiting(harness, called))
    advance(harness.context, run.run_id)
    stages = Registry()
    stages.add_stage(harness.registry.stage("first"))
    run_stage(harness.worker("lacks the process", registry=stages), run.run_id, "first", 1)
    assert called == []
    lost = harness.worker("lost")
    with patch.object(turn, "commit_turn_if_unchanged", side_effect=KeyboardInterrupt):
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                advance(lost, run.run_id)
    assert called == ["second"]
    harness.recover(2)
    harness.client.signal(run, "go", 3)
    harness.drain()
    assert harness.client.result(run) == [1, 2, 3]
    assert called == ["second"]


def test_what_was_let_go_for_another_is_replayed(harness, passes):
    harness.context.kept_flows = KeptFlows(least_lines=1, lines_max=1)
    process = chain(harness)
    runs = [harness.start(process) for _ in range(2)]
    harness.drain()
    assert [harness.client.result(run) for run in runs] == [6, 6]
    assert passes.replayed > 2


def test_between_a_claim_and_its_end_a_flow_may_be_forgotten(harness, passes):
    run = harness.start(chain(harness, 2))
    advance(harness.context, run.run_id)
    forgets = harness.context.call_stage

    def call(*args):
        harness.context.kept_flows = KeptFlows(least_lines=1)
        return forgets(*args)

    harness.context.call_stage = call
    run_stage(harness.context, run.run_id, "add", 1)
    assert harness.events(run).count("stage done") == 1
    harness.drain()
    assert harness.client.result(run) == 2


def test_a_definition_that_was_made_anew_starts_anew(harness, passes):
    run = harness.run(waiting(harness))
    replayed = passes.replayed
    definitions = harness.context.definitions
    find = definitions.find
    with patch.object(definitions, "find", lambda *args: type(find(*args))(**_fields(find(*args)))):
        harness.client.signal(run, "go", 3)
        harness.drain()
    assert harness.client.result(run) == [1, 2, 3]
    assert passes.replayed > replayed


def _fields(one):
    return {
        name: getattr(one, name)
        for name in one.__dataclass_fields__
        if one.__dataclass_fields__[name].init
    }


def test_a_step_that_rests_is_not_kept(harness):
    harness.freeze()
    calls = []

    def stumble() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError
        return 7

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        await flow.signal("go")
        return await flow.step(stumble, retry=Retry(max_attempts=2, delay_seconds=60, jitter=0))

    run = harness.run(p)
    assert harness.context.kept_flows.known(run.run_id)
    harness.client.signal(run, "go")
    harness.drain()
    another = harness.worker("another")
    another.kept_flows = KeptFlows(least_lines=1)
    harness.client.signal(run, "other", 0)
    advance(another, run.run_id)
    for context in (harness.context, another):
        assert context.kept_flows.known(run.run_id) is None
    harness.move(seconds=61)
    harness.drain()
    assert harness.client.result(run) == 7


def test_a_run_that_has_ended_or_is_an_incident_is_not_kept(harness):
    run = harness.run(chain(harness))
    assert harness.status(run) is RunStatus.COMPLETED
    assert harness.context.kept_flows.known(run.run_id) is None


def test_many_branches_are_replayed(harness):
    """Each claim would ask for as many lines."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.gather(*[flow.signal(f"go-{n}") for n in range(OPEN_MAX + 1)])

    run = harness.run(p)
    assert harness.context.kept_flows.known(run.run_id) is None


def test_the_clean_up_of_a_flow_that_is_let_go_asks_for_nothing(harness):
    @stage(registry=harness.registry)
    def tidy() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        try:
            await flow.signal("never")
        finally:
            await flow.stage(tidy)

    run = harness.run(p)
    assert harness.context.kept_flows.known(run.run_id)
    harness.context.kept_flows = KeptFlows()
    stages = "SELECT count(*) FROM perennial.activity WHERE kind = 'stage'"
    assert harness.database.value(stages) == 0


def test_whoever_knows_nothing_reads_all(harness):
    run = harness.run(chain(harness, 3))
    with harness.context.connection() as connection:
        loaded = load_run(connection, run.run_id)
    assert loaded is not None
    assert len(loaded.journal) == 3
    assert loaded.known_revision is None


def test_a_run_that_was_read_for_a_flow_which_is_let_go_is_read_again(harness):
    """Going on at once with a stage, the worker would have the open lines alone."""

    @stage(registry=harness.registry)
    def add(n: int) -> int:
        return n + 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[object]:
        said = [await flow.stage(add, 0, key="first"), await flow.signal("go", type=int)]
        race = await flow.first(flow.signal("never"), flow.stage(add, 6, key="won"))
        return [*said, race.value, await flow.stage(add, 8, key="last")]  # a race lets its flow go

    run = harness.run(p)
    harness.client.signal(run, "go", 5)
    eager = import_module("tests.eager")
    for _ in range(3):
        for message in harness.pending():
            eager.do(message, harness.context)
    assert harness.client.result(run) == [1, 5, 7, 9]


def test_a_turn_of_a_long_run_reads_what_one_of_a_short_run_does(harness, request):
    """Rows and bytes of the last twenty turns of a chain; `-s` prints them, and `--all` plays one of 3,000."""
    harness.context.kept_flows = KeptFlows()

    @stage(registry=harness.registry)
    def work(number: int) -> int:
        return number

    @process(version=1, registry=harness.registry)
    async def numbers(flow: Flow, length: int) -> int:
        for number in range(length):
            await flow.stage(work, number)
        return length

    def turn() -> None:
        for message in harness.pending():
            harness.deliver(message)

    def read_by_a_turn(length: int) -> tuple[float, float]:
        harness.start(numbers, length)
        for _ in range(length - 20):
            turn()
        trace = WireTrace(harness.context.database)
        for _ in range(20):
            turn()
        sent = [re.match(r"B\t(\d+)\tDataRow", line) for line in trace.lines()]
        trace.stop()
        sizes = [int(row[1]) for row in sent if row is not None]
        print(f"{length} stages: {len(sizes) / 20:.1f} rows, {sum(sizes) / 20:.0f} bytes a turn")
        return len(sizes) / 20, sum(sizes) / 20

    rows, size = read_by_a_turn(150)
    rows_of_long, size_of_long = read_by_a_turn(3000 if request.config.getoption("--all") else 300)
    assert rows_of_long <= rows + 0.5
    assert size_of_long <= 1.5 * size
