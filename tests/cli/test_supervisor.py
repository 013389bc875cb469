"""Programs are kept, and none is left behind. Real processes; waits end with a fact, not a pause."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import psutil
import pytest

from orchestrator.cli import leftovers
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


def test_one_that_is_started_anew_may_be_so_as_often_as_one_likes(supervisor, program, notes, said):
    first = supervisor.start(program(WAITS_FOR_SIGNAL))
    pids = [first]

    def start_anew_and_stop() -> None:
        for _ in range(supervision.EARLY_DEATHS_MAX + 1):
            said()
            supervisor.ask_to_start_anew(["worker-1", "worker-9"])
            told = notes.get()
            assert told.startswith(f"worker-1 (pid {pids[-1]}) was started anew as pid ")
            pids.append(int(told.rpartition(" ")[2]))
        supervisor.ask_to_stop()

    Thread(target=start_anew_and_stop).start()
    supervisor.watch()
    assert len(set(pids)) == supervision.EARLY_DEATHS_MAX + 2
    assert list(supervisor.pids.values()) == [pids[-1]]


def test_an_essential_program_that_keeps_dying_ends_it_all_and_its_log_is_shown(
    supervisor, program, notes
):
    supervisor.start(program("print('no such broker'); raise SystemExit(7)"))
    with pytest.raises(FleetFailed, match="ended with exit code 7, 3 times") as caught:
        supervisor.watch()
    assert "no such broker" in str(caught.value)
    assert supervisor.pids == {}
    assert notes.qsize() == supervision.EARLY_DEATHS_MAX - 1, "a line for each start"


def test_a_program_that_is_not_essential_is_given_up_alone(supervisor, program, notes):
    supervisor.start(program("raise SystemExit(1)", essential=False))

    def stop_when_given_up() -> None:
        while "Going on without it" not in notes.get():
            pass
        supervisor.ask_to_stop()

    Thread(target=stop_when_given_up).start()
    supervisor.watch()
    assert supervisor.pids == {}


@pytest.mark.parametrize("essential", [True, False])
def test_what_has_lived_is_brought_back_at_growing_pauses_and_nothing_else_is_stopped(
    supervisor, program, notes, monkeypatch, essential
):
    """A broker that refuses every write ends each worker as it starts, for as long as it is full."""
    monkeypatch.setattr(supervision, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(supervision, "LONGEST_PAUSE_SECONDS", 0.04)
    supervisor.start(program("raise SystemExit('OOM command not allowed')", essential=essential))
    supervisor.has_settled()
    told: list[str] = []

    def stop_after_seven() -> None:
        told.extend(notes.get() for _ in range(7))
        supervisor.ask_to_stop()

    Thread(target=stop_after_seven).start()
    supervisor.watch()
    assert "; started again as pid " in told[0]
    pauses = [float(note.partition("again in ")[2].split(" ")[0]) for note in told[1:]]
    assert pauses == [0.01, 0.02, 0.04, 0.04, 0.04, 0.04]
    assert all("OOM command not allowed" in note and "\n" not in note for note in told[1:])


def test_one_that_rests_is_not_started_while_all_is_stopped(supervisor, program, notes):
    supervisor.start(program("raise SystemExit(1)"))
    supervisor.has_settled()

    def stop_when_it_rests() -> None:
        while "started again in 1 s" not in notes.get():
            pass
        supervisor.ask_to_stop()

    Thread(target=stop_when_it_rests).start()
    supervisor.watch()
    supervisor.stop()
    assert supervisor.pids == {}


def test_what_a_killed_up_left_is_ended_by_the_next_with_its_children(
    program, notes, said, tmp_path
):
    pid = Supervisor(notes.put, partial(leftovers.remember, tmp_path)).start(program(HAS_A_CHILD))
    child = psutil.Process(int(said()))
    leftovers.end_leftovers(tmp_path, notes.put)
    assert leftovers.began(pid) is None
    child.wait(timeout=10)
    assert notes.get() == f"worker-1 (pid {pid}) was left by an `up` that was killed: ended"
    assert not (tmp_path / leftovers.PROGRAMS_FILE).exists()


def test_one_that_is_deaf_is_killed(program, notes, said, tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", 0.1)
    pid = Supervisor(notes.put, partial(leftovers.remember, tmp_path)).start(
        program(IGNORES_SIGTERM)
    )
    said()
    leftovers.end_leftovers(tmp_path, notes.put)
    leftovers.end_leftovers(tmp_path, notes.put)  # nothing is named any more
    assert leftovers.began(pid) is None


def test_a_program_that_has_the_process_id_by_now_is_left_alone(
    supervisor, program, said, notes, tmp_path
):
    """Guards the moment at which it began: ids come again, soonest in a container that was restarted."""
    pid = supervisor.start(program(WAITS_FOR_SIGNAL))
    said()
    named = [{"name": "worker-1", "pid": pid, "began": "12345"}]
    (tmp_path / leftovers.PROGRAMS_FILE).write_text(json.dumps(named))
    leftovers.end_leftovers(tmp_path, notes.put)
    assert leftovers.began(pid) is not None
    assert notes.empty()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "[7]", '[{"name": "x", "pid": "y", "began": 1}]']
)
def test_a_broken_list_of_leftovers_names_none(tmp_path, notes, content):
    (tmp_path / leftovers.PROGRAMS_FILE).write_text(content)
    leftovers.end_leftovers(tmp_path, notes.put)
    assert notes.empty()


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
