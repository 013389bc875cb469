"""Waiting for a server of another process, which cannot tell us when it is ready."""

import time
from collections.abc import Callable
from threading import Event

PAUSE_SECONDS = 0.01


def wait_until(ready: Callable[[], bool], *, timeout_seconds: float) -> bool:
    """Ask `ready` until it is true or the time is up; returns its last answer."""
    deadline = time.monotonic() + timeout_seconds
    never = Event()
    while not (answer := ready()) and time.monotonic() < deadline:
        never.wait(PAUSE_SECONDS)
    return answer
