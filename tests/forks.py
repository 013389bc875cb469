"""Processes that are forked from a server which has imported the libraries: what a worker's start costs most.

FORKS    a multiprocessing context; `tests.chaos` runs functions in it
Command  `celery worker`, as a shell would start it, without the second that its imports take
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "tests.chaos.app",
        "billiard.pool",
        "celery.app.amqp",
        "celery.app.control",
        "celery.app.log",
        "celery.apps.worker",
        "celery.bin.celery",
        "celery.concurrency.solo",
        "celery.fixups.django",
        "celery.worker.autoscale",
        "celery.worker.components",
        "celery.worker.consumer",
        "celery.worker.control",
        "celery.worker.heartbeat",
        "celery.worker.loops",
        "celery.worker.pidbox",
        "kombu.transport.redis",
    ]
)


class Command:
    """`celery …` in a session of its own; to whoever started it, what `subprocess.Popen` is."""

    def __init__(
        self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self._arguments = tuple(arguments)
        self._process = FORKS.Process(
            target=_be_celery, args=(self._arguments, folder, dict(environment), log)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._arguments, timeout or 0)
        return self._process.exitcode

    def send_signal(self, how: signal.Signals) -> None:
        os.kill(self.pid, how)


def _be_celery(
    arguments: Sequence[str], folder: Path, environment: dict[str, str], log: Path
) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    sys.argv = ["celery", *arguments]
    from celery.__main__ import main

    main()
