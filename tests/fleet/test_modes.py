"""One run through every kind of wait, on a real worker in every mode: the same end, each effect once."""

from __future__ import annotations

import pytest
from celery import Celery
from sqlalchemy import text

from orchestrator.core.views import Started
from orchestrator.fleet.timer_index import FIRE
from orchestrator.store.parts import ADVANCE
from tests.fleet.harness import Fleet
from tests.fleet.modes import environment_of
from tests.fleet.test_promises import NOTHING
from tests.modes import BATCH_OF_ONE, MODES, NORMAL, Mode

WAIT_SECONDS = 0.2

RESULT = {
    "steps": 1 + 1 + len("ann"),
    "inline": "noted ann",
    "word": "given",
    "silence": "timed out",
    "manager": ["approved", "director", True],
    "board": ["timed_out", True],
    "gathered": ["prepared left", "prepared right", "more"],
    "attempts": 2,
    "failed": "ValueError",
}
EFFECTS = {
    "first": [1],
    "second": [1],
    "inline": [1],
    "prepare": [1, 1],
    "attempts": [2],
    "given up": [1],
}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_every_kind_of_wait_comes_to_its_end_in_every_mode(fleet: Fleet, mode: Mode) -> None:
    """Whatever comes twice, late or never, the result is the same, each effect happens once for each
    attempt, and nothing is left over; nor do messages that come again after the end change that.
    """
    fleet.extra_environment = environment_of(mode)
    fleet.start_worker()
    run = fleet.client.start("everything", WAIT_SECONDS)
    fleet.client.signal(run, "word", "given")
    fleet.wait_for("the director to be asked", lambda: fleet.client.approvals(assignee="director"))
    fleet.client.approve(run, "manager", by="director")
    fleet.wait_for("the last signal's turn", lambda: _waits_for(fleet) == "signal more")
    fleet.client.signal(run, "more", "more")
    fleet.wait_until_closed(run)
    if mode.delivers_twice:
        send_all_once_more(fleet, run)
    assert fleet.client.result(run) == RESULT
    assert fleet.effects_of(run) == EFFECTS
    assert fleet.leftovers() == NOTHING
    # Celery's words for a task that failed: `give_up` has, once; what comes again is no failure.
    assert fleet.logs().count("raised unexpected") == 1
    assert (f"mode {mode.name}: " in fleet.logs()) is (mode not in (NORMAL, BATCH_OF_ONE))


def _waits_for(fleet: Fleet) -> str:
    return str(fleet.scalar("SELECT waiting_for FROM perennial.run"))


def send_all_once_more(fleet: Fleet, run: Started) -> None:
    """Every message that the run ever had, after its end; and wait until a run behind them has ended."""
    with fleet.engine.connect() as connection:
        stages = connection.execute(
            text(
                "SELECT a.name, a.key, made.attempt FROM perennial.activity a, "
                "generate_series(1, a.attempt) AS made(attempt) "
                "WHERE a.run_id = :run AND a.kind = 'stage'"
            ),
            {"run": run.run_id},
        ).all()
        timers = connection.execute(text("SELECT id FROM perennial.timer")).scalars().all()
    messages = [
        *((row.name, (str(run.run_id), row.key, row.attempt)) for row in stages),
        *((FIRE, (str(timer_id),)) for timer_id in timers),
        (ADVANCE, (str(run.run_id),)),
    ]
    assert stages
    assert timers
    with (
        Celery("late", broker=fleet.broker_url) as app,
        app.connection_for_write() as connection,
    ):
        for task, arguments in messages:
            app.send_task(task, arguments, queue="tests", connection=connection)
    fleet.wait_until_closed(fleet.client.start("gate-process", 0))
