"""When a failed attempt is made again: pure policy; the store's timers carry it out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from orchestrator.core.checks import DELAY_SECONDS_MAX
from orchestrator.core.durations import Duration, seconds_of
from orchestrator.errors import DefinitionError, Fail, PayloadError


class RetryAsked(Exception):
    """A stage's code has decided itself whether and when it is tried again, as far as its Retry allows another.

    `cause`: what it failed by. `delay_seconds` or `at`: when; neither: as its Retry says. `is_last`: never.
    """

    def __init__(
        self,
        cause: BaseException,
        delay_seconds: float | None = None,
        at: datetime | None = None,
        *,
        is_last: bool = False,
    ) -> None:
        super().__init__(cause, delay_seconds, at)
        self.cause = cause
        self.is_last = is_last
        self._delay_seconds, self._at = delay_seconds, at

    def delay_from(self, now: datetime) -> float | None:
        """Seconds until the next attempt; None: as the stage's Retry says."""
        delay = self._delay_seconds
        if self._at is not None:
            delay = (self._at - now).total_seconds()
        return None if delay is None else max(0.0, min(delay, DELAY_SECONDS_MAX / 2))


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often, and how far apart, a stage or step is tried.

    The delay before attempt n+1 is `delay_seconds * backoff**(n-1)`, at most `max_delay_seconds`,
    spread by ±`jitter` (a fraction) so that a fleet doesn't retry in step. Delays are seconds, or given as
    timedeltas. Errors of the classes in `non_retryable`, `Fail`, and unserialisable results fail at once.

    An attempt whose worker died counts like one that failed, its delay from the worker's last sign of life. When it
    was the last, nobody knows whether its work was done: `on_lost="park"` makes the run an incident, whose `resume`
    makes one attempt more; `"raise"` raises WorkerLost at the stage's await.
    """

    max_attempts: int = 5
    delay_seconds: float = 1.0
    backoff: float = 2.0
    max_delay_seconds: float = 3600.0
    jitter: float = 0.1
    non_retryable: tuple[type[BaseException], ...] = ()
    on_lost: Literal["park", "raise"] = "park"

    def __init__(  # noqa: PLR0917 - the order of its fields, as it always was
        self,
        max_attempts: int = 5,
        delay_seconds: Duration = 1.0,
        backoff: float = 2.0,
        max_delay_seconds: Duration = 3600.0,
        jitter: float = 0.1,
        non_retryable: tuple[type[BaseException], ...] = (),
        on_lost: Literal["park", "raise"] = "park",
    ) -> None:
        given = {
            "max_attempts": max_attempts,
            "delay_seconds": seconds_of(delay_seconds, what="Retry(delay_seconds)"),
            "backoff": backoff,
            "max_delay_seconds": seconds_of(max_delay_seconds, what="Retry(max_delay_seconds)"),
            "jitter": jitter,
            "non_retryable": tuple(non_retryable),
            "on_lost": on_lost,
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)  # frozen for all others
        self._check()

    def _check(self) -> None:
        if self.max_attempts < 1:
            raise DefinitionError(
                "Retry(max_attempts) counts the first try too, so it is at least 1"
            )
        if not all(map(math.isfinite, (self.delay_seconds, self.max_delay_seconds, self.backoff))):
            raise DefinitionError(
                "Retry takes finite numbers; for no cap, use a large max_delay_seconds"
            )
        if self.delay_seconds < 0 or self.max_delay_seconds < 0 or self.backoff < 1:
            raise DefinitionError("Retry delays are not negative, and backoff is at least 1")
        if not 0 <= self.jitter <= 1:
            raise DefinitionError("Retry(jitter) is a fraction from 0 to 1")
        if self.on_lost not in ("park", "raise"):
            raise DefinitionError(f'Retry(on_lost) is "park" or "raise", not {self.on_lost!r}')

    def delay_before_next(self, attempt: int, *, random: float) -> float:
        """Seconds between the failed `attempt` (1-based) and the next. `random`: of [0, 1)."""
        if self.delay_seconds == 0:
            return 0.0
        try:
            delay = self.delay_seconds * self.backoff ** (attempt - 1)
        except OverflowError:
            delay = math.inf
        delay = min(delay, self.max_delay_seconds, DELAY_SECONDS_MAX / 2)
        return delay * (1 + self.jitter * (2 * random - 1))

    def allows_another(self, attempt: int, error: BaseException | None = None) -> bool:
        """Whether an attempt may follow the failed `attempt`. `error` None: its worker was lost."""
        if error is not None and issubclass(type(error), (*self.non_retryable, Fail, PayloadError)):
            return False  # of its type: its attributes, `__class__` too, may raise
        return attempt < self.max_attempts

    def as_policy(self) -> dict[str, Any]:
        """The part that travels in the record, for those who must judge without the Python class."""
        policy = {
            "max_attempts": self.max_attempts,
            "delay_seconds": self.delay_seconds,
            "backoff": self.backoff,
            "max_delay_seconds": self.max_delay_seconds,
            "jitter": self.jitter,
        }
        return policy if self.on_lost == "park" else {**policy, "on_lost": self.on_lost}

    @classmethod
    def from_policy(cls, policy: dict[str, Any]) -> Retry:
        """The inverse of `as_policy`; unknown names (of a newer release) are left out."""
        known = {name: policy[name] for name in cls.__slots__ if name in policy}
        return cls(**known)


# -- attempts of what an operator has asked for anew ------------------------------------------------

_BEFORE = "attempts_before"


def attempts_of(before: Mapping[str, int] | None, key: str) -> int:
    """How many attempts were made of that key before it left its run's journal."""
    return before.get(key, 0) if before else 0


def counted_from(policy: Mapping[str, Any] | None, before: int) -> dict[str, Any]:
    """The policy of an activity whose attempts go on from there: its retries count those that come after."""
    return {**(policy or {}), _BEFORE: before}


def uncounted_in(policy: Mapping[str, Any] | None) -> int:
    """How many attempts a recorded policy does not count."""
    before = (policy or {}).get(_BEFORE)
    return before if isinstance(before, int) else 0
