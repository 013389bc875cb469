"""A start takes what its process takes, whatever the producer has imported, and however old its knowledge is."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator import Client, Flow, Registry, process
from orchestrator.errors import InvalidInput, ProcessChanged, UnknownProcess
from tests.harness import Harness, WireTrace
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="producers are looked at, and no worker")


class Trip(BaseModel):
    traveller: str
    city: str


class Journey(BaseModel):
    traveller: str
    cities: list[str]


ADA = {"traveller": "Ada", "city": "Oslo"}
JOURNEY = {"traveller": "Ada", "cities": ["Oslo"]}


def trip(version: int, declared: Any, registry: Registry | None = None, name: str = "trip") -> Any:
    async def trip(flow: Flow, request: Any) -> Any:
        return request

    trip.__annotations__["request"] = declared
    return process(version=version, name=name, registry=registry or Registry())(trip)


@pytest.fixture
def producer(harness: Harness) -> Any:
    """A client that has imported nothing."""
    with Client(harness.settings, registry=Registry()) as client:
        yield client


WRONG = [None, "hello", {"traveller": "Ada"}, {**ADA, "city": 3}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_producer_without_the_code_is_told_what_the_process_takes(harness, producer, wrong):
    harness.client.processes.deploy(trip(2, Trip))
    for start in (
        lambda: producer.start("trip", wrong),
        lambda: producer.start("trip", wrong, version=2, key="k"),
        lambda: producer.start_many("trip", [ADA, wrong]),
    ):
        with pytest.raises(InvalidInput, match=r"^input of trip version 2: .*(city|traveller)"):
            start()
    assert producer.list() == []
    assert producer.start("trip", ADA).created


def test_so_is_one_in_its_own_transaction_and_nothing_is_left_of_it(harness, producer):
    harness.client.processes.deploy(trip(1, Trip))
    with harness.database.psycopg() as connection:
        with pytest.raises(InvalidInput, match="city: Field required"):
            producer.start("trip", {"traveller": "Ada"}, connection=connection)
        assert producer.start("trip", ADA, connection=connection).created
    assert len(producer.list()) == 1


def test_a_start_by_name_is_checked_by_the_version_that_is_started(harness, producer):
    """The producer knows version 1. Guards `is_checked` in `start_runs`."""
    harness.client.processes.deploy(trip(1, Trip))
    assert producer.start("trip", ADA).version == 1
    harness.client.processes.deploy(trip(2, Journey))
    with pytest.raises(InvalidInput, match="version 2: cities: Field required"):
        producer.start("trip", ADA, key="k")
    assert producer.start("trip", JOURNEY).version == 2
    assert producer.start("trip", ADA, version=1).version == 1
    assert [len(producer.start_many("trip", [JOURNEY] * 2)), len(producer.list())] == [2, 5]


def test_code_of_another_version_does_not_judge(harness):
    """By name the newest is started: here that is one which this program lacks, or has not deployed."""
    registry = Registry()
    trip(1, Trip, registry)
    trip(3, int, registry)
    harness.client.processes.deploy(trip(1, Trip), trip(2, Journey))
    with Client(harness.settings, registry=registry) as client:
        assert client.start("trip", JOURNEY).version == 2
        assert client.start("trip", ADA, version=1).version == 1


def test_a_version_that_was_replaced_meanwhile_is_checked_anew(harness, producer):
    old = harness.client.processes.deploy(trip(1, Trip))[0]
    with pytest.raises(InvalidInput):
        producer.start("trip", JOURNEY)
    new = harness.client.processes.deploy(trip(1, Journey))[0]
    assert (new.created, new.replaced or old.fingerprint == new.fingerprint) == (False, True)
    with pytest.raises(InvalidInput, match="cities: Field required"):
        producer.start("trip", ADA)
    assert producer.start("trip", JOURNEY).created


def test_the_model_is_part_of_the_content_and_the_schema_of_the_current_revision_counts(
    harness, producer
):
    harness.client.processes.deploy(trip(1, Trip))
    producer.start("trip", ADA)
    journey = trip(1, Journey)
    with pytest.raises(ProcessChanged):
        harness.client.processes.deploy(journey)
    with pytest.raises(InvalidInput):
        producer.start("trip", JOURNEY)
    harness.client.processes.amend(journey)
    assert producer.start("trip", JOURNEY).created


def test_what_an_older_release_deployed_is_unchecked(harness, producer):
    harness.client.processes.deploy(trip(1, Trip))
    harness.database.rows(
        "UPDATE perennial.process SET input_schema = NULL, input_schema_digest = NULL"
    )
    assert producer.start("trip", "hello").created
    with pytest.raises(InvalidInput):
        harness.client.start(trip(1, Trip), "hello")


def test_an_input_that_cannot_be_checked_is_told_at_deploy(harness):
    class Odd:
        pass

    checked, undeclared, odd = harness.client.processes.deploy(
        trip(1, Trip, name="a"), trip(1, Any, name="b"), trip(1, Odd, name="c")
    )
    assert checked.unchecked == ""
    assert undeclared.unchecked == "its type isn't declared"
    assert "no JSON Schema" in odd.unchecked


def test_a_producer_pays_for_what_it_learns_once(harness, producer):
    harness.client.processes.deploy(trip(1, Trip), trip(1, Journey, name="journey"))
    trace = WireTrace(producer._context.database)

    def cost(start: Any) -> int:
        with trace.counting() as count:
            start()
        return count.round_trips

    producer.start(
        "journey", JOURNEY
    )  # what is asked for the first time on a connection is prepared there
    producer.start("journey", JOURNEY, key="k")
    producer.start_many("journey", [JOURNEY] * 2)
    assert cost(lambda: producer.start("trip", ADA)) == 2
    assert cost(lambda: producer.start("trip", ADA)) == 1
    assert cost(lambda: producer.start_many("trip", [ADA] * 50)) == 1
    harness.client.processes.deploy(trip(2, Journey))
    assert cost(lambda: producer.start("trip", JOURNEY)) == 2
    assert cost(lambda: producer.start("trip", JOURNEY, key="k")) == 1
    assert cost(lambda: producer.start("trip", JOURNEY, key="k")) == 1
    trace.stop()


def test_a_process_that_is_not_deployed_is_one_that_may_have_been_meant(harness, producer):
    harness.client.processes.deploy(trip(1, Trip), trip(3, Trip), trip(1, Trip, name="order"))
    with pytest.raises(UnknownProcess, match=r"no process 'tirp' is deployed.* mean 'trip'\?"):
        producer.start("tirp", ADA)
    with pytest.raises(UnknownProcess, match=r"'trip' version 7 .*new runs take version 3"):
        producer.start_many("trip", [ADA], version=7)
    with pytest.raises(UnknownProcess) as refusal:
        producer.start("zzz", ADA)
    assert "mean" not in str(refusal.value)
