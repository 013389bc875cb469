"""The process that beats for a worker: for the living, as long as they hold work, and told no secret in sight."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest

from orchestrator.engine.liveness import Heartbeat, Identity
from orchestrator.fleet import heartbeats as module
from orchestrator.fleet.heartbeat_helper import Leases
from orchestrator.fleet.heartbeats import Heartbeats
from tests.fleet.harness import Fleet
from tests.harness import Harness, wait_for


@pytest.fixture
def heartbeats(harness: Harness) -> Iterator[Heartbeats]:
    settings = harness.settings.model_copy(update={"heartbeat_seconds": 0.05})
    heartbeats = Heartbeats(settings)
    heartbeats.look()
    yield heartbeats
    heartbeats.close()


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds something."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def beaten_at(harness: Harness, worker_id: UUID) -> object:
    rows = harness.database.rows(
        "SELECT heartbeat_at FROM perennial.worker WHERE id = :id", id=worker_id
    )
    return rows[0].heartbeat_at if rows else None


def wait_for_beat(harness: Harness, worker_id: UUID) -> None:
    before = beaten_at(harness, worker_id)
    wait_for(lambda: beaten_at(harness, worker_id) != before, "a heartbeat")


def test_it_beats_for_what_is_held_and_is_silent_for_what_is_not(harness, heartbeats):
    """An id that was let go, or abandoned, falls silent at once: what was claimed under it is handed out again."""
    identity = Identity("here", heartbeats)
    kept = identity.lease()
    with kept as held:
        wait_for_beat(harness, held)
        with suppress(ZeroDivisionError), identity.lease() as again:
            assert again == held
    with suppress(ZeroDivisionError), identity.lease() as abandoned:
        raise ZeroDivisionError
    with identity.lease() as later:
        wait_for_beat(harness, later)
        silent = beaten_at(harness, abandoned)
        wait_for_beat(harness, later)
        wait_for_beat(harness, later)
        assert beaten_at(harness, abandoned) == silent
    assert harness.database.rows(
        "SELECT name, pid FROM perennial.worker WHERE id = :id", id=later
    ) == [("here", os.getpid())]


def test_one_that_dies_is_started_again_and_told_what_is_held(harness, heartbeats, caplog):
    identity = Identity("here", heartbeats)
    beating = Heartbeat(identity, lambda _ids: None, interval_seconds=0.05)
    with identity.lease() as held:
        beating.start()
        wait_for_beat(harness, held)
        first = heartbeats.pid
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: heartbeats.look() or heartbeats.pid != first, "another helper")
        wait_for_beat(harness, held)
        beating.stop()
    assert "has ended (-9)" in caplog.text


def test_its_arguments_and_its_words_hold_no_secret(harness, heartbeats):
    """Everybody on a machine may read the arguments of every process."""
    url = harness.settings.database()
    with Identity("here", heartbeats).lease() as held:
        wait_for_beat(harness, held)
    line = " ".join(psutil.Process(heartbeats.pid).cmdline())
    assert "heartbeat_helper.py" in line
    assert "postgres" not in line
    assert url not in line


def test_whom_a_signal_has_stopped_is_silent_and_the_dead_are_forgotten(other):
    """A stopped process does no work: another may have it, as ever. What it writes afterwards is fenced."""
    held, worker_id = Leases(), str(uuid4())
    held.read(f"+{other.pid} {worker_id} other\n".encode())
    assert held.of_the_living() == [(worker_id, "other", other.pid)]
    os.kill(other.pid, signal.SIGSTOP)
    wait_for(lambda: not held.of_the_living(), "silence")
    assert held
    os.kill(other.pid, signal.SIGCONT)
    wait_for(held.of_the_living, "a word again")
    other.kill()
    wait_for(
        lambda: not held.of_the_living() and not held,
        "that it is forgotten, though nobody has reaped it",
    )


def test_lines_are_read_whole_however_they_come(other):
    held, first, second = Leases(), str(uuid4()), str(uuid4())
    lines = f"+{other.pid} {first} a\n+{other.pid} {second} a\n-{other.pid} {first}\n"
    lines += f"-{other.pid} {uuid4()}\n-1 {first}\n"
    for place in range(0, len(lines), 7):
        held.read(lines[place : place + 7].encode())
    assert [worker_id for worker_id, _, _ in held.of_the_living()] == [second]


class Deaf:
    """A helper that is there and does not beat."""

    def __init__(self) -> None:
        self.held: list[UUID] = []

    def acquire(self, worker_ids: Iterable[UUID], name: str) -> None:
        self.held += worker_ids

    def release(self, worker_ids: Iterable[UUID]) -> None:
        self.held = [each for each in self.held if each not in set(worker_ids)]

    def beats(self) -> int:
        return 0


def test_where_the_helper_is_silent_the_process_beats_itself():
    """It can't be started, can't reach Postgres, or was stopped: then all is as it was without one."""
    beaten = threading.Semaphore(0)
    identity = Identity("here", Deaf())
    beating = Heartbeat(identity, lambda _ids: beaten.release(), interval_seconds=0.01)
    with identity.lease():
        beating.start()
        assert beaten.acquire(timeout=10)
        beating.stop()


def test_a_helper_that_cannot_be_started_is_said_and_does_no_harm(harness, monkeypatch, caplog):
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(module.subprocess, "Popen", refuse)
    heartbeats = Heartbeats(harness.settings)
    heartbeats.look()
    with Identity("here", heartbeats).lease():
        pass
    heartbeats.close()
    assert "Cannot allocate memory" in caplog.text


def test_one_that_stands_still_holds_no_work_back_and_nothing_said_is_lost(harness, heartbeats):
    """A full pipe must not stop a worker in the middle of a claim; nor may a word of silence be lost in it."""
    os.kill(heartbeats.pid, signal.SIGSTOP)
    gone = [uuid4() for _ in range(3000)]
    for worker_id in gone:
        heartbeats.acquire([worker_id], "here")
        heartbeats.release([worker_id])
    os.kill(heartbeats.pid, signal.SIGCONT)
    with Identity("here", heartbeats).lease() as held:
        wait_for(lambda: heartbeats.release([]) or not heartbeats._unsaid, "that all was said")
        wait_for_beat(harness, held)
        before = last_of(harness, gone)
        for _ in range(3):
            wait_for_beat(harness, held)
        assert last_of(harness, gone) == before


def last_of(harness: Harness, worker_ids: list[UUID]) -> object:
    """The last beat of any of them."""
    (row,) = harness.database.rows(
        "SELECT max(heartbeat_at) FROM perennial.worker WHERE id = ANY(:ids)", ids=worker_ids
    )
    return row.max


def test_a_helper_ends_with_its_worker_however_that_ends(fleet: Fleet) -> None:
    """`kill -9`: the pipe closes, and nobody is left who holds anything."""
    worker = fleet.start_worker()
    helpers = fleet.wait_for(
        "its helper",
        lambda: [
            each
            for each in psutil.Process(worker.pid).children()
            if Path(module.heartbeat_helper.__file__).name in " ".join(each.cmdline())
        ],
    )
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    psutil.wait_procs(helpers, timeout=30)
    assert not [each for each in helpers if each.is_running()]


def test_it_beats_though_the_database_says_that_nobody_writes(harness, heartbeats):
    """Its own session is set up as all of ours are: a silent one would pass for dead."""
    name = harness.database.name
    harness.database.rows(f"ALTER DATABASE {name} SET default_transaction_read_only TO on")
    try:
        with Identity("here", heartbeats).lease() as held:
            wait_for_beat(harness, held)
    finally:
        harness.database.rows(f"ALTER DATABASE {name} RESET default_transaction_read_only")
