"""A delay that an error brings along: `raise RetryLater(after=minutes(5))`; also as HTTP's `Retry-After` says it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from orchestrator.core.checks import DELAY_SECONDS_MAX, check_delay, check_moment
from orchestrator.core.durations import Duration, seconds_of
from orchestrator.errors import PerennialError

HEADER_LENGTH_MAX = 100
"""A longer header is no date, and no number."""


class RetryLater(PerennialError):
    """What a stage or step raises that knows when it is to be tried again, as far as its Retry allows another.

    `after`: seconds or a timedelta from now, or a moment with its time zone; what is past is now. None: as the Retry
    says. Raise it `from` the error behind it: the traceback has both. An error of yours may be a subclass of it.
    Raises DefinitionError for what is no delay.
    """

    def __init__(self, message: str = "", *, after: Duration | datetime | None = None) -> None:
        what = "RetryLater(after)"
        if isinstance(after, datetime):
            check_moment(after, what=what)
        elif after is not None:
            check_delay(max(0.0, seconds_of(after, what=what)), what=what)
        self.after = after
        super().__init__(message or f"to be tried again {_in_words(after)}")


def retry_after(header: str | None) -> timedelta | datetime | None:
    """The value of HTTP's `Retry-After`: seconds or a date. None where there is none, or it can't be read.

    `raise RetryLater(after=retry_after(response.headers.get("Retry-After")))`
    """
    if header is None or len(text := header.strip()) > HEADER_LENGTH_MAX:
        return None
    if text.isascii() and text.isdigit():
        return timedelta(seconds=min(int(text), DELAY_SECONDS_MAX))
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return (
        at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    )  # "-0000": UTC, of no known place


def delay_of(error: BaseException, now: datetime) -> float | None:
    """Seconds that this error asks for, from `now` on. None: it asks for none."""
    if not issubclass(type(error), RetryLater):
        return None
    after = error.__dict__.get("after")  # a subclass may have left it out, or changed it
    if isinstance(after, datetime) and after.tzinfo is not None:
        seconds = (after - now).total_seconds()
    elif isinstance(after, timedelta):
        seconds = after.total_seconds()
    elif isinstance(after, (int, float)) and after == after:  # noqa: PLR0124 - no NaN
        seconds = float(min(after, DELAY_SECONDS_MAX))
    else:
        return None
    return max(0.0, min(seconds, DELAY_SECONDS_MAX / 2))


def _in_words(after: Duration | datetime | None) -> str:
    if after is None:
        return "as its Retry says"
    if isinstance(after, datetime):
        return f"at {after.isoformat()}"
    return f"after {seconds_of(after, what='RetryLater(after)'):g} s"
