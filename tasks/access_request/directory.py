"""A stand-in for the company's directory service: it keeps what was done, once per idempotency key.

A call that repeats a key is absorbed and counted, as a careful service would; a key that comes
back with another effect is refused. It lives in a Postgres schema of its own and commits on its
own, so a worker may die between an effect here and its record there: the case the key is for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Engine, create_engine, text

from orchestrator import Settings

_CREATE = """
CREATE SCHEMA IF NOT EXISTS access_directory;
CREATE TABLE IF NOT EXISTS access_directory.effect (
    idempotency_key text PRIMARY KEY,
    effect text NOT NULL,
    calls integer NOT NULL DEFAULT 1,
    first_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
_CREATE_LOCK = 0x646972  # "dir": workers start together, and one of them makes the table
_APPLY = """
INSERT INTO access_directory.effect AS known (idempotency_key, effect) VALUES (:key, :effect)
ON CONFLICT (idempotency_key) DO UPDATE SET calls = known.calls + 1
RETURNING effect
"""
_EFFECTS = "SELECT idempotency_key, effect, calls FROM access_directory.effect ORDER BY first_at"


class KeyUsedBefore(Exception):
    """The idempotency key came with another effect: two different steps share it."""


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that was done. `calls` counts how often it was asked for."""

    key: str
    effect: str
    calls: int


def apply(effect: str, *, key: str | None) -> None:
    """Do `effect` unless `key` was used before. Without a key (outside a run) nothing is recorded.

    Raises KeyUsedBefore.
    """
    if key is None:
        return
    with _engine().begin() as connection:
        done = connection.execute(text(_APPLY), {"key": key, "effect": effect}).scalar_one()
    if done != effect:
        raise KeyUsedBefore(f"{key} did {done!r}, and now asks for {effect!r}")


def effects() -> list[Effect]:
    """All that was done, oldest first."""
    with _engine().connect() as connection:
        return [Effect(*row) for row in connection.execute(text(_EFFECTS))]


def _engine() -> Engine:
    return _engine_of(os.getpid())


@cache
def _engine_of(_process_id: int) -> Engine:
    # One per process: a connection must not be shared across the fork of a prefork worker.
    engine = create_engine(Settings().database(), pool_size=1, max_overflow=4)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _CREATE_LOCK})
        connection.execute(text(_CREATE))
    return engine
