"""pytest again and again, each time in a new process, over another copy of the source.

A process of its own spends a second on imports, nearly all of them libraries; eighty guards spend two
minutes. So this file, run as a script, imports the libraries once, and each run of pytest is a fork of
that. Nothing of the repository is imported before the fork: it is another copy each time.

Preloaded   such a script, for whoever wants runs: one at a time
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

LIBRARIES = (
    *("alembic.command", "celery", "kombu.messaging", "psycopg", "pydantic_settings"),
    *("redis", "ruamel.yaml", "sqlalchemy.orm", "uuid_utils.compat"),
)


@dataclass(frozen=True)
class Ended:
    """How a run of pytest ended: its exit code, and what it said."""

    code: int
    said: str


class Preloaded:
    """One process with the libraries in it, that forks for each run."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder: Path, arguments: Sequence[str], environment: dict[str, str]) -> Ended:
        """pytest in that folder, which is the first place that modules are looked for."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        said = folder.with_suffix(".said")
        run = {"folder": str(folder), "arguments": arguments, "environment": environment}
        self._process.stdin.write(json.dumps({**run, "said": str(said)}) + "\n")
        self._process.stdin.flush()
        return Ended(int(self._process.stdout.readline()), said.read_text())

    def close(self) -> None:
        """No more runs."""
        self._process.communicate()


def main() -> None:
    """Until nothing more is asked for."""
    for library in LIBRARIES:
        importlib.import_module(library)
    for line in sys.stdin:
        run = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_run_pytest(**run))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run_pytest(
    *, folder: str, arguments: list[str], environment: dict[str, str], said: str
) -> int:
    os.chdir(folder)
    sys.path[0] = folder
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    return int(pytest.main(arguments))


if __name__ == "__main__":
    main()
