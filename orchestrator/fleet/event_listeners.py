"""Whether anybody wants to hear of tasks: an event that nobody hears costs as much as a handoff.

Celery's workers send events of tasks when they are started with `-E`, or once somebody asks for them, as
Flower does. The parent of a pool knows; its processes, in which runs move, look at one byte that they share.
"""

from __future__ import annotations

import mmap
from typing import Any

from orchestrator.fleet.compat import is_started_with_events, sends_events_now


class EventListeners:
    """Made before the pool's processes are forked; each of them sees what the parent writes."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    @property
    def is_there(self) -> bool:
        """True when events of tasks are heard, or may be."""
        return self._shared[0] == 1

    def begin(self, worker: Any) -> None:
        """As the worker was started."""
        self._write(is_there=is_started_with_events(worker))

    def look(self, worker: Any) -> None:
        """As it has been told since: `enable_events` and `disable_events` change the groups it sends."""
        is_there = sends_events_now(worker)
        if is_there is not None:
            self._write(is_there=is_there)

    def _write(self, *, is_there: bool) -> None:
        self._shared[0] = int(is_there)
