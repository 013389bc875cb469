"""A look at a connection that has lain in its pool: was it cut there, by a restart of Postgres, or as idle?

No round trip: between statements Postgres sends nothing, so a socket that can be read holds the news of its end.
Nothing is done twice by it, since nothing was sent yet. Workers do without: their fences let them repeat a verb.
"""

from __future__ import annotations

from typing import Any

import psycopg
from sqlalchemy import Connection, Engine

from orchestrator.store.driver import is_cut

LOOKS_MAX = 100
"""More than any pool holds: each look at a dead connection takes it out."""


def connect_alive(engine: Engine) -> Connection:
    """A connection of the pool whose session lives, as far as this machine knows."""
    for _ in range(LOOKS_MAX):
        connection = engine.connect()
        driver: Any = connection.connection.driver_connection
        if not isinstance(driver, psycopg.Connection | psycopg.AsyncConnection) or not is_cut(
            driver
        ):
            return connection
        connection.invalidate()
        connection.close()  # and not used again: another session would lack its isolation level
    return engine.connect()
