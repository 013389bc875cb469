"""The modes of tests/modes.py in a real worker: `tests.fleet.app` lives in the one that it is told.

    environment_of   what a test starts its workers with
    live_in          what such a worker does to itself, before it is installed

Each disturbance is logged as `mode <name>: ...`, so that a test sees that there were any.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import psycopg

from orchestrator.engine import sweep, turn
from orchestrator.engine.context import EngineContext
from orchestrator.engine.relay import relay
from orchestrator.fleet import maintenance, publisher
from orchestrator.fleet.maintenance import Maintenance
from orchestrator.fleet.publisher import Publisher
from orchestrator.fleet.timer_index import TimerIndex
from orchestrator.fleet.way import ByMessage
from orchestrator.store.transitions.claim import Claim
from orchestrator.store.transitions.outbox import Handoff
from tests.modes import MODES, Leaving, Mode, leaving_early

VARIABLE = "FLEET_TESTS_MODE"

tasks = import_module("orchestrator.fleet.install")  # the package has a function of that name
log = logging.getLogger(__name__)


def environment_of(mode: Mode) -> dict[str, str]:
    """Where only sweeps find work they come often, or each handoff would take a second."""
    environment = {
        VARIABLE: mode.name,
        "PERENNIAL_BATCH_SIZE": str(mode.batch_size),
        "PERENNIAL_EAGER_SECONDS": "5" if mode.goes_on else "0",
    }
    if not mode.hears_workers:
        environment |= {
            "PERENNIAL_SWEEP_SECONDS": "0.1",
            "PERENNIAL_RELAY_AFTER_SECONDS": "0.1",
            "PERENNIAL_TIMER_GRACE_SECONDS": "0.05",
        }
    return environment


def live_in(name: str) -> None:
    """Make this process one of that mode."""
    (mode,) = (mode for mode in MODES if mode.name == name)

    def say(what: str) -> None:
        log.warning("mode %s: %s", mode.name, what)

    if mode.leaves_early:
        take_turn = leaving_early(lambda run_id: say(f"left a turn of {run_id}"))
        turn.Replay = partial(Leaving, take_turn)
    if mode.delivers_twice:
        _deliver_twice(say)
    if not mode.hears_producers:
        _listen_in_vain(say)
    if not mode.hears_workers:
        _lose_what_workers_say(say)
    if mode.goes_on:
        _tell_what_is_taken_over(say)


Say = Callable[[str], None]


def _deliver_twice(say: Say) -> None:
    """Each message is sent twice, and each is done twice; so is a timer's, which the index sends."""
    messages_of, fire = publisher._messages_of, tasks.fire_all

    def each_twice(*arguments: Any) -> Iterator[Any]:
        for message in messages_of(*arguments):
            yield from (message, message)

    def done_twice(do: Callable[..., None]) -> Callable[..., None]:
        def do_twice(*arguments: Any) -> None:
            do(*arguments)
            say(f"{do.__name__} once more")
            do(*arguments)

        return do_twice

    def fire_twice(*arguments: Any) -> tuple[Sequence[Handoff], int]:
        handoffs, failed = fire(*arguments)
        again, _ = fire(*arguments)
        return [*handoffs, *again], failed

    publisher._messages_of = each_twice
    ByMessage.advance = done_twice(ByMessage.advance)
    ByMessage.run_stage = done_twice(ByMessage.run_stage)
    tasks.fire_all = fire_twice


def _tell_what_is_taken_over(say: Say) -> None:
    eager_tasks = import_module("orchestrator.fleet.eager").EagerTasks
    perform = eager_tasks.perform

    def perform_and_tell(self: Any, claim: Claim, work: Any) -> Any:
        say(f"{claim.key} is taken over")
        return perform(self, claim, work)

    eager_tasks.perform = perform_and_tell


def _listen_in_vain(say: Say) -> None:
    """No notification reaches maintenance."""
    listen = Maintenance._listen

    def listen_and_forget(self: Maintenance) -> psycopg.Connection[Any]:
        connection = listen(self)
        connection.execute("UNLISTEN *")
        say("nobody listens")
        return connection

    Maintenance._listen = listen_and_forget


def _lose_what_workers_say(say: Say) -> None:
    """There is no index, and of the handoffs only what a relay sends arrives."""
    publish, ears = Publisher.hand_off, threading.local()

    def hand_off(self: Publisher, handoffs: Sequence[Handoff]) -> Sequence[Handoff]:
        if getattr(ears, "are_open", False):
            return publish(self, handoffs)
        if handoffs:
            say(f"{len(handoffs)} handoff(s) lost")
        return ()

    def heard(context: EngineContext, **options: bool) -> int:
        ears.are_open = True
        try:
            return relay(context, **options)
        finally:
            ears.are_open = False

    TimerIndex.for_app = classmethod(lambda *_app_and_settings: None)
    Publisher.hand_off = hand_off
    sweep.relay = maintenance.relay = heard
