"""Which process owns a data directory: whoever starts its server, and so has to stop it.

Two kernel locks, not a file with a process id in it: the kernel lets go of a lock when its holder
dies, even by SIGKILL, so the next start finds the directory free, adopts the server that still
runs there and stops it in its turn.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DirectoryClaim:
    """Ownership of one data directory, by at most one object of one process at a time."""

    def __init__(self, directory: Path) -> None:
        self._owner_file = directory / "owner.lock"
        self._change_file = directory / "change.lock"
        self._descriptor: int | None = None
        self._process_id = -1

    @property
    def held(self) -> bool:
        """True in the process that took the claim; a child that it forked does not own it."""
        return self._descriptor is not None and self._process_id == os.getpid()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Start or stop the server while nobody else does. Waits for whoever is at it."""
        descriptor = _open(self._change_file)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def take(self) -> bool:
        """Become the owner; False if another holder lives."""
        if self.held:
            return True
        descriptor = _open(self._owner_file)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor, self._process_id = descriptor, os.getpid()
        return True

    def release(self) -> None:
        """Let go; harmless when not held."""
        if self._descriptor is not None and self.held:
            os.close(self._descriptor)
        self._descriptor = None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
