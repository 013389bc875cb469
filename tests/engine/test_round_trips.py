"""What a run costs in round trips (DESIGN §8), counted on the wire: a BEGIN or COMMIT would count too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import Client, Flow, process, stage, step
from orchestrator.engine.eager.execution import run_stage_eagerly
from orchestrator.engine.stage import run_stage
from orchestrator.engine.sweep import sweep
from orchestrator.engine.turn import advance
from tests.eager import GoesOn
from tests.harness import Harness, WireTrace
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="what a run costs when all goes well is counted")

WARM_UPS = 3
"""Runs before the count: the first use of a connection opens it."""


class Costs:
    """Counts what `act` costs on an engine's connection that is open and warm."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.traces = [
            WireTrace(harness.context.database),
            WireTrace(harness.client._context.database),
        ]

    def of(self, act: Callable[[Any], Any], prepare: Callable[[], Any]) -> int:
        for _ in range(WARM_UPS):
            act(prepare())
        made = prepare()
        with self.traces[0].counting() as engine, self.traces[1].counting() as client:
            act(made)
        assert not [*engine.transaction_control, *client.transaction_control]
        return engine.round_trips + client.round_trips


@pytest.fixture
def costs(harness: Harness) -> Iterator[Costs]:
    made = Costs(harness)
    yield made
    for trace in made.traces:
        trace.stop()


@pytest.fixture
def p(harness: Harness) -> Any:
    @stage(registry=harness.registry)
    def plain() -> int:
        return 1

    @stage(registry=harness.registry)
    def stepping() -> int:
        return step(abs, -1) + step(abs, -2)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(plain)
        await flow.stage(stepping)
        await flow.approval("manager", assign=["bob"])
        await flow.signal("go")

    harness.client.processes.deploy(p)
    return p


def at(harness: Harness, p: Any, *, stage_key: str | None = None) -> Any:
    """A run that has come to a stage (handed off, not claimed), or to its approval."""
    run = harness.client.start(p)
    advance(harness.context, run.run_id)
    for key in ("plain", "stepping"):
        if key == stage_key:
            break
        run_stage(harness.context, run.run_id, key, 1)
    return run


def say(capsys: Any, what: str, count: int) -> None:
    with capsys.disabled():
        print(f"\n    {what}: {count} round trip(s)", end="")


def test_a_start_is_one_round_trip(harness, costs, p, capsys):
    count = costs.of(lambda _: harness.client.start(p), lambda: None)
    say(capsys, "start", count)
    assert count == 1


def test_a_start_by_a_key_that_is_there_is_one_round_trip(harness, costs, p, capsys):
    harness.client.start(p, key="REQ-1")
    count = costs.of(lambda _: harness.client.start(p, key="REQ-1"), lambda: None)
    say(capsys, "start, again", count)
    assert count == 1


def test_a_thousand_starts_are_one_round_trip(harness, costs, p, capsys):
    count = costs.of(lambda _: harness.client.start_many(p, [None] * 1000), lambda: None)
    say(capsys, "start_many of 1000", count)
    assert count == 1


def test_a_stage_is_two_round_trips_claim_and_commit(harness, costs, p, capsys):
    count = costs.of(
        lambda run: run_stage(harness.context, run.run_id, "plain", 1),
        lambda: at(harness, p, stage_key="plain"),
    )
    say(capsys, "stage, with the turn that follows", count)
    assert count == 2


def test_a_stage_that_is_taken_over_is_one_round_trip_its_commit(harness, costs, p, capsys):
    """Claim and commit of the first, and of the second, with its two steps, its commit alone."""
    count = costs.of(
        lambda run: run_stage_eagerly(harness.context, run.run_id, "plain", 1, GoesOn()),
        lambda: at(harness, p, stage_key="plain"),
    )
    say(capsys, "stage, and the next in place with its two steps", count)
    assert count == 2 + 2 + 1


def test_a_step_of_a_stage_is_one_round_trip(harness, costs, p, capsys):
    count = costs.of(
        lambda run: run_stage(harness.context, run.run_id, "stepping", 1),
        lambda: at(harness, p, stage_key="stepping"),
    )
    say(capsys, "stage with two steps", count)
    assert count == 2 + 2


def test_a_signal_is_one_round_trip(harness, costs, p, capsys):
    count = costs.of(lambda run: harness.client.signal(run, "go"), lambda: at(harness, p).run_id)
    say(capsys, "signal", count)
    assert count == 1


def test_a_decision_is_one_round_trip(harness, costs, p, capsys):
    count = costs.of(
        lambda run: harness.client.approve(run, "manager", by="bob"), lambda: at(harness, p).run_id
    )
    say(capsys, "decide", count)
    assert count == 1


def test_a_signal_to_a_wait_of_a_known_form_is_one_round_trip(harness, costs, capsys):
    """Its form is learnt by the first that is sent."""

    @process(version=1, registry=harness.registry)
    async def waits(flow: Flow) -> int:
        return await flow.signal("word", type=int)

    count = costs.of(
        lambda run: harness.client.signal(run, "word", 7), lambda: harness.run(waits).run_id
    )
    say(capsys, "signal", count)
    assert count == 1


def test_a_turn_by_itself_is_two_round_trips_load_and_commit(harness, costs, p, capsys):
    count = costs.of(
        lambda run: advance(harness.context, run.run_id), lambda: harness.client.start(p)
    )
    say(capsys, "advance", count)
    assert count == 2


def test_an_idle_sweep_is_one_round_trip(harness, costs, capsys):
    count = costs.of(lambda _: sweep(harness.context), lambda: None)
    say(capsys, "idle sweep", count)
    assert count == 1


def test_a_start_in_a_callers_transaction_adds_one_round_trip_to_it(harness, p):
    client = Client(harness.database.engine, registry=harness.registry)
    trace = WireTrace(harness.database.engine)
    with harness.database.engine.connect() as connection:
        client.start(p, connection=connection)
        with trace.counting() as count:
            client.start(p, connection=connection)
    trace.stop()
    assert count.round_trips == 1


def test_the_count_sees_a_hidden_begin_and_commit(harness):
    """Guards the counting itself: without AUTOCOMMIT every statement would cost three."""
    trace = WireTrace(harness.database.engine)
    harness.database.value("SELECT 1")
    with trace.counting() as count:
        harness.database.value("SELECT 1")
    trace.stop()
    assert count.round_trips == 3
    assert len(count.transaction_control) == 2
