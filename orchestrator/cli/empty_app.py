"""What `perennial up` runs where no app is named: a Celery app without stages, for a first look."""

from __future__ import annotations

import os

from celery import Celery

from orchestrator.fleet import install

app = Celery("perennial", broker=os.environ.get("PERENNIAL_BROKER_URL"))
install(app)
