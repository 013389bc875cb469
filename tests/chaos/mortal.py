"""Programs of this process that can be lost at a fault point, as a process is that is killed there.

    mortal = Mortal(database, context)         an operator's command, or a worker: whatever uses that context
    with mortal.lost_at(place, occurrence):    its sessions end there, it gets no others, and it does no more
    mortal.revive()                            it begins anew, with other sessions
    Stalled(place, occurrence, command)        in a thread of its own, it stands there until it is let go

What a lost process leaves behind is what Postgres has. Whatever this one raises after it is lost is of no interest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import event

from orchestrator.engine.context import EngineContext
from orchestrator.engine.liveness import Identity
from orchestrator.faults import When, listen
from tests.chaos.threads import IDLE_IN_TRANSACTION_MS, Lost
from tests.chaos.worker import Place
from tests.harness import Database, Thread, wait_for


@contextmanager
def listening(at: Callable[[Place], None]) -> Iterator[None]:
    """`at` hears of every place that this thread reaches."""
    me = threading.get_ident()

    def hear(when: When, what: str) -> None:
        if threading.get_ident() == me:
            at(Place(when, what))

    listen(hear)
    try:
        yield
    finally:
        listen(None)


class Mortal:
    """A program, by its context."""

    def __init__(self, database: Database, context: EngineContext) -> None:
        self._database, self.context = database, context
        self.is_lost = False
        self.dies: Callable[[Place], bool] = lambda _reached: False
        self._sessions: list[Any] = []
        for engine in self._engines:
            event.listen(engine, "connect", self._note)
            event.listen(engine, "do_connect", self._refuse)

    @contextmanager
    def lost_at(self, place: Place, occurrence: int = 1) -> Iterator[None]:
        """It is lost when it reaches that place for the n-th time, and the block ends there."""
        remaining = occurrence

        def dies(reached: Place) -> bool:
            nonlocal remaining
            remaining -= reached == place
            return not remaining

        with self.as_long_as_it_lives(dies):
            yield

    @contextmanager
    def as_long_as_it_lives(self, dies: Callable[[Place], bool] | None = None) -> Iterator[None]:
        """The block ends where it is lost: at a place of which `dies` (or its own) says so."""

        def at(reached: Place) -> None:
            if self.is_lost:
                raise Lost
            if (dies or self.dies)(reached):
                self.lose()
                raise Lost

        try:
            with listening(at):
                yield
        except BaseException:
            if not self.is_lost:
                raise

    def lose(self) -> None:
        """Its connections are gone, as those of a process that is killed; Postgres has ended its sessions."""
        self.is_lost = True
        pids = [session.info.backend_pid for session in self._sessions if not session.closed]
        for session in self._sessions:
            session.close()
        wait_for(
            lambda: (
                not self._database.value(
                    "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(:pids)", pids=pids
                )
            ),
            "the end of its sessions",
        )

    def revive(self) -> None:
        """Another process of the same program, which has read nothing yet."""
        if self.is_lost:
            self._sessions.clear()
            for engine in self._engines:
                engine.dispose()
        self.context.identity = Identity(self.context.identity.name)
        self.context.__post_init__()
        self.is_lost = False

    @property
    def _engines(self) -> tuple[Any, ...]:
        return tuple(
            {id(each): each for each in (self.context.database, self.context.reads)}.values()
        )

    def _note(self, session: Any, _record: object) -> None:
        self._sessions.append(session)
        session.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}")
        session.commit()

    def _refuse(self, *_connecting: object) -> None:
        if self.is_lost:
            raise Lost


class Stalled:
    """A command that stands at a place, until others have done its work."""

    def __init__(self, place: Place, occurrence: int, command: Callable[[], object]) -> None:
        self._may_go_on = threading.Event()
        reached = threading.Event()
        remaining = occurrence

        def at(here: Place) -> None:
            nonlocal remaining
            remaining -= here == place
            if not remaining and not reached.is_set():
                listen(None)
                reached.set()
                self._may_go_on.wait()

        def work() -> None:
            with listening(at):
                command()

        self._thread = Thread(work)
        wait_for(lambda: reached.is_set() or not self._thread.is_alive(), f"the command {place}")
        assert reached.is_set(), f"it never came to {place}"

    def go_on(self) -> None:
        """It does what it can still do. It may be refused; what it has written is what counts."""
        self._may_go_on.set()
        with suppress(Exception):  # a sentence to an operator, or a session that Postgres has ended
            self._thread.outcome()
