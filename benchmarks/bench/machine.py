"""What the figures were taken on: without it they say nothing."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import redis
from sqlalchemy import create_engine, text

from orchestrator.embedded import EmbeddedServers

LIBRARIES = ("celery", "kombu", "redis", "psycopg", "sqlalchemy", "pydantic")
SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
SYNCS = 50


def describe(servers: EmbeddedServers) -> dict[str, Any]:
    """The machine, its software, and what its disk takes to be sure of a write."""
    database = create_engine(servers.urls.database_url)
    with database.connect() as connection:
        postgres = {
            name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in SETTINGS
        }
    database.dispose()
    with redis.Redis.from_url(servers.urls.broker_url) as broker:
        valkey = broker.info("server")
    return {
        "processors": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "postgres": postgres,
        "valkey": valkey.get("valkey_version", valkey["redis_version"]),
        "sync_milliseconds": round(_sync_milliseconds(), 3),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _processor() -> str:
    """Its model's name, where the system tells."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor()


def _sync_milliseconds() -> float:
    """The median time of one small write that the disk has: what a commit waits for."""
    took = []
    with tempfile.TemporaryFile() as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(b"x" * 512)
            file.flush()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return sorted(took)[SYNCS // 2] * 1000
