"""What authors may write, checked where they write it: the record must be able to keep it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from unicodedata import normalize

from orchestrator.errors import DefinitionError, PayloadError

DELAY_SECONDS_MAX = 100 * 365 * 86_400.0
EARLIEST = datetime(1, 1, 3, tzinfo=UTC)
LATEST = datetime(9999, 12, 29, tzinfo=UTC)
"""Moments between these can be shown in every time zone; Postgres holds many more."""

WORDS_LENGTH_MAX = 200

KEY_LENGTH_MAX = 500
"""Of a business key."""

_KEYS_IN_REDIS = re.compile(r"perennial:|unacked(_|$)|_kombu\.")

_NAME = re.compile(r"[a-z][a-z0-9_.:-]{0,99}")


def check_delay(delay_seconds: float, *, what: str) -> None:
    """A delay is not negative, and ends within a century. Raises DefinitionError."""
    if not 0 <= delay_seconds <= DELAY_SECONDS_MAX:
        raise DefinitionError(
            f"{what} is given {delay_seconds} seconds",
            remedy="Use a delay from 0 to a hundred years.",
        )


def due_in(delay_seconds: float, *, what: str) -> float:
    """A delay that a flow has computed: what was due in the past is due now. Raises as `check_delay` does."""
    delay_seconds = max(delay_seconds, 0.0)
    check_delay(delay_seconds, what=what)
    return delay_seconds


def check_count(given: int | None, *, least: int, what: str, name: str) -> None:
    """A number of times that an author gives, or none. Raises DefinitionError."""
    if given is not None and (type(given) is not int or given < least):
        raise DefinitionError(
            f"{what} is given {name}={given!r}",
            remedy=f"Give a whole number from {least} on, or none.",
        )


def check_moment(at: datetime, *, what: str) -> None:
    """A moment has a time zone, and can be shown in every other. Raises DefinitionError."""
    if at.tzinfo is None or at.utcoffset() is None:
        raise DefinitionError(f"{what}({at!r}) has no time zone", remedy="Use an aware datetime.")
    if not EARLIEST <= at <= LATEST:
        raise DefinitionError(
            f"{what} is given {at.isoformat()}, which other time zones can't show",
            remedy=f"Use a moment from {EARLIEST:%Y-%m-%d} to {LATEST:%Y-%m-%d}.",
        )


def composed(words: str) -> str:
    """Words in Unicode's composed form (NFC), so that what looks the same is the same: é is é, however it was typed.

    Raises DefinitionError: it is no text.
    """
    if not isinstance(words, str):
        raise DefinitionError(
            f"a name or a key is given as {str(words)[:40]}, a {type(words).__name__}",
            remedy="Names and keys are text: str(…).",
        )
    return words if words.isascii() else normalize("NFC", words)


def check_sought(words: str | None, *, what: str) -> None:
    """Text that somebody looks for, or none: as Postgres could hold it. Raises PayloadError."""
    if words is None:
        return
    try:
        is_held = b"\x00" not in words.encode()
    except UnicodeEncodeError:  # a lone surrogate
        is_held = False
    if not is_held:
        raise PayloadError(f"{what} is given {words[:40]!a}: Postgres holds no such text")


def check_words(words: str, *, what: str, where: str) -> None:
    """People, groups and names of signals: short and printable. Raises DefinitionError."""
    if not 0 < len(words) <= WORDS_LENGTH_MAX or not words.isprintable():
        raise DefinitionError(
            f"{words[:40]!r} can't be {what}",
            where=where,
            remedy=f"Use 1 to {WORDS_LENGTH_MAX} printable characters.",
        )


def check_key(key: str, *, where: str) -> None:
    """A key that an author gives: as words, without the marks of a path. Raises DefinitionError."""
    check_words(key, what="a key", where=where)
    if "/" in key or "#" in key:
        raise DefinitionError(
            f"{key[:40]!r} can't be a key",
            where=where,
            remedy="Leave out `/` and `#`: they make paths.",
        )


def check_name(what: str, name: str, where: str) -> None:
    """Names travel as task names, journal keys and URLs. Raises DefinitionError."""
    if not _NAME.fullmatch(name):
        raise DefinitionError(
            f"{what} name {name!r} is not allowed",
            where=where,
            remedy="Use lower-case letters, digits and - _ . : (at most 100), beginning with a letter.",
        )


def check_queue(queue: str | None, *, where: str) -> None:
    """A queue is a key in Redis, beside ours and Celery's own. Raises DefinitionError."""
    if queue is None:
        return
    if not 0 < len(queue) <= WORDS_LENGTH_MAX or not queue.isprintable():
        raise DefinitionError(
            f"{queue[:40]!r} can't be a queue",
            where=where,
            remedy=f"Use 1 to {WORDS_LENGTH_MAX} printable characters.",
        )
    if _KEYS_IN_REDIS.match(queue):
        raise DefinitionError(
            f"queue {queue!r} has the name of a key that Perennial or Celery keeps in Redis",
            where=where,
            remedy="Name another queue: not perennial:…, unacked… or _kombu.…",
        )
