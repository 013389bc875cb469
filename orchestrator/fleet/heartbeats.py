"""A worker's side of its helper: a process that beats for the worker, and that no work of the worker can starve.

A C call that keeps the interpreter's lock (a regular expression, a driver) stops every thread of its process. So the
heartbeat is not left to a thread: a helper (`heartbeat_helper.py`) is told through a pipe which ids are held, and beats
for them as long as the process that holds them runs. One helper serves a worker: the processes of its pool are
forked after it, and share the pipe.

The thread of each process (`engine.liveness.Heartbeat`) sees whether the helper beats, and does it itself where it
doesn't. (docs/adr/0036)
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from orchestrator.fleet import heartbeat_helper
from orchestrator.settings import Settings
from orchestrator.store.session import settings_sql
from orchestrator.store.transitions.workers import beat_text

log = logging.getLogger(__name__)

WRITTEN_AT_ONCE = 20
"""So many lines of 200 bytes at most: no other process' come in between below 4,096 bytes (pipe(7))."""

NAME_LENGTH_MAX = 120


class Heartbeats:
    """Made in a worker's parent, before its pool is; used in each of its processes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lines, self._write = os.pipe()
        os.set_blocking(self._write, False)  # a helper that stands still holds no work back
        self._count = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as this is
        self._helper: subprocess.Popen[bytes] | None = None
        self._unsaid: deque[bytes] = deque()

    def look(self) -> None:
        """In the parent, now and then: start the helper, again too, should it have ended."""
        if self._helper is not None:
            if self._helper.poll() is None:
                return
            log.warning(
                "the process that beats for this worker has ended (%s); it is started again",
                self._helper.returncode,
            )
        try:
            self._start()
        except OSError as error:
            log.warning("no process can be started to beat for this worker: %s", error)

    def acquire(self, worker_ids: Iterable[UUID], name: str) -> None:
        """This process holds work under these ids. Never waits."""
        short = "".join(name.split())[:NAME_LENGTH_MAX]
        self._say(f"+{os.getpid()} {worker_id} {short}\n" for worker_id in worker_ids)

    def release(self, worker_ids: Iterable[UUID]) -> None:
        """It doesn't any more, or must not be beaten for under these any longer. Never waits."""
        self._say(f"-{os.getpid()} {worker_id}\n" for worker_id in worker_ids)

    def beats(self) -> int:
        """How often the helper has beaten: a number that grows."""
        return int.from_bytes(os.pread(self._count.fileno(), 8, 0), "little")

    @property
    def pid(self) -> int | None:
        """The helper's, once it was started."""
        return None if self._helper is None else self._helper.pid

    def close(self) -> None:
        """For tests: a worker's helper ends when its last process has."""
        os.close(self._write)
        os.close(self._lines)
        self._count.close()
        if self._helper is not None:
            self._helper.wait()

    def forget(self) -> None:
        """In a process that was just forked: what was not said is the parent's to say."""
        self._unsaid.clear()

    def _say(self, lines: Iterable[str]) -> None:
        """In order, whatever couldn't be said before. What can't be said now is said with the next."""
        self._unsaid.extend(line.encode() for line in lines)
        while self._unsaid:
            some = [self._unsaid[place] for place in range(min(WRITTEN_AT_ONCE, len(self._unsaid)))]
            try:
                os.write(self._write, b"".join(some))
            except OSError:  # it is full, or closed
                return
            for _ in some:
                self._unsaid.popleft()

    def _start(self) -> None:
        given = {
            "address": dict(self._settings.database_address().parameters),
            "statement": beat_text(self._settings.database_schema),
            "set_up": settings_sql(),
            "interval_seconds": self._settings.heartbeat_seconds,
            "path": [each or str(Path.cwd()) for each in sys.path],
            "lines": self._lines,
            "count": self._count.fileno(),
            "parent": os.getpid(),
        }
        self._helper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(heartbeat_helper.__file__)],
            stdin=subprocess.PIPE,
            pass_fds=(self._lines, self._count.fileno()),
            start_new_session=True,  # a worker's terminal and its group are not its own
        )
        assert self._helper.stdin is not None  # noqa: S101 - it was asked for
        with self._helper.stdin as stdin:
            stdin.write(json.dumps(given).encode())
