"""Programs are kept, and none is left behind. Real processes; waits end with a fact, not a pause."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import psutil
import pytest

from orchestrator.cli import supervisor as supervision
from orchestrator.cli.failures import FleetFailed
from orchestrator.cli.supervisor import Program, Supervisor, stop_signals

WAITS_FOR_SIGNAL = "import signal; print('up', flush=True); signal.pause()"
IGNORES_SIGTERM = (
    "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\n"
    "while True: signal.pause()"
)
HAS_A_CHILD = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
    "print(child.pid, flush=True)\n"
    "child.wait()\n"
)


@pytest.fixture
def notes() -> SimpleQueue[str]:
    return SimpleQueue()


@pytest.fixture
def supervisor(notes):
    made = Supervisor(notes.put)
    yield made
    made.stop()


@pytest.fixture
def program(tmp_path):
    def make(code: str, *, essential: bool = True) -> Program:
        arguments = (sys.executable, "-c", code)
        return Program("worker-1", arguments, os.environ, tmp_path / "log", essential=essential)

    return make


@pytest.fixture
def said(tmp_path):
    """Blocks until a program has printed a line, by reading a named pipe in place of its log."""
    os.mkfifo(tmp_path / "log")
    descriptor = os.open(tmp_path / "log", os.O_RDWR)  # never at end of file
    with os.fdopen(descriptor, "r") as pipe:
        yield pipe.readline


def test_a_program_that_dies_is_started_again_with_a_note(supervisor, program, notes, said):
    first = supervisor.start(program(WAITS_FOR_SIGNAL))
    told: list[str] = []

    def kill_and_stop() -> None:
        said()
        os.kill(first, signal.SIGKILL)
        told.append(notes.get())
        supervisor.ask_to_stop()

    Thread(target=kill_and_stop).start()
    supervisor.watch()
    (second,) = supervisor.pids.values()
    assert second != first
    assert told == [f"worker-1 (pid {first}) was killed by SIGKILL; started again as pid {second}"]


def test_an_essential_program_that_keeps_dying_ends_it_all_and_its_log_is_shown(
    supervisor, program, notes
):
    supervisor.start(program("print('no such broker'); raise SystemExit(7)"))
    with pytest.raises(FleetFailed, match="ended with exit code 7, 3 times") as caught:
        supervisor.watch()
    assert "no such broker" in str(caught.value)
    assert supervisor.pids == {}
    assert notes.qsize() == supervision.EARLY_DEATHS_MAX - 1


def test_a_program_that_is_not_essential_is_given_up_alone(supervisor, program, notes):
    supervisor.start(program("raise SystemExit(1)", essential=False))

    def stop_when_given_up() -> None:
        while "Going on without it" not in notes.get():
            pass
        supervisor.ask_to_stop()

    Thread(target=stop_when_given_up).start()
    supervisor.watch()
    assert supervisor.pids == {}


def test_stop_ends_every_program(supervisor, program, said):
    pid = supervisor.start(program(WAITS_FOR_SIGNAL))
    said()
    supervisor.stop()
    assert supervisor.pids == {}
    assert not psutil.pid_exists(pid)


def test_a_program_deaf_to_sigterm_is_killed_after_the_grace(
    supervisor, program, notes, said, monkeypatch
):
    monkeypatch.setattr(supervision, "STOP_GRACE_SECONDS", 0.1)
    pid = supervisor.start(program(IGNORES_SIGTERM))
    said()
    supervisor.stop()
    assert not psutil.pid_exists(pid)
    assert "did not stop in time: killed" in notes.get()


def test_asked_twice_stop_kills_at_once(supervisor, program, said):
    """The grace of 15 s would show in this test's duration, and in its time limit."""
    pid = supervisor.start(program(IGNORES_SIGTERM))
    said()
    supervisor.ask_to_stop()
    supervisor.watch()
    supervisor.ask_to_stop()
    supervisor.stop()
    assert not psutil.pid_exists(pid)


def test_a_killed_program_leaves_no_child_behind(supervisor, program, said, notes):
    """Guards `_kill_group` in `_await_end`: a worker's pool must not outlive the worker."""
    pid = supervisor.start(program(HAS_A_CHILD))
    child = psutil.Process(int(said()))
    os.kill(pid, signal.SIGKILL)
    child.wait(timeout=10)


def test_a_ctrl_c_of_the_terminal_does_not_reach_the_programs(supervisor, program, said):
    """They are in sessions of their own, so that workers stop before the servers they use."""
    pid = supervisor.start(program(WAITS_FOR_SIGNAL))
    said()
    assert os.getsid(pid) == pid != os.getsid(0)


@pytest.mark.parametrize("number", sorted(supervision.STOP_SIGNALS))
def test_each_stop_signal_ends_the_watch(supervisor, program, number):
    supervisor.start(program(WAITS_FOR_SIGNAL))
    before = signal.getsignal(number)
    with stop_signals(supervisor.ask_to_stop):
        supervisor.call(lambda: os.kill(os.getpid(), number))
        supervisor.watch()
    assert signal.getsignal(number) is before


def test_a_program_gets_its_own_environment_and_log(supervisor, tmp_path: Path):
    log = tmp_path / "log"
    code = "import os; print(os.environ['WHERE'])"
    supervisor.start(Program("x", (sys.executable, "-c", code), {"WHERE": "here"}, log))
    with pytest.raises(FleetFailed, match="here"):
        supervisor.watch()
