"""Celery's settings are honoured, or refused at a worker's start in a sentence: the rows of docs/celery-settings.md."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, Task
from celery.app.defaults import DEFAULTS, NAMESPACES, flatten
from celery.concurrency import prefork, solo
from kombu import Exchange, Queue
from kombu.serialization import loads
from redis import SSLConnection

from orchestrator import Registry, Settings, install, process, stage
from orchestrator.core.declarative import load_process
from orchestrator.errors import DefinitionError
from orchestrator.fleet.celery_settings import WorkerRefused, check_worker
from orchestrator.fleet.eager import EagerTasks
from orchestrator.fleet.publisher import Publisher
from orchestrator.fleet.routes import Routes
from orchestrator.fleet.services import ServicesStep
from orchestrator.fleet.timer_index import TimerIndex
from orchestrator.store.parts import ADVANCE
from orchestrator.store.transitions.outbox import Handoff
from tests.fleet.harness import Fleet

TABLE = Path(__file__).parents[2] / "docs" / "celery-settings.md"


class Shop:
    """An app with one stage of its own and one that is a task it had before."""

    def __init__(self, **conf: Any) -> None:
        self.registry = Registry()
        self.app = Celery("settings-tests", broker="memory://")
        self.app.conf.update({"task_default_queue": f"default-{uuid4()}", **conf})

        @self.app.task(name="shop.mail.send", shared=False)
        def send() -> None: ...

        @stage(registry=self.registry)
        def work() -> None: ...

        @stage(registry=self.registry, queue="iam")
        def grant() -> None: ...

        stage(name="mail", registry=self.registry)(send)
        self.member = install(self.app, registry=self.registry, settings=Settings())
        self.routes = Routes(self.app, self.registry)

    def queue_of(self, task: str, queue: str | None = None) -> str:
        return self.routes.queue_of(task, queue)

    def check(self, pool: type = prefork.TaskPool) -> None:
        check_worker(self.app, self.registry, Settings(), self.routes, pool)

    def publish(self, task: str = "work", queue: str | None = None) -> Any:
        """The one message that a handoff becomes."""
        handoff = Handoff(uuid4(), "work", 1, task, queue)
        publisher = Publisher(self.app, None, routes=self.routes)
        assert not publisher.hand_off([handoff])
        with self.app.connection_for_read() as connection, connection.channel() as channel:
            message = channel.basic_get(self.queue_of(task, queue))
            assert message is not None
            assert message.decode()[0] == [str(handoff.run_id), "work", 1]
            return message


def refusal(shop: Shop, pool: type = prefork.TaskPool) -> str:
    with pytest.raises(WorkerRefused) as refused:
        shop.check(pool)
    return str(refused.value)


# -- refused at start ----------------------------------------------------------------------------


def test_a_plain_app_is_not_refused():
    Shop().check()


@pytest.mark.parametrize("accepted", [["pickle"], ["application/x-yaml"], [], ["auth"]])
def test_a_worker_that_would_drop_our_messages_is_refused(accepted):
    assert "Add 'json' to accept_content" in refusal(Shop(accept_content=accepted))


@pytest.mark.parametrize("accepted", [["json"], ["application/json"], ["pickle", "json"]])
def test_json_is_accepted_under_both_of_its_names(accepted):
    Shop(accept_content=accepted).check()


def test_eventlet_is_refused():
    pool = type("TaskPool", (solo.TaskPool,), {"__module__": "celery.concurrency.eventlet"})
    assert "Use -P prefork, threads, gevent or solo" in refusal(Shop(), pool)


def test_a_worker_that_is_refused_ends_with_the_sentence_and_no_traceback():
    """Celery lets `SystemExit` through, and Python prints what it says. All reasons are said at once."""
    shop = Shop(accept_content=["pickle"], task_routes={"work": {"exchange": "tasks"}})
    parent = SimpleNamespace(
        app=shop.app, pool_cls=solo.TaskPool, hostname="w@here", task_events=False
    )
    with pytest.raises(SystemExit) as ended:
        ServicesStep(parent)
    first, *reasons = str(ended.value).splitlines()
    assert first == "perennial: this worker is not started."
    assert len(reasons) == 2
    assert shop.member.heartbeats is None


def test_a_default_queue_that_nobody_may_take_from_is_refused():
    shop = Shop(task_queues=[Queue("a")], task_create_missing_queues=False)
    assert "which is not among task_queues" in refusal(shop)


@pytest.mark.parametrize("route", [{"exchange": "tasks"}, {"routing_key": "a.b"}])
def test_a_route_without_a_queue_is_refused(route):
    assert "give the route a `queue`" in refusal(Shop(task_routes={"work": route}))


def test_a_route_to_a_queue_that_is_not_declared_is_refused():
    shop = Shop(
        task_queues=[Queue("a")],
        task_create_missing_queues=False,
        task_default_queue="a",
        task_routes={"work": "b"},
    )
    assert "send 'work' to queue 'b', which is not among" in refusal(shop)


@pytest.mark.parametrize(
    "name", ["perennial:due", "perennial:wake", "perennial:epoch", "perennial:rebuild"]
)
def test_a_queue_that_is_one_of_our_keys_is_refused_however_it_is_chosen(name):
    assert f"is {name!r}, which is a key of our own" in refusal(Shop(task_routes={"work": name}))
    shop = Shop()
    shop.app.conf.task_default_queue = name
    assert f"is {name!r}, which is a key of our own" in refusal(shop)


@pytest.mark.parametrize(
    "name",
    [
        "perennial:due",
        "perennial:anything",
        "unacked",
        "unacked_index",
        "_kombu.binding.x",
        "",
        "a\nb",
    ],
)
def test_such_a_queue_is_refused_where_it_is_written(name):
    with pytest.raises(DefinitionError):
        stage(queue=name, registry=Registry())(lambda: None)
    with pytest.raises(DefinitionError):

        @process(version=1, queue=name, registry=Registry())
        async def p(flow: Any) -> None: ...

    registry = Registry()
    stage(name="work", registry=registry)(lambda: None)
    with pytest.raises(DefinitionError):
        load_process(f"process: {{name: p, stages: [work], queue: {name!r}}}", registry=registry)


# -- honoured: where messages go -----------------------------------------------------------------


@pytest.mark.parametrize(
    "routes",
    [
        {"work": {"queue": "routed"}},
        {"work": "routed"},
        {"wo*": {"queue": "routed"}},
        ([(re.compile("w.*"), {"queue": "routed"})],),
        lambda name, *_, **__: {"queue": "routed"} if name == "work" else None,
        {"work": {"queue": Queue("routed", Exchange("routed"))}},
    ],
    ids=["map", "name", "glob", "pattern", "router", "queue"],
)
def test_task_routes_are_honoured_for_stages(routes):
    """However Celery takes them; and what a definition says comes first."""
    shop = Shop(task_routes=routes)
    shop.check()
    assert shop.queue_of("work") == "routed"
    assert shop.queue_of("work", "said") == "said"
    assert shop.queue_of("grant") == shop.app.conf.task_default_queue
    shop.publish("work")


def test_an_existing_task_that_is_a_stage_keeps_its_routes():
    assert Shop(task_routes={"shop.mail.*": "mail"}).queue_of("mail") == "mail"
    assert (
        Shop(task_routes={"mail": "by-stage", "shop.mail.*": "mail"}).queue_of("mail") == "by-stage"
    )


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_an_existing_task_that_is_a_stage_keeps_its_queue():
    registry, app = Registry(), Celery("own-queue", broker="memory://")

    @app.task(name="shop.own", queue="its-own", shared=False)
    def own() -> None: ...

    stage(name="own", registry=registry)(own)
    assert Routes(app, registry).queue_of("own", None) == "its-own"


def test_turns_and_timers_are_routed_like_any_task():
    shop = Shop(task_routes={"perennial.*": "flows"})
    assert shop.queue_of(ADVANCE) == "flows"
    shop.app.conf.broker_url = "redis://localhost"
    timer_index = TimerIndex.for_app(shop.app, Settings(), shop.routes)
    assert timer_index is not None
    timer_id = uuid4()
    assert timer_index._member(timer_id, None) == f"{timer_id}:flows"


def test_a_stage_that_is_routed_elsewhere_is_not_done_in_place():
    shop = Shop(task_routes={"work": "routed"})
    opened = SimpleNamespace(request=SimpleNamespace(name="work"), queue=None)
    execution = EagerTasks(shop.app, seconds=10, limits_are_kept=False, routes=shop.routes)
    execution._queue = shop.app.conf.task_default_queue
    assert not execution.may_take(opened)  # type: ignore[arg-type]
    execution._queue = "routed"
    assert execution.may_take(opened)  # type: ignore[arg-type]


def test_a_router_that_raises_keeps_no_other_handoff_back(caplog):
    def router(name: str, *_: Any, **__: Any) -> Any:
        if name == "work":
            raise ZeroDivisionError

    shop = Shop(task_routes=router)
    publisher = Publisher(shop.app, None, routes=shop.routes)
    assert not publisher.hand_off(
        [Handoff(uuid4(), "k", 1, task, None) for task in ("work", "grant")]
    )
    assert "no queue is found for work" in caplog.text
    with shop.app.connection_for_read() as connection, connection.channel() as channel:
        assert channel._size(shop.app.conf.task_default_queue) == 1


def test_the_default_queue_is_the_apps():
    assert Shop().queue_of("work").startswith("default-")


# -- honoured, or of no effect: what messages are ------------------------------------------------


@pytest.mark.parametrize(
    "conf",
    [
        {"task_serializer": "pickle"},
        {"task_protocol": 1},
        {"task_compression": "gzip"},
        {"task_always_eager": True},
        {
            "task_default_exchange": "other",
            "task_default_routing_key": "other",
            "task_default_exchange_type": "topic",
        },
        {"task_default_delivery_mode": "transient"},
        {"task_default_priority": 9, "task_queue_max_priority": 10},
        {"task_send_sent_event": True},
        {"task_publish_retry": True},
        {"task_queues": [Queue("iam")]},
        {"task_create_missing_queues": False},
        {
            "result_backend": "cache+memory://",
            "task_ignore_result": False,
            "task_store_errors_even_if_ignored": True,
        },
        {"timezone": "Asia/Kathmandu", "enable_utc": False},
        {"broker_pool_limit": None},
        {"task_annotations": {"*": {"serializer": "pickle", "compression": "gzip"}}},
    ],
    ids=lambda conf: next(iter(conf)),
)
def test_our_messages_are_the_same_whatever_a_setting_says(conf):
    """JSON, protocol 2, uncompressed, to the queue itself, asking for no result, at once."""
    shop = Shop(**conf)
    message = shop.publish(queue="iam" if "task_queues" in conf else None)
    assert message.content_type == "application/json"
    assert message.headers["task"] == "work"
    assert message.headers["ignore_result"] is True
    assert message.headers["eta"] is None
    assert "compression" not in message.headers
    assert loads(message.body, message.content_type, message.content_encoding)


@pytest.mark.parametrize(
    "conf",
    [
        {"task_acks_late": True},
        {"task_ignore_result": False},
        {"task_store_errors_even_if_ignored": True},
        {"task_reject_on_worker_lost": True},
    ],
    ids=lambda conf: next(iter(conf)),
)
def test_our_tasks_keep_their_own_options_and_the_apps_tasks_theirs(conf):
    shop = Shop(**conf)
    for name in ("work", ADVANCE):
        task = shop.app.tasks[name]
        assert not task.acks_late
        assert task.ignore_result
        assert not task.store_errors_even_if_ignored
    ((name, value),) = conf.items()
    own = shop.app.tasks["shop.mail.send"]
    assert getattr(own, name.removeprefix("task_")) == value


def test_annotations_limits_and_classes_are_honoured():
    class Base(Task):  # type: ignore[type-arg]
        marked = True

    registry = Registry()

    @stage(registry=registry, timeout_seconds=None)
    def work() -> None: ...

    app = Celery("limits-tests", broker="memory://", task_cls=Base)
    app.conf.update(
        task_annotations={"work": {"rate_limit": "10/s"}},
        task_time_limit=60,
        task_soft_time_limit=50,
    )
    install(app, registry=registry, settings=Settings())
    app.finalize()
    task = app.tasks["work"]
    assert (task.rate_limit, task.time_limit, task.soft_time_limit, task.marked) == (
        "10/s",
        60,
        50,
        True,
    )


# -- honoured: the index of timers ---------------------------------------------------------------


def index(**conf: Any) -> TimerIndex:
    app = Celery("index-tests", broker=conf.pop("broker_url", "redis://localhost:1/3"))
    app.conf.update(**conf)
    timer_index = TimerIndex.for_app(app, Settings())
    assert timer_index is not None
    return timer_index


def test_broker_use_ssl_is_heard_by_the_index_of_timers():
    """As kombu hears it: a dictionary makes a TLS connection of a `redis://` URL."""
    timer_index = index(
        broker_use_ssl={
            "ssl_cert_reqs": ssl.CERT_NONE,
            "ssl_ca_certs": "/ca.pem",
            "ssl_keyfile": "/k",
            "ssl_certfile": "/c",
        }
    )
    pool = timer_index._redis.connection_pool
    assert pool.connection_class is SSLConnection
    assert pool.connection_kwargs["ssl_ca_certs"] == "/ca.pem"
    connection = pool.make_connection()
    assert connection.cert_reqs == ssl.CERT_NONE
    assert (connection.host, connection.port, connection.db) == ("localhost", 1, 3)


def test_broker_use_ssl_without_particulars_is_what_kombu_makes_of_it():
    assert index(broker_use_ssl=False)._redis.connection_pool.connection_class is not SSLConnection


def test_transport_options_are_heard_by_the_index_of_timers():
    timer_index = index(
        broker_transport_options={
            "socket_timeout": 3,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 7,
            "client_name": "shop",
            "visibility_timeout": 60,
            "global_keyprefix": "acme:",
        }
    )
    found = timer_index._redis.connection_pool.connection_kwargs
    assert (found["socket_timeout"], found["socket_connect_timeout"]) == (3, 2)
    assert (found["socket_keepalive"], found["health_check_interval"], found["client_name"]) == (
        True,
        7,
        "shop",
    )
    assert timer_index._due == "acme:perennial:due"
    assert timer_index._queue_prefix == "acme:"


def test_the_index_is_where_messages_are_written():
    assert (
        index(broker_write_url="redis://write:2/1")._redis.connection_pool.connection_kwargs["host"]
        == "write"
    )


def test_a_broker_by_sentinel_has_no_index_and_sweeps_fire():
    app = Celery("sentinel", broker="sentinel://localhost:26379")
    app.conf.broker_transport_options = {"master_name": "mine"}
    assert TimerIndex.for_app(app, Settings()) is None


def test_a_timers_message_is_json_of_protocol_2_whatever_a_setting_says():
    plain, other = (
        index(**conf)._template
        for conf in (
            {},
            {"task_protocol": 1, "task_serializer": "pickle", "task_compression": "gzip"},
        )
    )
    assert re.sub("[0-9]+@", "@", other) == re.sub("[0-9]+@", "@", plain)


# -- a fleet -------------------------------------------------------------------------------------


def test_a_fleet_with_these_settings_moves_its_runs(fleet: Fleet) -> None:
    """Each message in a process of its own, acknowledged late, none fetched ahead, its queue found by a route."""
    fleet.app = "tests.fleet.settings_app"
    fleet.start_worker("-Q", "tests,routed,its-own", pool="prefork")
    run = fleet.client.start("gate-process", 900)
    fleet.wait_until_closed(run)
    assert fleet.client.result(run) == 2
    assert fleet.effects("first") == fleet.effects("second") == [1]


# -- the table -----------------------------------------------------------------------------------


def rows(section: int = 0) -> Iterator[tuple[str, str]]:
    """(settings, tests) of each row."""
    for line in TABLE.read_text().split("\n## ")[section].splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            yield cells[0], cells[-1]


def test_each_row_of_the_table_names_settings_of_celerys():
    known = {name.replace("__", "_") for name, _ in flatten(NAMESPACES)} | set(DEFAULTS)
    found = list(rows())
    assert len(found) >= 23
    for settings, _tests in found:
        assert set(re.findall(r"`([a-z_]+)`", settings)) <= known


@pytest.mark.parametrize("section", [0, 1], ids=["settings", "existing tasks"])
def test_each_row_of_a_table_names_tests_that_are_there(section):
    here = Path(__file__).parents[1]
    defined = {
        found
        for path in here.rglob("test_*.py")
        for found in re.findall(r"def (test_\w+)", path.read_text())
    }
    found = list(rows(section))
    assert len(found) >= 12
    for what, tests in found:
        named = set(re.findall(r"`(test_\w+)`", tests))
        assert named, what
        assert named <= defined
