"""The Celery app of release `RELEASE` (tests/fleet/releases.py)."""

from __future__ import annotations

import os

from celery import Celery

from orchestrator import Settings, install
from tests.fleet.releases import release

settings = Settings()
app = Celery("deploy-tests", broker=settings.broker())
app.conf.update(
    task_default_queue="deploys",
    broker_connection_retry_on_startup=True,
    broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 2},
)
install(app, registry=release(int(os.environ["RELEASE"])), settings=settings)
