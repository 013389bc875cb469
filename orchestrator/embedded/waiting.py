"""Waiting for a server of another process, which cannot tell us when it is ready."""

import time
from collections.abc import Callable

PAUSE_SECONDS = 0.01


def wait_until(ready: Callable[[], bool], *, timeout_seconds: float) -> bool:
    """Ask `ready` until it is true or the time is up; returns its last answer."""
    deadline = time.monotonic() + timeout_seconds
    while not (answer := ready()) and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
    return answer
