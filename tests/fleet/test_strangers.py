"""A worker of another database on the same broker gives back what isn't its own, and says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, Task

from orchestrator import Registry, Settings, install, stage
from orchestrator.engine.troubles import Troubles
from orchestrator.fleet import strangers
from orchestrator.fleet.publisher import Publisher
from orchestrator.fleet.strangers import (
    READ_AGAIN_SECONDS,
    RECORD_HEADER,
    RETURNS_HEADER,
    RETURNS_MAX,
    SCHEMA_HEADER,
    OwnRecord,
    give_back_if_strange,
)
from orchestrator.store.transitions.outbox import Handoff
from tests.fleet.harness import Fleet

OURS, THEIRS = "aaaaaaaa.11111111", "bbbbbbbb.11111111"
log = logging.getLogger("strangers-tests")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_forgotten_worker_of_another_database_swallows_nothing(
    fleet: Fleet, fresh_url: Callable[[], str], pool: str
) -> None:
    """Nothing is sent again here: what it swallowed would never be done."""
    fleet.extra_environment["PERENNIAL_RELAY_AFTER_SECONDS"] = "600"
    own = fleet.extra_environment
    fleet.extra_environment = {**own, "PERENNIAL_DATABASE_URL": fresh_url()}
    fleet.start_worker(pool=pool)
    fleet.wait_for("the stranger", lambda: fleet.logs().count(" ready.") == 1)
    fleet.extra_environment = own
    fleet.start_worker(pool=pool)
    fleet.wait_for("its own worker", lambda: fleet.logs().count(" ready.") == 2)
    runs = [fleet.client.start("gate-process", 700 + number) for number in range(20)]
    fleet.wait_until_closed(*runs)
    assert set(fleet.effects("first")) == {1}
    assert "this worker takes messages of another record's runs from queue tests" in fleet.logs()
    assert "sent again by their own" not in fleet.logs()


class Shop:
    """A worker's app, with one stage, on a broker of its own."""

    def __init__(self) -> None:
        self.queue = f"shop-{uuid4()}"
        self.app = Celery("strangers-tests", broker="memory://")
        self.app.conf.task_default_queue = self.queue
        registry = Registry()

        @stage(registry=registry)
        def work() -> None: ...

        install(self.app, registry=registry, settings=Settings())
        self.task: Task = self.app.tasks["work"]
        self.own = OwnRecord(lambda: OURS)

    @contextmanager
    def at_work(self, **headers: Any) -> Iterator[Task]:
        """With a message that came with these."""
        self.task.push_request(
            id="a message",
            args=["a run", "work", 1],
            delivery_info={"exchange": "", "routing_key": self.queue},
            **headers,
        )
        try:
            yield self.task
        finally:
            self.task.pop_request()

    def gives_back(self, **headers: Any) -> bool:
        with self.at_work(**headers) as task:
            return give_back_if_strange(task, self.own, Troubles(log))

    def message(self) -> Any:
        with self.app.connection_for_read() as connection, connection.channel() as channel:
            return channel.basic_get(self.queue)


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.app.close()


def test_a_message_says_of_whose_record_it_is(shop):
    Publisher(shop.app, None, record=shop.own).hand_off([Handoff(uuid4(), "work", 1, "work", None)])
    assert (
        RECORD_HEADER not in shop.message().headers
    )  # it is not known, and nobody asks for it here
    assert shop.own.get() == OURS
    Publisher(shop.app, None, record=shop.own).hand_off([Handoff(uuid4(), "work", 1, "work", None)])
    assert shop.message().headers[RECORD_HEADER] == OURS


def test_a_stranger_gives_the_message_back_as_it_was(shop, caplog):
    assert shop.gives_back(**{RECORD_HEADER: THEIRS})
    message = shop.message()
    assert message.decode()[0] == ["a run", "work", 1]
    assert message.headers["task"] == "work"
    assert message.headers[RECORD_HEADER] == THEIRS
    assert message.headers[RETURNS_HEADER] == 1
    assert message.properties["correlation_id"] == "a message"
    said = [record.levelno for record in caplog.records if record.name == log.name]
    assert said == [logging.ERROR]
    assert f"is of record {THEIRS}, this worker moves {OURS}" in caplog.text


def test_what_nobody_else_takes_is_let_go(shop, caplog):
    """Its own fleet is away: it would go round without end."""
    assert shop.gives_back(**{RECORD_HEADER: THEIRS, RETURNS_HEADER: RETURNS_MAX})
    assert shop.message() is None
    assert "sent again by their own" in caplog.text


def test_it_rests_the_longer_the_more_often_it_met_the_message(shop, monkeypatch):
    """Its own worker may be at work: a stranger with nothing to do would be through with it within milliseconds."""
    pauses: list[float] = []

    def rest(seconds: float) -> None:
        pauses.append(seconds)
        assert (
            shop.message() is not None
        )  # it has gone back: who held it would be the first to take it again

    monkeypatch.setattr(strangers, "_rest", rest)
    for returns in range(RETURNS_MAX + 1):
        assert shop.gives_back(**{RECORD_HEADER: THEIRS, RETURNS_HEADER: returns})
    assert pauses == sorted(pauses)
    assert max(pauses) == strangers.LONGEST_PAUSE_SECONDS
    assert sum(pauses) > 5


def test_a_timers_message_of_another_schema_goes_back_too(shop, caplog):
    """Redis knows of no record, and an index is one schema's: its messages name that. Nothing is read for it."""
    assert shop.gives_back(**{SCHEMA_HEADER: "billing"})
    message = shop.message()
    assert message.headers[SCHEMA_HEADER] == "billing"
    assert message.headers[RETURNS_HEADER] == 1
    assert RECORD_HEADER not in message.headers
    assert "is of schema billing, this worker moves schema perennial" in caplog.text
    assert shop.own.known == ""


@pytest.mark.parametrize(
    "headers",
    [{}, {RECORD_HEADER: OURS}, {RECORD_HEADER: None}, {SCHEMA_HEADER: "perennial"}],
)
def test_ones_own_message_and_an_older_releases_are_taken(shop, headers):
    assert not shop.gives_back(**headers)
    assert shop.message() is None


def test_a_record_is_read_once_and_again_where_a_stranger_is_met():
    """After an upgrade of the server the same database has another identity."""
    reads, clock = [OURS, THEIRS], iter([0.0, READ_AGAIN_SECONDS + 1, READ_AGAIN_SECONDS + 1])
    own = OwnRecord(lambda: reads.pop(0), clock=lambda: next(clock))
    assert not own.is_stranger(OURS)
    assert own.get() == OURS
    assert len(reads) == 1
    assert not own.is_stranger(THEIRS)
    assert own.known == THEIRS
