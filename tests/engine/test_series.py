"""Moments that come again and again: what was missed while nobody could go on is taken as the author chose."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from orchestrator import Flow, RunStatus, days, hours, process, stage
from tests.harness import Harness
from tests.modes import EAGER, EVICT, NORMAL, SWEEPS_ONLY, TWICE, modes_of

pytestmark = modes_of(NORMAL, EVICT, TWICE, SWEEPS_ONLY, EAGER, because="it moves the clock")


def billing(harness: Harness, charged: list[tuple[int, int]], **how: Any) -> Any:
    """A charge each thirty days from its start on: which days were charged, and how many were left out before each."""
    by = how.get("missed", "default")

    @stage(registry=harness.registry, name=f"charge-{by}")
    def charge(day: int, missed: int) -> None:
        charged.append((day, missed))

    @process(version=1, registry=harness.registry, name=f"bills-{by}")
    async def bills(flow: Flow, start: datetime) -> str:
        async for due in flow.every(days(30), start=start, until=start + days(150), **how):
            await flow.stage(charge, (due.at - start).days, due.missed)
        return "ended"

    return bills


def pausing(harness: Harness, run: Any) -> None:
    """A hundred days, in which what comes due is recorded, and nobody goes on."""
    verbs = harness.client.operations
    verbs.pause(run, by="it")
    for _ in range(10):
        harness.move(days=10)
        harness.drain()
    verbs.resume(run, by="it")
    harness.drain()


def outage(harness: Harness, _run: Any) -> None:
    """A hundred days without a fleet."""
    harness.move(days=100)
    harness.drain()


CHOSEN = {
    "last": ([(90, 2)], [(90, 2), (120, 0), (150, 0)], [(2, 30, 60)]),
    "all": ([(30, 0), (60, 0), (90, 0)], [(30, 0), (60, 0), (90, 0), (120, 0), (150, 0)], []),
    "none": ([], [(120, 3), (150, 0)], [(3, 30, 90)]),
}


@pytest.mark.parametrize("missed", CHOSEN)
@pytest.mark.parametrize("away", [pausing, outage])
def test_charges_that_were_missed_are_taken_as_their_author_chose(harness, away, missed):
    """Three of them: one at once that says so, each of them, or none until the next is due."""
    charged: list[tuple[int, int]] = []
    soon, in_all, marks = CHOSEN[missed]
    start = harness.freeze()
    run = harness.run(billing(harness, charged, missed=missed), start)
    assert charged == [(0, 0)]
    away(harness, run)
    assert charged[1:] == soon
    (wait,) = harness.client.get(run).waits
    assert (wait.name, wait.who) == ("moment", ("nobody: time alone",))
    assert wait.next[0].at == start + days(120)
    for days_on in (20, 30):
        harness.move(days=days_on)
        harness.drain()
    assert charged[1:] == in_all
    lines = [each.detail for each in harness.client.history(run) if each.event == "missed"]
    assert lines == [
        {
            "moments": count,
            "first": (start + days(first)).isoformat(),
            "last": (start + days(last)).isoformat(),
        }
        for count, first, last in marks
    ]
    assert harness.client.result(run) == "ended"
    harness.assert_ended_cleanly(run)


@modes_of(NORMAL, EVICT, EAGER, because="what nobody asked for is the last of several by default")
def test_the_last_alone_is_taken_where_nothing_is_said(harness):
    charged: list[tuple[int, int]] = []
    run = harness.run(billing(harness, charged), harness.freeze())
    pausing(harness, run)
    assert charged == [(0, 0), (90, 2)]


def test_the_end_may_be_among_what_was_missed(harness):
    """Nothing is left to wait for: the last of a series is given, or the series is over, and history says so."""
    harness.freeze()
    ends: dict[str, list[tuple[int, int]]] = {}
    for missed in ("last", "none"):
        charged = ends[missed] = []
        run = harness.run(billing(harness, charged, missed=missed), harness.now)
        harness.move(days=400)
        harness.drain()
        assert harness.client.result(run) == "ended"
        assert ("missed", 5 - len(charged[1:])) in [
            (each.event, (each.detail or {}).get("moments")) for each in harness.client.history(run)
        ]
    assert ends == {"last": [(0, 0), (150, 4)], "none": [(0, 0)]}


def test_a_moment_that_is_little_late_is_in_time_and_grace_says_how_late(harness):
    charged: list[tuple[int, int]] = []
    run = harness.run(billing(harness, charged, missed="none", grace=days(2)), harness.freeze())
    harness.move(days=32)
    harness.drain()
    assert charged[1:] == [(30, 0)]
    harness.move(days=30.5)
    harness.drain()
    assert charged[1:] == [(30, 0)]
    harness.move(days=27.5)
    harness.drain()
    assert charged[1:] == [(30, 0), (90, 1)]
    assert harness.status(run) is RunStatus.WAITING


def test_work_that_takes_longer_than_the_next_moment_makes_no_queue(harness):
    """By the calendar, it drifts not: the one after comes when it is due."""
    begun: list[int] = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        start = flow.now
        async for due in flow.every(hours(1), until=start + hours(6)):
            begun.append(round((due.at - start) / timedelta(hours=1)))
            await flow.sleep(hours(2.5))

    harness.freeze()
    run = harness.run(p)
    for _ in range(24):
        harness.move(minutes=30)
        harness.drain()
    assert sorted(set(begun)) == [1, 3, 6]
    assert harness.client.result(run) is None


def test_a_signal_may_come_before_the_next_moment(harness):
    """A race with a series loses no moment of it; and `next_at` says when it comes."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        start, found = flow.now, []
        series = flow.every(days(7), name="review")
        while len(found) < 4:
            coming = series.next_at
            assert coming is not None
            race = await flow.first({"due": anext(series), "asked": flow.signal("asked")})
            if race.name == "due":
                assert race.value.at == coming
            found.append([race.name, (coming - start).days])
        return found

    harness.freeze()
    run = harness.run(p)
    for kind in ("asked", "", "asked", ""):
        if kind:
            harness.client.signal(run, kind)
        else:
            harness.move(days=7)
        harness.drain()
    assert harness.client.result(run) == [["asked", 7], ["due", 7], ["asked", 14], ["due", 14]]
    harness.assert_ended_cleanly(run)
