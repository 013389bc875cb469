"""What an `up` that was killed has left running: known by the data folder, ended by the next one.

A process id comes again, so each is kept with the moment at which its process began: another program that has the
id by now is left alone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

PROGRAMS_FILE = "programs.json"
GRACE_SECONDS = 15.0


def remember(data_dir: Path, pids: Mapping[str, int]) -> None:
    """Note what runs now, in a file that is never half written."""
    path = data_dir / PROGRAMS_FILE
    content = [
        {"name": name, "pid": pid, "began": began(pid)} for name, pid in pids.items() if began(pid)
    ]
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.replace(path)


def forget(data_dir: Path) -> None:
    """Everything was stopped."""
    (data_dir / PROGRAMS_FILE).unlink(missing_ok=True)


def end_leftovers(data_dir: Path, note: Callable[[str], None]) -> None:
    """End, with their children, the programs that the folder names and that run still. Says so of each."""
    try:
        content = json.loads((data_dir / PROGRAMS_FILE).read_text(encoding="utf-8"))
        named = [(str(each["name"]), int(each["pid"]), str(each["began"])) for each in content]
    except (OSError, ValueError, KeyError, TypeError):
        return
    left = [(name, pid, moment) for name, pid, moment in named if began(pid) == moment]
    doors = {pid: _open(pid) for _, pid, _ in left}
    for name, pid, moment in left:
        if began(pid) == moment:  # still: it is this process that the door leads to
            note(f"{name} (pid {pid}) was left by an `up` that was killed: ended")
            _send(doors[pid], pid, signal.SIGTERM)
    for _, pid, moment in left:
        _wait(doors[pid], pid, moment)
        if began(pid) == moment:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(
                    pid, signal.SIGKILL
                )  # each leads a group of its own, as `Supervisor` starts it
            _wait(doors[pid], pid, moment)
    for door in doors.values():
        if door is not None:
            os.close(door)
    forget(data_dir)


def began(pid: int) -> str | None:
    """When the process of this id began, as its kernel tells it; None: there is none, or it has ended."""
    try:
        # What follows the command's name, which may hold anything, brackets too (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        # No /proc: macOS.
        asked = ["ps", "-o", "lstart=", "-p", str(pid)]
        told = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=30).stdout
        return told.strip() or None
    return None if fields[0] in "ZX" else fields[19]


def _open(pid: int) -> int | None:
    """A descriptor of the process itself, whoever has its id later; None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _send(door: int | None, pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if door is not None:
            signal.pidfd_send_signal(door, number)
        else:
            os.kill(pid, number)


def _wait(door: int | None, pid: int, moment: str) -> None:
    if door is not None:
        select.select([door], [], [], GRACE_SECONDS)
        return
    from orchestrator.embedded.waiting import wait_until

    wait_until(lambda: began(pid) != moment, timeout_seconds=GRACE_SECONDS)
