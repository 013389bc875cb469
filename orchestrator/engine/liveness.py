"""Who this process is to the record, and its one heartbeat.

A process beats only while it holds a claim or a turn. If anything goes wrong between a claim and its
settlement (the database is away, a soft time limit strikes in our own code), the process takes a new
identity: the old one falls silent, and what it had claimed is handed out again like a dead worker's.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from uuid_utils.compat import uuid7

log = logging.getLogger(__name__)


class Identity:
    """This worker process to the record: an id for each of its threads, so that one thread's failure
    silences its own claims and nobody else's.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name or f"pid-{os.getpid()}"
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._own = threading.local()
        self._held: Counter[UUID] = Counter()
        self._busy = threading.Event()

    @contextmanager
    def holding(self) -> Iterator[UUID]:
        """While the block runs, this process is answerable for what it claims as the yielded id.

        If the block raises, this thread goes on under a new id, and the old one falls silent.
        """
        held_as = self._own_id()
        with self._lock:
            self._held[held_as] += 1
            self._busy.set()
        try:
            yield held_as
        except BaseException:
            log.warning("claims of %s are abandoned; they will be handed out again", held_as)
            self._own.id = uuid7()
            raise
        finally:
            self._release(held_as)

    def _own_id(self) -> UUID:
        found: UUID | None = getattr(self._own, "id", None)
        if found is None:
            found = self._own.id = uuid7()
        return found

    def held_ids(self) -> list[UUID]:
        """The ids with claims in hand: those that beat."""
        with self._lock:
            return list(self._held)

    def wait_until_busy(self) -> None:
        """Block until something is held."""
        self._busy.wait()

    def _release(self, held_as: UUID) -> None:
        with self._lock:
            self._held[held_as] -= 1
            if self._held[held_as] <= 0:
                del self._held[held_as]
            if not self._held:
                self._busy.clear()


class Heart:
    """The thread that beats for an Identity. Started in the process that works, after any fork."""

    def __init__(
        self, identity: Identity, beat: Callable[[list[UUID]], None], *, interval_seconds: float
    ) -> None:
        self._identity, self._beat, self._interval_seconds = identity, beat, interval_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="perennial-heart", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the beat in hand. Called while something is held: until then a heart waits for that."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            self._identity.wait_until_busy()
            held_ids = self._identity.held_ids()
            if held_ids:
                try:
                    self._beat(held_ids)
                except Exception:
                    log.warning("a heartbeat could not be written", exc_info=True)
