"""Who this process is to the record, and its one heartbeat.

A process beats only while it holds a claim or a turn. If anything goes wrong between a claim and its
settlement (the database is away, a soft time limit strikes in our own code), the process takes a new
identity: the old one falls silent, and what it had claimed is handed out again like a dead worker's.

A thread that beats can be starved by the work itself: one C call that keeps the interpreter's lock is enough. So
where there is a helper, it is told what is held and beats, and the thread sees to it that it does.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Protocol
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.engine.troubles import Troubles, kind_of, one_line

log = logging.getLogger(__name__)

MISSED_MAX = 2
"""So many times the thread sees no beat of the helper's; then it beats itself, each time."""


class Helper(Protocol):
    """A process outside of this one that beats for it while it lives. Neither call waits, or raises."""

    def acquire(self, worker_ids: Iterable[UUID], name: str) -> None:
        """Beat for these ids from now on, as long as this process lives."""

    def release(self, worker_ids: Iterable[UUID]) -> None:
        """Don't any more."""

    def beats(self) -> int:
        """A number that is another one after each beat."""


class _Leased:
    """An id of a thread's, and in how many blocks of it, one within the other or side by side, it is held."""

    __slots__ = ("blocks", "id")

    def __init__(self, worker_id: UUID) -> None:
        self.id, self.blocks = worker_id, 0


class _Own(threading.local):
    held: _Leased | None = None


class Identity:
    """This worker process to the record: an id for each of its threads, so that one thread's failure
    silences its own claims and nobody else's.
    """

    def __init__(self, name: str = "", helper: Helper | None = None) -> None:
        self.name = name or f"pid-{os.getpid()}"
        self.pid = os.getpid()
        self.helper = helper
        self._lock = threading.Lock()
        self._own = _Own()
        self._held: set[UUID] = set()
        self._said: set[UUID] = set()
        """Those that the helper beats for. What is held no more it is told in time: a claim may follow at once."""
        self._spare: list[UUID] = []
        """Of those that `hold` gave, which are held no more."""
        self._busy = threading.Event()
        self._troubles = Troubles(log)

    def lease(self) -> _Lease:
        """While the block runs, this process is answerable for what it claims as the id that it gives.

        If the block raises, this thread goes on under a new id, and the old one falls silent.
        """
        return _Lease(self)

    def acquire(self) -> _Leased:
        """For `lease`: one more block of this thread's begins."""
        held = self._own.held
        if held is None:
            held = self._own.held = _Leased(uuid7())
        if not held.blocks:  # within another block, all of this is so already
            with self._lock:
                self._hold(held.id)
        held.blocks += 1  # last: a time limit that strikes above leaves no block that nobody ends
        return held

    def release(self, held: _Leased, error: BaseException | None) -> None:
        """For `lease`: a block ends."""
        self._say_how_it_ended(held.id, error)
        if error is not None:
            self._own.held = None  # guard: a failure gives a new identity
        held.blocks -= 1
        if not held.blocks:
            self._forget(held.id, is_abandoned=error is not None)

    def hold(self) -> UUID:
        """An id that no thread has, for one claim: this process is answerable for it until it is let go of."""
        with self._lock:
            own = self._spare.pop() if self._spare else uuid7()
            self._hold(own)
        return own

    def let_go(self, held: UUID, error: BaseException | None = None) -> None:
        """Of what `hold` gave. `error`: what was claimed is abandoned, and the id falls silent."""
        self._say_how_it_ended(held, error)
        self._forget(held, is_abandoned=error is not None)
        if error is None:  # an id for each claim would leave a row for each
            self._spare.append(held)

    def leased_ids(self) -> list[UUID]:
        """The ids with claims in hand: those that beat."""
        with self._lock:
            return list(self._held)

    def wait_until_busy(self) -> None:
        """Block until something is held, or the helper has to be told that nothing is."""
        self._busy.wait()

    def repeat_to_helper(self) -> None:
        """What is held, once more, since another helper may have come; and what isn't any more."""
        with self._lock:
            if self.helper is not None:
                self._release(self._said - self._held)
                self.helper.acquire(self._said, self.name)
            if not self._held:
                self._busy.clear()

    def _hold(self, own: UUID) -> None:
        self._held.add(own)
        if self.helper is not None and own not in self._said:
            self._said.add(own)
            self.helper.acquire((own,), self.name)
        self._busy.set()

    def _say_how_it_ended(self, held_as: UUID, error: BaseException | None) -> None:
        if error is None:
            self._troubles.over("claims")
        else:
            self._troubles.meet(
                "claims",
                "claims of %s are abandoned; they will be handed out again (%s)",
                held_as,
                one_line(error),
                kind=kind_of(error),
            )

    def _forget(self, held_as: UUID, *, is_abandoned: bool) -> None:
        with self._lock:
            self._held.discard(held_as)
            if is_abandoned:  # guard: an abandoned id falls silent outside too
                self._release({held_as} & self._said)
            if not self._held and not self._said:
                self._busy.clear()

    def _release(self, worker_ids: set[UUID]) -> None:
        if self.helper is not None and worker_ids:
            self._said -= worker_ids
            self.helper.release(worker_ids)


class _Lease:
    """A class, and no generator: it is made several times for each stage."""

    __slots__ = ("_held", "_identity")

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def __enter__(self) -> UUID:
        self._held = self._identity.acquire()
        return self._held.id

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._identity.release(self._held, error)


class Heartbeat:
    """The thread that beats for an Identity, where no helper does.

    Started in the process that works, after any fork.
    """

    def __init__(
        self, identity: Identity, beat: Callable[[list[UUID]], None], *, interval_seconds: float
    ) -> None:
        self._identity, self._beat, self._interval_seconds = identity, beat, interval_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="perennial-heartbeat", daemon=True)
        self._beats, self._missed = 0, 0
        self._troubles = Troubles(log)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the beat in hand. Called while something is held: until then a heartbeat waits for that."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            self._identity.wait_until_busy()
            leased_ids = self._identity.leased_ids()
            self._identity.repeat_to_helper()
            if leased_ids and not self._is_helped():
                try:
                    self._beat(leased_ids)
                    self._troubles.over("heartbeat")
                except Exception as error:  # noqa: BLE001 - it goes on, whatever Postgres says
                    self._troubles.meet(
                        "heartbeat",
                        "a heartbeat could not be written: %s",
                        one_line(error),
                        kind=kind_of(error),
                    )

    def _is_helped(self) -> bool:
        """Whether somebody else beats, or may be about to."""
        helper = self._identity.helper
        if helper is None:
            return False
        beats = helper.beats()
        self._missed = self._missed + 1 if beats == self._beats else 0
        self._beats = beats
        return self._missed <= MISSED_MAX  # guard: a silent helper is stood in for
