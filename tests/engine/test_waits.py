"""What a flow waits for from outside, and how it ends: in each mode, on a real record."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Flow, Registry, RunStatus, days, hours, minutes, process
from orchestrator.errors import TooManySignals
from orchestrator.store.transitions import signals
from tests.harness import Harness
from tests.modes import EVICT, NORMAL, TWICE, modes_of

modes = modes_of(NORMAL, EVICT, TWICE, because="they are what each awaitable must hold in")
once = modes_of(NORMAL, because="what is sent and read is looked at")


def made(registry: Registry, flow: Any) -> Any:
    return process(version=1, registry=registry)(flow)


# -- scenarios that authors know from elsewhere --------------------------------------------------


@modes
def test_an_updatable_timer_a_signal_moves_the_wake_up(harness: Harness):
    async def wake(flow: Flow) -> str:
        wake_at = flow.now + days(7)
        while (
            moved := await flow.signal("move", type=int, until=wake_at, default=None)
        ) is not None:
            wake_at = flow.now + hours(moved)
        return "awake"

    start = harness.freeze()
    run = harness.run(made(harness.registry, wake))
    harness.move(days=1)
    harness.client.signal(run, "move", 48)
    harness.drain()
    (wait,) = harness.client.get(run).waits
    assert [(each.what, each.at) for each in wait.next] == [
        ("goes on with its default", start + days(3))
    ]
    harness.move(hours=1)
    harness.client.signal(run, "move", 1)  # sooner
    harness.drain()
    harness.move(minutes=59)
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING
    harness.move(minutes=2)
    harness.drain()
    assert harness.client.result(run) == "awake"
    harness.assert_ended_cleanly(run)


@modes
def test_a_sleep_for_days_that_a_signal_ends(harness: Harness):
    async def nap(flow: Flow) -> list[str]:
        return [await flow.signal("wake", timeout=days(90), default="slept") for _ in range(2)]

    harness.freeze()
    run = harness.run(made(harness.registry, nap))
    harness.move(days=30)
    harness.client.signal(run, "wake", "woken")
    harness.drain()
    harness.move(days=89)
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING
    harness.move(days=2)
    harness.drain()
    assert harness.client.result(run) == ["woken", "slept"]
    assert "signal timed out" in [event.split(": ")[0] for event in harness.events(run)]
    harness.assert_ended_cleanly(run)


@modes
def test_ten_shuffled_signals_are_put_in_order_by_their_sequence(harness: Harness):
    async def sort(flow: Flow) -> list[int]:
        early: dict[int, int] = {}
        done: list[int] = []
        async for each in flow.signals("item", type=dict[str, int], max=10):
            early[each["sequence"]] = each["value"]
            while len(done) in early:
                done.append(early.pop(len(done)))
        return done

    run = harness.start(made(harness.registry, sort))
    for place, sequence in enumerate((3, 0, 9, 1, 2, 7, 8, 4, 6, 5)):
        assert harness.client.signal(
            run, "item", {"sequence": sequence, "value": sequence * 10}, signal_id=str(sequence)
        )
        assert not harness.client.signal(run, "item", {}, signal_id=str(sequence))
        if place % 3 == 0:
            harness.drain()
    harness.drain()
    assert harness.client.result(run) == [number * 10 for number in range(10)]
    harness.assert_ended_cleanly(run)


@modes
@pytest.mark.parametrize("sent", [("card",), ("cash",), ()])
def test_two_signals_race_a_timeout(harness: Harness, sent: tuple[str, ...]):
    """With a gather: who comes is there, and the others end with their defaults."""

    async def pay(flow: Flow) -> list[Any]:
        return await flow.gather(
            flow.signal("card", timeout=hours(1), default=None),
            flow.signal("cash", timeout=hours(1), default=None),
        )

    harness.freeze()
    run = harness.run(made(harness.registry, pay))
    for name in sent:
        harness.client.signal(run, name, name)
    harness.drain()
    harness.move(hours=1)
    harness.drain()
    assert harness.client.result(run) == [
        name if name in sent else None for name in ("card", "cash")
    ]
    harness.assert_ended_cleanly(run)


@modes
def test_signals_end_when_none_has_come_for_a_while(harness: Harness):
    async def read(flow: Flow) -> list[int]:
        return [each async for each in flow.signals("reading", type=int, timeout=minutes(10))]

    harness.freeze()
    run = harness.run(made(harness.registry, read))
    for number in range(3):
        harness.move(minutes=9)
        harness.client.signal(run, "reading", number)
        harness.drain()
    harness.move(minutes=10)
    harness.drain()
    assert harness.client.result(run) == [0, 1, 2]
    harness.assert_ended_cleanly(run)


@once
def test_a_peek_is_recorded_and_a_taken_stage_goes_on_with_it(harness: Harness):
    """Also where the worker goes on with the journal that it holds, and reads nothing again."""

    async def look(flow: Flow) -> list[bool]:
        found = [flow.peek("stop")]
        await flow.signal("go")
        found.append(flow.peek("stop"))
        await flow.sleep(1)
        await flow.signal("stop")
        return [*found, flow.peek("stop")]

    harness.freeze()
    run = harness.run(made(harness.registry, look))
    harness.client.signal(run, "stop")
    harness.client.signal(run, "go")
    harness.drain()
    harness.move(seconds=1)
    harness.drain()
    assert harness.client.result(run) == [False, True, False]
    assert sum(each.event == "looked for signal" for each in harness.client.history(run)) == 3


@once
def test_ids_are_the_same_in_a_copy_of_the_run(harness: Harness):
    """And in a copy of the copy, also after it was rewound."""

    async def ship(flow: Flow) -> list[str]:
        first = flow.uuid()
        await flow.signal("go")
        second = flow.uuid()
        await flow.signal("last")
        return [str(first), str(second), str(flow.uuid())]

    run = harness.run(made(harness.registry, ship))
    for name in ("go", "last"):
        harness.client.signal(run, name)
    harness.drain()
    ids = harness.client.result(run)
    for _ in range(2):
        forked = harness.client.operations.fork(run, at="last", by="ann", reason="a try")
        run = forked.new_run_id
        harness.drain()
        assert harness.client.result(run) == ids


@once
def test_a_run_holds_no_more_signals_than_it_may(harness: Harness, monkeypatch):
    """Guards `a run holds so many signals`: refused in a sentence, and those that were sent before are answered so."""

    async def slow(flow: Flow) -> list[Any]:
        await flow.signal("go")
        return [each async for each in flow.signals("item", max=2)]

    run = harness.run(made(harness.registry, slow))
    with monkeypatch.context() as few:
        few.setattr(signals, "SIGNALS_HELD_MAX", 2)
        for number in range(2):
            assert harness.client.signal(run, "item", number, signal_id=str(number))
        before = harness.client.get(run).revision
        with pytest.raises(TooManySignals, match="holds 2 signals that no wait has taken"):
            harness.client.signal(run, "item", 2, signal_id="2")
        assert not harness.client.signal(run, "item", 1, signal_id="1")
        assert harness.client.get(run).revision == before
    with monkeypatch.context() as small:
        small.setattr(signals, "SIGNAL_BYTES_HELD_MAX", 1)
        with pytest.raises(
            TooManySignals, match=r"bytes of signals .* no more than 1\. Signal 'go'"
        ):
            harness.client.signal(run, "go")
    harness.client.signal(run, "go")
    harness.drain()
    assert harness.client.result(run) == [0, 1]
