"""Keeps the programs of `perennial up` running, and stops every one of them, by process id.

The main thread runs `watch`: it takes one event after another from a queue and does nothing in
between. A thread for each program waits for its end; signal handlers only put an event, for which
`SimpleQueue` is documented to be safe.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from orchestrator.cli.failures import FleetFailed

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
RELOAD = signal.SIGUSR1
"""Asks for the workers to be started anew."""
OUR_SIGNALS = STOP_SIGNALS | {RELOAD}
"""They belong to the main thread: another that took one would not wake it."""
EARLY_DEATH_SECONDS = 10.0
EARLY_DEATHS_MAX = 3
"""Of a program of which none has lived: so often it is tried."""
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
STOP_GRACE_SECONDS = 15.0
KILL_GRACE_SECONDS = 5.0
LOG_TAIL_LINES = 12


@dataclass(frozen=True)
class Program:
    """What to run. When it keeps dying from the first, an essential one takes everything down with it."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    essential: bool = True


@dataclass
class _Child:
    program: Program
    process: subprocess.Popen[bytes]
    started_at: float
    early_deaths: int
    starts_anew: bool = False


class Supervisor:
    """Starts programs, starts them again when they die, stops them. `note` tells the operator.

    What has lived once is never given up: a trouble of its servers passes, and it is there again. It is started
    at once, and after early deaths at pauses that double to a minute.

    `remember` is told what runs, whenever that changes.
    """

    def __init__(
        self, note: Callable[[str], None], remember: Callable[[dict[str, int]], None] | None = None
    ) -> None:
        self._note, self._remember = note, remember
        self._has_lived: set[str] = set()
        self._resting: list[tuple[float, Program, int]] = []
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._children: dict[str, _Child] = {}
        self._failure: FleetFailed | None = None
        self._is_stopping = False
        self._is_killing = False

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each living program, by name."""
        return {name: child.process.pid for name, child in self._children.items()}

    def call(self, event: Callable[[], None]) -> None:
        """Have `watch` call this on the main thread. For other threads and signal handlers."""
        self._events.put(event)

    def ask_to_stop(self) -> None:
        """End `watch`; asked once more, kill what has not stopped yet."""
        self.call(self._heed_stop)

    def ask_to_start_anew(self, names: Iterable[str]) -> None:
        """Have `watch` end these, each when it has done what it is at, and start them again."""
        self.call(partial(self._start_anew, frozenset(names)))

    def start(self, program: Program, *, early_deaths: int = 0) -> int:
        """Start it in a session of its own, so that a Ctrl-C reaches us alone; its process id."""
        with program.log.open("ab") as log:
            process = subprocess.Popen(
                program.arguments,
                env=dict(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child = _Child(program, process, time.monotonic(), early_deaths)
        self._children[program.name] = child
        if self._remember is not None:
            self._remember(self.pids)
        Thread(
            target=self._await_end, args=(child,), name=f"await-{program.name}", daemon=True
        ).start()
        return process.pid

    def watch(self) -> None:
        """Until someone asks to stop. Raises FleetFailed if an essential program can't be kept."""
        while not self._is_stopping:
            with suppress(Empty):
                self._events.get(timeout=self._start_rested())()
        if self._failure is not None:
            raise self._failure

    def has_settled(self) -> None:
        """All that runs now has lived: from here on it is brought back, whatever happens to it."""
        self._has_lived |= self._children.keys()

    def _start_rested(self) -> float | None:
        """Start those whose pause is over; how long until the next one's is."""
        now = time.monotonic()
        due = [rest for rest in self._resting if rest[0] <= now]
        self._resting = [rest for rest in self._resting if rest[0] > now]
        for _, program, early_deaths in due:
            self.start(program, early_deaths=early_deaths)
        return min((rest[0] - now for rest in self._resting), default=None)

    def stop(self) -> None:
        """Ask every program to end; kill what is there after a grace period, with its children."""
        self._is_stopping = True
        for child in self._children.values():
            with suppress(ProcessLookupError):
                child.process.terminate()
        self._drain(STOP_GRACE_SECONDS)
        for child in list(self._children.values()):
            self._note(
                f"{child.program.name} (pid {child.process.pid}) did not stop in time: killed"
            )
            _kill_group(child.process.pid)
        self._is_killing = False
        self._drain(KILL_GRACE_SECONDS)

    def _drain(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._children and not self._is_killing:
            try:
                self._events.get(timeout=max(0.0, deadline - time.monotonic()))()
            except Empty:
                return

    def _start_anew(self, names: frozenset[str]) -> None:
        self._resting = [
            (0.0, program, 0) if program.name in names else (at, program, deaths)
            for at, program, deaths in self._resting
        ]
        for name in names & self._children.keys():
            child = self._children[name]
            if not child.starts_anew:  # asked twice, a Celery worker lets go what it is at
                child.starts_anew = True
                child.process.terminate()

    def _heed_stop(self) -> None:
        self._is_killing = self._is_stopping
        self._is_stopping = True

    def _await_end(self, child: _Child) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)
        child.process.wait()
        _kill_group(child.process.pid)  # a worker's pool must not outlive it
        self.call(partial(self._ended, child))

    def _ended(self, child: _Child) -> None:
        program = child.program
        del self._children[program.name]
        if self._is_stopping:
            return
        if child.starts_anew:
            pid = self.start(program)
            self._note(f"{program.name} (pid {child.process.pid}) was started anew as pid {pid}")
            return
        how = f"{program.name} (pid {child.process.pid}) {_how_it_ended(child.process.returncode)}"
        died_early = time.monotonic() - child.started_at < EARLY_DEATH_SECONDS
        if not died_early:
            self._has_lived.add(program.name)
        early_deaths = child.early_deaths + 1 if died_early else 0
        if early_deaths <= 1:
            pid = self.start(program, early_deaths=early_deaths)
            self._note(f"{how}; started again as pid {pid}")
        elif program.name in self._has_lived or early_deaths < EARLY_DEATHS_MAX:
            self._rest(program, early_deaths, how)
        else:
            self._give_up(program, early_deaths, how)

    def _rest(self, program: Program, early_deaths: int, how: str) -> None:
        doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(early_deaths - 2, 10)
        pause_seconds = min(doubled, LONGEST_PAUSE_SECONDS)
        self._resting.append((time.monotonic() + pause_seconds, program, early_deaths))
        last = next(iter(_tail(program.log)[-1:]), "nothing")
        self._note(
            f"{how}; started again in {pause_seconds:g} s. Its log, {program.log}, ends: {last.strip()}"
        )

    def _give_up(self, program: Program, early_deaths: int, how: str) -> None:
        tail = "\n".join(f"  {line}" for line in _tail(program.log))
        told = (
            f"{how}, {early_deaths} times within {EARLY_DEATH_SECONDS:.0f} s of its start. "
            f"Its log, {program.log}, ends:"
        )
        if program.essential:
            self._failure = FleetFailed(f"{told}\n{tail}")
            self._is_stopping = True
        else:
            self._note(f"{told}\n{tail}\nGoing on without it.")


@contextmanager
def stop_signals(handler: Callable[[], None]) -> Iterator[None]:
    """Within, SIGINT, SIGTERM and SIGHUP call `handler` on the main thread."""

    def handle(_number: int, _frame: Any) -> None:
        handler()

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _how_it_ended(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


def _tail(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        return file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
