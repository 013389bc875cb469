"""Perennial's Celery app, in one of its two profiles (docs/operating.md): BENCH_PROFILE names it."""

from __future__ import annotations

import os

from benchmarks.bench.celery_app import make_app
from benchmarks.bench.processes import registry
from benchmarks.bench.profiles import PROFILE, SAFE
from orchestrator import Settings, install

if os.environ.get(PROFILE, SAFE) == SAFE:
    app = make_app("bench")
else:
    app = make_app(
        "bench",
        queue="dedicated",
        ack_emulation=False,
        socket_timeout=10,
        socket_connect_timeout=5,
    )
install(app, registry=registry, settings=Settings())
