"""A kind of awaitable is one module and one registration: `countdown.py` beside this, and nothing in `orchestrator/`.

It has a timer, words in history, an explanation in `perennial show`, a verb of the client and of the tester, and holds
in the modes that scenarios run in.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from orchestrator import Flow, Registry, RunStatus, process
from orchestrator.cli.run_page import run_page
from orchestrator.cli.times import Clock
from orchestrator.core.declarative import load_process
from orchestrator.core.kinds import KINDS, Ask, kind_of, register
from orchestrator.engine.fire import fire
from orchestrator.engine.sweep import sweep
from orchestrator.errors import DefinitionError, PerennialError, RunClosed, RunNotFound
from orchestrator.testing import ProcessTester
from tests.architecture.countdown import NAMED, Countdown, Push, count_down
from tests.harness import Harness
from tests.modes import EVICT, NORMAL, TWICE, modes_of

modes = modes_of(NORMAL, EVICT, TWICE, because="they are what a kind of its own must hold in")


def launches(registry: Registry) -> Any:
    @process(version=1, registry=registry)
    async def launch(flow: Flow) -> list[int]:
        return [await count_down(flow, "engines", 60), await count_down(flow, "clamps", 60)]

    return launch


def shown(harness: Harness, run: Any) -> str:
    """What `perennial show` prints."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(run_page(harness.client.get(run), Clock(harness.now)))
    return console.export_text()


def events(harness: Harness, run: Any) -> list[tuple[str, str | None]]:
    return [
        (entry.event, entry.key)
        for entry in harness.client.history(run)
        if entry.event.startswith("countdown")
    ]


@modes
def test_it_reaches_zero_by_its_timer_and_is_pushed_back_by_people(harness):
    harness.freeze()
    run = harness.run(launches(harness.registry))
    harness.move(seconds=59)
    assert harness.client.answer(run, "engines", Push(100), by="ann")
    harness.move(seconds=2)
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING
    harness.move(seconds=100)
    harness.drain()
    harness.move(seconds=60)
    harness.drain()
    assert harness.client.result(run) == [1, 0]
    assert events(harness, run) == [
        ("countdown began", "engines"),
        ("countdown pushed back", "engines"),
        ("countdown began", "engines#2"),
        ("countdown reached zero", "engines#2"),
        ("countdown began", "clamps"),
        ("countdown reached zero", "clamps"),
    ]
    assert [entry.actor for entry in harness.client.history(run) if "pushed" in entry.event] == [
        "ann"
    ]
    harness.assert_ended_cleanly(run)


@modes
def test_it_is_answered_once_and_while_it_waits(harness):
    """Guards `a wait is answered from outside once`, and the run's end."""
    harness.freeze()
    run = harness.run(launches(harness.registry))
    assert not harness.client.answer(
        run, "clamps", Push(1), by="ann"
    )  # nobody has asked for it yet
    assert harness.client.answer(run, "engines", Push(100), by="ann")
    assert not harness.client.answer(run, "engines", Push(200), by="bob")
    harness.drain()
    harness.client.cancel(run)
    with pytest.raises(RunClosed, match="needs no answer any more"):
        harness.client.answer(run, "engines#2", Push(1), by="ann")
    with pytest.raises(RunNotFound):
        harness.client.answer("nobody", "engines", Push(1), by="ann")


@modes
def test_yaml_names_it(harness, monkeypatch):
    """The generic flow asks for what the kind has under that name."""
    monkeypatch.setitem(NAMED, "hold-for-weather", 60)
    text = "process: {name: launch, stages: [hold-for-weather]}"
    harness.freeze()
    run = harness.run(load_process(text, registry=harness.registry))
    assert harness.client.answer(run, "hold-for-weather", Push(5), by="ann")
    harness.drain()
    assert harness.client.result(run)["results"] == {"hold-for-weather": {"seconds": 5.0}}
    with pytest.raises(DefinitionError, match="no stage or approval or countdown 'hold'"):
        load_process(text.replace("-for-weather", ""), registry=harness.registry)


@modes_of(NORMAL, because="a page is read")
def test_its_run_says_what_it_waits_for(harness):
    harness.freeze()
    run = harness.run(launches(harness.registry))
    (wait,) = harness.client.get(run).waits
    assert (wait.kind, wait.name, wait.who) == (
        "countdown",
        "engines",
        ("time, or whoever pushes it back",),
    )
    assert [upcoming.what for upcoming in wait.next] == ["reaches zero"]
    page = shown(harness, run)
    assert "Waiting for  countdown engines" in page
    assert "Who can act  time, or whoever pushes it back" in page
    assert "reaches zero  in 1 min" in page


@modes_of(NORMAL, because="workers that differ are made here")
def test_a_worker_without_the_kind_leaves_its_timer_to_one_that_has_it(harness, monkeypatch):
    harness.freeze()
    run = harness.run(launches(harness.registry))
    (timer_id,) = (row.id for row in harness.database.rows("SELECT id FROM perennial.timer"))
    harness.move(seconds=60)
    with monkeypatch.context() as lacking:
        lacking.delitem(KINDS, Countdown.kind)
        with pytest.raises(PerennialError, match="of the kind zero, of which this worker knows"):
            fire(harness.context, timer_id)
        (wait,) = harness.client.get(run).waits
        assert wait.who == ("a program that has the kind countdown",)
        assert kind_of("countdown").in_words("engines") == "countdown engines"
    assert sweep(harness.context) is not None
    assert len(fire(harness.context, timer_id)) == 1


def test_the_tester_answers_it_too():
    registry = Registry()
    with ProcessTester(registry=registry) as tester:
        run = tester.start(launches(registry))
        tester.advance_time(30)
        run = tester.answer(run, run.waits[0], Push(60), by="ann")
        tester.advance_time(60)
        assert tester.get(run).waits[0].name == "clamps"
        tester.advance_time(60)
        assert tester.result(run) == [1, 0]


def test_what_is_no_kind_is_refused():
    class Other(Countdown):
        kind = Countdown.kind

    class Nameless(Countdown):
        kind = "Count down"

    with pytest.raises(DefinitionError, match="kind countdown is Countdown already"):
        register(Other)
    with pytest.raises(DefinitionError, match="no name of a kind"):
        register(Nameless)
    assert register(Countdown) is Countdown
    assert issubclass(KINDS[Countdown.kind], Ask)
