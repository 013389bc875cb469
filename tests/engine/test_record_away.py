"""Postgres goes away while a step's result is recorded: no fault of the stage's, nor of the flow's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from orchestrator import CallbackToken, Flow, Retry, process, stage, step
from orchestrator.core.definition import Process
from orchestrator.core.run import RunStatus
from orchestrator.engine.sweep import sweep
from orchestrator.engine.turn import advance
from orchestrator.faults import listen
from tests.harness import Harness


@contextmanager
def away_once(*places: tuple[str, str]) -> Iterator[None]:
    """The connection is cut at each of these places, the first time."""
    left = list(places)

    def at(*place: str) -> None:
        if place in left:
            left.remove(place)
            raise OperationalError("", None, Exception("the connection was cut"))

    listen(at)
    try:
        yield
    finally:
        listen(None)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("attempts_max", [1, 5])
def test_a_stage_whose_step_could_not_be_recorded_has_not_failed(
    harness: Harness, when: str, attempts_max: int
) -> None:
    """Its attempt is lost like a dead worker's, and stages can't catch that. Guards RecordUnavailable."""
    calls: list[str] = []

    def charge() -> str:
        calls.append("charge")
        return "charged"

    @stage(registry=harness.registry, retry=Retry(max_attempts=attempts_max))
    def pay() -> str:
        try:
            return step(charge)
        except Exception:  # noqa: BLE001 - as careful stages do
            return "not charged"

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        return await flow.stage(pay)

    run = harness.start(p)
    with away_once((when, "remember_step")), pytest.raises(OperationalError):
        harness.drain()
    harness.recover(1)
    assert "attempt failed" not in harness.events(run)
    if attempts_max == 1:
        assert harness.status(run) is RunStatus.INCIDENT
        harness.client.operations.resume(run)
        harness.drain()
    assert harness.client.result(run) == "charged"
    assert len(calls) == (2 if when == "before" else 1)
    harness.assert_ended_cleanly(run)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stage_whose_token_could_not_be_had_is_no_mismatch(harness: Harness, when: str) -> None:
    """It has not begun, and nothing of what was recorded for it is wrong: its attempt is lost like a dead worker's."""
    tokens: list[str] = []

    @stage(registry=harness.registry)
    def ask_bank(token: CallbackToken) -> None:
        tokens.append(token.secret)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        return await flow.call_back("payment", ask_bank, type=str)

    harness.freeze()
    with away_once((when, "hand_token")), pytest.raises(OperationalError):
        harness.run(p)
    (run,) = harness.client.list()
    assert run.status is RunStatus.RUNNING
    assert not tokens
    harness.recover()
    (token,) = tokens
    harness.client.complete(token, "paid")
    harness.drain()
    assert harness.client.result(run) == "paid"


def charging(harness: Harness, calls: list[str]) -> Process:
    """A flow with one step, which catches what it can."""

    def charge() -> str:
        calls.append("charge")
        return "charged"

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        try:
            return await flow.step(charge)
        except Exception:  # noqa: BLE001 - as careful flows do
            return "not charged"

    return p


@pytest.mark.parametrize(
    ("place", "count"),
    [
        (("before", "hold_turn"), 1),
        (("after", "hold_turn"), 1),
        (("before", "remember_flow_step"), 2),
        (("after", "remember_flow_step"), 1),
    ],
)
def test_a_flow_whose_step_could_not_be_recorded_is_no_incident(
    harness: Harness, place: tuple[str, str], count: int
) -> None:
    """The turn is left, and taken again. Guards the TurnAbandoned of an unrecorded step."""
    calls: list[str] = []
    run = harness.start(charging(harness, calls))
    with away_once(place):
        harness.drain()
    assert harness.open_things(run.run_id)["turns"] == 0
    harness.recover(2)
    assert harness.client.result(run) == "charged"
    assert "incident" not in harness.events(run)
    assert len(calls) == count
    harness.assert_ended_cleanly(run)


@pytest.mark.parametrize("where", ["hold_turn", "remember_flow_step"])
def test_a_turn_that_could_not_be_given_back_is_not_kept_by_a_living_worker(
    harness: Harness, where: str
) -> None:
    """The thread goes on under a new id, and the one that stands at the turn falls silent: another
    takes it, though this worker lives and works. Guards `_release` as part of the hold's own stack.
    """
    run = harness.start(charging(harness, []))
    with (
        away_once(("after", where), ("before", "release_turn")),
        pytest.raises(OperationalError),
    ):
        harness.drain()
    assert harness.open_things(run.run_id)["turns"] == 1
    for _ in range(3):
        harness.move(seconds=30)
        harness.beat(harness.context)
        sweep(harness.context)
        harness.drain()
    assert harness.client.result(run) == "charged"
    harness.assert_ended_cleanly(run)


def test_a_turn_whose_connection_was_cut_is_given_back_on_another(harness: Harness) -> None:
    """It need not be judged lost. Guards the roll-back in `_release`, for engines that somebody listens to."""
    event.listen(harness.context.database, "before_cursor_execute", lambda *_: None)

    def cut() -> int:
        harness.database.cut_connections()
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.step(cut)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    assert harness.database.value("SELECT turn_token IS NULL FROM perennial.run")
