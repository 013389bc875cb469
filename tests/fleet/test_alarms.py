"""Which Redis holds the index of timers."""

from __future__ import annotations

import pytest

from orchestrator.fleet.alarms import _redis_url


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
