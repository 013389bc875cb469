"""Runs that start at random moments at a steady rate, as users' do, while something else is measured."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator import Client

SEED = 1


@contextmanager
def steady_load(client: Client, process: str, *, per_second: float) -> Iterator[None]:
    """While the block runs. Starts that are behind their time are made up for at once."""
    ended = threading.Event()
    thread = threading.Thread(target=_start_runs, args=(client, process, per_second, ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _start_runs(client: Client, process: str, per_second: float, ended: threading.Event) -> None:
    chance, due = random.Random(SEED), time.monotonic()
    while not ended.wait(max(0.0, due - time.monotonic())):
        client.start(process, 0)
        due += chance.expovariate(per_second)
