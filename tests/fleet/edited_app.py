"""The Celery app of one state of a process that is edited: `EDITED_CODE` names its file."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from orchestrator import Settings, install
from tests.fleet.edited import imported

settings = Settings()
app = Celery("edit-tests", broker=settings.broker())
app.conf.update(
    task_default_queue="edits",
    broker_connection_retry_on_startup=True,
    broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 2},
)
install(app, registry=imported(Path(os.environ["EDITED_CODE"])), settings=settings)
