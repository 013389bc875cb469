"""Delayed messages: Redis holds the due times, and one Lua script moves what is due onto its queue.

The timer's row in Postgres is the truth (rule 1). The index holds only timers due within a horizon,
each as a member `<timer id>:<queue>`, scored by Redis's own clock. Every worker runs a timer dispatcher; the
script is atomic, so they share the work without knowing of each other. Timers that are due at the same
moment share messages, and are fired together. A timer dispatcher sleeps on a subscription
until the next due time or a wake-up, at most `BLOCK_SECONDS_MAX`, when it looks whether the epoch is still
there: without it Redis was emptied, and the index is rebuilt from Postgres. Not for Redis Cluster.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from uuid import UUID, uuid4

from celery import Celery
from redis import Redis
from redis.client import PubSub

from orchestrator.faults import around
from orchestrator.fleet.compat import message_maker_of, redis_envelope
from orchestrator.fleet.routes import Routes
from orchestrator.fleet.strangers import SCHEMA_HEADER
from orchestrator.settings import Settings
from orchestrator.store.transitions.timers import ArmedTimer

log = logging.getLogger(__name__)

FIRE = "perennial.fire"
"""The Celery task that fires timers: one id, or several, which have come due together, joined by commas."""

BLOCK_SECONDS_MAX = 2.0
MOVES_PER_SCRIPT_MAX = 200
TIMERS_PER_MESSAGE_MAX = 50
"""Fired in one transaction: few enough for a crowd to be shared among workers."""

KEYS = ("due", "wake", "epoch", "rebuild")
"""Our own in Redis, behind the namespace: no queue may have such a name."""

_REBUILD_SECONDS_MAX = 30
_SOCKET_TIMEOUT_SECONDS = 10.0

# Celery's users write the constant's name; redis-py takes the word.
_CERT_REQS = re.compile(r"(ssl_cert_reqs=)CERT_(NONE|OPTIONAL|REQUIRED)")

_ID, _IDS, _QUEUE = "@timer-id@", "@timer-ids@", "@queue@"


@dataclass(frozen=True, slots=True)
class Moved:
    """What one run of the script did. `wait_seconds` None: nothing is armed."""

    count: int
    wait_seconds: float | None
    epoch_is_there: bool


class TimerIndex:
    """The index on one Redis. Thread-safe; connects on first use."""

    def __init__(
        self, redis: Redis, *, namespace: str, default_queue: str, key_prefix: str, template: str
    ) -> None:
        self._redis = redis
        self._default_queue = default_queue
        self._queue_prefix = key_prefix
        self._template = template
        # Behind the app's own prefix too: an access rule for its keys holds for ours.
        self._due, self._wake, self._epoch, self._rebuild = (
            f"{key_prefix}{namespace}:{key}" for key in KEYS
        )
        self._subscription: PubSub | None = None
        self._arm = redis.register_script(_script("arm"))
        self._move = redis.register_script(_script("move"))

    @classmethod
    def for_app(
        cls, app: Celery, settings: Settings, routes: Routes | None = None
    ) -> TimerIndex | None:
        """The index beside the app's queues; None where its broker isn't a Redis we can script."""
        url = _redis_url(app.conf.broker_write_url or app.conf.broker_url)
        if url is None:
            log.info("timers are fired by sweeps: the broker is no Redis that can be scripted")
            return None
        options = app.conf.broker_transport_options or {}
        routes = routes or Routes(app)
        url, connecting = _connecting(url, app)
        return cls(
            Redis.from_url(url, **connecting),
            namespace=settings.keys_prefix,
            default_queue=routes.queue_of(FIRE, None),
            key_prefix=options.get("global_keyprefix", ""),
            template=_message_template(app, settings.database_schema),
        )

    def arm(self, timers: Sequence[ArmedTimer]) -> None:
        """Add timers, due so many seconds from now by Redis's clock. One round trip."""
        arguments: list[str | float] = []
        for timer in timers:
            arguments += [
                self._member(timer.id, timer.queue),
                max(0.0, timer.remaining_seconds) * 1000,
            ]
        with around("arm"):
            self._arm(keys=[self._due, self._wake], args=arguments)

    def disarm(self, timers: Sequence[tuple[UUID, str | None]]) -> None:
        """Remove timers. One round trip."""
        members = [self._member(timer_id, queue) for timer_id, queue in timers]
        with around("disarm"):
            self._redis.zrem(self._due, *members)

    def move(self) -> Moved:
        """Move what is due onto its queues, at most `MOVES_PER_SCRIPT_MAX` timers."""
        with around("move"):
            count, wait_milliseconds, epoch = self._move(
                keys=[self._due, self._epoch],
                args=[
                    MOVES_PER_SCRIPT_MAX,
                    self._queue_prefix,
                    self._template,
                    TIMERS_PER_MESSAGE_MAX,
                ],
            )
        wait_seconds = None if wait_milliseconds < 0 else wait_milliseconds / 1000
        return Moved(count, wait_seconds, bool(epoch))

    def wait(self, seconds: float | None) -> None:
        """Sleep until then, or until an earlier timer is armed. One thread at a time.

        On a subscription, not in BLPOP: Redis looks at the time-outs of blocked clients ten times a
        second, which would make each timer up to 100 ms late.
        """
        bounded = BLOCK_SECONDS_MAX if seconds is None else min(seconds, BLOCK_SECONDS_MAX)
        if self._subscription is None:
            self._subscription = self._redis.pubsub(  # type: ignore[no-untyped-call]
                ignore_subscribe_messages=True
            )
            self._subscription.subscribe(self._wake)
        self._subscription.get_message(timeout=bounded)

    def reset(self) -> None:
        """After a failure: subscribe anew."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def may_rebuild(self) -> bool:
        """True for one worker at a time: rebuild, then call `rebuilt`, or `let_rebuild` if that failed."""
        is_first = self._redis.set(
            self._rebuild,
            "1",
            nx=True,  # guard: one rebuilds
            ex=_REBUILD_SECONDS_MAX,
        )
        return bool(is_first)

    def rebuilt(self) -> None:
        """The index is whole: a new epoch begins."""
        self._redis.set(self._epoch, str(uuid4()))
        self.let_rebuild()

    def let_rebuild(self) -> None:
        """Let whoever looks next rebuild."""
        self._redis.delete(self._rebuild)

    def _member(self, timer_id: UUID, queue: str | None) -> str:
        return f"{timer_id}:{queue or self._default_queue}"


def _redis_url(broker: str | list[str] | None) -> str | None:
    """The broker as redis-py spells it: the first of several, as kombu tries them. None: no Redis."""
    url = broker[0] if isinstance(broker, list | tuple) and broker else broker
    if not isinstance(url, str):
        return None
    url = url.split(";")[0]
    if url.startswith("redis+socket://"):
        url = "unix://" + url.removeprefix("redis+socket://").replace("virtual_host=", "db=")
    if not url.startswith(("redis://", "rediss://", "unix://")):
        return None
    return _CERT_REQS.sub(lambda found: found[1] + found[2].lower(), url)


def _connecting(url: str, app: Celery) -> tuple[str, dict[str, Any]]:
    """How the app's own connections are made, as far as it has said: time-outs, and TLS."""
    options = app.conf.broker_transport_options or {}
    found: dict[str, Any] = {
        "socket_timeout": options.get("socket_timeout") or _SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": options.get("socket_connect_timeout") or 5.0,
    }
    if url.startswith("unix://"):
        del found["socket_connect_timeout"]
        return url, found
    for name in (
        "socket_keepalive",
        "socket_keepalive_options",
        "health_check_interval",
        "retry_on_timeout",
        "client_name",
    ):
        if options.get(name) is not None:
            found[name] = options[name]
    provider = options.get("credential_provider")
    if provider is not None and not isinstance(provider, str):
        found["credential_provider"] = provider
    tls = app.conf.broker_use_ssl
    if isinstance(tls, Mapping) and tls:  # for Redis, kombu takes nothing else
        found |= tls
        url = "rediss://" + url.partition("://")[2]
    return url, found


def _message_template(app: Celery, schema: str) -> str:
    """A `perennial.fire` message as kombu's Redis transport writes it, with ids and queue left open.

    It names the schema that the timers are in, as the index does. The body stays plain JSON, so that the script can
    fill it in.
    """
    make = message_maker_of(app)
    message = make(_ID, FIRE, (_IDS,), {}, ignore_result=True, origin="perennial")
    envelope = redis_envelope(
        json.dumps(message.body),
        headers={**message.headers, SCHEMA_HEADER: schema},
        properties=message.properties,
        queue=_QUEUE,
        delivery_tag=_ID,
    )
    return json.dumps(envelope)


def _script(name: str) -> str:
    return (files("orchestrator.fleet") / "lua" / f"{name}.lua").read_text()
