"""What the stages of an edited process do to the world, on a real fleet: each effect is counted in its database.

While there is a row in `held`, whatever is to rest in a stage's back-off goes on resting.
"""

from __future__ import annotations

import os
from functools import cache

from sqlalchemy import Engine, create_engine, text

from orchestrator import Settings, idempotency_key
from tests.change.effects import Away


@cache
def database(_process_id: int) -> Engine:
    """One pool per process."""
    return create_engine(Settings().database(), isolation_level="AUTOCOMMIT")


def effect(stage: str, park: str) -> None:
    """Do it once; or fail, where the run is to rest in this very stage."""
    with database(os.getpid()).connect() as connection:
        if park == stage and connection.scalar(text("SELECT EXISTS (SELECT FROM held)")):
            raise Away(stage)
        connection.execute(
            text(
                "INSERT INTO effect (key, name) VALUES (:key, :name)"
                " ON CONFLICT (key) DO UPDATE SET calls = effect.calls + 1"
            ),
            {"key": idempotency_key(), "name": stage},
        )
