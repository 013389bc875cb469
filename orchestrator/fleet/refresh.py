"""Flower's rows of runs are kept true, whatever door a run was changed by.

A worker tells how a run stands when it moves it. What others did, it learns from Postgres: a client that pauses,
resumes or cancels has no broker, and a deadline ends a run without a turn; each of them notifies maintenance.
And a monitor that was started again has forgotten all: so the open runs are told anew, now and then, some at a time.

One worker of those that are listened to does it, while it holds a lock of its session. Where nobody listens,
nothing is read.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg

from orchestrator.core.run import RunStatus
from orchestrator.core.run_notice import RunNotice
from orchestrator.engine.context import EngineContext
from orchestrator.store.reads.run_notices import open_runs, runs_of

ROWS_MAX = 1000
"""So many open runs, the newest, are told anew."""

ROWS_AT_ONCE = 100
"""In one look, and no more than that in a second."""

REFRESH_SECONDS = 30.0
"""Between the end of one round and the next."""

_PAUSE_SECONDS = 1.0


class Refresh:
    """What one worker's maintenance does for whoever watches, between its other work."""

    def __init__(
        self,
        context: Callable[[], EngineContext],
        *,
        is_heard: Callable[[], bool],
        fleet: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fleet`: who shares a monitor; one worker of them leads."""
        self._context, self._is_heard, self._monotonic = context, is_heard, monotonic
        self._lock = zlib.crc32(fleet.encode()) - 2**31
        self._leads = False
        self._begin(at=0.0)
        self._shown: set[UUID] = set()

    def look(self, listening: psycopg.Connection[Any], changed: Sequence[UUID]) -> None:
        """Tell what has changed, and the next page of a round when its time has come."""
        if not self._is_heard():
            self._give_up(listening)
            return
        if not self._leads and not self._lead(listening):
            return
        self._announce(self._read(list(dict.fromkeys(changed))[:ROWS_AT_ONCE]))
        if self._monotonic() >= self._next_at:
            self._page()

    def lose(self) -> None:
        """The session is gone, and its lock with it."""
        self._leads = False

    def _lead(self, listening: psycopg.Connection[Any]) -> bool:
        row = listening.execute("SELECT pg_try_advisory_lock(%s, %s)", _key(self._lock)).fetchone()
        self._leads = row is not None and row[0]
        if self._leads:
            self._begin(at=self._monotonic())
        return self._leads

    def _give_up(self, listening: psycopg.Connection[Any]) -> None:
        if self._leads:
            listening.execute("SELECT pg_advisory_unlock(%s, %s)", _key(self._lock))
            self._leads = False
            self._shown.clear()

    def _begin(self, *, at: float) -> None:
        self._next_at = at
        self._after: UUID | None = None
        self._announced: set[UUID] = set()

    def _page(self) -> None:
        context = self._context()
        with context.reading() as connection:
            page = open_runs(
                connection, now=datetime.now(UTC), limit=ROWS_AT_ONCE, after=self._after
            )
        # A run at work needs no row of its own, unless it rests.
        self._announce(
            [each for each in page if each.status is not RunStatus.RUNNING or each.resting]
        )
        self._announced |= {each.run_id for each in page}
        self._next_at = self._monotonic() + _PAUSE_SECONDS
        if len(page) == ROWS_AT_ONCE and len(self._announced) < ROWS_MAX:
            self._after = page[-1].run_id
            return
        # What was told the last time and isn't open any more has left by a door that nobody heard.
        self._announce(self._read(list(self._shown - self._announced)))
        self._shown = self._announced
        self._begin(at=self._monotonic() + REFRESH_SECONDS)

    def _read(self, run_ids: Sequence[UUID]) -> Sequence[RunNotice]:
        if not run_ids:
            return ()
        with self._context().reading() as connection:
            return runs_of(connection, run_ids, now=datetime.now(UTC))

    def _announce(self, notices: Sequence[RunNotice]) -> None:
        for notice in notices:
            self._context().messenger.announce(notice)


def _key(lock: int) -> tuple[int, int]:
    """Of Postgres' two-part advisory locks: ours, and the fleet's."""
    return (0x7065726E, lock)
