"""docs/operating.md says how many connections a process opens at most; here its pools say it."""

from __future__ import annotations

import re
from pathlib import Path

from celery import Celery
from pydantic import SecretStr
from sqlalchemy import Engine

from orchestrator import Client, Registry, Settings, install
from orchestrator.engine.context import EngineContext

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
SETTINGS = Settings(database_url=SecretStr("postgresql://nowhere/nothing"))
HEARTBEAT, LISTENER, HELPER = 1, 1, 1
"""One thread beats on a connection of its own; one listens, in the parent; and a helper beats for all."""


def most_of(context: EngineContext) -> int:
    return sum(_most_of(engine) for engine in (context.database, context.reads))


def _most_of(engine: Engine) -> int:
    pool = engine.pool
    return pool.size() + pool._max_overflow  # type: ignore[attr-defined]


def said_of(process: str) -> int:
    (most,) = re.findall(rf"^\| {process}[^|]*\| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    return int(most)


def test_a_client():
    with Client(SETTINGS, registry=Registry()) as client:
        assert most_of(client._context) == said_of("a `Client`")


def test_a_workers_parent_and_child():
    app = Celery("connections", broker="memory://")
    context = install(app, registry=Registry(), settings=SETTINGS).context
    most = most_of(context)
    context.dispose()
    app.close()
    assert most + HEARTBEAT == said_of("each child of a prefork pool")
    assert most + HEARTBEAT + LISTENER + HELPER == said_of("a worker's parent")
