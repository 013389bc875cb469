"""Events are sent where somebody hears them."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from orchestrator import RunStatus
from orchestrator.core.run_notice import RunNotice
from orchestrator.fleet.event_listeners import EventListeners
from orchestrator.fleet.publisher import Publisher


def worker(*, task_events: bool = False, groups: set[str] | None = None, up: bool = True) -> Any:
    dispatcher = SimpleNamespace(groups=groups) if up else None
    return SimpleNamespace(
        task_events=task_events, consumer=SimpleNamespace(event_dispatcher=dispatcher)
    )


def test_nobody_is_there_before_a_worker_says_so() -> None:
    assert not EventListeners().is_there


@pytest.mark.parametrize("task_events", [True, False])
def test_a_worker_begins_as_it_was_started(task_events: bool) -> None:
    listeners = EventListeners()
    listeners.begin(worker(task_events=task_events))
    assert listeners.is_there is task_events


def test_who_asks_for_events_is_heard_and_who_goes_is_not_missed() -> None:
    listeners = EventListeners()
    listeners.begin(worker())
    listeners.look(worker(groups={"worker", "task"}))
    assert listeners.is_there
    listeners.look(worker(groups={"worker"}))
    assert not listeners.is_there
    listeners.look(worker(groups=set()))  # started with -E: it sends them all
    assert listeners.is_there


def test_while_the_broker_is_away_it_stays_as_it_was() -> None:
    listeners = EventListeners()
    listeners.begin(worker(task_events=True))
    listeners.look(worker(up=False))
    assert listeners.is_there


def test_a_process_of_the_pool_knows_what_its_parent_is_told_later() -> None:
    listeners = EventListeners()
    reading, writing = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(told, 1)
        os.write(writing, b"yes" if listeners.is_there else b"no")
        os._exit(0)
    listeners.begin(worker(task_events=True))
    os.write(tell, b".")
    assert os.read(reading, 3) == b"yes"
    os.waitpid(child, 0)


@pytest.mark.parametrize("is_there", [True, False])
def test_an_event_that_nobody_hears_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    listeners, sent = EventListeners(), []
    listeners.begin(worker(task_events=is_there))
    publisher = Publisher(Celery("events", broker="memory://"), None, listeners)

    def send(event: str, **_: Any) -> None:
        sent.append(event)

    monkeypatch.setattr(publisher, "_event_dispatcher", lambda: SimpleNamespace(send=send))
    publisher.announce(RunNotice(uuid4(), "p", RunStatus.WAITING))
    assert sent == (["task-waiting"] if is_there else [])
