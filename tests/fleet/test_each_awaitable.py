"""One representative of each awaitable on a real fleet, whose only worker is killed in its middle.

Each process is held where it can be: a stage at a gate, a wait for the world. Then the worker is killed, the world
answers while nobody lives, and another worker finds it all.
"""

from __future__ import annotations

import pytest

from tests.fleet.harness import Fleet
from tests.fleet.test_promises import NOTHING

RESULTS = {
    "stages": 11,
    "async-stages": 21,
    "steps": 30,
    "signals": 7,
    "correlations": 90,
    "callbacks": 8,
    "approvals": "approved by ann",
    "polls": 51,
    "sleeps": "over",
    "races": [0, 61],
    "gathers": [71, 7],
    "maps": [81, 91],
    "scopes": 12,
    "blocks": ["late", 21],
    "children": 31,
    "sagas": ["enough"],
    "chapters": 51,
    "moments": [4, 61],
}
ANSWERED = {"signals", "correlations", "callbacks", "approvals", "sleeps"}
"""By the world. All others are held at the gate, each once."""


def test_a_worker_that_is_killed_in_the_middle_of_each_awaitable_loses_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_DATABASE_URL", fleet.database_url)
    monkeypatch.setenv("PERENNIAL_BROKER_URL", fleet.broker_url)
    from tests.fleet.awaitables_app import GATE, registry

    fleet.app = "tests.fleet.awaitables_app"
    processes = {process.name: process for process in registry.processes.values()}
    assert processes.keys() - {"childs-own"} == RESULTS.keys()
    fleet.client.processes.deploy(*processes.values())
    gate = fleet.hold_gate(GATE)
    worker = fleet.start_worker("-Q", "awaitables", "-c", "20", pool="threads")
    runs = {name: fleet.client.start(name) for name in RESULTS}
    fleet.wait_for("each at the gate", lambda: gate.waiting() == len(RESULTS) - len(ANSWERED))
    fleet.wait_for("a token", lambda: fleet.scalar("SELECT to_regclass('token')"))
    token = fleet.wait_for("a token", lambda: fleet.scalar("SELECT max(token) FROM token"))
    for name in ANSWERED:
        fleet.wait_until_waiting(runs[name])
    fleet.kill(worker)

    client = fleet.client
    client.signal(runs["signals"], "word", 7)
    client.signal(correlation="INV-1", name="paid", payload=90)
    client.complete(token, 8)
    client.approve(runs["approvals"], by="ann")
    gate.open()
    fleet.start_worker("-Q", "awaitables", "-c", "20", pool="threads")
    fleet.wait_until_closed(*runs.values())
    assert {name: client.result(run) for name, run in runs.items()} == RESULTS
    assert fleet.leftovers() == NOTHING
    held = "SELECT count(*) FROM perennial.activity WHERE kind = 'stage' AND attempt > 1"
    assert fleet.scalar(held) == len(RESULTS) - len(ANSWERED) - 1, (
        "each but the step, which is its turn's"
    )
    assert set(fleet.effects("begun")) == {1}, "a step that was recorded is not done again"
    assert set(fleet.effects("quick")) == {1}
