"""Where calls are counted: a table of the tests' own, on connections of their own, committed at once.

    begin     the first act of every stage and step: from then on the call is known, whatever follows
    calls_of  what was called for a run, in order

Safe on any pool and under kill -9. The database is that of `PERENNIAL_DATABASE_URL`, or what `use` says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from uuid import UUID

from sqlalchemy import Engine, create_engine, text

from orchestrator import Settings, idempotency_key

SCHEMA = """
CREATE SCHEMA IF NOT EXISTS oracle;
CREATE TABLE IF NOT EXISTS oracle.counter (key text PRIMARY KEY, calls int NOT NULL);
CREATE TABLE IF NOT EXISTS oracle.effect (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id uuid NOT NULL,
    key text NOT NULL,
    call int NOT NULL,
    body int,
    seen text NOT NULL,
    pid int NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (run_id, key, call)
);
CREATE TABLE IF NOT EXISTS oracle.token (run_id uuid, key text, token text, PRIMARY KEY (run_id, key, token));
"""

_BEGIN = text("""
WITH counted AS (
    INSERT INTO oracle.counter AS c (key, calls) VALUES (:whole_key, 1)
    ON CONFLICT (key) DO UPDATE SET calls = c.calls + 1 RETURNING calls
)
INSERT INTO oracle.effect (run_id, key, call, body, seen, pid)
SELECT :run_id, :key, counted.calls, :body, :seen, :pid FROM counted
RETURNING call
""")

_HAND = text(
    "INSERT INTO oracle.token (run_id, key, token) VALUES (:run_id, :key, :token) ON CONFLICT DO NOTHING"
)

_CALLS = text(
    "SELECT key, call, body, seen, pid FROM oracle.effect WHERE run_id = :run_id ORDER BY id"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call: of which activity, the how manieth, within which call of its stage, and what it was handed."""

    key: str
    call: int
    body: int | None = None
    seen: str = ""
    pid: int = 0


class Effects:
    """The table, as one process sees it: one pool per process, so that a forked child has its own."""

    def __init__(self) -> None:
        self._engines: dict[int, Engine] = {}
        self._lock = Lock()

    def use(self, engine: Engine) -> None:
        """Count there, in this process."""
        self._engines[os.getpid()] = engine

    @property
    def engine(self) -> Engine:
        """The pool of this process."""
        with self._lock:
            found = self._engines.get(os.getpid())
            if found is None:
                url = Settings().database()
                found = create_engine(url, isolation_level="AUTOCOMMIT")
                self._engines[os.getpid()] = found
            return found

    def create(self) -> None:
        """Make the table, if it is not there."""
        with self.engine.begin() as connection:
            connection.execute(text(SCHEMA))

    def begin(self, *, seen: str = "", body: int | None = None) -> int:
        """Record that the stage or step at work was called; the how manieth call it is."""
        whole_key = idempotency_key()
        assert whole_key is not None, "called outside a run"
        run_id, _, key = whole_key.partition("/")
        with self.engine.connect() as connection:
            call = connection.execute(
                _BEGIN,
                {
                    "whole_key": whole_key,
                    "run_id": run_id,
                    "key": key,
                    "body": body,
                    "seen": seen,
                    "pid": os.getpid(),
                },
            ).scalar_one()
        return int(call)

    def hand(self, key: str, token: str) -> None:
        """To the partner of a callback: at each attempt the same one, or it has two."""
        whole_key = idempotency_key()
        assert whole_key is not None, "called outside a run"
        handed = {"run_id": whole_key.partition("/")[0], "key": key, "token": token}
        with self.engine.connect() as connection:
            connection.execute(_HAND, handed)

    def calls_of(self, run_id: UUID) -> Sequence[Call]:
        """Every call that was made for a run, in the order in which they began."""
        with self.engine.connect() as connection:
            rows = connection.execute(_CALLS, {"run_id": run_id})
            return [Call(row.key, row.call, row.body, row.seen, row.pid) for row in rows]


effects = Effects()
