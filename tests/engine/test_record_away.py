"""Postgres goes away while a step's result is recorded: no fault of the stage's, nor of the flow's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.exc import OperationalError

from orchestrator import Flow, Retry, process, stage, step
from orchestrator.core.run import RunStatus
from orchestrator.faults import listen
from tests.harness import Harness


@contextmanager
def away_once(when: str, what: str) -> Iterator[None]:
    """The connection is cut there, the first time."""
    left = [1]

    def at(*place: str) -> None:
        if place == (when, what) and left:
            left.pop()
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
    """Its attempt is lost like a dead worker's, and stages can't catch that. Guards RecordAway."""
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
    with away_once(when, "remember_step"), pytest.raises(OperationalError):
        harness.drain()
    harness.recover(1)
    assert "attempt failed" not in harness.events(run)
    if attempts_max == 1:
        assert harness.status(run) is RunStatus.INCIDENT
        harness.client.resume(run)
        harness.drain()
    assert harness.client.result(run) == "charged"
    assert len(calls) == (2 if when == "before" else 1)
    harness.assert_ended_cleanly(run)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_flow_whose_step_could_not_be_recorded_is_no_incident(
    harness: Harness, when: str
) -> None:
    """The turn is left, and taken again. Guards the TurnAbandoned of an unrecorded step."""
    calls: list[str] = []

    def charge() -> str:
        calls.append("charge")
        return "charged"

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        try:
            return await flow.step(charge)
        except Exception:  # noqa: BLE001 - as careful flows do
            return "not charged"

    run = harness.start(p)
    with away_once(when, "remember_flow_step"):
        harness.drain()
    harness.recover(2)
    assert harness.client.result(run) == "charged"
    assert "incident" not in harness.events(run)
    assert len(calls) == (2 if when == "before" else 1)
    harness.assert_ended_cleanly(run)
