"""The helper of a worker: a process of its own that beats for the worker's processes while these hold work.

It is started by path, not as a module: of all that is installed it imports psycopg alone, and knows nothing of the
package around it. What it needs comes on its standard input, as JSON (secrets never stand among arguments);
what is held comes as lines on a pipe that the worker's processes share, each written at once:

    +<pid> <id> <name>    this process holds work under this id
    -<pid> <id>           it doesn't any more

Nobody is left to write once the last of those processes has ended, and the helper ends with them.
(orchestrator.fleet.heartbeats, docs/adr/0036)
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

READ_BYTES = 65536
LOOK_SECONDS = 60.0
"""With nothing held: how often a helper looks whether its worker is still there."""


class Leases:
    """What is held, and by which process."""

    def __init__(self) -> None:
        self._ids: dict[int, dict[str, str]] = {}
        self._began: dict[int, str | None] = {}
        self._rest = b""

    def __bool__(self) -> bool:
        return bool(self._ids)

    def read(self, some: bytes) -> None:
        """Lines, as they came through the pipe."""
        *lines, self._rest = (self._rest + some).split(b"\n")
        for line in lines:
            pid, worker_id, *name = line[1:].decode().split(" ", 2)
            if line[:1] == b"+":
                self._acquire(int(pid), worker_id, *name)
            else:
                self._release(int(pid), worker_id)

    def of_the_living(self) -> list[tuple[str, str, int]]:
        """(id, name, pid) of each that is held by a process which runs. The dead are forgotten."""
        found = []
        for pid, ids in list(self._ids.items()):
            state, began = state_of(pid)
            if state == "dead" or began != self._began[pid]:  # guard: the dead are not beaten for
                del self._ids[pid], self._began[pid]
            elif state == "runs":
                found += [(worker_id, name, pid) for worker_id, name in ids.items()]
        return sorted(found)

    def _acquire(self, pid: int, worker_id: str, name: str) -> None:
        if pid not in self._ids:
            self._began[pid] = state_of(pid)[1]
        self._ids.setdefault(pid, {})[worker_id] = name

    def _release(self, pid: int, worker_id: str) -> None:
        ids = self._ids.get(pid, {})
        ids.pop(worker_id, None)
        if not ids:
            self._ids.pop(pid, None)
            self._began.pop(pid, None)


def state_of(pid: int) -> tuple[str, str | None]:
    """`runs`, `stands` (it was stopped: it does nothing) or `dead`; and when it began, since a pid comes again.

    Without /proc nobody can tell who was stopped: then it runs.
    """
    try:
        # What follows the command's name, which may hold anything, brackets too (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return "dead", None
        except PermissionError:
            pass
        return "runs", None
    state = {"Z": "dead", "X": "dead", "T": "stands", "t": "stands"}.get(fields[0], "runs")
    return state, fields[19]


class Voice:
    """Its own connection: made for the first beat, and anew after a failure."""

    def __init__(self, address: dict[str, str], set_up: str, statement: str) -> None:
        self._address, self._set_up, self._statement = address, set_up, statement
        self._connection: psycopg.Connection[Any] | None = None

    def beat(self, living: list[tuple[str, str, int]]) -> None:
        """One statement for all. Raises what psycopg raises."""
        import psycopg

        try:
            if self._connection is None:
                options: dict[str, Any] = {
                    "autocommit": True,
                    "application_name": "perennial-heartbeat",
                    "connect_timeout": 10,
                    "prepare_threshold": None,
                    "keepalives_idle": 10,
                    "tcp_user_timeout": 30_000,
                    "client_encoding": "utf8",
                }
                self._connection = psycopg.connect(**{**self._address, **options})
                self._connection.execute(self._set_up.encode())
            ids, names, pids = (list(column) for column in zip(*living, strict=True))
            self._connection.execute(
                self._statement.encode(), {"worker_ids": ids, "names": names, "pids": pids}
            )
        except BaseException:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            raise


def main() -> None:
    """Beat until nobody is there to beat for."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.SIG_IGN)  # its worker may take minutes to finish what it holds
    given = json.load(sys.stdin)
    sys.path[:] = given["path"]
    interval_seconds: float = given["interval_seconds"]
    lines, count = given["lines"], given["count"]
    voice, held, beats = Voice(given["address"], given["set_up"], given["statement"]), Leases(), 0
    due = 0.0
    while True:
        wait_seconds = max(0.0, due - time.monotonic()) if held else LOOK_SECONDS
        if select.select([lines], [], [], wait_seconds)[0]:
            was_idle = not held
            some = os.read(lines, READ_BYTES)
            if not some:
                return
            held.read(some)
            if was_idle:
                due = time.monotonic() + interval_seconds  # a claim is a sign of life, too
        if held and time.monotonic() >= due:
            due = time.monotonic() + interval_seconds
            living = held.of_the_living()
            if living:
                with suppress(Exception):  # its worker sees that it is silent, and says so
                    voice.beat(living)
                    beats += 1
                    os.pwrite(count, beats.to_bytes(8, "little"), 0)
        if not held and os.getppid() != given["parent"]:
            return


if __name__ == "__main__":
    main()
