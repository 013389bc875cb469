"""The Celery app of every side: what is compared has the same settings, Celery's own.

`READY_FOLDER` names a folder where each worker that is ready leaves a file of its name: workers log at
Celery's default level, at which they do not say so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_ready

READY_FOLDER = "BENCH_READY_FOLDER"
BROKER = "BENCH_BROKER_URL"
DATABASE = "BENCH_DATABASE_URL"


def make_app(name: str, *, queue: str | None = None, **transport_options: Any) -> Celery:
    """An app with stock settings, and these for its broker."""
    app = Celery(name, broker=os.environ[BROKER])
    app.conf.broker_connection_retry_on_startup = True  # silences a warning at the start
    if queue is not None:
        app.conf.task_default_queue = queue
    if transport_options:
        app.conf.broker_transport_options = transport_options
    return app


@worker_ready.connect
def _tell_ready(sender: Any, **_: object) -> None:
    if folder := os.environ.get(READY_FOLDER):
        Path(folder, sender.hostname).touch()
