"""A broker that refuses for a while ends no worker: full at its limit, or its disk full, it says no to every write.

Celery's consumer takes its bookkeeping of messages for such a write, and ends. It has a setting for beginning anew
instead (`broker_channel_error_retry`), which is made here; with a growing pause, and its traceback each time is one
line of `Troubles`. (docs/celery-settings.md)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps
from redis.exceptions import ResponseError

from orchestrator.engine.troubles import Troubles, kind_of, one_line
from orchestrator.fleet.compat import CONSUMER_LOG, REFUSALS_LOGS, rest_between_beginnings

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
REFUSALS = "the broker's refusals"
"""Where the trouble is."""


class Refusals:
    """What the broker has refused this worker, as Celery's and kombu's logs say it."""

    def __init__(self, troubles: Troubles, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._troubles, self._clock = troubles, clock
        self._pause_seconds = 0.0
        self._ends_consumer = False
        self._last_at: float | None = None
        self.stopped = threading.Event()
        """Set when the worker goes down: nobody rests then."""

    def meet(self, error: ResponseError, *, ends_consumer: bool) -> None:
        """The broker has said no. `ends_consumer`: and the consumer begins anew for it."""
        self._last_at = self._clock()
        self._ends_consumer = self._ends_consumer or ends_consumer
        self._troubles.meet(
            REFUSALS,
            "the broker refuses this worker's writes; it goes on when there is room: %s",
            one_line(error),
            kind=kind_of(error),
            level=logging.ERROR,
        )

    def pause_seconds(self) -> float:
        """Before the consumer begins anew: longer each time, nothing if that wasn't a refusal's doing."""
        if not self._ends_consumer:
            return 0.0
        self._ends_consumer = False
        self._pause_seconds = min(
            max(2 * self._pause_seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS
        )
        return self._pause_seconds

    def look(self) -> None:
        """Now and then: what has met no refusal for longer than two pauses is over it."""
        if self._last_at is not None and self._clock() - self._last_at > 2 * LONGEST_PAUSE_SECONDS:
            self._last_at, self._pause_seconds = None, 0.0
            self._troubles.over(REFUSALS)


class _Lines(logging.Filter):
    """Takes a refusal out of a log that has a traceback for each; it is said by `Troubles` instead."""

    def __init__(self, refusals: Refusals, *, ends_consumer: bool) -> None:
        super().__init__()
        self._refusals, self._ends_consumer = refusals, ends_consumer

    def filter(self, record: logging.LogRecord) -> bool:
        """False: it is no line of this log any more."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        met = [record.exc_info[1] if record.exc_info else None, *arguments]
        error = next((each for each in met if isinstance(each, ResponseError)), None)
        if error is not None:
            self._refusals.meet(error, ends_consumer=self._ends_consumer)
        return error is None


class PauseStep(bootsteps.Step):
    """Made with a worker's consumer, before it begins."""

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        refusals = getattr(parent.app.perennial, "refusals", None)
        if refusals is not None:
            # In the place of Celery's own pause: one second, after five beginnings within one.
            rest_between_beginnings(parent, lambda state: _Beginnings(refusals, state))


class _Beginnings:
    """What a consumer asks each time it begins anew."""

    def __init__(self, refusals: Refusals, state: Any) -> None:
        self._refusals, self._state = refusals, state

    def step(self) -> None:
        """Rest, if the broker has refused; else as Celery has it."""
        pause_seconds = self._refusals.pause_seconds()
        if pause_seconds:
            self._refusals.stopped.wait(pause_seconds)
        else:
            self._state.step()


def outlast(app: Celery, troubles: Troubles) -> Refusals:
    """In a worker, before its consumer begins."""
    app.conf.broker_channel_error_retry = True  # guard: a broker that refuses is outlasted
    refusals = Refusals(troubles)
    for name, ends_consumer in ((CONSUMER_LOG, True), *((other, False) for other in REFUSALS_LOGS)):
        logging.getLogger(name).addFilter(_Lines(refusals, ends_consumer=ends_consumer))
    return refusals
