"""Polling: a check is done again and again until its answer is there; between two of them there is one timer."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import (
    ActivityFailed,
    Backoff,
    DefinitionError,
    Fail,
    Flow,
    PollTimedOut,
    Registry,
    RunStatus,
    hours,
    minutes,
    process,
    stage,
)
from tests.harness import Harness
from tests.modes import EAGER, EVICT, NORMAL, SWEEPS_ONLY, TWICE, modes_of

modes = modes_of(NORMAL, EVICT, TWICE, SWEEPS_ONLY, EAGER, because="a poll goes on in each")
once = modes_of(NORMAL, because="what is asked and shown is looked at")


class Partner:
    """It is ready at its `ready_at`th look."""

    def __init__(self, registry: Registry, ready_at: int) -> None:
        self.looks = 0

        @stage(registry=registry)
        def look(order: str) -> str:
            self.looks += 1
            return f"{order} ready" if self.looks >= ready_at else "pending"

        self.look = look


def polling(registry: Registry, partner: Partner, **how: Any) -> Any:
    @process(version=1, registry=registry)
    async def order(flow: Flow) -> str:
        try:
            return await flow.poll(
                partner.look, "table", until=lambda found: found.endswith("ready"), **how
            )
        except PollTimedOut as late:
            return f"{late}, {late.checks}, {late.last}"

    return order


@modes
def test_it_is_checked_until_its_answer_is_there(harness: Harness):
    harness.freeze()
    partner = Partner(harness.registry, 3)
    run = harness.run(polling(harness.registry, partner, every=minutes(5)))
    assert harness.status(run) is RunStatus.WAITING
    (wait,) = harness.client.get(run).waits
    assert (wait.kind, wait.name, wait.who) == (
        "poll",
        "look",
        ("nobody: its next check comes by itself",),
    )
    assert [each.what for each in wait.next] == ["is checked again, after 1 so far"]
    for _ in range(2):
        harness.move(minutes=5)
        harness.drain()
    assert harness.client.result(run) == "table ready"
    assert partner.looks == 3
    harness.assert_ended_cleanly(run)


@modes
def test_it_ends_after_its_attempts_or_its_time(harness: Harness):
    harness.freeze()
    partner = Partner(harness.registry, 99)
    few = harness.run(polling(harness.registry, partner, every=60, attempts=2))
    harness.move(seconds=60)
    harness.drain()
    said = "poll 'look' came to no end in 2 check(s), 2, pending"
    assert harness.client.result(few) == said
    harness.assert_ended_cleanly(few)


@once
def test_its_last_check_is_at_its_timeout(harness: Harness):
    """Pauses grow up to the longest; the last one ends where the time is over."""
    start = harness.freeze()
    partner = Partner(harness.registry, 99)
    every = Backoff(minutes(10), 2, minutes(30))
    run = harness.run(polling(harness.registry, partner, every=every, timeout=hours(1)))
    at = []
    while harness.status(run) is RunStatus.WAITING:
        (wait,) = harness.client.get(run).waits
        at.append((wait.next[0].at - start).total_seconds() / 60)
        harness.move(seconds=(wait.next[0].at - harness.now).total_seconds())
        harness.drain()
    assert at == [10, 30, 60]
    assert harness.client.result(run) == "poll 'look' came to no end in 4 check(s), 4, pending"


@modes
def test_a_state_is_carried_from_check_to_check(harness: Harness):
    def page(of: str, cursor: int) -> int:
        return cursor + len(of)

    @process(version=1, registry=harness.registry)
    async def read(flow: Flow) -> int:
        return await flow.poll(
            page, "abc", state=1, until=lambda cursor: cursor >= 10, every=60, name="pages"
        )

    harness.freeze()
    run = harness.run(read)
    for _ in range(2):
        harness.move(seconds=60)
        harness.drain()
    assert harness.client.result(run) == 10
    keys = [each.key for each in harness.client.history(run) if each.event == "polls again later"]
    assert keys == ["pages-pause", "pages-pause#2"]


@once
def test_what_makes_no_sense_is_refused_and_a_check_may_fail(harness: Harness):
    def broken() -> int:
        raise Fail("no")

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[str]:
        said = []
        for wrong in (
            {"attempts": 0, "every": 1},
            {"every": -1},
            {"every": 1, "timeout": "soon"},
        ):
            try:
                await flow.poll(abs, 1, until=bool, **wrong)
            except (DefinitionError, TypeError) as error:
                said.append(str(error))
        try:
            await flow.poll(broken, until=bool, every=1)
        except ActivityFailed as error:
            said.append(error.message)
        with pytest.raises(DefinitionError, match="factor from 1 to 1000"):
            Backoff(1, 0.5)
        return said

    said = harness.client.result(harness.run(p))
    assert len(said) == 4
    assert "attempts=0" in said[0]
    assert said[-1] == "no"
