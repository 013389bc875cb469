"""The reference Celery app: `celery -A workers.app worker`, `celery -A workers.app flower`.

Its servers come from `PERENNIAL_DATABASE_URL` and `PERENNIAL_BROKER_URL`. An app of your own needs the
two lines that matter here: import your processes, and `install(app)`.
"""

from __future__ import annotations

from celery import Celery

import tasks.access_request  # noqa: F401 - defines the stages and processes
from orchestrator import Settings, default_registry, install
from workers.queues import queues_of

DEFAULT_QUEUE = "perennial"

settings = Settings()

app = Celery("perennial", broker=settings.broker())
app.conf.update(
    task_default_queue=DEFAULT_QUEUE,
    task_queues=queues_of(default_registry, DEFAULT_QUEUE),
    task_serializer="json",
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    # A publish that finds the broker gone must fail, not hang: the outbox has the message.
    broker_transport_options={
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "health_check_interval": 25,
    },
    worker_hijack_root_logger=True,
    worker_prefetch_multiplier=4,
)
install(app, settings=settings)
