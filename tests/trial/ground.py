"""What every part of the trial stands on: the wheel in a fresh environment, servers, processes and their logs.

Ground            servers of its own, made when they are asked for, and all of it gone at the end
ground.venv(…)    an environment with nothing but the wheel and what is named
ground.start(…)   a process in a folder, its output in a log; ended with the ground
Failed, NotRun    how a part ends that is not ok; NotRun is never ok
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from sqlalchemy import create_engine, make_url, text

from orchestrator.embedded import EmbeddedServers, ServerUrls

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60.0


class Failed(Exception):
    """What was to be seen was not seen."""


class NotRun(Exception):
    """What the part needs is not on this machine."""


@dataclass
class Venv:
    """An environment of its own."""

    folder: Path

    def path(self, command: str) -> str:
        """A command that is installed in it."""
        return str(self.folder / "bin" / command)


@dataclass
class Ground:
    """One per run of the trial. The folder stays where `keep` is given."""

    keep: Path | None = None
    _closing: ExitStack = field(default_factory=ExitStack)
    _venvs: dict[tuple[str, ...], Venv] = field(default_factory=dict)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Self:
        if self.keep is None:
            self.folder = Path(tempfile.mkdtemp(prefix="perennial-trial-"))
            self.folder.chmod(0o755)
            self._closing.callback(shutil.rmtree, self.folder, ignore_errors=True)
        else:
            self.folder = self.keep.resolve()
            self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_processes()
        self._closing.close()

    # -- what is there -------------------------------------------------------------------------

    @cached_property
    def servers(self) -> ServerUrls:
        """Postgres and Valkey, embedded, of this trial alone."""
        return self._closing.enter_context(EmbeddedServers.temporary()).urls

    @cached_property
    def wheel(self) -> Path:
        """Built from this tree as it is."""
        self.run(
            [
                sys.executable,
                "-m",
                "build",
                "--wheel",
                "--no-isolation",
                "-o",
                str(self.folder / "dist"),
                ".",
            ],
            cwd=ROOT,
        )
        (wheel,) = (self.folder / "dist").glob("*.whl")
        return wheel

    def venv(self, *packages: str, extras: str = "binary") -> Venv:
        """The wheel with its extras, and `packages`; nothing else. Made once for each set of them."""
        asked = (extras, *packages)
        if asked not in self._venvs:
            folder = self.folder / f"venv-{len(self._venvs)}"
            self.run([sys.executable, "-m", "venv", str(folder)])
            venv = Venv(folder)
            wanted = f"{self.wheel}[{extras}]" if extras else str(self.wheel)
            quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
            self.run(
                [venv.path("python"), "-m", "pip", "install", *quiet, wanted, *packages],
                seconds=600,
            )
            self._venvs[asked] = venv
        return self._venvs[asked]

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"trial_{uuid4().hex[:12]}"
        url = make_url(self.servers.database_url)
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)

    def space(self, name: str, files: Mapping[str, str]) -> Path:
        """A folder with these files."""
        folder = self.folder / f"{name}-{uuid4().hex[:6]}"
        folder.mkdir()
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(content, encoding="utf-8")
        return folder

    # -- processes -----------------------------------------------------------------------------

    def environment(self, **variables: str) -> dict[str, str]:
        """Without a variable of ours that this trial hasn't set."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PERENNIAL_", "PYTHON", "VIRTUAL_ENV", "DJANGO_"))
        }
        return {**kept, **variables}

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        seconds: float = 120.0,
        may_fail: bool = False,
    ) -> str:
        """A command to its end; what it has printed. Raises Failed with its last lines."""
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=dict(environment or self.environment()),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode and not may_fail:
            raise Failed(
                f"`{' '.join(command[-4:])}` ended with {done.returncode}:\n{_tail(done.stdout + done.stderr)}"
            )
        return done.stdout + (done.stderr if may_fail else "")

    def start(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        log: str = "worker",
    ) -> subprocess.Popen[bytes]:
        """A process that stays. Its output is in `cwd/<log>.log`."""
        with (cwd / f"{log}.log").open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """As an operator ends it; after ten seconds by force."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def end_processes(self) -> None:
        """All that a part has started."""
        while self._processes:
            self.end(self._processes.pop())

    @staticmethod
    def wait_for(
        look: Callable[[], Any],
        what: str,
        seconds: float = DEADLINE_SECONDS,
        log: Path | None = None,
    ) -> Any:
        """Look until it is so. Raises Failed."""
        give_up_at, nobody = time.monotonic() + seconds, threading.Event()
        while not (found := look()):
            if time.monotonic() > give_up_at:
                said = f"\n{_tail(log.read_text(errors='replace'))}" if log is not None else ""
                raise Failed(f"{what}: not within {seconds:.0f} s{said}")
            nobody.wait(0.1)
        return found


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def check(is_so: object, what: str) -> None:
    """Raises Failed unless it is so."""
    if not is_so:
        raise Failed(what)


def _tail(output: str, lines: int = 25) -> str:
    return "\n".join(output.strip().splitlines()[-lines:])
