"""A worker says in the record what it can run, as it starts and as that changes, and that it lives.

By its maintenance, on whose session stands the lock that it lives by. It takes no part in what maintenance is for: if
the record refuses it, runs go on as ever, and what this worker could run is sent on to it no longer.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from celery import Celery
from sqlalchemy.exc import DBAPIError
from uuid_utils.compat import uuid7

from orchestrator.engine.context import EngineContext
from orchestrator.engine.runnable import capabilities_with
from orchestrator.engine.troubles import Troubles, kind_of, one_line
from orchestrator.errors import PerennialError
from orchestrator.fleet.compat import queues_consumed
from orchestrator.store.transitions import capabilities, serving
from orchestrator.store.transitions.capabilities import LOCK_CLASS

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0

QUEUES_MAX = 1_000
"""So many of the queues that it takes from a worker registers."""

REGISTER = "what this worker can run"
"""Where the trouble is."""


class Registration:
    """Of one Celery worker, for as long as it runs."""

    def __init__(
        self,
        app: Celery,
        context: Callable[[], EngineContext],
        *,
        name: str,
        queue: str | None,
        troubles: Troubles,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`queue`: that of its code."""
        self._app, self._context, self._name, self._queue = app, context, name, queue
        self._troubles, self._clock = troubles, clock
        self._id, self._lock = uuid7(), random.getrandbits(31)
        self._said: tuple[Sequence[str], Sequence[str]] | None = None
        self._is_locked = self._is_stale = False
        self._beat_at = 0.0

    def look(self, session: psycopg.Connection[Any], *, deployed: bool) -> None:
        """Say it, if it isn't said, or has changed; else that this worker lives. `deployed`: something has been."""
        self._is_stale = self._is_stale or deployed
        now = self._clock()
        if self._is_locked and not self._is_stale and now < self._beat_at:
            return
        self._beat_at = now + BEAT_SECONDS
        try:
            if not self._is_locked:
                self._take_lock(session)
            self._say()
            with self._context().reading() as connection:
                serving.mark_served(connection)
        except (DBAPIError, psycopg.Error, PerennialError) as error:
            self._said = None
            self._troubles.meet(
                REGISTER,
                "what this worker can run is not registered, so nothing is sent on to it: %s",
                one_line(error),
                kind=kind_of(error),
            )
        else:
            self._is_stale = False
            self._troubles.over(REGISTER)

    def lose(self) -> None:
        """The session is gone, and the lock with it."""
        self._is_locked, self._said = False, None

    def leave(self) -> None:
        """The worker stops."""
        if self._said is not None:
            with self._context().reading() as connection:
                capabilities.leave(connection, self._id)
                serving.mark_served(connection)

    def _take_lock(self, session: psycopg.Connection[Any]) -> None:
        session.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_CLASS, self._lock))
        self._is_locked = True

    def _say(self) -> None:
        context = self._context()
        queues = [each for each in queues_consumed(self._app) if each != self._queue]
        is_known = self._said is not None and self._said[1] == queues and not self._is_stale
        if is_known:
            with context.connection() as connection:
                if capabilities.beat(connection, self._id):
                    return
        can = capabilities_with(context)
        with context.connection() as connection:
            capabilities.register(
                connection,
                capabilities.Registration(
                    self._id,
                    self._name,
                    os.getpid(),
                    can,
                    tuple(queues[:QUEUES_MAX]),
                    self._queue,
                    self._lock,
                ),
            )
            # guard: what waits for a worker is due when it comes
            due = capabilities.make_due_what_can_be_run(connection, can)
        self._said = can, queues
        if due:
            log.info("%s handoff(s) that waited for a worker like this one are sent again", due)
