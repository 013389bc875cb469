"""The app of these tests with settings that many fleets have, and an own queue for one stage by a route."""

from __future__ import annotations

from tests.fleet.app import app

app.conf.update(
    task_routes={"gated": {"queue": "routed"}, "perennial.fire": {"queue": "its-own"}},
    task_serializer="yaml",
    accept_content=["json", "yaml"],
    task_protocol=1,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=False,
    task_time_limit=60,
    worker_prefetch_multiplier=1,
    worker_max_tasks_per_child=1,
    task_compression="gzip",
    task_default_delivery_mode="transient",
    broker_transport_options={"global_keyprefix": "acme:", "visibility_timeout": 60},
)
