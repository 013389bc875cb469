"""A trouble that lasts is said once, then at growing intervals, then that it is over.

A server that is away or refuses is met by every message, every look and every beat. What each of them has to say of
it is the same sentence; said each time, it fills a disk and hides what is new.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from sqlalchemy.exc import DBAPIError

from orchestrator.core.failures import LINE_LENGTH_MAX, message_of, type_of

FIRST_INTERVAL_SECONDS = 10.0
LONGEST_INTERVAL_SECONDS = 600.0
QUIET_SECONDS = 3.0
"""So long it must not be met before it is over: a server that takes no writes answers what only reads."""
TROUBLES_MAX = 100
"""So many of different kinds are known at once; then all are said anew."""


@dataclass
class _Trouble:
    began: float
    next_at: float
    last_at: float
    interval_seconds: float = FIRST_INTERVAL_SECONDS
    times: int = 1


class Troubles:
    """What one process has met, and not yet got over. Thread-safe."""

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], _Trouble] = {}

    def meet(
        self,
        where: str,
        message: str,
        *arguments: object,
        kind: str = "",
        level: int = logging.WARNING,
    ) -> bool:
        """Say it, unless it was said lately. `where` it shows; `kind`: another is said at once. True: it was said."""
        now = self._clock()
        with self._lock:
            known = self._open.get((where, kind))
            if known is None:
                if len(self._open) >= TROUBLES_MAX:
                    self._open.clear()
                self._open[where, kind] = _Trouble(now, now + FIRST_INTERVAL_SECONDS, now)
                lasting = ""
            else:
                known.times += 1
                known.last_at = now
                if now < known.next_at:
                    return False
                known.interval_seconds = min(2 * known.interval_seconds, LONGEST_INTERVAL_SECONDS)
                known.next_at = now + known.interval_seconds
                lasting = f" (met {known.times} times in {now - known.began:.0f} s)"
        self._log.log(level, message + "%s", *arguments, lasting)
        return True

    def over(self, where: str) -> None:
        """It works there: say so if it didn't, once that has held for a while. Costs nothing where nothing was met."""
        if not self._open:
            return
        now = self._clock()
        with self._lock:
            known = [each for each in self._open if each[0] == where]
            if any(now - self._open[each].last_at < QUIET_SECONDS for each in known):
                return
            ended = [self._open.pop(each) for each in known]
        if ended:
            self._log.warning(
                "%s: over, after %s time(s) in %.0f s",
                where,
                sum(each.times for each in ended),
                max(each.last_at for each in ended) - min(each.began for each in ended),
            )


def kind_of(error: BaseException) -> str:
    """What tells one trouble from another: the class, and Postgres' code. Not the words, which may name a run."""
    cause = _cause(error)
    code = cause.sqlstate if isinstance(cause, psycopg.Error) else None
    return f"{type_of(cause)} {code or ''}".strip()


def one_line(error: BaseException) -> str:
    """Class and first line; an error without words has its class."""
    cause = _cause(error)
    words = message_of(cause).strip().splitlines()
    return f"{type_of(cause)}: {words[0][:LINE_LENGTH_MAX]}" if words else type_of(cause)


def _cause(error: BaseException) -> BaseException:
    """What the driver raised, which SQLAlchemy's words stand around."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
