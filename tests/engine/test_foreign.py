"""Two apps on one database: a relay sends what its own app can run, and leaves the rest to the other's."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from orchestrator import Flow, Registry, process, stage
from orchestrator.core.declarative import load_process
from orchestrator.engine.foreign import Foreign
from orchestrator.engine.relay import relay
from orchestrator.engine.turn import advance
from orchestrator.store.transitions import outbox
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="it is about who sends, whatever the mode")


def app_of(harness, name: str, *parts):
    """A worker of an app of its own: it knows these processes and stages only."""
    registry = Registry()
    for part in parts:
        if hasattr(part, "version"):
            registry.add_process(part)
        else:
            registry.add_stage(part)
    worker = harness.worker(name, registry=registry)
    worker.foreign = Foreign(registry, worker.definitions)
    return worker


@pytest.fixture
def two(harness):
    @stage(registry=harness.registry)
    def pack() -> str:
        return "packed"

    @process(version=1, registry=harness.registry)
    async def parcel(flow: Flow) -> str:
        return await flow.stage(pack)

    @process(version=1, registry=harness.registry)
    async def letter(flow: Flow) -> None: ...

    harness.client.processes.deploy(parcel, letter)
    return parcel, letter, pack


def publishes(harness) -> list[int]:
    with harness.context.connection() as connection:
        rows = connection.execute(text("SELECT publishes FROM perennial.outbox ORDER BY run_id"))
        return [row.publishes for row in rows]


def test_a_relay_sends_only_what_its_app_can_run(harness, two):
    parcel, letter, pack = two
    parcels = app_of(harness, "parcels", parcel, pack)
    letters = app_of(harness, "letters", letter)
    for _ in range(2):
        harness.client.start("parcel")
        harness.client.start("letter")
    assert relay(letters) == 2
    assert sorted(publishes(harness)) == [0, 0, 1, 1]  # the others' are as they were, and due
    assert relay(letters) == 0
    assert relay(parcels) == 2
    assert publishes(harness) == [1, 1, 1, 1]


def test_what_is_anothers_is_met_once_and_the_rest_is_told(harness, two, monkeypatch):
    """So two relays don't hand one thing back and forth. Guards `leave_handoffs`."""
    _, letter, _ = two
    letters = app_of(harness, "letters", letter)
    left = []
    monkeypatch.setattr(outbox, "leave_handoffs", lambda _, theirs: left.append(len(theirs)))
    harness.client.start("parcel")
    relay(letters)
    harness.client.start("parcel")
    relay(letters)
    assert left == [1]
    assert letters.foreign.kinds == ["turn parcel 1"]


def test_a_stage_of_another_app_is_left_to_it_too(harness, two):
    parcel, _, pack = two
    flows = app_of(harness, "flows", parcel)
    stages = app_of(harness, "stages", pack)
    run = harness.client.start("parcel")
    assert relay(stages) == 0
    assert relay(flows) == 1
    advance(flows, run.run_id)
    with harness.context.connection() as connection:
        connection.execute(text("UPDATE perennial.outbox SET publish_at = perennial.now()"))
    assert relay(flows) == 0
    assert relay(stages) == 1


def test_a_process_in_yaml_is_of_whoever_has_its_stages(harness, two):
    _, letter, pack = two
    text_of = "process: {name: order, version: 1, stages: [pack]}"
    harness.client.processes.deploy(
        load_process(text_of, source="order.yaml", registry=harness.registry)
    )
    letters, packers = app_of(harness, "letters", letter), app_of(harness, "packers", pack)
    harness.client.start("order", {})
    assert relay(letters) == 0
    assert relay(packers) == 1


def test_what_nobody_knows_is_sent_after_a_while_and_so_comes_to_light(harness, two):
    _, letter, _ = two
    harness.freeze()
    letters = app_of(harness, "letters", letter)
    harness.client.start("parcel")
    assert relay(letters) == 0
    harness.move(seconds=outbox.LEFT_TO_OTHERS_SECONDS - 1)
    assert relay(letters) == 0
    harness.move(seconds=1)
    assert relay(letters) == 1


def test_who_has_no_work_of_its_own_sends_all(harness, two):
    services = app_of(harness, "services")
    harness.client.start("parcel")
    harness.client.start("letter")
    assert relay(services) == 2


def test_a_relay_that_dies_with_anothers_handoff_in_its_hands_delays_it_by_one_interval(
    harness, two, monkeypatch
):
    parcel, letter, pack = two
    harness.freeze()
    letters = app_of(harness, "letters", letter)
    parcels = app_of(harness, "parcels", parcel, pack)

    def die(*_: object) -> None:
        raise SystemExit

    harness.client.start("parcel")
    monkeypatch.setattr(outbox, "leave_handoffs", die)
    with pytest.raises(SystemExit):
        relay(letters)
    assert relay(parcels) == 0
    harness.move(seconds=harness.settings.relay_after_seconds)
    assert relay(parcels) == 1
