"""When a failed attempt is made again: pure policy; the store's timers carry it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from orchestrator.core.callables import is_asynchronous
from orchestrator.core.checks import DELAY_SECONDS_MAX
from orchestrator.core.durations import Duration, seconds_of, seconds_or_none
from orchestrator.core.failures import message_of, type_of
from orchestrator.core.retry_later import RetryLater, delay_of
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


RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
"""Which errors are tried again: a class, several, or a function that says so of an error."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows on a failed attempt: another after `delay_seconds`, or none (None).

    `why`, in words, where that isn't told by the number of attempts and the class of the error.
    """

    delay_seconds: float | None
    why: str = ""


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often, how long, how far apart, and after which errors a stage or step is tried again.

    The delay before attempt n+1 is `delay_seconds * backoff**(n-1)`, at most `max_delay_seconds`,
    spread by ±`jitter` (a fraction) so that a fleet doesn't retry in step. An error may bring its own delay
    (`RetryLater`). No attempt begins later than `give_up_after` the beginning of the first. Durations are seconds, or
    given as timedeltas.

    `retry_on`: the error's class, several of them, or a function of the error; by default every error is tried again.
    Where that function itself raises, another attempt is made. Errors of the classes in `non_retryable`, `Fail`, and
    unserialisable results fail at once, whatever it says.

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
    retry_on: RetryOn | None = None
    give_up_after: float | None = None

    def __init__(  # noqa: PLR0917 - the order of its fields, as it always was
        self,
        max_attempts: int = 5,
        delay_seconds: Duration = 1.0,
        backoff: float = 2.0,
        max_delay_seconds: Duration = 3600.0,
        jitter: float = 0.1,
        non_retryable: type[BaseException] | tuple[type[BaseException], ...] = (),
        on_lost: Literal["park", "raise"] = "park",
        *,
        retry_on: RetryOn | None = None,
        give_up_after: Duration | None = None,
    ) -> None:
        given = {
            "max_attempts": max_attempts,
            "delay_seconds": seconds_of(delay_seconds, what="Retry(delay_seconds)"),
            "backoff": backoff,
            "max_delay_seconds": seconds_of(max_delay_seconds, what="Retry(max_delay_seconds)"),
            "jitter": jitter,
            "non_retryable": _classes_in(non_retryable, what="Retry(non_retryable)"),
            "on_lost": on_lost,
            "retry_on": _checked_retry_on(retry_on),
            "give_up_after": seconds_or_none(give_up_after, what="Retry(give_up_after)"),
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)  # frozen for all others
        self._check()

    def _check(self) -> None:
        for name in ("max_attempts", "backoff", "jitter"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise DefinitionError(f"Retry({name}) is a number, not {value!r}")
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
        if self.give_up_after is not None and not 0 < self.give_up_after <= DELAY_SECONDS_MAX:
            raise DefinitionError(
                f"Retry(give_up_after) is given {self.give_up_after:g} seconds",
                remedy="Give a duration of more than nothing, or None for no bound.",
            )

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

    def judge(
        self,
        attempt: int,
        error: BaseException,
        *,
        random: float,
        now: datetime,
        tried_since: datetime,
        asked: RetryAsked | None = None,
    ) -> Verdict:
        """What follows on the failed `attempt`, at `now`. `tried_since`: when the first one began.

        `asked`: what the stage's code has decided itself.
        """
        if not self.allows_another(attempt, error) or (asked is not None and asked.is_last):
            return Verdict(None)
        delay = asked.delay_from(now) if asked is not None else delay_of(error, now)
        why = ""
        if asked is None and not issubclass(type(error), RetryLater):
            does, why = self._names(error)
            if not does:
                return Verdict(None, "its Retry(retry_on) leaves this error out")
        if delay is None:
            delay = self.delay_before_next(attempt, random=random)
        is_late = not self.is_in_time((now - tried_since).total_seconds() + delay)
        if is_late:  # guard: no attempt after the total duration
            return Verdict(None, self.too_late())
        return Verdict(delay, why)

    def is_in_time(self, tried_seconds: float) -> bool:
        """Whether an attempt may begin so long after the first."""
        return self.give_up_after is None or tried_seconds <= self.give_up_after

    def too_late(self) -> str:
        """Why none follows, where its time is over."""
        return (
            f"another attempt would come later than Retry(give_up_after), {self.give_up_after:g} s"
        )

    def _names(self, error: BaseException) -> tuple[bool, str]:
        """Whether an error is one to be tried again; and what went wrong with the answer."""
        if self.retry_on is None:
            return True, ""
        if isinstance(self.retry_on, (type, tuple)):
            return issubclass(type(error), self.retry_on), ""
        try:
            return bool(self.retry_on(error)), ""
        # guard: a retry_on that raises loses no attempt
        except Exception as trouble:  # noqa: BLE001 - whatever an author's function raises
            return True, f"Retry(retry_on) raised {type_of(trouble)}: {message_of(trouble)}"

    def as_policy(self) -> dict[str, Any]:
        """The part that travels in the record, for those who must judge without the Python class."""
        policy: dict[str, Any] = {
            "max_attempts": self.max_attempts,
            "delay_seconds": self.delay_seconds,
            "backoff": self.backoff,
            "max_delay_seconds": self.max_delay_seconds,
            "jitter": self.jitter,
        }
        if self.on_lost != "park":
            policy["on_lost"] = self.on_lost
        if self.give_up_after is not None:
            policy["give_up_after"] = self.give_up_after
        return policy

    @classmethod
    def from_policy(cls, policy: dict[str, Any]) -> Retry:
        """The inverse of `as_policy`; unknown names (of a newer release) are left out."""
        known = {name: policy[name] for name in cls.__slots__ if name in policy}
        return cls(**known)


def _classes_in(given: Any, *, what: str) -> tuple[type[BaseException], ...]:
    classes = given if isinstance(given, (tuple, list, set, frozenset)) else (given,)
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise DefinitionError(
                f"{what} is given {each!r}", remedy="Give classes of exceptions: (TimeoutError, …)."
            )
    return tuple(classes)


def _checked_retry_on(given: Any) -> Any:
    """A function as it is; classes as a tuple."""
    if given is None:
        return None
    if callable(given) and not isinstance(given, type):
        if is_asynchronous(given):
            raise DefinitionError(
                "Retry(retry_on) is given an `async def`, which nobody awaits",
                remedy="Write a plain `def` that takes the error and says whether to try again.",
            )
        return given
    return _classes_in(given, what="Retry(retry_on)")


# -- since when an activity is tried ---------------------------------------------------------------

_SINCE = "tried_since"


def tried_since(error: Mapping[str, Any] | None, first: datetime) -> datetime:
    """When the first attempt began, as the error of the one before says; with none, this one is the `first`."""
    since = (error or {}).get(_SINCE)
    try:
        at = datetime.fromisoformat(since) if isinstance(since, str) else first
    except ValueError:
        return first
    return at if at.tzinfo is not None else first


def with_verdict(
    error: dict[str, Any], retry: Retry, verdict: Verdict, since: datetime
) -> dict[str, Any]:
    """The error of a failed attempt as it is recorded, with what the next one has to know of it."""
    more: dict[str, Any] = {}
    if retry.give_up_after is not None and verdict.delay_seconds is not None:
        more[_SINCE] = since.isoformat()
    if verdict.why:
        more["why"] = verdict.why
    return {**error, **more} if more else error


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
