"""Signals by correlation key: they reach whichever run awaits the key, whoever of the two comes first."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from orchestrator import (
    CorrelationTaken,
    DefinitionError,
    Flow,
    PayloadError,
    Registry,
    RunStatus,
    TooManySignals,
    hours,
    process,
    stage,
)
from orchestrator.store.transitions import correlations
from tests.harness import Harness, Thread, wait_until_blocked
from tests.modes import EVICT, NORMAL, SWEEPS_ONLY, TWICE, modes_of

modes = modes_of(NORMAL, EVICT, TWICE, SWEEPS_ONLY, because="a key and its wait meet in each")
once = modes_of(NORMAL, because="what is sent and kept is looked at")


def payment(registry: Registry, count: int = 1) -> Any:
    @process(version=1, registry=registry)
    async def payment(flow: Flow, of: str) -> list[Any]:
        return [
            await flow.signal("paid", type=int, correlation=of, timeout=hours(9), default=None)
            for _ in range(count)
        ]

    return payment


def pay(harness: Harness, of: str, amount: Any, **how: Any) -> bool:
    return harness.client.signal(correlation=of, name="paid", payload=amount, **how)


def kept(harness: Harness) -> list[tuple[str, int]]:
    return [
        (row.name, row.kept)
        for row in harness.database.rows(
            "SELECT name, jsonb_array_length(signals) - taken AS kept FROM perennial.correlation ORDER BY name"
        )
    ]


@modes
def test_a_signal_finds_its_run_before_it_begins_while_it_waits_and_between_two_waits(
    harness: Harness,
):
    harness.freeze()
    definition = payment(harness.registry, 3)
    assert pay(harness, "PAY-1", 1, signal_id="a")
    assert not pay(harness, "PAY-1", 1, signal_id="a")
    assert pay(harness, "PAY-2", 20)
    assert kept(harness) == [("paid[PAY-1]", 1), ("paid[PAY-2]", 1)]
    run = harness.run(definition, "PAY-1")
    (wait,) = harness.client.get(run).waits
    assert (wait.key, wait.who) == ("paid#2", ("whoever sends signal paid[PAY-1]",))
    assert pay(harness, "PAY-1", 2)
    assert not pay(harness, "PAY-1", 1, signal_id="a")  # its run knows of it
    assert pay(harness, "PAY-1", 3, signal_id="c")  # in the run's buffer, or on the key
    harness.drain()
    assert harness.client.result(run) == [1, 2, 3]
    harness.assert_ended_cleanly(run)
    assert not pay(harness, "PAY-1", 3, signal_id="c")
    assert harness.client.result(harness.run(payment(harness.registry), "PAY-2")) == [20]
    assert [name for name, _ in kept(harness)] == ["paid[PAY-1]", "paid[PAY-2]"]


@modes
def test_a_key_belongs_to_one_run_at_a_time(harness: Harness):
    """Guards `one run claims a correlation key`. The second is told at its await; it is free when the first is gone."""

    @process(version=1, registry=harness.registry)
    async def second(flow: Flow) -> Any:
        try:
            return await flow.signal("paid", correlation="PAY-1", timeout=60)
        except CorrelationTaken as taken:
            return str(taken)

    first = harness.run(payment(harness.registry), "PAY-1")
    refused = harness.run(second)
    said = harness.client.result(refused)
    assert said == (
        f"signal paid[PAY-1] is awaited by run {first.run_id} already, and one key belongs to one run at a time"
        " (activity paid)"
    )
    harness.assert_ended_cleanly(refused)
    assert harness.status(first) is RunStatus.WAITING
    harness.client.cancel(first)
    assert pay(harness, "PAY-1", 7)
    assert harness.client.result(harness.run(second)) == 7


@once
def test_who_does_not_catch_it_fails_and_two_waits_of_one_run_share_a_key(harness: Harness):
    harness.freeze()

    @process(version=1, registry=harness.registry)
    async def both(flow: Flow) -> list[int]:
        return await flow.gather(
            flow.signal("paid", correlation="PAY-1"), flow.signal("paid", correlation="PAY-1")
        )

    run = harness.run(both)
    other = harness.run(payment(harness.registry), "PAY-1")
    assert harness.status(other) is RunStatus.FAILED
    assert "CorrelationTaken" in str(harness.client.get(other).error)
    for amount in (1, 2):
        assert pay(harness, "PAY-1", amount)
    harness.drain()
    assert harness.client.result(run) == [1, 2]


@once
def test_what_is_kept_has_its_time_and_its_bounds(harness: Harness, monkeypatch):
    """Guards `a kept signal is handed over once`, and the sweep, which leaves a key that is awaited."""
    harness.freeze()
    assert pay(harness, "PAY-1", 1, expires_in=hours(1))
    assert pay(harness, "PAY-1", 2, expires_in=hours(3))
    monkeypatch.setattr(correlations, "KEPT_MAX", 2)
    with pytest.raises(TooManySignals, match=r"kept 2 times or in .* no run has taken one"):
        pay(harness, "PAY-1", 3)
    harness.move(hours=2)
    run = harness.run(payment(harness.registry, 2), "PAY-1")  # the first is over by now
    assert [wait.key for wait in harness.client.get(run).waits] == ["paid#2"]
    harness.move(days=2)
    with harness.context.connection() as connection:
        assert correlations.sweep_correlations(connection) == 0  # it is awaited
    harness.drain()
    assert harness.client.result(run) == [2, None]
    with harness.context.connection() as connection:
        assert correlations.sweep_correlations(connection) == 0  # a day more was given to it
    harness.move(days=2)
    with harness.context.connection() as connection:
        assert correlations.sweep_correlations(connection) == 1
    assert kept(harness) == []


@once
def test_what_makes_no_sense_is_refused(harness: Harness):
    run = harness.run(payment(harness.registry), "PAY-1")
    with pytest.raises(PayloadError, match="doesn't fit what run"):
        pay(harness, "PAY-1", "much")
    for wrong in (
        {"run": run, "correlation": "PAY-1", "name": "paid"},
        {"name": "paid"},
        {"run": run},
    ):
        with pytest.raises(TypeError, match="one of a run and a correlation="):
            harness.client.signal(**wrong)
    with pytest.raises(DefinitionError, match=r"Leave out `\[` of its name"):
        harness.client.signal(correlation="PAY-1", name="paid[x]")
    with pytest.raises(DefinitionError, match="can't be a correlation key"):
        harness.client.signal(correlation="", name="paid")
    with pytest.raises(DefinitionError, match="can't be a correlation key"):
        pay(harness, 7, 1)  # type: ignore[arg-type]


@once
def test_a_claim_that_comes_between_the_look_and_the_keeping_gets_the_signal(
    harness: Harness, monkeypatch
):
    """Guards `a signal is kept on the claim that was read`: else it would lie on a key whose wait is there already."""
    look = correlations.meeting_of
    runs: list[Any] = []

    def looked(connection: Any, name: str, signal_id: str | None) -> Any:
        found = look(connection, name, signal_id)
        if not runs:
            runs.append(harness.run(payment(harness.registry), "PAY-1"))
        return found

    monkeypatch.setattr(correlations, "meeting_of", looked)
    assert pay(harness, "PAY-1", 5)
    harness.drain()
    assert harness.client.result(runs[0]) == [5]


@once
def test_a_claim_waits_for_who_is_keeping_a_signal_and_gets_it(harness: Harness):
    """Both lock the row: what its sender commits last is handed over all the same."""
    definition = payment(harness.registry)
    harness.client.processes.deploy(definition)
    assert pay(harness, "PAY-1", 0, expires_in=1)
    harness.freeze()
    harness.move(seconds=5)
    with closing(harness.database.psycopg()) as sender:
        sender.execute(f"SET perennial.now = '{harness.now.isoformat()}'")
        assert pay(harness, "PAY-1", 5, connection=sender)
        turn = Thread(lambda: harness.run(definition, "PAY-1"))
        wait_until_blocked(harness.database)
        sender.commit()
    assert harness.client.result(turn.outcome()) == [5]


@once
def test_a_kept_signal_is_handed_over_to_one_wait(harness: Harness):
    """Guards `a kept signal is handed over once`: the next run that claims the key doesn't get it again."""
    definition = payment(harness.registry)
    assert pay(harness, "PAY-1", 1)
    assert harness.client.result(harness.run(definition, "PAY-1")) == [1]
    second = harness.run(definition, "PAY-1")
    assert harness.status(second) is RunStatus.WAITING
    assert pay(harness, "PAY-1", 2)
    harness.drain()
    assert harness.client.result(second) == [2]


@once
def test_a_signal_that_is_kept_twice_at_once_is_there_once(harness: Harness):
    """Guards `a kept signal is kept once`: the second sender has looked before the first commits."""
    with closing(harness.database.psycopg()) as sender:
        assert pay(harness, "PAY-1", 5, signal_id="a", connection=sender)
        other = Thread(lambda: pay(harness, "PAY-1", 5, signal_id="a"))
        wait_until_blocked(harness.database)
        sender.commit()
        assert not other.outcome()
    assert kept(harness) == [("paid[PAY-1]", 1)]


@modes
def test_a_kept_signal_comes_after_what_the_turn_has_seen_that_asks_for_it(harness: Harness):
    """Guards `a kept signal comes after the turn that asks for it`: it was sent before the stage was done, and reached
    the run after it. Else it would be there at the next replay before the other branch asks for its stage.
    """

    @stage(registry=harness.registry)
    def tell(seen: list[str]) -> list[str]:
        return seen

    @process(version=1, registry=harness.registry)
    async def order(flow: Flow) -> list[Any]:
        seen = list(await flow.stage(tell, ["begun"]))

        async def paid() -> None:
            seen.append(await flow.signal("paid", type=str, correlation="PAY-1"))

        async def packed() -> list[str]:
            return await flow.stage(tell, seen, key="packed")

        _, packed_with = await flow.gather(paid(), packed())
        return [seen, packed_with]

    harness.freeze()
    assert pay(harness, "PAY-1", "paid")
    harness.move(seconds=5)
    run = harness.run(order)
    assert harness.client.result(run) == [["begun", "paid"], ["begun"]]
    harness.assert_ended_cleanly(run)
