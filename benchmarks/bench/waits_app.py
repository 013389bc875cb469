"""The Celery app of what waits: the safe profile, Celery's own settings."""

from __future__ import annotations

from benchmarks.bench.celery_app import make_app
from benchmarks.bench.waits import registry
from orchestrator import Settings, install

app = make_app("waits")
install(app, registry=registry, settings=Settings())
