"""A message that a worker can't run goes on to the queue of a code that can, and never round and round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery
from celery._state import _task_stack

from orchestrator import Registry, Settings, install, stage
from orchestrator.fleet.eager import _queue_of
from orchestrator.fleet.forwarding import (
    HOPS_HEADER,
    HOPS_MAX,
    QUEUE_HEADER,
    WAITING_MAX,
    SendsOn,
    UnknownTask,
    UnknownTasks,
    queue_of_code,
)
from orchestrator.fleet.publisher import Publisher
from orchestrator.fleet.strangers import (
    LONGEST_PAUSE_SECONDS,
    RECORD_HEADER,
    RETURNS_HEADER,
    RETURNS_MAX,
    OwnRecord,
)
from orchestrator.store.transitions.outbox import Handoff
from tests.fleet.releases import release

RUN = uuid4()


class Shop:
    """A worker's app on a broker of its own."""

    def __init__(self) -> None:
        self.app = Celery("forwarding-tests", broker="memory://")
        self.app.conf.task_default_queue = f"shop-{uuid4()}"
        registry = Registry()

        @stage(registry=registry)
        def work() -> None: ...

        self.member = install(
            self.app, registry=registry, settings=Settings(database_url="postgresql://nowhere/none")
        )
        self.sends = SendsOn(self.member, Publisher(self.app, None))

    @contextmanager
    def at_work(self, **headers: Any) -> Iterator[None]:
        task = self.app.tasks["work"]
        task.push_request(id="a message", called_directly=False, **headers)
        _task_stack.push(task)
        try:
            yield
        finally:
            _task_stack.pop()
            task.pop_request()

    def message(self, queue: str) -> Any:
        with self.app.connection_for_read() as connection, connection.channel() as channel:
            return channel.basic_get(queue)


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.app.close()


def test_what_is_sent_on_says_where_it_belongs_and_how_often_it_was_sent(shop):
    handoff, to = Handoff(RUN, "work", 1, "work", None), f"code-{uuid4()}"
    assert shop.sends.queue_of(handoff) == shop.app.conf.task_default_queue
    with shop.at_work(**{HOPS_HEADER: 1}):
        assert shop.sends.send_on(handoff, "usual", to)
    message = shop.message(to)
    assert message.decode()[0] == [str(RUN), "work", 1]
    assert (message.headers[QUEUE_HEADER], message.headers[HOPS_HEADER]) == ("usual", 2)
    # A worker that goes on at once asks which queue a message came from.
    request = SimpleNamespace(get=message.headers.get, delivery_info={"routing_key": to})
    assert _queue_of(request) == "usual"


def test_after_so_many_times_it_is_sent_on_no_more(shop):
    """Each claims that it can run it, and can't."""
    handoff, to = Handoff(RUN, "work", 1, "work", None), f"code-{uuid4()}"
    with shop.at_work(**{HOPS_HEADER: HOPS_MAX}):
        assert not shop.sends.send_on(handoff, "usual", to)
    assert not shop.sends.send_on(handoff, "usual", to, hops=HOPS_MAX)
    assert shop.sends.send_on(handoff, "usual", to, hops=HOPS_MAX - 1)
    assert shop.message(to).headers[HOPS_HEADER] == HOPS_MAX
    assert shop.message(to) is None


def unknown(payload: Any = None, **headers: Any) -> Any:
    return SimpleNamespace(
        headers={"task": "new", "origin": "perennial", **headers},
        payload=[[str(RUN), "new", 2], {}, {}] if payload is None else payload,
        delivery_info={"routing_key": "usual"},
    )


def test_a_message_of_ours_with_an_unknown_task_is_known_by_what_it_says():
    found = UnknownTask.of(unknown(**{RECORD_HEADER: "ours", HOPS_HEADER: 2, QUEUE_HEADER: "own"}))
    assert found == UnknownTask("new", UUID(str(RUN)), "new", 2, "own", 2, "ours")
    assert UnknownTask.of(unknown()) == UnknownTask("new", RUN, "new", 2, "usual", 0, None)


@pytest.mark.parametrize(
    "message",
    [
        unknown(origin="gen1@here"),
        unknown(payload=[["no run", "new", 1], {}, {}]),
        unknown(payload=[[], {}, {}]),
        unknown(payload="nothing"),
    ],
)
def test_what_is_none_of_ours_is_celerys(message):
    assert UnknownTask.of(message) is None
    assert not UnknownTasks(None).take(message)


def test_the_loop_that_takes_messages_waits_for_nothing():
    """What comes beyond the bound is left to its relay."""
    tasks = UnknownTasks(None)
    assert all(tasks.take(unknown()) for _ in range(WAITING_MAX + 1))


def test_another_records_message_goes_back_to_its_queue_though_its_task_is_unknown(shop):
    """As one whose task this worker has; after so many returns it is let go."""
    shop.member.record = OwnRecord(lambda: "aaaaaaaa.11111111")
    tasks, queue = UnknownTasks(shop.member), f"usual-{uuid4()}"
    for returns in (0, RETURNS_MAX):
        message = unknown(**{RECORD_HEADER: "bbbbbbbb.11111111", RETURNS_HEADER: returns})
        message.delivery_info["routing_key"] = queue
        assert tasks.take(message)
        tasks.work()
    back = shop.message(queue)
    assert back.decode()[0] == [str(RUN), "new", 2]
    assert (back.headers["task"], back.headers[RETURNS_HEADER]) == ("new", 1)
    assert back.headers[RECORD_HEADER] == "bbbbbbbb.11111111"
    assert shop.message(queue) is None


def test_ours_do_not_wait_while_another_records_messages_rest(shop, monkeypatch):
    """Those rest longer the more often they were met; what is ours is sent on at once."""
    shop.member.record = OwnRecord(lambda: "aaaaaaaa.11111111")
    now = [100.0]
    tasks, queue, sent = UnknownTasks(shop.member, clock=lambda: now[0]), f"usual-{uuid4()}", []
    monkeypatch.setattr(tasks, "_send_on", sent.append)
    strange = {RECORD_HEADER: "bbbbbbbb.11111111", RETURNS_HEADER: 9, QUEUE_HEADER: queue}
    ours = {RECORD_HEADER: "aaaaaaaa.11111111"}
    for message in (unknown(**strange), unknown(**strange), unknown(**ours), unknown(**ours)):
        assert tasks.take(message)
    for _ in range(4):
        tasks.work()
    assert len(sent) == 2
    assert shop.message(queue) is not None
    assert shop.message(queue) is None  # the second of the others rests still
    now[0] += LONGEST_PAUSE_SECONDS
    tasks.work()
    assert shop.message(queue) is not None


def test_workers_with_one_code_share_a_queue_and_no_others_do():
    settings = Settings(database_url="postgresql://localhost/one")

    def name(number: int = 2, *, of: Settings = settings, queues: tuple[str, ...] = ("a", "b")):
        return queue_of_code(release(number), of, queues=queues, transport="redis")

    assert name() == name(queues=("b", "a"))
    others = [
        name(1),
        name(queues=("a",)),
        name(of=Settings(database_url="postgresql://localhost/two")),
        name(of=settings.model_copy(update={"database_schema": "billing"})),
    ]
    assert len({name(), *others}) == 5
    assert name().startswith("perennial:code:")
    assert queue_of_code(release(2), settings, queues=("a",), transport="amqp") is None
