"""Which Redis holds the index of timers."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

import pytest
from celery import Celery
from redis import Redis

from orchestrator.embedded import ServerUrls
from orchestrator.fleet.timer_index import TimerIndex, _message_template, _redis_url
from orchestrator.store.schema import SCHEMA
from orchestrator.store.transitions.timers import ArmedTimer
from tests.harness import wait_for


@pytest.mark.parametrize(
    ("broker", "found"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        (["redis://a/1", "redis://b/1"], "redis://a/1"),
        ("redis://a/1;redis://b/1", "redis://a/1"),
        ("rediss://a/0?ssl_cert_reqs=CERT_REQUIRED", "rediss://a/0?ssl_cert_reqs=required"),
        ("redis+socket:///run/redis.sock?virtual_host=2", "unix:///run/redis.sock?db=2"),
        ("amqp://localhost", None),
        ("sentinel://localhost:26379", None),
        (None, None),
        ([], None),
    ],
)
def test_the_index_is_on_the_broker_however_it_is_spelled(broker, found) -> None:
    assert _redis_url(broker) == found


def test_what_nobody_of_ours_has_put_into_the_index_is_dropped_and_keeps_no_timer_back(
    servers: ServerUrls,
) -> None:
    """Another program's key, an operator's slip: the earliest members are looked at first, so one that the
    script could not read would keep every timer from firing. Guards `if id` in `move.lua`.
    """
    namespace = f"test-{uuid4()}"
    queue, timer_id = f"{namespace}-queue", uuid4()
    with Redis.from_url(servers.broker_url) as redis:
        timer_index = TimerIndex(
            redis,
            namespace=namespace,
            default_queue=queue,
            key_prefix="",
            template=_message_template(Celery("timer-index-tests", broker="memory://"), SCHEMA),
        )
        redis.zadd(f"{namespace}:due", {"nothing of ours": 1, "": 2, "no-colon": 3})
        timer_index.arm([ArmedTimer(timer_id, 0.0, None)])
        wait_for(lambda: timer_index.move().wait_seconds is None, "the index to be empty")
        (message,) = redis.lrange(queue, 0, -1)
        assert UUID(json.loads(json.loads(message)["body"])[0][0]) == timer_id
        redis.delete(queue)


def test_timers_that_are_due_together_share_messages_and_each_is_in_one(
    servers: ServerUrls,
) -> None:
    """By queue, and no more in one message than are fired in one transaction."""
    namespace = f"test-{uuid4()}"
    here, there = f"{namespace}-here", f"{namespace}-there"
    with Redis.from_url(servers.broker_url) as redis:
        timer_index = TimerIndex(
            redis,
            namespace=namespace,
            default_queue=here,
            key_prefix="",
            template=_message_template(Celery("timer-index-tests", broker="memory://"), SCHEMA),
        )
        armed = {queue: [uuid4() for _ in range(75)] for queue in (here, there)}
        timer_index.arm(
            [ArmedTimer(timer, 0.0, queue) for queue in armed for timer in armed[queue]]
        )
        wait_for(lambda: timer_index.move().wait_seconds is None, "the index to be empty")
        for queue, timers in armed.items():
            bodies = [
                json.loads(json.loads(message)["body"]) for message in redis.lrange(queue, 0, -1)
            ]
            found = [body[0][0].split(",") for body in bodies]
            assert sorted(len(ids) for ids in found) == [25, 50]
            assert sorted(UUID(timer) for ids in found for timer in ids) == sorted(timers)
            redis.delete(queue)
