"""Fleets of threads: workers of the engine without Celery, caught at a place as forked ones are.

What a lost process leaves behind is what Postgres has: its sessions end, and nothing more is said. A thread
that is lost does no more and no less: its sessions are ended at the place where it stands, it gets no others,
and it stands there until the fleet is stopped. A thread that stalls keeps its sessions, and goes on later.

All wait for one queue in this process, and none for time: a worker that finds nothing to do moves the clock.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event

from orchestrator import Settings
from orchestrator.engine import sweep
from orchestrator.engine.context import EngineContext
from orchestrator.engine.liveness import Identity
from orchestrator.faults import When, listen
from orchestrator.store.transitions.outbox import Handoff
from tests.chaos.app import registry
from tests.chaos.fleet import IMPATIENT, ChaosFleet
from tests.chaos.worker import How, Place, without
from tests.fleet.harness import PATIENCE_SECONDS
from tests.harness import CollectingMessenger, Database, deliver, wait_for

log = logging.getLogger(__name__)

TICK = timedelta(seconds=0.25)
IDLE_IN_TRANSACTION_MS = 100
"""Real time, of which a stalled worker may keep its locks for `dead_after_seconds`."""


class Lost(BaseException):
    """The thread ends here."""


class Messages(CollectingMessenger):
    """One queue for all workers of a fleet, as Redis is to processes."""

    def __init__(self, queue: deque[Handoff]) -> None:
        super().__init__()
        self._queue = queue

    def hand_off(self, handoffs: Sequence[Handoff]) -> Sequence[Handoff]:
        self._queue.extend(handoffs)
        return ()


class ThreadWorker:
    """What `tests.chaos.fleet.Worker` is, of a thread."""

    def __init__(
        self,
        fleet: ThreadFleet,
        context: EngineContext,
        place: Place | None,
        how: How,
        has_index: bool,
    ) -> None:
        self._fleet, self._context, self._has_index = fleet, context, has_index
        self._place, self._how = place, how
        self._reached, self._may_go_on = threading.Event(), threading.Event()
        self._is_lost = False
        self._sessions: list[Any] = []
        self._engines = (context.database, context.reads)
        for engine in self._engines:
            event.listen(engine, "connect", self._note_session)
            event.listen(engine, "do_connect", self._refuse_if_lost)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def is_caught(self) -> bool:
        """True when it stands at its place, or is lost there."""
        return self._reached.is_set()

    def signal(self, how: signal.Signals) -> None:
        """SIGKILL: it is lost, wherever it is. SIGCONT: it goes on."""
        if how is signal.SIGKILL:
            self._lose()
            if not self.is_caught():
                self._thread.join()
        else:
            self._may_go_on.set()

    def end(self) -> None:
        """It is lost, and its thread has ended."""
        self._lose()
        self._may_go_on.set()
        self._thread.join()
        for session in self._sessions:
            session.close()
        for engine in self._engines:
            engine.dispose()

    def at(self, when: When, what: str) -> None:
        """Its thread has reached this place."""
        if self._is_lost:
            raise Lost
        if self._place != Place(when, what) or self.is_caught():
            return
        if self._how is How.EXITS:
            self._lose()
        self._reached.set()
        self._may_go_on.wait()
        if self._is_lost:
            raise Lost

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._fleet.end_sessions([session.info.backend_pid for session in self._sessions])

    def _note_session(self, connection: Any, _record: object) -> None:
        self._sessions.append(connection)
        connection.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}")
        connection.commit()

    def _refuse_if_lost(self, *_connecting: object) -> None:
        if self._is_lost:
            raise Lost

    def _work(self) -> None:
        self._fleet.here.worker = self
        while not self._is_lost:
            try:
                if not self._look_once():
                    self._fleet.tick()
            except Lost:
                return
            except Exception as error:  # noqa: BLE001 - it goes on, as a worker whose task has failed
                log.info("a worker goes on: %r", error)

    def _look_once(self) -> bool:
        """What a worker does that looks up: due timers, messages, and what maintenance finds."""
        did = False
        if self._has_index:
            for timer_id in self._fleet.due_timers():
                deliver(timer_id, self._context)
                did = True
        if not self._fleet.queue:
            sweep.sweep(self._context)
        while self._fleet.queue:
            try:
                handoff = self._fleet.queue.popleft()
            except IndexError:  # another was quicker
                break
            deliver(handoff, self._context)
            did = True
        return did


class ThreadFleet(ChaosFleet):
    """As `ChaosFleet`, of threads, over a database whose clock the test holds."""

    def __init__(self, database: Database, logs: Path) -> None:
        super().__init__(database.url, "memory://", logs)
        self.queue: deque[Handoff] = deque()
        self.here = threading.local()
        self._database, self._ticking = database, threading.Lock()
        database.adopt(self.client._context.database)
        database.adopt(self.client._context.reads)
        database.set_clock(datetime.now(UTC))
        self._threads: list[ThreadWorker] = []
        listen(self._reach)

    def fork(  # type: ignore[override]
        self,
        place: Place | None = None,
        how: How = How.EXITS,
        *,
        lacks: frozenset[str] = frozenset(),
        has_index: bool = True,
        pool: str = "solo",
        **settings: Any,
    ) -> ThreadWorker:
        """Start a worker; with a place, one that is caught there."""
        assert pool == "solo", "threads have no children"
        has = Settings(database_url=self.database_url, **{**IMPATIENT, **settings})
        context = EngineContext(
            self._database.open(has),
            without(registry, lacks),
            has,
            messenger=Messages(self.queue),
            reads=self._database.open_for_reads(has),
            identity=Identity(f"worker-{len(self._threads)}"),
        )
        worker = ThreadWorker(self, context, place, how, has_index)
        self._threads.append(worker)
        return worker

    def publish(self, handoff: Handoff) -> None:
        """A message, from wherever."""
        self.queue.append(handoff)

    def tick(self) -> None:
        """Time passes, since nobody has anything to do."""
        self.let_pass(TICK)

    def let_pass(self, time: timedelta) -> None:
        """So much time passes at once."""
        with self._ticking:
            assert self._database.moved_to is not None
            self._database.set_clock(self._database.moved_to + time)

    def due_timers(self) -> list[Any]:
        """Those whose messages have come, from the index."""
        due = "SELECT id FROM perennial.timer WHERE state = 'armed' AND due_at <= perennial.now() ORDER BY due_at, id"
        return [row.id for row in self._database.rows(due)]

    def end_sessions(self, of: list[int]) -> None:
        """As Postgres does when their process is gone."""
        self._database.rows(
            "SELECT pg_terminate_backend(pid, 10000) FROM unnest(CAST(:pids AS int[])) AS pid",
            pids=of,
        )

    def wait_for(self, what: str, look: Callable[[], Any]) -> Any:
        """Look until it is so."""
        return wait_for(look, what, within_seconds=PATIENCE_SECONDS)

    def stop(self) -> None:
        """End every worker, wherever it stands."""
        for worker in self._threads:
            worker.end()
        listen(None)
        super().stop()

    def _reach(self, when: When, what: str) -> None:
        worker = getattr(self.here, "worker", None)
        if worker is not None:
            worker.at(when, what)
